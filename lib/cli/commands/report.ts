/** lowbit report: the table and the page of a compression, made again from its lowbit_report.json. */
import { stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Command } from 'commander';
import { LowbitError, renderReport } from '../../index';
import type { Io } from '../io';
import { readText } from '../parse';
import { examples } from '../runtime';

interface Flags {
  readonly html?: string;
  readonly csv?: string;
}

const stored = 'lowbit_report.json';

export function reportCommand(command: Command, io: () => Io): void {
  command
    .description('Write the report of a compression as a page (HTML, works offline) and as a table (CSV)')
    .argument('<model>', `directory that lowbit quantize made, or its ${stored}`)
    .option('--html <file>', 'the page')
    .option('--csv <file>', 'the table, one row per linear')
    .addHelpText(
      'after',
      `\nWithout --html and --csv both are written beside the ${stored}.\n${examples('lowbit report ./model-4bit', 'lowbit report ./model-4bit --html report.html')}`,
    )
    .action((model: string, flags: Flags) => run(io(), model, flags));
}

async function run(io: Io, model: string, flags: Flags): Promise<void> {
  const directory = await stat(model).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
  const file = directory ? path.join(model, stored) : model;
  let value: unknown;
  try {
    value = JSON.parse(await readText(file));
  } catch (cause) {
    if (cause instanceof LowbitError) throw cause;
    throw new LowbitError('CORRUPT_FILE', `${file} is not JSON: ${(cause as Error).message}`, { file }, { cause });
  }
  const rendered = renderReport(value, file);
  const beside = (ending: string): string => path.join(path.dirname(file), `lowbit_report.${ending}`);
  const both = flags.html === undefined && flags.csv === undefined;
  const html = both ? beside('html') : flags.html;
  const csv = both ? beside('csv') : flags.csv;
  if (html !== undefined) await write(html, rendered.html);
  if (csv !== undefined) await write(csv, rendered.csv);
  for (const written of [html, csv]) if (written !== undefined) io.out(`${written}\n`);
  io.result({ report: file, html: html ?? null, csv: csv ?? null });
}

async function write(file: string, text: string): Promise<void> {
  try {
    await writeFile(file, text);
  } catch (cause) {
    throw new LowbitError('IO', `Cannot write ${file}: ${(cause as Error).message}`, { file }, { cause });
  }
}
