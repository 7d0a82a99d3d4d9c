// GGUF files that lowbit writes, read back: same logits for every architecture, codes on the grids, tokenizer, mixtures, refusals.
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { convert, evaluate, loadModel, quantize, type QuantizeOptions } from '../../lib';
import { openCheckpoint } from '../../lib/checkpoint';
import { buildPlan } from '../../lib/models';
import { linearType, outerType } from '../../lib/quantize/gguf_types';
import { Tokenizer } from '../../lib/tokenizer';
import { expectedOf, fixtures, logitsOf, withContext, withModel } from '../engine/fixtures';

jest.setTimeout(240_000);

const stories = path.join(fixtures, 'tiny-stories');
let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'lowbit-gguf-'));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

async function logits(model: string, tokens: Int32Array): Promise<Float32Array> {
  const checkpoint = await openCheckpoint(model);
  const plan = buildPlan(checkpoint);
  const { files, tensors } = checkpoint;
  return withModel({ files, tensors, plan, precision: 'exact', threads: 2 }, (loaded) =>
    withContext(loaded, tokens.length, 'f32', (context) => logitsOf(context, tokens, plan.vocabSize, tokens.length)),
  );
}

function worst(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return NaN;
  return a.reduce((most, value, i) => {
    const error = Math.abs(value - (b[i] as number));
    return Number.isNaN(most) || error <= most ? most : error;
  }, 0);
}

const architectures = ['llama', 'llama3-rope', 'mistral-swa', 'qwen2', 'qwen3', 'gemma3', 'phi3', 'olmo2'];

test('gemma2: a scale of attention that GGUF has no place for is refused; with the usual one the logits are the same', async () => {
  const original = path.join(fixtures, 'arch', 'gemma2');
  const output = path.join(directory, 'gemma2-gguf');
  await expect(convert({ model: original, output, to: 'gguf' })).rejects.toThrow('query_pre_attn_scalar');
  const model = path.join(directory, 'gemma2');
  await cp(original, model, { recursive: true });
  const file = path.join(model, 'config.json');
  const config = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>;
  await writeFile(file, JSON.stringify({ ...config, query_pre_attn_scalar: config['head_dim'] }));
  const report = await convert({ model, output, to: 'gguf' });
  const { tokens } = expectedOf(path.join('arch', 'gemma2'));
  const error = worst(await logits(report.output, tokens), await logits(model, tokens));
  expect(error <= 1e-4).toBe(true);
});

test.each(architectures)('%s as GGUF gives the logits of the directory', async (name) => {
  const model = path.join(fixtures, 'arch', name);
  const output = path.join(directory, name);
  const report = await convert({ model, output, to: 'gguf' });
  expect(report.tensors.filter(({ exact }) => !exact)).toEqual([]);
  const { tokens } = expectedOf(path.join('arch', name));
  // Weights are the same bits; rotary factors pass through f32.
  const error = worst(await logits(report.output, tokens), await logits(model, tokens));
  expect(error <= 1e-4).toBe(true);
});

test('tokenizer, template and ids survive', async () => {
  const { output } = await convert({ model: stories, output: path.join(directory, 'stories'), to: 'gguf', type: 'Q8_0' });
  const [before, after] = [await openCheckpoint(stories), await openCheckpoint(output)];
  const text = 'Once upon a time, there were 12 ünïcode  cats.\n\tThey said "hi!"';
  const ids = (checkpoint: typeof before): readonly number[] => [...Tokenizer.fromCheckpoint(checkpoint).encode(text)];
  expect(ids(after)).toEqual(ids(before));
  expect(after.chatTemplate).toBe(before.chatTemplate);
  for (const key of ['num_attention_heads', 'hidden_size', 'rms_norm_eps', 'max_position_embeddings']) {
    expect(after.config[key]).toBeCloseTo(before.config[key] as number, 6);
  }
  // A GGUF source keeps its keys, and blocks of the same type are copied.
  const again = await convert({ model: output, output: path.join(directory, 'stories-again'), to: 'gguf' });
  expect(again.tensors.every(({ exact }) => exact)).toBe(true);
  expect(ids(await openCheckpoint(again.output))).toEqual(ids(before));
});

