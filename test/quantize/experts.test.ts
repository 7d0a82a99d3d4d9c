// quantize() of models with experts through the real engine: a Hessian per expert over the tokens routed to it, starved experts in the
// report, and files that load and still compute nearly what the original does. Also of transposed linears and learned positions.
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import { quantize, type LinearReport, type QuantizeOptions, type QuantizeReport } from '../../lib';
import { buildPlan } from '../../lib/models';
import { expectedOf, fixtures, logitsOf, withContext, withModel } from '../engine/fixtures';

jest.setTimeout(120_000);

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'lowbit-experts-'));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

const vocabSize = 320;
/** Tokens of a fixed generator (Lehmer's), so that runs repeat. */
function samples(count: number, length: number): number[][] {
  let state = 1;
  const next = (): number => (state = (state * 48271) % 2147483647);
  return Array.from({ length: count }, () => Array.from({ length }, () => next() % vocabSize));
}

/** Linears of these random models whose 48 columns the file layout has no place for. */
const NARROW: Readonly<Record<string, string>> = { 'qwen3-moe': '.*down_proj', 'deepseek-v3': '.*q_b_proj' };

let runs = 0;
async function run(name: string, options: Partial<QuantizeOptions>): Promise<QuantizeReport> {
  const output = path.join(directory, `run-${runs++}`);
  const model = path.join(fixtures, 'arch', name);
  const narrow = NARROW[name];
  const gptq = options.method === 'rtn' ? {} : ({ preset: 'fast', calibrationPrecision: 'exact' } as const);
  return quantize({ model, output, groupSize: 32, ...gptq, ...(narrow ? { dynamic: { [`-:${narrow}`]: {} } } : {}), ...options });
}

/** Mean Kullback-Leibler divergence of the logits of a directory from the golden ones, in nats. */
async function divergence(name: string, model: string): Promise<number> {
  const golden = expectedOf(path.join('arch', name));
  const checkpoint = await openCheckpoint(model);
  const spec = {
    files: checkpoint.files,
    tensors: checkpoint.tensors,
    plan: buildPlan(checkpoint),
    precision: 'exact',
    threads: 2,
  } as const;
  const logits = await withModel(spec, (loaded) =>
    withContext(loaded, golden.tokens.length, 'f32', (context) => logitsOf(context, golden.tokens, vocabSize, 16)),
  );
  const logSoftmax = (row: Float32Array): number[] => {
    const sum = row.reduce((total, x) => total + Math.exp(x), 0);
    return Array.from(row, (x) => x - Math.log(sum));
  };
  let total = 0;
  for (let row = 0; row < golden.tokens.length; row++) {
    const [p, q] = [golden.logits, logits].map((all) => logSoftmax(all.subarray(row * vocabSize, (row + 1) * vocabSize))) as [
      number[],
      number[],
    ];
    total += p.reduce((sum, value, i) => sum + Math.exp(value) * (value - (q[i] as number)), 0);
  }
  return total / golden.tokens.length;
}

const ofExperts = (report: QuantizeReport): readonly LinearReport[] => report.linears.filter(({ name }) => name.includes('.experts.'));

test('Mixtral: every expert is solved on the tokens routed to it', async () => {
  const calibration = samples(16, 128);
  const report = await run('mixtral', { calibration, calibrationLength: 128 });
  expect(report.linears).toHaveLength(3 * (4 + 4 * 3));
  expect(report.linears.some(({ name }) => name.endsWith('.gate'))).toBe(false);
  expect(report.fallbacks).toEqual([]);
  for (const block of [0, 1, 2]) {
    const tokensOf = (expert: number, matrix: string): number =>
      report.linears.find(({ name }) => name === `model.layers.${block}.block_sparse_moe.experts.${expert}.${matrix}`)?.tokens as number;
    // Two experts per token, and the three matrices of one see the same tokens.
    expect([0, 1, 2, 3].reduce((sum, expert) => sum + tokensOf(expert, 'w1'), 0)).toBe(2 * 16 * 128);
    for (const expert of [0, 1, 2, 3]) {
      expect([tokensOf(expert, 'w3'), tokensOf(expert, 'w2')]).toEqual([tokensOf(expert, 'w1'), tokensOf(expert, 'w1')]);
    }
  }
  expect(report.linears.filter(({ name }) => name.includes('self_attn')).every(({ tokens }) => tokens === 16 * 128)).toBe(true);
  // Random weights have no structure that GPTQ could lose; rounding them alone costs more.
  const rounded = await run('mixtral', { method: 'rtn' });
  const [gptq, rtn] = [await divergence('mixtral', report.output), await divergence('mixtral', rounded.output)];
  expect(gptq < rtn).toBe(true);
  expect(gptq > 0 && gptq < 0.5).toBe(true);
});

test('the same errors again, with Hessians of the fast path', async () => {
  const calibration = samples(4, 128);
  const [first, second] = [
    await run('qwen3-moe', { calibration, calibrationLength: 128, calibrationPrecision: 'fast' }),
    await run('qwen3-moe', { calibration, calibrationLength: 128, calibrationPrecision: 'fast' }),
  ];
  expect(second.linears.map(({ error }) => error)).toEqual(first.linears.map(({ error }) => error));
});

test('Qwen3-MoE with little data: starved experts are rounded, and the report says so with their tokens', async () => {
  const report = await run('qwen3-moe', { calibration: samples(3, 128), calibrationLength: 128 });
  const starved = ofExperts(report).filter(({ tokens }) => (tokens as number) < 256);
  expect(starved.length).toBeGreaterThan(0);
  for (const { name, tokens, fallbacks } of starved) {
    expect(fallbacks).toHaveLength(1);
    expect(fallbacks[0]).toContain(
      tokens === 0 ? 'no calibration token reached this layer' : `${tokens} calibration tokens reached this layer`,
    );
    expect(report.fallbacks.some((line) => line.startsWith(name))).toBe(true);
  }
  expect(report.fallbacks).toHaveLength(starved.length);
  expect(await divergence('qwen3-moe', report.output)).toBeLessThan(0.5);
});

test.each(['deepseek-v3', 'gpt2', 'opt'])('%s is quantised and runs', async (name) => {
  const report = await run(name, { calibration: samples(8, 128), calibrationLength: 128 });
  expect(report.linears.every(({ tokens }) => typeof tokens === 'number')).toBe(true);
  expect(await divergence(name, report.output)).toBeLessThan(0.5);
});
