/**
 * lib/report: the drawings of the page. Small SVGs and one table, written here rather than by a plotting library: there are four of them, all static, and
 * each mark carries its own words (data-tip), which script.ts shows on hover, tap and focus.
 *
 * Arrow keys walk through the marks of a group (data-marks) by their data-x and data-y; the whole group is one stop of the Tab key.
 */
import { formatBytes } from '../units';
import { markup, type Content, type Markup } from './markup';
import { levelOf } from './palette';
import { linearScale, logScale, type Scale } from './scale';
import type { StoredPoint, StoredReport } from './stored';
import { bitsOf, describe, errorsOf, formatError, formatNumber, spreadOf, type Cell, type Kind, type View } from './view';

/** What makes an element a mark; the first one of a group takes the Tab key. */
const mark = (tip: string, x: number, y: number, first: boolean): Markup =>
  markup`data-tip="${tip}" aria-label="${tip.replaceAll('\n', ', ')}" data-x="${x}" data-y="${y}" tabindex="${first ? 0 : -1}"`;

/** Lengths as percentages with one digit, which is finer than a pixel. */
const percent = (value: number): string => `${Number(value.toFixed(1))}%`;

/** The compressed size beside the original's: quantised linears, and the rest. */
export function sizeBars({ totals }: StoredReport): Markup {
  const { bytes_before, bytes_after, quantized_parameters, bits_per_weight } = totals;
  const linears = Math.min(bytes_after, (quantized_parameters * bits_per_weight) / 8);
  const most = Math.max(bytes_before, bytes_after, 1);
  const share = (bytes: number): string => percent((100 * bytes) / most);
  const bar = (label: string, bytes: number, parts: Content): Markup =>
    markup`<div class="size-row">
      <span class="size-label">${label}</span><svg class="size-bar" role="img" aria-label="${label}: ${formatBytes(bytes)}">${parts}</svg
      ><span class="size-value">${formatBytes(bytes)}</span>
    </div>`;
  const part = (name: string, from: number, bytes: number): Markup =>
    markup`<rect class="${name}" x="${share(from)}" width="${share(bytes)}" height="100%"></rect>`;
  return markup`<div class="size">
    ${bar('Before', bytes_before, part('size-before', 0, bytes_before))}${bar('After', bytes_after, [
      part('size-linears', 0, linears),
      part('size-rest', linears, bytes_after - linears),
    ])}
    <p class="legend">
      <span><i class="key size-key-linears"></i>quantised linears, ${formatBytes(linears)}</span>
      <span><i class="key size-key-rest"></i>embedding, norms, head and the rest, ${formatBytes(bytes_after - linears)}</span>
    </p>
  </div>`;
}

