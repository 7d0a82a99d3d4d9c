/**
 * lib/report: a report seen as blocks x kinds of linears, and numbers as texts. What the charts draw; knows nothing of HTML.
 */
import { placeOf, shortNames } from './names';
import type { StoredLinear, StoredReport } from './stored';

/** The linears of one kind in one block: one, or the experts of a layer, or none. */
export interface Cell {
  readonly block: number | undefined;
  readonly linears: readonly StoredLinear[];
  /** Names of those left dense. */
  readonly dense: readonly string[];
}

export interface Kind {
  readonly kind: string;
  readonly label: string;
  /** One per entry of View.blocks; undefined where the block has no such linear. */
  readonly cells: readonly (Cell | undefined)[];
}

export interface View {
  /** Blocks in order; undefined, at the end, stands for what is outside blocks. */
  readonly blocks: readonly (number | undefined)[];
  readonly kinds: readonly Kind[];
}

export function viewOf({ linears, skipped }: StoredReport): View {
  const cells = new Map<string, Map<number | undefined, { linears: StoredLinear[]; dense: string[] }>>();
  const cellOf = (name: string): { linears: StoredLinear[]; dense: string[] } => {
    const { block, kind } = placeOf(name);
    const row = cells.get(kind) ?? new Map<number | undefined, { linears: StoredLinear[]; dense: string[] }>();
    cells.set(kind, row);
    const cell = row.get(block) ?? { linears: [], dense: [] };
    row.set(block, cell);
    return cell;
  };
  for (const linear of linears) cellOf(linear.name).linears.push(linear);
  for (const name of skipped) cellOf(name).dense.push(name);
  const found = new Set([...cells.values()].flatMap((row) => [...row.keys()]));
  const numbers = [...found].filter((block) => block !== undefined).sort((a, b) => a - b);
  const blocks = found.has(undefined) ? [...numbers, undefined] : numbers;
  const labels = shortNames([...cells.keys()]);
  const kinds = [...cells].map(([kind, row]) => ({
    kind,
    label: labels.get(kind) ?? kind,
    cells: blocks.map((block) => {
      const cell = row.get(block);
      return cell && { block, ...cell };
    }),
  }));
  return { blocks, kinds };
}

export interface Spread {
  readonly mean: number;
  readonly least: number;
  readonly most: number;
}

/** Undefined for no values at all. */
export function spreadOf(values: readonly number[]): Spread | undefined {
  if (values.length === 0) return undefined;
  let [least, most, sum] = [Infinity, -Infinity, 0];
  for (const value of values) {
    least = Math.min(least, value);
    most = Math.max(most, value);
    sum += value;
  }
  return { mean: sum / values.length, least, most };
}

export const errorsOf = (linears: readonly StoredLinear[]): readonly number[] =>
  linears.flatMap(({ error }) => (error === undefined ? [] : [error]));

/** Mean bits, a dense linear counting as 16. */
export function bitsOf({ linears, dense }: Cell): number {
  return (linears.reduce((sum, { bits }) => sum + bits, 0) + 16 * dense.length) / (linears.length + dense.length);
}

/** Three digits, and powers of ten where those would hide behind zeros: 0.0123, 2.1e-5. */
export function formatError(error: number): string {
  if (error === 0) return '0';
  return error >= 1e-3 && error < 1e6
    ? String(Number(error.toPrecision(3)))
    : error
        .toExponential(2)
        .replace(/\.?0+e/, 'e')
        .replace('e+', 'e');
}

/** 4, 4.25, 3.7: at most `digits` behind the point, none for nothing. */
export const formatNumber = (value: number, digits = 2): string => String(Number(value.toFixed(digits)));

export const formatCount = (value: number): string => value.toLocaleString('en');

export const groupText = ({ group_size, k }: StoredLinear): string =>
  group_size === undefined ? '' : group_size >= k ? 'one group per row' : `groups of ${formatNumber(group_size)}`;

export const methodOf = (report: StoredReport, linear: StoredLinear): string => linear.method ?? textOption(report, 'method');

export function textOption({ options }: StoredReport, key: string): string {
  const value = options[key];
  return typeof value === 'string' || typeof value === 'number' ? String(value) : '';
}

/** What is said of a cell when it is pointed at or has the focus: lines, the first one its name. */
export function describe(report: StoredReport, kind: string, cell: Cell): string {
  const where = cell.block === undefined ? kind : `Block ${cell.block} · ${kind}`;
  const [linear] = cell.linears;
  const lines: string[] = [where];
  if (linear === undefined)
    lines.push(cell.dense.length === 1 ? 'left dense by a rule' : `${cell.dense.length} linears, left dense by a rule`);
  else if (cell.linears.length === 1 && cell.dense.length === 0) lines.push(...describeLinear(report, linear));
  else lines.push(...describeMany(cell));
  return lines.join('\n');
}

function describeLinear(report: StoredReport, linear: StoredLinear): string[] {
  const { n, k, bits, sym, bits_per_weight, error, reason, fallbacks } = linear;
  const grid = [`${bits} bit`, groupText(linear), sym === undefined ? '' : sym ? 'symmetric' : 'with zero points'];
  return [
    grid.filter((part) => part !== '').join(', '),
    [methodOf(report, linear).toUpperCase(), `${formatNumber(bits_per_weight, 3)} bits per weight`]
      .filter((part) => part !== '')
      .join(', '),
    `${formatCount(n)} × ${formatCount(k)}`,
    ...(error === undefined ? [] : [`relative error ${formatError(error)}`]),
    ...(reason === undefined ? [] : [reason]),
    ...fallbacks.map((fallback) => `Instead: ${fallback}`),
  ];
}

function describeMany({ linears, dense }: Cell): string[] {
  const range = ({ least, most }: Spread, format: (value: number) => string): string =>
    least === most ? format(least) : `${format(least)} to ${format(most)}`;
  const bits = spreadOf(linears.map((linear) => linear.bits));
  const errors = spreadOf(errorsOf(linears));
  const fallbacks = linears.filter((linear) => linear.fallbacks.length > 0).length;
  return [
    `${linears.length} linears${dense.length > 0 ? ` and ${dense.length} left dense` : ''}`,
    ...(bits ? [`${range(bits, formatNumber)} bit`] : []),
    ...(errors ? [`relative error ${range(errors, formatError)}, mean ${formatError(errors.mean)}`] : []),
    ...(fallbacks > 0 ? [`${fallbacks} of them with fallbacks`] : []),
  ];
}
