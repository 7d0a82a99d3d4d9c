/** evaluate.compare against divergences in double precision over evaluate.logits. */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { type Model, evaluate, loadModel, quantize } from '../../lib';
import { failure, removeVariants, storyModel, storyText } from '../generate/fixture';

let directory: string;
let reference: Model;
let rounded: Model;
let tokens: Int32Array;
beforeAll(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'lowbit-compare-'));
  const output = path.join(directory, 'rtn');
  await quantize({ model: storyModel, output, method: 'rtn', bits: 3 });
  reference = await loadModel(storyModel, { precision: 'exact' });
  rounded = await loadModel(output, { precision: 'exact' });
  tokens = reference.tokenizer.encode(storyText);
});
afterAll(async () => {
  await reference.dispose();
  await rounded.dispose();
  await rm(directory, { recursive: true, force: true });
  removeVariants();
});

function logSoftmax(row: Float32Array): number[] {
  const max = row.reduce((a, b) => Math.max(a, b));
  const log = Math.log(row.reduce((sum, value) => sum + Math.exp(value - max), 0));
  return Array.from(row, (value) => value - max - log);
}

const top = (row: Float32Array): number => row.reduce((best, value, i) => (value > (row[best] as number) ? i : best), 0);

test.each([64, 200])('divergence, agreement and both perplexities, %i tokens per chunk', async (contextSize) => {
  const chunks = 3;
  const bos = reference.tokenizer.prefixIds.includes(reference.tokenizer.bosId as number) ? reference.tokenizer.bosId : undefined;
  const divergences: number[] = [];
  const deltas: number[] = [];
  let agreeing = 0;
  for (let c = 0; c < chunks; c++) {
    const chunk = tokens.slice(c * contextSize, (c + 1) * contextSize);
    if (bos !== undefined) chunk[0] = bos;
    const [a, b] = [await evaluate.logits(reference, chunk), await evaluate.logits(rounded, chunk)];
    for (let row = contextSize / 2; row < contextSize - 1; row++) {
      const cut = (all: Float32Array): Float32Array => all.subarray(row * reference.vocabSize, (row + 1) * reference.vocabSize);
      const [p, q] = [logSoftmax(cut(a)), logSoftmax(cut(b))];
      divergences.push(p.reduce((sum, value, i) => sum + Math.exp(value) * (value - (q[i] as number)), 0));
      const target = tokens[c * contextSize + row + 1] as number;
      deltas.push(Math.exp(q[target] as number) - Math.exp(p[target] as number));
      agreeing += top(cut(a)) === top(cut(b)) ? 1 : 0;
    }
  }
  const mean = divergences.reduce((sum, value) => sum + value, 0) / divergences.length;
  const seen: number[] = [];
  const found = await evaluate.compare(rounded, reference, {
    text: storyText,
    contextSize,
    chunks,
    onProgress: ({ done, total, klDivergence }) => seen.push(done, total, klDivergence),
  });
  expect(Math.abs(found.klDivergence - mean) <= 1e-5 + 1e-4 * mean).toBe(true);
  expect(Math.abs(found.klMaximum - Math.max(...divergences)) <= 1e-4 * Math.max(...divergences)).toBe(true);
  expect(found.klMedian <= found.kl90 && found.kl90 <= found.kl99 && found.kl99 <= found.kl999 && found.kl999 <= found.klMaximum).toBe(
    true,
  );
  const average = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  expect(Math.abs(found.deltaPMean - average(deltas)) <= 1e-5).toBe(true);
  expect(Math.abs(found.deltaPRms - Math.sqrt(average(deltas.map((delta) => delta * delta)))) <= 1e-5).toBe(true);
  expect(found.topAgreement).toBe(agreeing / divergences.length);
  expect(found).toMatchObject({ tokens: divergences.length, chunks, contextSize, addBos: bos !== undefined });
  expect(seen.length).toBe(3 * chunks);
  const perplexity = async (model: Model): Promise<number> =>
    (await evaluate.perplexity(model, { text: storyText, contextSize, chunks })).perplexity;
  expect(Math.abs(found.perplexity / (await perplexity(rounded)) - 1) <= 1e-5).toBe(true);
  expect(Math.abs(found.referencePerplexity / (await perplexity(reference)) - 1) <= 1e-5).toBe(true);
});

test('a model does not differ from itself', async () => {
  expect(await evaluate.compare(reference, reference, { tokens, contextSize: 64, chunks: 2 })).toMatchObject({
    klDivergence: 0,
    klStandardError: 0,
    klMaximum: 0,
    topAgreement: 1,
    deltaPMean: 0,
    deltaPRms: 0,
  });
});

test('what is wrong is said before any work', async () => {
  expect(await failure(() => evaluate.compare(rounded, reference, { text: 'short' }))).toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringContaining('compare with contextSize'),
  });
  expect(await failure(() => evaluate.compare(rounded, reference, { chunks: 0, tokens }))).toMatchObject({ code: 'INVALID_ARGUMENT' });
  expect(await failure(() => evaluate.compare(rounded, reference, {}))).toMatchObject({ code: 'INVALID_ARGUMENT' });
  const other = await loadModel(path.join(__dirname, '..', 'fixtures', 'arch', 'llama'));
  expect(await failure(() => evaluate.compare(other, reference, { tokens }))).toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringMatching(/tokens of .*llama for reference/),
  });
  await other.dispose();
  const controller = new AbortController();
  controller.abort();
  expect(await failure(() => evaluate.compare(rounded, reference, { tokens, signal: controller.signal }))).toMatchObject({
    code: 'CANCELLED',
  });
});
