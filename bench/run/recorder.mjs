/** bench/run: results as JSON lines, one per sample, check, skip or failure, written as they come; and the lines on the terminal. */
import { appendFileSync, mkdirSync } from 'node:fs';
import path from 'node:path';

export class Recorder {
  lines = [];

  constructor(file) {
    this.file = file;
    mkdirSync(path.dirname(file), { recursive: true });
  }

  add(line) {
    this.lines.push(line);
    appendFileSync(this.file, `${JSON.stringify(line)}\n`);
    const text = describe(line);
    if (text !== undefined) console.log(text);
  }
}

function describe(line) {
  const where = [line.scenario, line.case].filter((part) => part !== undefined).join(' ');
  switch (line.type) {
    case 'sample': {
      const metrics = Object.entries(line.metrics).map(([name, value]) => `${name} ${format(value)}`);
      const read = line.read_bytes_per_second === undefined ? '' : `  [read ${(line.read_bytes_per_second / 1e9).toFixed(1)} GB/s]`;
      return `${where}  ${line.engine}${line.variant === undefined ? '' : ` (${line.variant})`}  ${line.threads} thread${line.threads === 1 ? '' : 's'}  ${metrics.join('  ')}${read}`;
    }
    case 'check':
      return `${where}  ${line.engine}  agrees: ${line.what}`;
    case 'skip':
      return `${where}  ${line.engine ?? ''}  skipped: ${line.reason}`;
    case 'failure':
      return `${where}  ${line.engine ?? ''}  FAILED: ${line.reason}`;
    default:
      return undefined;
  }
}

function format(value) {
  if (typeof value !== 'number') return String(value);
  return value >= 1e5 ? value.toExponential(3) : value.toFixed(value < 10 ? 3 : 1);
}
