// Automatic allocation on the real engine: sizes are kept, choices beat uniform ones, the same run gives the same files.
import { readFile } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { evaluate, loadModel, quantize, type QuantizeOptions, type QuantizeReport } from '../../lib';
import type { Target } from '../../lib/quantize/layout';
import { lowbitFormat } from '../../lib/quantize/outputs/lowbit';
import { errorOf, FIXTURES, temporaryDirectory } from '../checkpoint/support';

jest.setTimeout(300_000);

const source = path.join(FIXTURES, 'tiny-stories');
const root = temporaryDirectory();
let text: string;
let calibration: string;

const options = (name: string): QuantizeOptions => ({
  model: source,
  output: path.join(root, name),
  calibration,
  calibrationSamples: 16,
  calibrationLength: 128,
  preset: 'fast',
  threads: 2,
  report: 'json',
  allocation: { errorSamples: 8, probeSamples: 3, groupSizes: [32, 64] },
});

beforeAll(async () => {
  text = await readFile(path.join(source, 'text.txt'), 'utf8');
  calibration = text.slice(0, text.length / 2);
});

const weightBytes = (directory: string): number =>
  fs
    .readdirSync(directory)
    .filter((name) => /\.(safetensors|gguf)$/.test(name))
    .reduce((sum, name) => sum + fs.statSync(path.join(directory, name)).size, 0);

async function divergence(model: string): Promise<number> {
  const [compressed, original] = [await loadModel(model, { threads: 2 }), await loadModel(source, { threads: 2 })];
  try {
    return (await evaluate.compare(compressed, original, { text: text.slice(text.length / 2), contextSize: 128, chunks: 12 })).klDivergence;
  } finally {
    await compressed.dispose();
    await original.dispose();
  }
}

/** Points of the curve that are not the chosen one. */
const uniform = ({ curve = [] }: QuantizeReport) => curve.filter(({ chosen }) => !chosen);

test('keeps to a size and beats every uniform choice that is no larger', async () => {
  const report = await quantize({ ...options('bits'), bitsPerWeight: 3.6 });
  const bytes = weightBytes(report.output);
  const target = Math.floor((3.6 * report.totals.parameters) / 8);
  expect(report.totals.bytesAfter).toBe(bytes);
  expect(bytes).toBeLessThanOrEqual(target);
  // Room for headers is a bound: 3 tensors of 29 weights at about 50 bytes each, and one step of the smallest weight.
  expect(bytes).toBeGreaterThan(target - 12_000);
  expect(report.totals.bitsPerWeightModel).toBeLessThanOrEqual(3.6);

  const { allocation, curve = [] } = report;
  const chosen = curve.find((point) => point.chosen);
  expect(curve.filter((point) => point.chosen)).toHaveLength(1);
  expect(chosen?.bytes).toBeLessThanOrEqual(target);
  const smaller = uniform(report).filter((point) => point.bytes <= target);
  expect(smaller.length).toBeGreaterThanOrEqual(3);
  for (const point of smaller) expect(chosen?.klDivergence).toBeLessThan(0.7 * point.klDivergence);
  expect(allocation?.targetBytes).toBe(target);
  expect(allocation?.measuredDivergence).toBe(chosen?.klDivergence);
  // Losses add up well on this model: measured 0.99 to 1.05.
  expect((allocation?.measuredDivergence ?? NaN) / (allocation?.estimatedDivergence ?? NaN)).toBeGreaterThan(0.7);
  expect((allocation?.measuredDivergence ?? NaN) / (allocation?.estimatedDivergence ?? NaN)).toBeLessThan(1.4);

  expect(report.linears).toHaveLength(29);
  const widths = new Set(report.linears.map(({ bits }) => bits));
  expect(widths.size).toBeGreaterThanOrEqual(2);
  for (const linear of report.linears) {
    expect(linear.reason).toMatch(
      /^\d bit, groups of \d+: estimated to cost [\d.e+-]+ nats per token; the closed form asks for [\d.]+ bits/,
    );
    // Bytes were known beforehand.
    const settings = { bits: linear.bits, groupSize: linear.groupSize, sym: linear.sym, descAct: false, staticGroups: false, eoraRank: 0 };
    const expected = lowbitFormat.solvedBytes({ n: linear.n, k: linear.k, settings } as unknown as Target);
    expect(Math.round((linear.bitsPerWeight * linear.n * linear.k) / 8)).toBe(expected);
  }
  expect(report.linears.at(-1)).toMatchObject({ name: 'model.embed_tokens', method: 'rtn' });
  // What the file predicts is what the trial predicted: other texts, whole GPTQ on all samples.
  expect(await divergence(report.output)).toBeLessThan(2 * (chosen?.klDivergence ?? NaN));
});

