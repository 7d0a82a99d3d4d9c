/** What `lowbit quantize --dry-run` prints: the linears by kind, then room, memory and time. */
import Table from 'cli-table3';
import type { DryRunReport } from '../index';
import { formatBytes, formatDuration } from '../units';

const plain = { style: { head: [], border: [] } };

export function dryRunTables(plan: DryRunReport): string {
  const tables = [...(plan.linears === null ? [] : [linearTable(plan.linears)]), factTable(plan)];
  return [...tables, 'Nothing was written.'].join('\n');
}

function factTable({
  model,
  output,
  checkpointFormat,
  linears,
  skipped,
  blocksDone,
  blocks,
  disk,
  memory,
  seconds,
  calibration,
}: DryRunReport): string {
  const room = disk.freeBytes === undefined ? '' : `; ${formatBytes(disk.freeBytes)} are free`;
  const held = disk.heldBytes > 0 ? `, of which the journal holds ${formatBytes(disk.heldBytes)}` : '';
  const parts = [
    `process ${formatBytes(memory.processBytes)}`,
    ...(calibration ? [`calibration ${formatBytes(memory.calibrationBytes)}`] : []),
    `weights ${formatBytes(memory.weightBytes)}`,
    `solving ${formatBytes(memory.solveBytes)}`,
  ];
  const times = [
    `reading ${formatDuration(seconds.load)}`,
    ...(calibration ? [`calibration ${formatDuration(seconds.calibrate)}`] : []),
    `solving ${formatDuration(seconds.solve)}`,
    `writing ${formatDuration(seconds.write)}`,
  ];
  const total =
    seconds.total === undefined ? 'not known, the choice of forms takes longer than' : `about ${formatDuration(seconds.total)}:`;
  const table = new Table(plain);
  table.push(
    ['model', `${model.name}, ${model.architecture}, ${model.parameters.toLocaleString('en')} parameters, ${formatBytes(model.bytes)}`],
    ['output', `${output}, ${checkpointFormat}`],
    [
      'weight files',
      `${linears === null ? 'at most ' : ''}${formatBytes(disk.outputBytes)}, ${disk.bitsPerWeight.toFixed(2)} bits per weight`,
    ],
    [
      'calibration',
      calibration ? `${calibration.samples} samples, ${calibration.tokens.toLocaleString('en')} tokens (${calibration.source})` : 'none',
    ],
    ['disk', `up to ${formatBytes(disk.neededBytes)} with the work beside it${held}${room}`],
    ['memory', `up to ${formatBytes(memory.peakBytes)}: ${parts.join(', ')}`],
    ['time', `${total} ${times.join(', ')}`],
    ...(blocksDone > 0 ? [['resumes', `${blocksDone} of ${blocks} blocks are done`]] : []),
    ...(skipped.length > 0 ? [['left dense by rules', `${skipped.length} linears`]] : []),
  );
  return table.toString();
}

/** Linears of one kind, shape and settings in a row: names without the numbers of blocks and experts. */
function linearTable(linears: NonNullable<DryRunReport['linears']>): string {
  const rows = new Map<string, { readonly cells: readonly [string, string, string]; count: number; bytes: number }>();
  for (const { name, n, k, bits, groupSize, sym, bytes } of linears) {
    const kind = name.replace(/^.*?\d+\./, '').replace(/\b\d+\b/g, '*');
    const cells = [kind, `${n} x ${k}`, `${bits} bit, groups of ${groupSize}${sym ? '' : ', zero points'}`] as const;
    const row = rows.get(cells.join()) ?? { cells, count: 0, bytes: 0 };
    row.count++;
    row.bytes += bytes;
    rows.set(cells.join(), row);
  }
  const table = new Table({
    ...plain,
    head: ['linear', 'shape', 'count', 'settings', 'bytes'],
    colAligns: ['left', 'left', 'right', 'left', 'right'],
  });
  for (const { cells, count, bytes } of rows.values()) table.push([cells[0], cells[1], count, cells[2], formatBytes(bytes)]);
  return table.toString();
}
