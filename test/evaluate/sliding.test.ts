/** Perplexity in Hugging Face's protocol against losses recomputed from evaluate.logits, window by window. */
import { type Model, evaluate, loadModel } from '../../lib';
import { slidingWindows } from '../../lib/evaluate/sliding';
import { failure, storyModel, storyText } from '../generate/fixture';

let model: Model;
beforeAll(async () => {
  model = await loadModel(storyModel, { precision: 'exact' });
});
afterAll(() => model.dispose());

/** The loop of the guide: targets of a window are its last `end - previous end` tokens, of which the first of a window has no prediction. */
function* guide(length: number, contextSize: number, stride: number): Generator<readonly [begin: number, end: number, targets: number[]]> {
  let previous = 0;
  for (let begin = 0; begin < length; begin += stride) {
    const end = Math.min(begin + contextSize, length);
    const count = end - previous;
    const positions = Array.from({ length: count }, (_, i) => end - count + i);
    yield [begin, end, positions.filter((position) => position > begin)];
    previous = end;
    if (end === length) return;
  }
}

test('windows: every target once, as in the guide', () => {
  for (const length of [2, 3, 7, 8, 9, 31, 32, 33, 100])
    for (const contextSize of [4, 8, 32])
      for (let stride = 1; stride <= contextSize; stride++) {
        const windows = slidingWindows(length, contextSize, stride).map(({ begin, end, firstRow }) => [begin, end, begin + firstRow + 1]);
        const expected = [...guide(length, contextSize, stride)].filter(([, , targets]) => targets.length > 0);
        expect(windows).toEqual(expected.map(([begin, end, targets]) => [begin, end, targets[0]]));
        const covered = expected.flatMap(([, , targets]) => targets);
        expect(new Set(covered).size).toBe(covered.length);
        if (stride < contextSize) expect(covered.length).toBe(length - 1);
      }
});

test.each([
  [64, 32],
  [64, 64],
  [96, 7],
])('perplexity and its error, windows of %i every %i', async (contextSize, stride) => {
  const text = storyText.slice(0, 900);
  const tokens = model.tokenizer.encode(text);
  const losses: number[] = [];
  for (const [begin, end, targets] of guide(tokens.length, contextSize, stride)) {
    const logits = await evaluate.logits(model, tokens.slice(begin, end));
    for (const target of targets) {
      const row = logits.subarray((target - 1 - begin) * model.vocabSize, (target - begin) * model.vocabSize);
      const max = row.reduce((a, b) => Math.max(a, b));
      losses.push(max + Math.log(row.reduce((sum, value) => sum + Math.exp(value - max), 0)) - (row[tokens[target] as number] as number));
    }
  }
  const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
  const variance = losses.reduce((sum, loss) => sum + (loss - mean) ** 2, 0) / losses.length;
  const found = await evaluate.perplexity(model, { text, protocol: 'huggingface', contextSize, stride });
  expect(Math.abs(found.perplexity / Math.exp(mean) - 1) <= 1e-5).toBe(true);
  expect(Math.abs(found.standardError / (Math.exp(mean) * Math.sqrt(variance / (losses.length - 1))) - 1) <= 1e-4).toBe(true);
  const bos = model.tokenizer.bosId;
  expect(found).toMatchObject({
    protocol: 'huggingface',
    tokens: losses.length,
    contextSize,
    stride,
    addBos: bos !== undefined && model.tokenizer.prefixIds.includes(bos),
  });
});

test('options and defaults', async () => {
  const text = storyText.slice(0, 12_000);
  const call = (options: object) => failure(() => evaluate.perplexity(model, { text, ...options }));
  expect(await call({ stride: 8 })).toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringContaining("'huggingface'") as string,
  });
  expect(await call({ protocol: 'huggingface', contextSize: 16, stride: 17 })).toMatchObject({ code: 'INVALID_ARGUMENT' });
  expect(await call({ protocol: 'hf' })).toMatchObject({ message: expect.stringContaining('"llama.cpp", "huggingface"') as string });
  expect(await call({ protocol: 'huggingface', text: undefined, tokens: [1] })).toMatchObject({ code: 'INVALID_ARGUMENT' });
  const contextSize = Math.min(1024, model.contextLength);
  const found = await evaluate.perplexity(model, { text, protocol: 'huggingface', chunks: 2 });
  expect(found).toMatchObject({ contextSize, stride: contextSize / 2, chunks: 2, tokens: contextSize + contextSize / 2 - 1 });
  expect((await evaluate.perplexity(model, { tokens: [5, 6], protocol: 'huggingface' })).tokens).toBe(1);
  expect((await evaluate.perplexity(model, { text, contextSize: 64 })).stride).toBe(undefined);
});