function hashes(directory: string): Record<string, string> {
  const files = fs.readdirSync(directory).filter((name) => !name.startsWith('lowbit_report'));
  const hash = (name: string): string =>
    createHash('sha256')
      .update(fs.readFileSync(path.join(directory, name)))
      .digest('hex');
  return Object.fromEntries(files.sort().map((name) => [name, hash(name)]));
}

test('an aborted run keeps its choice and goes on to the same files, with any number of threads', async () => {
  const given = {
    targetSize: '350 kB',
    allocation: { errorSamples: 4, probeSamples: 2, bits: [2, 4, 6], groupSizes: [64], generations: 1 },
  } as const;
  const whole = await quantize({ ...options('whole'), ...given });
  const controller = new AbortController();
  const error = await errorOf(() =>
    quantize({
      ...options('aborted'),
      ...given,
      threads: 1,
      signal: controller.signal,
      onProgress: ({ phase }) => phase === 'calibrate' && controller.abort(),
    }),
  );
  expect(error).toMatchObject({ code: 'CANCELLED' });
  expect(error.message).toContain('The choice of forms is done and kept in');
  const phases = new Set<string>();
  const resumed = await quantize({
    ...options('aborted'),
    ...given,
    threads: 1,
    resume: true,
    onProgress: ({ phase }) => phases.add(phase),
  });
  expect(phases.has('allocate')).toBe(false);
  expect(hashes(resumed.output)).toEqual(hashes(whole.output));
  expect(weightBytes(whole.output)).toBeLessThanOrEqual(350_000);
  expect(whole.allocation?.divergenceBeforeSearch).toBeGreaterThanOrEqual(whole.allocation?.measuredDivergence ?? NaN);
  const other = await errorOf(() => quantize({ ...options('whole'), ...given, targetSize: '340 kB', overwrite: false }));
  expect(other.code).toBe('INVALID_ARGUMENT'); // the output is there
});

test('a GPTQ checkpoint has a rule for every linear that is not like most', async () => {
  const report = await quantize({ ...options('gptq'), format: 'gptq', bitsPerWeight: 7.5 });
  expect(weightBytes(report.output)).toBeLessThanOrEqual((7.5 * report.totals.parameters) / 8);
  expect(report.linears.every(({ name }) => !name.includes('embed_tokens'))).toBe(true);
  const config = JSON.parse(fs.readFileSync(path.join(report.output, 'config.json'), 'utf8')) as {
    quantization_config: { bits: number; group_size: number; dynamic?: Record<string, unknown> };
  };
  const { bits, group_size, dynamic = {} } = config.quantization_config;
  const different = report.linears.filter((linear) => linear.bits !== bits || linear.groupSize !== group_size);
  expect(Object.keys(dynamic)).toHaveLength(different.length);
  expect(different.length).toBeGreaterThan(0);
  expect(await divergence(report.output)).toBeLessThan(0.2);
});