test('GPTQ codes become blocks without loss where the block has room', async () => {
  const gptq = path.join(directory, 'gptq');
  await quantize({ model: stories, output: gptq, method: 'rtn', groupSize: 32 });
  const report = await convert({ model: gptq, output: path.join(directory, 'gptq-gguf'), to: 'gguf' });
  const linears = report.tensors.filter(({ from }) => from.startsWith('GPTQ'));
  expect(linears.length).toBeGreaterThan(0);
  expect(linears.filter(({ exact, to }) => !exact || to !== 'Q4_0')).toEqual([]);
  const { tokens } = expectedOf('tiny-stories');
  const error = worst(await logits(report.output, tokens), await logits(gptq, tokens));
  expect(error <= 1e-4).toBe(true);
});

test('an asymmetric grid needs a minimum, which f16 may round', async () => {
  const gptq = path.join(directory, 'gptq-asym');
  await quantize({ model: stories, output: gptq, method: 'rtn', groupSize: 32, sym: false });
  const report = await convert({ model: gptq, output: path.join(directory, 'gptq-asym-gguf'), to: 'gguf' });
  const linears = report.tensors.filter(({ from }) => from.startsWith('GPTQ'));
  expect(linears.every(({ to }) => to === 'Q4_1')).toBe(true);
  // A minimum of up to 15 scales, rounded to 11 bits, is wrong by at most 2^-11 of itself.
  expect(linears.every(({ error }) => error <= 15 * 15 * 2 ** -22)).toBe(true);
});

async function solved(options: Partial<QuantizeOptions>): Promise<{ perplexity: number; warnings: readonly string[]; error: number }> {
  const output = path.join(directory, JSON.stringify(options).replace(/\W/g, ''));
  const text = { file: path.join(stories, 'text.txt') };
  const report = await quantize({ model: stories, output, format: 'gguf', calibration: text, calibrationLength: 256, ...options });
  const model = await loadModel(path.join(output, 'model.gguf'), { precision: 'exact' });
  try {
    const { perplexity } = await evaluate.perplexity(model, { text: await readFile(text.file, 'utf8'), contextSize: 256 });
    return { perplexity, warnings: report.warnings, error: report.totals.error };
  } finally {
    await model.dispose();
  }
}

test.each(['Q4_0', 'Q4_1', 'Q8_0'] as const)('codes are solved on the grid of %s', async (ggufType) => {
  const gptq = await solved({ ggufType });
  const rtn = await solved({ ggufType, method: 'rtn' });
  expect(gptq.warnings.filter((warning) => warning.includes('256'))).toEqual([]);
  expect(gptq.perplexity <= rtn.perplexity * 1.002).toBe(true);
});

test('a mixture on rows that 256 does not divide falls back and says so', async () => {
  const { warnings } = await solved({ ggufType: 'Q4_K_M', preset: 'fast' });
  expect(warnings.some((warning) => warning.includes('no multiple of 256') && warning.includes('Q4_K -> Q5_0'))).toBe(true);
});

test('types of the mixtures', () => {
  const down = Array.from({ length: 16 }, (_, layer) => linearType('Q4_K_M', 'ffn_down', layer, 16, 256).type);
  expect(down.map((type) => type === 'Q6_K').join(' ')).toBe(
    [0, 1, 4, 7, 10, 13, 14, 15].reduce((all, i) => Object.assign(all, { [i]: true }), Array<boolean>(16).fill(false)).join(' '),
  );
  expect(linearType('Q4_K_M', 'attn_q', 0, 16, 256)).toEqual({ type: 'Q4_K' });
  expect(linearType('Q6_K', 'attn_q', 0, 16, 96)).toEqual({ type: 'Q8_0', insteadOf: 'Q6_K' });
  expect(outerType('Q4_0', true, 512)).toEqual({ type: 'Q6_K' });
  expect(outerType('Q4_0', false, 512)).toEqual({ type: 'Q4_0' });
});

const refusals: [Partial<QuantizeOptions>, string][] = [
  [{ bits: 4 as const }, 'bits follows from ggufType'],
  [{ sym: false }, 'sym follows from ggufType'],
  [{ mse: 2.4 }, 'Expected 0 or 2 for mse'],
  [{ ggufType: 'Q2_K' as never }, 'ggufType'],
  [{ format: 'gptq' as const, ggufType: 'Q4_0' as const }, "ggufType is a choice of format 'gguf'"],
  [{ format: 'gptq' as const, dynamic: { '.*v_proj': { ggufType: 'Q8_0' as const } } }, 'names a ggufType'],
];

test.each(refusals)('%j is refused', async (options, message) => {
  const output = path.join(directory, 'refused');
  await expect(quantize({ model: stories, output, method: 'rtn', format: 'gguf', ...options })).rejects.toThrow(message);
});