/** Blocks from left to right, kinds of linears from top to bottom, coloured by bits. */
export function bitMap(report: StoredReport, view: View): Markup {
  const labels = view.blocks.map((block, i) => (block === undefined ? '' : i % labelStep(view.blocks.length) === 0 ? block : ''));
  const firstKind = view.kinds.findIndex(({ cells }) => cells.some((cell) => cell !== undefined));
  const firstCell = view.kinds[firstKind]?.cells.findIndex((cell) => cell !== undefined);
  const row = (kind: Kind, y: number): Markup =>
    markup`<tr>
      <th scope="row" title="${kind.kind}">${kind.label}</th>
      ${kind.cells.map((cell, x) =>
        cell === undefined ? markup`<td></td>` : bitCell(report, kind, cell, x, y, y === firstKind && x === firstCell),
      )}
    </tr>`;
  return markup`<div class="scroll" data-marks="bits">
      <table class="bits">
        <thead>
          <tr>
            <th scope="col">block</th>
            ${labels.map((label) => markup`<th scope="col">${label}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${view.kinds.map(row)}
        </tbody>
      </table>
    </div>
    ${bitLegend(report)}`;
}

function bitCell(report: StoredReport, kind: Kind, cell: Cell, x: number, y: number, first: boolean): Markup {
  const bits = bitsOf(cell);
  const dense = cell.linears.length === 0;
  const fallback = cell.linears.some(({ fallbacks }) => fallbacks.length > 0);
  return markup`<td
    class="cell b${dense ? 16 : levelOf(bits)}${fallback ? ' fallback' : ''}"
    ${mark(describe(report, kind.kind, cell), x, y, first)}
  >
    ${dense ? '–' : formatNumber(bits, 1)}
  </td>`;
}

/** Numbers over at most about 20 columns. */
const labelStep = (count: number): number => [1, 2, 5, 10, 20].find((step) => count / step <= 24) ?? 50;

function bitLegend({ linears, skipped }: StoredReport): Markup {
  const counts = new Map<number, number>();
  for (const { bits } of linears) counts.set(bits, (counts.get(bits) ?? 0) + 1);
  const entries = [...counts]
    .sort(([a], [b]) => a - b)
    .map(([bits, count]) => markup`<span><i class="key b${levelOf(bits)}"></i>${bits} bit × ${count}</span> `);
  const dense = skipped.length > 0 ? markup`<span><i class="key b16"></i>dense × ${skipped.length}</span> ` : undefined;
  const fallback = linears.some(({ fallbacks }) => fallbacks.length > 0)
    ? markup`<span><i class="key fallback"></i>with a fallback</span>`
    : undefined;
  return markup`<p class="legend">${entries}${dense}${fallback}</p>`;
}

/** One small chart per kind: relative error over depth, on one common logarithmic axis; behind each the mean of all kinds. */
export function errorCharts(report: StoredReport, view: View): Markup | undefined {
  const blocks = view.blocks.length;
  const all = errorsOf(report.linears);
  if (all.length === 0) return undefined;
  const scale = logScale(all, 4);
  const column = (x: number): string => percent(blocks === 1 ? 50 : (100 * x) / (blocks - 1));
  const means = view.blocks.map((_, x) => spreadOf(view.kinds.flatMap(({ cells }) => errorsOf(cells[x]?.linears ?? [])))?.mean);
  const charts = view.kinds.filter(({ cells }) => cells.some((cell) => errorsOf(cell?.linears ?? []).length > 0));
  const chart = (kind: Kind, y: number): Markup => {
    const points = kind.cells.map((cell) => spreadOf(errorsOf(cell?.linears ?? [])));
    const first = points.findIndex((point) => point !== undefined);
    const worst = points.reduce((best, point, x) => ((point?.mean ?? -1) > (points[best]?.mean ?? -1) ? x : best), first);
    const worstBlock = view.blocks[worst];
    return markup`<figure class="panel">
      <figcaption>
        <b title="${kind.kind}">${kind.label}</b
        ><span>worst ${formatError(points[worst]?.mean ?? 0)}${worstBlock === undefined ? '' : ` (block ${worstBlock})`}</span>
      </figcaption>
      <div class="plot">
        <svg class="canvas">
          ${grid(scale, formatError)}${line('context', means, column, scale)}${line(
            'series',
            points.map((point) => point?.mean),
            column,
            scale,
          )}${points.map((point, x) => {
            const cell = kind.cells[x];
            if (point === undefined || cell === undefined) return undefined;
            const fallback = cell.linears.some(({ fallbacks }) => fallbacks.length > 0);
            return markup`<circle
              class="mark${fallback ? ' fallback' : ''}"
              cx="${column(x)}"
              cy="${percent(100 - scale.at(point.mean))}"
              r="3"
              role="img"
              ${mark(describe(report, kind.kind, cell), x, y, y === 0 && x === first)}
            ></circle>`;
          })}
        </svg>
      </div>
    </figure>`;
  };
  const [from, to] = [view.blocks[0], view.blocks.filter((block) => block !== undefined).at(-1)];
  const depth = from === undefined || to === undefined || from === to ? '' : `Left to right: blocks ${from} to ${to}.`;
  return markup`<div class="panels" data-marks="errors">${charts.map(chart)}</div>
    <p class="legend">
      <span>${depth}</span> <span><i class="key line-series"></i>this kind</span> <span><i class="key line-context"></i>mean of all kinds</span>
    </p>`;
}

/** Bytes against the divergence of the predictions; the compressions that were tried, and the one that was written. */
export function curveChart(points: readonly StoredPoint[]): Markup {
  const sorted = [...points].sort((a, b) => a.bytes - b.bytes);
  const x = linearScale(
    sorted.map(({ bytes }) => bytes),
    6,
  );
  const y = logScale(
    sorted.map(({ kl_divergence }) => kl_divergence),
    6,
  );
  const place = ({ bytes, kl_divergence }: StoredPoint): readonly [string, string] => [
    percent(x.at(bytes)),
    percent(100 - y.at(kl_divergence)),
  ];
  const tip = ({ bytes, kl_divergence, label, chosen }: StoredPoint): string =>
    [
      label === '' ? formatBytes(bytes) : label,
      `${formatBytes(bytes)}, KL divergence ${formatError(kl_divergence)} nats`,
      ...(chosen ? ['this model'] : []),
    ].join('\n');
  // The best that was seen at each size: points that no smaller one beats.
  const front = sorted.filter((point, i) => sorted.slice(0, i).every(({ kl_divergence }) => kl_divergence > point.kl_divergence));
  const segments = front.slice(1).map((point, i) => {
    const [[x1, y1], [x2, y2]] = [place(front[i] as StoredPoint), place(point)];
    return markup`<line class="series" x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"></line>`;
  });
  const xTicks = x.ticks.map(
    (tick) =>
      markup`<text class="tick" x="${percent(x.at(tick))}" y="100%" dy="18" text-anchor="middle"
        >${formatBytes(tick).replace(/\.0+ /, ' ')}</text
      >`,
  );
  const marks = sorted.map((point, i) => {
    const [cx, cy] = place(point);
    return markup`<circle
      class="mark${point.chosen ? ' chosen' : ''}"
      cx="${cx}"
      cy="${cy}"
      r="${point.chosen ? 6 : 4}"
      role="img"
      ${mark(tip(point), i, 0, i === 0)}
    ></circle>`;
  });
  const chosen = sorted.find((point) => point.chosen);
  // On the side that a falling curve leaves empty.
  const left = chosen !== undefined && x.at(chosen.bytes) > 60;
  const label =
    chosen &&
    markup`<text
      class="callout"
      x="${place(chosen)[0]}"
      y="${place(chosen)[1]}"
      dx="${left ? -10 : 10}"
      dy="${left ? 20 : -8}"
      text-anchor="${left ? 'end' : 'start'}"
      >${chosen.label === '' ? 'this model' : chosen.label}</text
    >`;
  return markup`<div class="plot curve" data-marks="curve">
      <svg class="canvas">${grid(y, formatError)}${xTicks}${segments}${marks}${label}</svg>
    </div>
    <p class="words">
      Across: bytes of the weight files. Up: KL divergence from the original in nats per token, logarithmic; lower is better. The line joins
      the best at each size.
    </p>`;
}

function grid(scale: Scale, format: (value: number) => string): Content {
  return scale.ticks.map((tick) => {
    const y = percent(100 - scale.at(tick));
    return markup`<line class="grid" x1="0" x2="100%" y1="${y}" y2="${y}"></line
      ><text class="tick" x="-8" y="${y}" dy="0.32em" text-anchor="end">${format(tick)}</text>`;
  });
}

/** Segments between neighbours; a gap where a value is missing. */
function line(name: string, values: readonly (number | undefined)[], column: (x: number) => string, scale: Scale): Content {
  return values.map((value, x) => {
    const before = values[x - 1];
    if (value === undefined || before === undefined) return undefined;
    return markup`<line
      class="${name}"
      x1="${column(x - 1)}"
      y1="${percent(100 - scale.at(before))}"
      x2="${column(x)}"
      y2="${percent(100 - scale.at(value))}"
    ></line>`;
  });
}
