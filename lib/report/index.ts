/**
 * lib/report: a report in other forms: a table (CSV) and a page (HTML). Pure functions from the report to texts; reads and writes no files, and
 * knows nothing of how a compression is made.
 */
import { reportCsv } from './csv';
import { reportHtml } from './page';
import { readReport } from './stored';

export interface RenderedReport {
  /** lowbit_report.csv: one row per linear, RFC 4180, UTF-8. */
  readonly csv: string;
  /** lowbit_report.html: one file that loads nothing. */
  readonly html: string;
}

/** The names that reports have beside the weights. */
export const reportFiles = { json: 'lowbit_report.json', csv: 'lowbit_report.csv', html: 'lowbit_report.html' } as const;

/**
 * Renders a report as a table and as a page.
 *
 * @example
 * const { html } = renderReport(await quantize(options)); // or: renderReport(JSON.parse(text of lowbit_report.json))
 * @param report what quantize() returned, or the parsed content of a lowbit_report.json, of this version or of another
 * @param name what it is called in errors. Default 'the report'
 * @throws {LowbitError} CORRUPT_FILE when a key is missing or has another type than formats.md says
 */
export function renderReport(report: unknown, name = 'the report'): RenderedReport {
  const stored = readReport(toSnakeCase(report), name);
  return { csv: reportCsv(stored), html: reportHtml(stored) };
}

/** camelCase keys, as the library returns them, to those of files; keys of `dynamic` are the user's expressions and stay. */
function toSnakeCase(value: unknown, depth = 0): unknown {
  // Deeper than any report: what comes from a file ends there.
  if (typeof value !== 'object' || value === null || depth > 8) return value;
  if (Array.isArray(value)) return value.map((item) => toSnakeCase(item, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      key === 'dynamic' ? item : toSnakeCase(item, depth + 1),
    ]),
  );
}
