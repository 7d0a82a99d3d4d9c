/** bench: from result files to docs/benchmarks/ (results.json, SVG) and the tables of docs/benchmarks.md. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import pictures from './pure/charts.cjs';
import summary from './pure/summary.cjs';
import tables from './pure/tables.cjs';
import { root } from './run/machine.mjs';

const document = path.join(root, 'docs', 'benchmarks.md');
const folder = path.join(root, 'docs', 'benchmarks');
const committed = path.join(folder, 'results.json');

export function printSummary(lines) {
  const results = new summary.Results(lines);
  const { machine, goals, ...rest } = tables.sections(results);
  for (const [name, text] of Object.entries(rest)) if (text !== 'Not measured.') console.log(`\n${name}\n${text}`);
  console.log(
    `\n${goals
      .split('\n')
      .filter((line) => !line.includes('not measured'))
      .join('\n')}\n\n${machine}`,
  );
}

/** @param {readonly string[]} inputs JSON lines of one or more runs; none: the committed results again */
export async function writeReport(inputs) {
  const lines = inputs.length === 0 ? JSON.parse(await readFile(committed, 'utf8')) : (await Promise.all(inputs.map(readLines))).flat();
  const results = new summary.Results(lines);
  await mkdir(folder, { recursive: true });
  await writeFile(document, tables.fillMarkers(await readFile(document, 'utf8'), tables.sections(results)));
  await writeFile(committed, `[\n${lines.map((line) => JSON.stringify(line)).join(',\n')}\n]\n`);
  await drawAll(results);
  console.log(`wrote ${path.relative(root, document)} and ${path.relative(root, folder)} from ${lines.length} lines`);
}

async function readLines(file) {
  return (await readFile(file, 'utf8'))
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
}

async function drawAll(results) {
  if (!existsSync(path.join(import.meta.dirname, 'node_modules', 'vega-lite'))) {
    throw new Error('The plotting library is not installed: run "npm run bench -- setup"');
  }
  const [vega, { compile }] = await Promise.all([import('vega'), import('vega-lite')]);
  for (const [name, specification] of Object.entries(pictures.charts(results))) {
    const view = new vega.View(vega.parse(compile(specification).spec), { renderer: 'none' });
    await writeFile(path.join(folder, `${name}.svg`), `${await view.toSVG()}\n`);
    view.finalize();
  }
}
