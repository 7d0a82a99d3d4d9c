/** evaluate.logits against the golden file, evaluate.perplexity against log-softmax sums over those logits. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { type Model, evaluate, loadModel } from '../../lib';
import { failure, prompt, readAll, removeVariants, storyModel, storyText, storyVariant } from '../generate/fixture';

let model: Model;
let tokens: Int32Array;
beforeAll(async () => {
  model = await loadModel(storyModel, { precision: 'exact' });
  tokens = model.tokenizer.encode(storyText);
});
afterAll(async () => {
  await model.dispose();
  removeVariants();
});

/** expected.safetensors: tokens I32 [256], logits F32 [256, 512], computed by transformers in float32. */
function golden(): { tokens: Int32Array; logits: Float32Array } {
  const bytes = readFileSync(path.join(storyModel, 'expected.safetensors'));
  const begin = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, begin)) as Record<string, { data_offsets: [number, number] }>;
  const data = (name: string): ArrayBuffer => {
    const [from, to] = header[name]!.data_offsets;
    return Uint8Array.from(bytes.subarray(begin + from, begin + to)).buffer;
  };
  return { tokens: new Int32Array(data('tokens')), logits: new Float32Array(data('logits')) };
}

/** Negative log-likelihoods of tokens[from + 1 ..] from logits of the same sequence, in double precision. */
function losses(logits: Float32Array, sequence: Int32Array, from: number): number[] {
  const { vocabSize } = model;
  return Array.from({ length: sequence.length - 1 - from }, (_, i) => {
    const row = logits.subarray((from + i) * vocabSize, (from + i + 1) * vocabSize);
    const max = Math.max(...row);
    const sum = row.reduce((total, value) => total + Math.exp(value - max), 0);
    return max + Math.log(sum) - (row[sequence[from + i + 1] as number] as number);
  });
}

describe('logits', () => {
  test('are the golden ones', async () => {
    const expected = golden();
    const logits = await evaluate.logits(model, expected.tokens);
    expect(logits.length).toBe(expected.logits.length);
    const worst = logits.reduce((max, value, i) => Math.max(max, Math.abs(value - (expected.logits[i] as number))), 0);
    const scale = expected.logits.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
    // both sides round every product to float32: 2^-24 relative, over sums of up to 384 terms in 4 blocks
    expect(worst <= scale * 2 ** -24 * 384 * 4).toBe(true);
  });

  test('do not depend on the batches of the prefill', async () => {
    const long = tokens.slice(0, 600);
    const logits = await evaluate.logits(model, long);
    const short = await evaluate.logits(model, [...long.slice(0, 100)]);
    const difference = short.reduce((max, value, i) => Math.max(max, Math.abs(value - (logits[i] as number))), 0);
    expect(difference <= 1e-3).toBe(true);
    expect(logits.every(Number.isFinite)).toBe(true);
  });

  test.each([
    [[], 'Expected integer between 1 and 1024 for the length of tokens but received 0 of type number'],
    [Array(1025).fill(1), 'Expected integer between 1 and 1024 for the length of tokens but received 1025 of type number'],
    [[1, -1], 'Expected token id between 0 and 511 for tokens[1] but received -1 of type number'],
    [[2 ** 32], 'Expected token id between 0 and 511 for tokens[0] but received 4294967296 of type number'],
    ['text', 'Expected Int32Array or array of token ids for tokens but received "text" of type string'],
  ])('refuse bad tokens', async (bad, message) => {
    expect(await failure(() => evaluate.logits(model, bad as never))).toEqual({ code: 'INVALID_ARGUMENT', message });
  });

  test('need a model', async () => {
    expect((await failure(() => evaluate.logits({} as never, [1]))).message).toBe(
      'Expected Model from loadModel() for model but received an instance of Object',
    );
  });
});

