/**
 * lib/report: a report as a table, one row per linear (RFC 4180: commas, CRLF, quotes doubled), for spreadsheets and data frames.
 */
import { placeOf } from './names';
import type { Scalar, StoredReport } from './stored';

const columns = [
  'name',
  'block',
  'kind',
  'n',
  'k',
  'method',
  'bits',
  'group_size',
  'sym',
  'bits_per_weight',
  'error',
  'damp_percent',
  'dead_columns',
  'seconds',
  'reason',
  'fallbacks',
] as const;

/** Linears in the order of the model, then those left dense, of which only name and place are known. Further scalars get columns behind. */
export function reportCsv(report: StoredReport): string {
  const more = [...new Set(report.linears.flatMap((linear) => Object.keys(linear.more)))];
  const method = report.options['method'];
  const rows = report.linears.map((linear) => {
    const { more: extra, fallbacks, ...known } = linear;
    const values: Record<string, Scalar | undefined> = {
      ...known,
      ...placeOf(linear.name),
      method: linear.method ?? (typeof method === 'string' ? method : undefined),
      fallbacks: fallbacks.join('; '),
    };
    return [...columns.map((column) => values[column]), ...more.map((key) => extra[key])];
  });
  const dense = report.skipped.map((name) => {
    const values: Record<string, Scalar | undefined> = { name, ...placeOf(name), method: 'dense' };
    return [...columns.map((column) => values[column]), ...more.map(() => undefined)];
  });
  return [[...columns, ...more], ...rows, ...dense].map((row) => `${row.map(field).join(',')}\r\n`).join('');
}

function field(value: Scalar | undefined): string {
  if (value === undefined) return '';
  if (typeof value !== 'string') return String(value);
  // Spreadsheets take such a text for a formula, and names come from files of strangers.
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