test('a GGUF file gets a block type for everything', async () => {
  const report = await quantize({
    ...options('gguf'),
    format: 'gguf',
    bitsPerWeight: 6.5,
    allocation: { errorSamples: 4, probeSamples: 2, ggufTypes: ['Q4_0', 'Q5_0', 'Q8_0'] },
  });
  expect(weightBytes(report.output)).toBeLessThanOrEqual((6.5 * report.totals.parameters) / 8);
  expect(new Set(report.linears.map(({ bits }) => bits)).size).toBeGreaterThanOrEqual(2);
  expect(report.linears.at(-1)).toMatchObject({ name: 'model.embed_tokens' });
  expect(await divergence(path.join(report.output, 'model.gguf'))).toBeLessThan(0.05);
});

test('ranks are chosen where bytes for them gain most', async () => {
  const allocation = { errorSamples: 4, probeSamples: 2, bits: [3], groupSizes: [128], ranks: [0, 2, 8] } as const;
  const report = await quantize({ ...options('ranks'), bitsPerWeight: 3.6, allocation, dynamic: { 'model.embed_tokens': { bits: 3 } } });
  expect(weightBytes(report.output)).toBeLessThanOrEqual((3.6 * report.totals.parameters) / 8);
  const ranks = report.linears.map(({ reason = '' }) => Number(/^[^:]*rank (\d+)/.exec(reason)?.[1] ?? 0));
  expect(new Set(ranks).size).toBeGreaterThanOrEqual(2);
  const [plain] = uniform(report).filter(({ label }) => label === '3 bit, groups of 128');
  const chosen = report.curve?.find((point) => point.chosen);
  expect(chosen?.klDivergence).toBeLessThan(plain?.klDivergence ?? NaN);
});

test('rounding alone is allocated as well, and a rule keeps what it says', async () => {
  const report = await quantize({
    ...options('rtn'),
    preset: undefined as never,
    method: 'rtn',
    bitsPerWeight: 5,
    dynamic: { '.*down_proj': { bits: 3 }, '-:.*layers\\.0\\..*v_proj': {} },
  });
  expect(report.linears.filter(({ name }) => name.includes('down_proj')).map(({ bits }) => bits)).toEqual([3, 3, 3, 3]);
  expect(report.linears.some(({ name }) => name === 'model.layers.0.self_attn.v_proj')).toBe(false);
  expect(weightBytes(report.output)).toBeLessThanOrEqual((5 * report.totals.parameters) / 8);
});

test.each([
  [{ targetSize: '10 kB' }, /targetSize asks for 10(\.0)? kB, but the smallest forms take \d+ kB/],
  [{ targetSize: 'much' }, /Expected bytes: a number, or a text such as "60MB"/],
  [{ targetSize: 1e6, bitsPerWeight: 4 }, /say the same in two ways/],
  [{ bitsPerWeight: 4, bits: 3 }, /bits is what bitsPerWeight chooses for each linear/],
  [{ bitsPerWeight: 0.5 }, /number between 1 and 16/],
  [{ bitsPerWeight: 4, method: 'hqq', preset: undefined }, /settings of 'gptq' and 'rtn'/],
  [{ bitsPerWeight: 8, format: 'gptq', allocation: { ranks: [0, 8] } }, /no place for low-rank parts/],
  [{ bitsPerWeight: 8, format: 'gguf', allocation: { bits: [4] } }, /allocation.bits is for other formats/],
  [{ bitsPerWeight: 4, allocation: { bits: [4, 4] } }, /array of different values/],
  [{ bitsPerWeight: 4, allocation: { bits: [] } }, /array of 1 to 16 values/],
  [{ allocation: { bits: [4] } }, /give one of them beside it/],
  [{ bitsPerWeight: 4, calibration: ['short'], calibrationLength: 16 }, /tokens/],
] as const)('refuses %j', async (given, message) => {
  const { allocation: _allocation, ...rest } = options('refused');
  const error = await errorOf(() => quantize({ ...rest, ...given } as unknown as QuantizeOptions));
  expect(error.code).toBe('INVALID_ARGUMENT');
  expect(error.message).toMatch(message);
  expect(fs.existsSync(path.join(root, 'refused'))).toBe(false);
});