describe('perplexity', () => {
  test.each([
    [64, 3],
    [65, 2],
    [600, 2], // longer than one batch
  ])('chunks of %d: second halves only, as summed from logits', async (contextSize, chunks) => {
    const result = await evaluate.perplexity(model, { tokens, contextSize, chunks });
    const all: number[] = [];
    for (let chunk = 0; chunk < chunks; chunk++) {
      const part = tokens.slice(chunk * contextSize, (chunk + 1) * contextSize);
      all.push(...losses(await evaluate.logits(model, part), part, Math.floor(contextSize / 2)));
    }
    const mean = all.reduce((sum, loss) => sum + loss, 0) / all.length;
    const meanSquare = all.reduce((sum, loss) => sum + loss * loss, 0) / all.length;
    expect(result).toMatchObject({ tokens: all.length, chunks, contextSize, protocol: 'llama.cpp', addBos: false });
    expect(result.tokens).toBe(chunks * (contextSize - Math.floor(contextSize / 2) - 1));
    expect(Math.abs(result.perplexity / Math.exp(mean) - 1) <= 1e-4).toBe(true);
    const error = Math.exp(mean) * Math.sqrt((meanSquare - mean * mean) / (all.length - 1));
    expect(Math.abs(result.standardError / error - 1) <= 1e-3).toBe(true);
  });

  test('a text gives what its tokens give; the incomplete last chunk is left out', async () => {
    const text = storyText.slice(0, 3000);
    const ids = model.tokenizer.encode(text);
    const fromText = await evaluate.perplexity(model, { text, contextSize: 128 });
    const fromTokens = await evaluate.perplexity(model, { tokens: ids, contextSize: 128 });
    expect(fromText.perplexity).toBe(fromTokens.perplexity);
    expect(fromText.chunks).toBe(Math.floor(ids.length / 128));
    expect(fromText.seconds).toBeGreaterThan(0);
    expect((await evaluate.perplexity(model, { tokens: ids, contextSize: 128, chunks: 10_000 })).chunks).toBe(fromText.chunks);
  });

  test('the story model predicts its own stories better than random ids', async () => {
    const noise = Int32Array.from({ length: 512 }, (_, i) => (i * 7919 + 13) % 512);
    const [own, other] = [
      await evaluate.perplexity(model, { tokens, contextSize: 256, chunks: 2 }),
      await evaluate.perplexity(model, { tokens: noise, contextSize: 256 }),
    ];
    expect(own.perplexity).toBeLessThan(20);
    expect(other.perplexity).toBeGreaterThan(200);
  });

  test('a tokenizer that adds BOS: it replaces the first token of every chunk', async () => {
    const processor = {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    };
    const variant = await loadModel(storyVariant({ 'tokenizer.json': { post_processor: processor } }), { precision: 'exact' });
    const result = await evaluate.perplexity(variant, { tokens, contextSize: 64, chunks: 3 });
    expect(result.addBos).toBe(true);
    const all: number[] = [];
    for (let chunk = 0; chunk < 3; chunk++) {
      const part = tokens.slice(chunk * 64, (chunk + 1) * 64);
      part[0] = 1;
      all.push(...losses(await evaluate.logits(model, part), part, 32));
    }
    expect(Math.abs(result.perplexity / Math.exp(all.reduce((sum, loss) => sum + loss, 0) / all.length) - 1) <= 1e-4).toBe(true);
    expect(variant.tokenizer.encode(prompt)[0]).toBe(1);
    await variant.dispose();
  });

  test('reports progress after every chunk', async () => {
    const seen: { done: number; total: number; perplexity: number }[] = [];
    const result = await evaluate.perplexity(model, {
      tokens,
      contextSize: 64,
      chunks: 3,
      onProgress: (progress) => seen.push({ ...progress }),
    });
    expect(seen.map(({ done, total }) => [done, total])).toEqual([
      [1, 3],
      [2, 3],
      [3, 3],
    ]);
    expect(seen.at(-1)?.perplexity).toBe(result.perplexity);
  });

  test('abort rejects with CANCELLED and leaves the model usable', async () => {
    const abort = new AbortController();
    const run = evaluate.perplexity(model, {
      tokens,
      contextSize: 64,
      signal: abort.signal,
      onProgress: ({ done }) => done === 2 && abort.abort(),
    });
    expect((await failure(() => run)).code).toBe('CANCELLED');
    const context = await model.createContext({ contextSize: 64 });
    expect((await readAll(context.generate(prompt, { maxTokens: 2 }))).result.tokens.length).toBe(2);
    await context.dispose();
  });

  test.each([
    [
      { tokens: Array(127).fill(5), contextSize: 64 },
      'The text has 127 tokens but perplexity with contextSize 64 needs at least 128: use a longer text or a smaller contextSize',
    ],
    [{}, 'Expected exactly one of the options text and tokens for text but received undefined'],
    [{ text: 'a', tokens: [1] }, 'Expected exactly one of the options text and tokens for text but received "both" of type string'],
    [{ text: 3 }, 'Expected string for text but received 3 of type number'],
    [{ text: 'a', contextSize: 3 }, 'Expected integer between 4 and 1024 for contextSize but received 3 of type number'],
    [{ text: 'a', contextSize: 64.5 }, 'Expected integer between 4 and 1024 for contextSize but received 64.5 of type number'],
    [{ text: 'a', contextSize: 2 ** 32 }, 'Expected integer between 4 and 1024 for contextSize but received 4294967296 of type number'],
    [{ text: 'a', contextSize: '64' }, 'Expected integer between 4 and 1024 for contextSize but received "64" of type string'],
    [{ text: 'a', chunks: 0 }, 'Expected integer between 1 and 2147483647 for chunks but received 0 of type number'],
    [{ text: 'a', chunks: -1 }, 'Expected integer between 1 and 2147483647 for chunks but received -1 of type number'],
    [
      { text: 'a', context: 64 },
      'Unknown option "context" for perplexity. Known options: text, tokens, protocol, contextSize, stride, chunks, onProgress, signal',
    ],
  ])('refuses %j', async (options, message) => {
    expect(await failure(() => evaluate.perplexity(model, options as never))).toEqual({ code: 'INVALID_ARGUMENT', message });
  });
});
