/** dryRun(): the same checks as a run, nothing written, and figures that a real run confirms. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { dryRun, quantize, type QuantizeOptions } from '../../lib';
import { errorOf, FIXTURES, temporaryDirectory } from '../checkpoint/support';

jest.setTimeout(120_000);

const source = path.join(FIXTURES, 'tiny-stories');
const text = path.join(source, 'text.txt');
const root = temporaryDirectory();
const options = (name: string): QuantizeOptions => ({
  model: source,
  output: path.join(root, name),
  preset: 'fast',
  calibration: { file: text },
  calibrationSamples: 8,
  calibrationLength: 128,
  dynamic: { '.*down_proj': { bits: 8, groupSize: 64 }, '-:.*layers\\.3\\..*v_proj': {} },
});

test('says what a run then does', async () => {
  const given = options('said');
  const plan = await dryRun(given);
  expect(fs.readdirSync(root)).toEqual([]);
  const report = await quantize(given);
  const { name, kind, architecture } = report.model;
  expect(plan.model).toEqual({ name, kind, architecture, parameters: report.totals.parameters, bytes: report.totals.bytesBefore });
  expect(plan).toMatchObject({
    output: report.output,
    checkpointFormat: report.checkpointFormat,
    options: report.options,
    skipped: report.skipped,
    warnings: report.warnings,
    blocksDone: 0,
    blocks: 4,
  });
  const { sha256: _hash, rowsDropped: _rows, ...data } = report.calibration ?? {};
  expect(plan.calibration).toEqual(data);
  const settings = (linears: readonly { name: string; n: number; k: number; bits: number; groupSize: number; sym: boolean }[]): unknown =>
    linears.map(({ name, n, k, bits, groupSize, sym }) => ({ name, n, k, bits, groupSize, sym }));
  expect(settings(plan.linears ?? [])).toEqual(settings(report.linears));
  for (const [i, { bytes, n, k }] of (plan.linears ?? []).entries())
    expect((bytes * 8) / (n * k)).toBeCloseTo(report.linears[i]?.bitsPerWeight ?? NaN, 9);
  // Headers are counted at their largest: some hundred bytes for each of the 100 tensors.
  expect(plan.disk.outputBytes).toBeGreaterThanOrEqual(report.totals.bytesAfter);
  expect(plan.disk.outputBytes).toBeLessThan(report.totals.bytesAfter + 50_000);
  expect(plan.disk.bitsPerWeight).toBeCloseTo((8 * plan.disk.outputBytes) / report.totals.parameters, 9);
  expect(plan.disk.neededBytes).toBeGreaterThan(plan.disk.outputBytes);
  expect(plan.disk.heldBytes).toBe(0);
  const { peakBytes, ...parts } = plan.memory;
  expect(peakBytes).toBe(Object.values(parts).reduce((sum, bytes) => sum + bytes, 0));
  for (const bytes of Object.values(parts)) expect(bytes).toBeGreaterThan(0);
  // 8 x 128 tokens, each of which needs at least the residual of 128 columns.
  expect(parts.calibrationBytes).toBeGreaterThanOrEqual(8 * 128 * 128 * 4);
  const { total, ...seconds } = plan.seconds;
  expect(total).toBeCloseTo(
    Object.values(seconds).reduce((sum, each) => sum + each, 0),
    9,
  );
  for (const each of Object.values(seconds)) expect(each).toBeGreaterThan(0);
});

test.each<{ [Name in keyof QuantizeOptions]?: QuantizeOptions[Name] | undefined }>([
  { method: 'rtn', preset: undefined, calibration: undefined },
  { format: 'gguf', ggufType: 'Q4_0', dynamic: {} },
  { method: 'spqr', preset: undefined, format: 'lowbit' },
])('%o', async (more) => {
  const given = { ...options('other'), ...more } as QuantizeOptions;
  const plan = await dryRun(given);
  expect(fs.existsSync(given.output)).toBe(false);
  const report = await quantize(given);
  fs.rmSync(given.output, { recursive: true });
  expect(plan.linears?.map(({ name }) => name)).toEqual(report.linears.map(({ name }) => name));
  expect(plan.calibration === null).toBe(report.calibration === null);
  // SpQR's outliers are known behind the solve only.
  const ratio = plan.disk.outputBytes / report.totals.bytesAfter;
  if (more.method === 'spqr') expect(Math.abs(ratio - 1)).toBeLessThan(0.25);
  else expect([ratio >= 1, ratio < 1.1]).toEqual([true, true]);
});

test('with a size asked for, the forms are left open', async () => {
  const { dynamic: _rules, ...given } = options('sized');
  const plan = await dryRun({ ...given, format: 'lowbit', bitsPerWeight: 6 });
  expect(plan.linears).toBeNull();
  expect(plan.seconds.total).toBeUndefined();
  expect(plan.disk.bitsPerWeight).toBeCloseTo(6, 1);
});

test('all problems at once, as from a run', async () => {
  fs.mkdirSync(path.join(root, 'full'));
  fs.writeFileSync(path.join(root, 'full', 'file'), '');
  const wrong = { ...options('full'), dynamic: { nothing: { bits: 8 } } } as QuantizeOptions;
  const [dry, real] = [await errorOf(() => dryRun(wrong)), await errorOf(() => quantize(wrong))];
  expect([dry.code, dry.message, dry.details]).toEqual([real.code, real.message, real.details]);
  expect(dry.details['problems']).toHaveLength(2);
  const abort = new AbortController();
  abort.abort();
  expect((await errorOf(() => dryRun({ ...options('aborted'), signal: abort.signal }))).code).toBe('CANCELLED');
});

test('of a run that died: what is left to do', async () => {
  const given = options('resumed');
  const abort = new AbortController();
  const onProgress: QuantizeOptions['onProgress'] = ({ phase, block }) => phase === 'solve' && block === 3 && abort.abort();
  await errorOf(() => quantize({ ...given, signal: abort.signal, onProgress }));
  const files = fs.readdirSync(`${given.output}.lowbit-work`);
  const plan = await dryRun({ ...given, resume: true });
  expect([plan.blocksDone, plan.blocks]).toEqual([3, 4]);
  expect(plan.disk.heldBytes).toBeGreaterThan(0);
  expect(fs.readdirSync(`${given.output}.lowbit-work`)).toEqual(files);
});

test('on the command line', () => {
  const cli = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
  const output = path.join(root, 'printed');
  const flags = ['quantize', source, '-o', output, '--method', 'rtn', '--dry-run'];
  const printed = execFileSync(process.execPath, [cli, ...flags], { encoding: 'utf8' });
  for (const words of [
    'mlp.down_proj',
    '128 x 384',
    '4 bit, groups of 128',
    'weight files',
    'bits per weight',
    'memory',
    'time',
    'Nothing was written.',
  ])
    expect(printed).toContain(words);
  const json = JSON.parse(execFileSync(process.execPath, [cli, ...flags, '--json'], { encoding: 'utf8' })) as Record<string, unknown>;
  expect(json).toMatchObject({ dry_run: true, checkpoint_format: 'gptq', calibration: null, blocks_done: 0, linears: expect.any(Array) });
  expect(fs.existsSync(output)).toBe(false);
});
