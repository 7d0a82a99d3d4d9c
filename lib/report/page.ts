/**
 * lib/report: the page: what was done, what it cost in size and error, what was done instead of what was asked, and every linear.
 *
 * One file without any request: its Content-Security-Policy allows this very style and script by their hashes and nothing else, so that
 * even a name that escaped the escaping could neither run nor load anything.
 */
import { createHash } from 'node:crypto';
import { formatBytes, formatDuration } from '../units';
import { bitMap, curveChart, errorCharts, sizeBars } from './charts';
import { markup, raw, type Content, type Markup } from './markup';
import { script } from './script';
import type { Scalar, StoredLinear, StoredReport } from './stored';
import { style } from './style';
import { formatCount, formatError, formatNumber, methodOf, textOption, viewOf } from './view';

/** Rows of the table; the CSV file has all. A browser sorts so many in well under a second. */
const maxRows = 20_000;
/** Notices in sight; the others are one click away. */
const openNotices = 6;

export function reportHtml(report: StoredReport): string {
  const view = viewOf(report);
  const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
  const policy = `default-src 'none'; img-src data:; style-src ${hash(style)}; script-src ${hash(script)}; base-uri 'none'; form-action 'none'`;
  const errors = errorCharts(report, view);
  const page = markup`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta http-equiv="Content-Security-Policy" content="${policy}" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <meta name="generator" content="lowbit" />
        <title>${report.model.name} · lowbit report</title>
        <link rel="icon" href="data:," />
        ${raw(`<style>${style}</style>`)}
      </head>
      <body>
        <main>
          <header>
            <h1>${report.model.name}</h1>
            <p>${subtitle(report)}</p>
          </header>
          ${tiles(report)} ${notices(report)} ${section('Size', undefined, sizeBars(report))}
          ${report.curve.length > 0 ? section('Size against divergence', undefined, curveChart(report.curve)) : undefined}
          ${section('Bits', 'Every linear of the model by block, from the first to the last.', bitMap(report, view))}
          ${errors && section('Error over depth', errorWords(report), errors)} ${section('Settings', undefined, facts(report))}
          ${linearTable(report)}
          <footer>Made by lowbit ${String(report.lowbit['version'] ?? '')}. This page loads nothing and works offline.</footer>
        </main>
        <div id="tip" hidden aria-hidden="true"></div>
        ${raw(`<script>${script}</script>`)}
      </body>
    </html> `;
  return page.text;
}

const section = (title: string, words: string | undefined, content: Markup): Markup =>
  markup`<section>
    <h2>${title}</h2>
    ${words === undefined ? undefined : markup`<p>${words}</p>`}${content}
  </section>`;

function subtitle(report: StoredReport): string {
  const method = textOption(report, 'method').toUpperCase();
  const preset = textOption(report, 'preset');
  const bits = textOption(report, 'bits');
  const group = textOption(report, 'group_size');
  const parts = [
    `${report.model.architecture}, compressed${method === '' ? '' : ` with ${method}`}${preset === '' ? '' : ` (${preset})`}`,
    bits === '' ? '' : `${bits} bit`,
    group === '' ? '' : group === '-1' ? 'one group per row' : `groups of ${group}`,
    report.checkpoint_format,
  ];
  return parts.filter((part) => part !== '').join(' · ');
}

function tiles({ totals, linears, calibration }: StoredReport): Markup {
  const { bytes_before, bytes_after, bits_per_weight_model, bits_per_weight, error, seconds } = totals;
  const tile = (name: string, big: string, small: string): Markup =>
    markup`<div class="tile">
      <dt>${name}</dt>
      <dd class="big">${big}</dd>
      <dd class="small">${small}</dd>
    </div>`;
  const ratio = bytes_after > 0 ? bytes_before / bytes_after : 0;
  const tokens = calibration?.['tokens'];
  return markup`<dl class="tiles">
    ${[
      tile('Size', formatBytes(bytes_after), `from ${formatBytes(bytes_before)}, ${formatNumber(ratio, ratio < 10 ? 1 : 0)} times smaller`),
      tile(
        'Bits per weight',
        formatNumber(bits_per_weight_model),
        `whole model; ${formatNumber(bits_per_weight)} in ${formatCount(linears.length)} linears`,
      ),
      tile(
        'Mean relative error',
        error === undefined ? 'unknown' : formatError(error),
        typeof tokens === 'number' ? `of the outputs, on ${formatCount(tokens)} tokens` : 'of the weights',
      ),
      tile('Time', formatDuration(seconds), `${formatCount(totals.parameters)} parameters`),
    ]}
  </dl>`;
}

function notices({ warnings, fallbacks }: StoredReport): Markup | undefined {
  const all = [
    ...warnings.map((text) => markup`<li><b>Warning</b>${text}</li>`),
    ...fallbacks.map((text) => markup`<li><b>Fallback</b>${text}</li>`),
  ];
  if (all.length === 0) return undefined;
  const more = all.slice(openNotices);
  return markup`<section>
    <h2>Worth knowing</h2>
    <ul class="notices">
      ${all.slice(0, openNotices)}
    </ul>
    ${
      more.length > 0
        ? markup`<details>
            <summary>${formatCount(more.length)} more</summary>
            <ul class="notices">
              ${more}
            </ul>
          </details>`
        : undefined
    }
  </section>`;
}

function errorWords({ calibration }: StoredReport): string {
  return calibration === null
    ? 'Relative squared error of the weights, on a logarithmic axis.'
    : 'Relative squared error of the outputs on the calibration data, on a logarithmic axis.';
}

function facts({ options, calibration, lowbit, seconds }: StoredReport): Markup {
  const list = (title: string, entries: readonly (readonly [string, Content])[]): Markup | undefined =>
    entries.length === 0
      ? undefined
      : markup`<div>
          <h3>${title}</h3>
          <dl>
            ${entries.map(([name, value]) => markup`<div><dt>${name.replaceAll('_', ' ')}</dt><dd>${value}</dd></div>`)}
          </dl>
        </div>`;
  const scalars = (values: Readonly<Record<string, Scalar>>): [string, Content][] =>
    Object.entries(values).map(([name, value]) => [name, name === 'sha256' ? `${String(value).slice(0, 16)}…` : valueText(value)]);
  const used = Object.entries(options).filter(([, value]) => !isEmptyObject(value));
  return markup`<div class="facts">
    ${[
      list(
        'Options, as used',
        used.map(([name, value]) => [name, valueText(value)]),
      ),
      list('Calibration', calibration === null ? [] : scalars(calibration)),
      markup`<div>
        ${list(
          'Seconds',
          Object.entries(seconds).map(([name, value]) => [name, typeof value === 'number' ? formatNumber(value, 1) : valueText(value)]),
        )}${list('Made with', scalars(lowbit))}
      </div>`,
    ]}
  </div>`;
}

const isEmptyObject = (value: unknown): boolean => typeof value === 'object' && value !== null && Object.keys(value).length === 0;

function valueText(value: unknown): string {
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value === 'number') return Number.isInteger(value) ? formatCount(value) : String(Number(value.toPrecision(6)));
  return typeof value === 'string' ? value : JSON.stringify(value);
}

interface Column {
  readonly title: string;
  readonly show: (linear: StoredLinear) => string;
  /** Present for columns that sort as numbers. */
  readonly value?: (linear: StoredLinear) => number | undefined;
}

function linearTable(report: StoredReport): Markup {
  const { linears } = report;
  const some = (read: (linear: StoredLinear) => unknown): boolean => linears.some((linear) => read(linear) !== undefined);
  const number = (title: string, value: (linear: StoredLinear) => number | undefined, format: (value: number) => string): Column => ({
    title,
    value,
    show: (linear) => {
      const found = value(linear);
      return found === undefined ? '' : format(found);
    },
  });
  const columns: readonly Column[] = [
    number('rows', ({ n }) => n, formatCount),
    number('columns', ({ k }) => k, formatCount),
    { title: 'method', show: (linear) => methodOf(report, linear) },
    number('bits', ({ bits }) => bits, formatNumber),
    number('group', ({ group_size }) => group_size, formatCount),
    number(
      'bits/weight',
      ({ bits_per_weight }) => bits_per_weight,
      (value) => value.toFixed(3),
    ),
    ...(some(({ error }) => error)
      ? [
          number(
            'error',
            ({ error }) => error,
            (value) => value.toExponential(3),
          ),
        ]
      : []),
    ...(some(({ damp_percent }) => damp_percent)
      ? [
          number(
            'damping',
            ({ damp_percent }) => damp_percent,
            (value) => formatNumber(value, 3),
          ),
        ]
      : []),
    ...(some(({ dead_columns }) => dead_columns) ? [number('dead columns', ({ dead_columns }) => dead_columns, formatCount)] : []),
    ...(some(({ seconds }) => seconds)
      ? [
          number(
            'seconds',
            ({ seconds }) => seconds,
            (value) => formatNumber(value),
          ),
        ]
      : []),
  ];
  const notes = some(({ reason }) => reason) || linears.some(({ fallbacks }) => fallbacks.length > 0);
  const header = (title: string, numbers: boolean, words = false): Markup =>
    markup`<th scope="col" ${raw(numbers ? ' data-numbers' : '')}${raw(words ? ' class="words"' : '')}>
      <button type="button">${title}</button>
    </th>`;
  const cell = (column: Column, linear: StoredLinear): Markup =>
    column.value === undefined
      ? markup`<td>${column.show(linear)}</td>`
      : markup`<td data-v="${column.value(linear) ?? ''}">${column.show(linear)}</td>`;
  const row = (linear: StoredLinear): Markup =>
    markup`<tr>
      <td>${linear.name}</td>
      ${columns.map((column) => cell(column, linear))}${
        notes
          ? markup`<td class="words">${[linear.reason, ...linear.fallbacks].filter((part) => part !== undefined).join('; ')}</td>`
          : undefined
      }
    </tr> `;
  return markup`<section>
    <div class="table-head">
      <h2>Linears</h2>
      <label hidden
        >Show <input id="filter" type="search" placeholder="part of a name" aria-controls="linears" /> <span id="count" role="status"></span
      ></label>
    </div>
    ${linears.length > maxRows ? markup`<p>The first ${formatCount(maxRows)} of ${formatCount(linears.length)}; lowbit_report.csv has all.</p>` : undefined}
    <div class="scroll" tabindex="0" role="region" aria-label="Linears">
      <table class="linears" id="linears">
        <thead>
          <tr>
            ${header('name', false)}${columns.map((column) => header(column.title, column.value !== undefined))}${notes ? header('notes', false, true) : undefined}
          </tr>
        </thead>
        <tbody>
          ${linears.slice(0, maxRows).map(row)}
        </tbody>
      </table>
    </div>
  </section>`;
}
