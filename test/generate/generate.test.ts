/** Generation on the real engine with the story model. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { type Model, evaluate, loadModel } from '../../lib';
import { argmax, failure, prompt, readAll, readSome, removeVariants, storyModel, storyText, storyVariant } from './fixture';

let model: Model;
beforeAll(async () => {
  model = await loadModel(storyModel, { precision: 'exact' });
});
afterAll(async () => {
  await model.dispose();
  removeVariants();
});

/** Text and result of a generation in a context of its own. */
async function fresh(text: string | Int32Array, options = {}) {
  const context = await model.createContext({ contextSize: 256 });
  try {
    const { items, result } = await readAll(context.generate(text, options));
    return { text: items.join(''), result };
  } finally {
    await context.dispose();
  }
}

describe('greedy generation', () => {
  test('follows the argmax of the logits of the whole sequence', async () => {
    const { result } = await fresh(prompt, { maxTokens: 12 });
    expect(result.tokens.length).toBe(12);
    expect(result.finishReason).toBe('length');
    const sequence = [...model.tokenizer.encode(prompt), ...result.tokens];
    const logits = await evaluate.logits(model, sequence);
    const first = sequence.length - 13;
    for (let i = 0; i < 12; i++) {
      const row = logits.subarray((first + i) * model.vocabSize, (first + i + 1) * model.vocabSize);
      expect(argmax(row)).toBe(result.tokens[i]);
    }
  });

  test('text is the decoded tokens; the result is in the stream and the return value', async () => {
    const context = await model.createContext({ contextSize: 128 });
    const stream = context.generate(prompt, { maxTokens: 20 });
    expect(stream.result).toBeUndefined();
    const { items, result } = await readAll(stream);
    expect(stream.result).toBe(result);
    expect(items.join('')).toBe(model.tokenizer.decode(result.tokens));
    expect(items.every((piece) => piece !== '')).toBe(true);
    expect(result.timing.promptTokens).toBe(model.tokenizer.encode(prompt).length);
    expect(result.timing.decodeTokensPerSecond).toBeGreaterThan(0);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    expect(stream.result).toBe(result);
    await context.dispose();
  });

  test('token ids as prompt give the same; generateTokens yields the ids', async () => {
    const ids = model.tokenizer.encode(prompt);
    const expected = await fresh(prompt, { maxTokens: 8 });
    expect((await fresh(ids, { maxTokens: 8 })).text).toBe(expected.text);
    const context = await model.createContext({ contextSize: 128 });
    const { items } = await readAll(context.generateTokens([...ids], { maxTokens: 8 }));
    expect(items).toEqual([...expected.result.tokens]);
    await context.dispose();
  });

  test('a prompt longer than one batch of the prefill', async () => {
    const ids = model.tokenizer.encode(storyText).slice(0, 700);
    const context = await model.createContext({ contextSize: 720 });
    const { items } = await readAll(context.generateTokens(ids, { maxTokens: 1 }));
    const logits = await evaluate.logits(model, ids);
    expect(items[0]).toBe(argmax(logits.subarray(699 * model.vocabSize)));
    await context.dispose();
  });
});

describe('sampling', () => {
  const options = { maxTokens: 24, temperature: 1 };

  test('the seed decides, and a drawn seed is reported', async () => {
    const first = await fresh(prompt, { ...options, seed: 11 });
    expect((await fresh(prompt, { ...options, seed: 11 })).text).toBe(first.text);
    expect(first.result.seed).toBe(11);
    const others = await Promise.all([12, 13, 14].map((seed) => fresh(prompt, { ...options, seed })));
    expect(new Set([first, ...others].map(({ text }) => text)).size).toBeGreaterThan(1);
    const drawn = await fresh(prompt, options);
    expect((await fresh(prompt, { ...options, seed: drawn.result.seed })).text).toBe(drawn.text);
  });

  test('topK 1, topP 0 and minP 1 leave only the most probable token', async () => {
    const { text } = await fresh(prompt, { maxTokens: 16 });
    for (const only of [{ topK: 1 }, { topP: 0 }, { minP: 1 }])
      expect((await fresh(prompt, { maxTokens: 16, temperature: 1, seed: 3, ...only })).text).toBe(text);
  });

  test('a strong repetition penalty changes greedy text', async () => {
    const plain = await fresh(prompt, { maxTokens: 48 });
    const penalised = await fresh(prompt, { maxTokens: 48, repetitionPenalty: 2, repetitionLastN: -1 });
    expect(penalised.text).not.toBe(plain.text);
    expect((await fresh(prompt, { maxTokens: 48, repetitionPenalty: 2, repetitionLastN: 0 })).text).toBe(plain.text);
  });
});

describe('ends', () => {
  test('a stop string that crosses token borders never shows', async () => {
    const context = await model.createContext({ contextSize: 256 });
    const { items, result } = await readAll(context.generate(prompt, { maxTokens: 40 }));
    const text = items.join('');
    const border = (items[0] as string).length + (items[1] as string).length + (items[2] as string).length;
    const stop = text.slice(border - 2, border + 2);
    const at = text.indexOf(stop);
    for (const stops of [stop, [stop, 'never in the text']]) {
      const stream = context.generate(prompt, { maxTokens: 40, stop: stops });
      const shown = (await readAll(stream)).items.join('');
      expect(shown).toBe(text.slice(0, at));
      expect(stream.result?.finishReason).toBe('stop');
      expect(stream.result?.tokens.length).toBeLessThan(result.tokens.length);
    }
    await context.dispose();
  });

  test('text that was held back for a stop string appears in the end', async () => {
    const { text } = await fresh(prompt, { maxTokens: 10 });
    const never = `${text.slice(-3)}\u0000`; // begins like the end of the text and does not go on
    expect((await fresh(prompt, { maxTokens: 10, stop: never })).text).toBe(text);
  });

  test('end-of-text tokens end it and are not part of it, unless ignored', async () => {
    const { result } = await fresh(prompt, { maxTokens: 8 });
    const eos = result.tokens[5] as number;
    const expected = [...result.tokens].slice(0, result.tokens.indexOf(eos));
    const variant = await loadModel(storyVariant({ 'generation_config.json': { eos_token_id: [2, eos] } }), { precision: 'exact' });
    const context = await variant.createContext({ contextSize: 128 });
    const ended = await readAll(context.generateTokens(prompt, { maxTokens: 8 }));
    expect(ended.items).toEqual(expected);
    expect(ended.result.finishReason).toBe('eos');
    const ignored = await readAll(context.generateTokens(prompt, { maxTokens: 8, ignoreEos: true }));
    expect(ignored.items).toEqual([...result.tokens]);
    await variant.dispose();
  });

  test('a full context ends it: contextSize - prompt + 1 tokens', async () => {
    const ids = model.tokenizer.encode(prompt);
    const context = await model.createContext({ contextSize: ids.length + 4 });
    const { items, result } = await readAll(context.generateTokens(ids, { ignoreEos: true }));
    expect(items.length).toBe(5);
    expect(result.finishReason).toBe('length');
    expect(context.tokens()).toEqual(Int32Array.from([...ids, ...items.slice(0, 4)]));
    await context.dispose();
  });

  test('a prompt that does not fit is refused at once', async () => {
    const ids = model.tokenizer.encode(prompt);
    const context = await model.createContext({ contextSize: ids.length - 1 });
    expect(await failure(() => context.generate(prompt))).toEqual({
      code: 'INVALID_ARGUMENT',
      message: `The prompt has ${ids.length} tokens but the context holds ${ids.length - 1}: shorten the prompt or create the context with a larger contextSize (this model: up to 1024)`,
    });
    expect(context.tokens().length).toBe(0);
    await context.dispose();
  });

  test.each([
    ['an empty text', ''],
    ['no ids', []],
  ])('%s is refused', async (_name, empty) => {
    const context = await model.createContext({ contextSize: 16 });
    expect((await failure(() => context.generate(empty))).message).toContain('Expected at least one token for prompt but received ');
    expect((await failure(() => context.generate(7 as never))).message).toBe(
      'Expected string, Int32Array or array of token ids for prompt but received 7 of type number',
    );
    expect((await failure(() => context.generate([512]))).message).toBe(
      'Expected token id between 0 and 511 for prompt[0] but received 512 of type number',
    );
    expect((await failure(() => context.generate('a', { maxToken: 3 } as never))).message).toContain(
      'Unknown option "maxToken" for generate. Did you mean "maxTokens"?',
    );
    expect((await failure(() => context.generateTokens('a', { stop: 'x' } as never))).message).toContain(
      'Unknown option "stop" for generateTokens.',
    );
    await context.dispose();
  });
});

describe('interruption', () => {
  test('abort rejects with CANCELLED, and the context goes on as new', async () => {
    const expected = await fresh(prompt, { maxTokens: 20 });
    const context = await model.createContext({ contextSize: 256 });
    for (const after of [0, 1, 7]) {
      const abort = new AbortController();
      if (after === 0) abort.abort(new Error('too late'));
      let seen = 0;
      const call = async (): Promise<void> => {
        for await (const _piece of context.generate(prompt, { maxTokens: 20, signal: abort.signal })) if (++seen === after) abort.abort();
      };
      expect((await failure(call)).code).toBe('CANCELLED');
      expect(seen).toBe(after);
      expect((await readAll(context.generate(prompt, { maxTokens: 20 }))).items.join('')).toBe(expected.text);
    }
    await context.dispose();
  });

  test('abort while a long prompt is read', async () => {
    const ids = model.tokenizer.encode(storyText).slice(0, 1000);
    const context = await model.createContext({ contextSize: 1024 });
    const abort = new AbortController();
    const reading = readAll(context.generateTokens(ids, { maxTokens: 1, signal: abort.signal }));
    setImmediate(() => abort.abort());
    expect((await failure(() => reading)).code).toBe('CANCELLED');
    const held = context.tokens();
    expect(held).toEqual(ids.slice(0, held.length)); // whole batches only
    const logits = await evaluate.logits(model, ids);
    const { items } = await readAll(context.generateTokens(ids, { maxTokens: 1 }));
    expect(items[0]).toBe(argmax(logits.subarray(999 * model.vocabSize)));
    await context.dispose();
  });

  test('break stops the work and leaves the context usable', async () => {
    const expected = await fresh(prompt, { maxTokens: 20 });
    const context = await model.createContext({ contextSize: 256 });
    const stream = context.generate(prompt, { maxTokens: 20 });
    const pieces = await readSome(stream, 4);
    expect(expected.text.startsWith(pieces.join(''))).toBe(true);
    expect(stream.result).toBeUndefined();
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    expect((await readAll(context.generate(prompt, { maxTokens: 20 }))).items.join('')).toBe(expected.text);
    await context.dispose();
  });

  test('one generation per sequence at a time; reset waits for its end', async () => {
    const context = await model.createContext({ contextSize: 128, sequences: 2 });
    const running = context.generate(prompt, { maxTokens: 4 });
    await running.next();
    const busy = { code: 'INVALID_ARGUMENT', message: expect.stringContaining('Sequence 0 is still generating') as string };
    expect(await failure(() => context.generate(prompt).next())).toEqual(busy);
    expect(await failure(() => context.reset())).toEqual(busy);
    expect((await context.generate(prompt, { sequence: 1, maxTokens: 2 }).next()).done).toBe(false);
    await readAll(running);
    await context.reset();
    expect(context.tokens().length).toBe(0);
    await context.dispose();
  });
});

describe('reuse', () => {
  test('a prompt that begins like the last one costs its new end only, and gives the same text', async () => {
    const context = await model.createContext({ contextSize: 256 });
    const first = await readAll(context.generate(prompt, { maxTokens: 10 }));
    expect(first.result.timing.reusedTokens).toBe(0);
    const longer = Int32Array.from([...model.tokenizer.encode(prompt), ...first.result.tokens.slice(0, 6), 40, 41]);
    const second = await readAll(context.generateTokens(longer, { maxTokens: 10 }));
    expect(second.result.timing.reusedTokens).toBe(longer.length - 2);
    expect(second.result.tokens).toEqual((await fresh(longer, { maxTokens: 10 })).result.tokens);
    const again = await readAll(context.generateTokens(longer, { maxTokens: 10 }));
    expect(again.result.timing.reusedTokens).toBe(longer.length - 1);
    expect(again.items).toEqual(second.items);
    const other = await readAll(context.generate('The cat', { maxTokens: 10 }));
    expect(other.result.timing.reusedTokens).toBe(0);
    expect(other.items.join('')).toBe((await fresh('The cat', { maxTokens: 10 })).text);
    await context.dispose();
  });

  test('two contexts and two sequences, step by step in turn, do not disturb each other', async () => {
    const prompts = [prompt, 'The little dog', 'Tom and Lily went to the park.'];
    const expected = await Promise.all(prompts.map((text) => fresh(text, { maxTokens: 16 })));
    const [a, b] = await Promise.all([model.createContext({ contextSize: 128, sequences: 2 }), model.createContext({ contextSize: 128 })]);
    const streams = [
      a.generate(prompts[0] as string, { maxTokens: 16 }),
      a.generate(prompts[1] as string, { maxTokens: 16, sequence: 1 }),
      b.generate(prompts[2] as string, { maxTokens: 16 }),
    ];
    const texts = ['', '', ''];
    const open = new Set([0, 1, 2]);
    while (open.size > 0) {
      for (const i of [...open]) {
        const next = await streams[i]!.next();
        if (next.done) open.delete(i);
        else texts[i] = `${texts[i] ?? ''}${next.value}`;
      }
    }
    expect(texts).toEqual(expected.map(({ text }) => text));
    const parallel = await Promise.all([
      readAll(a.generate(prompts[2] as string, { maxTokens: 16 })),
      readAll(a.generate(prompts[0] as string, { maxTokens: 16, sequence: 1 })),
      readAll(b.generate(prompts[1] as string, { maxTokens: 16 })),
    ]);
    expect(parallel.map(({ items }) => items.join(''))).toEqual([expected[2], expected[0], expected[1]].map((one) => one?.text));
    await Promise.all([a.dispose(), b.dispose()]);
  });
});

test('the event loop is not blocked while a prompt is read', async () => {
  const ids = model.tokenizer.encode(storyText).slice(0, 1000);
  const context = await model.createContext({ contextSize: 1024 });
  await readAll(context.generateTokens(ids.slice(0, 8), { maxTokens: 1 })); // everything is loaded and compiled
  await context.reset();
  let turns = 0;
  let running = true;
  const count = (): void => {
    turns++;
    if (running) setImmediate(count);
  };
  const delay = monitorEventLoopDelay({ resolution: 5 });
  delay.enable();
  setImmediate(count);
  await readAll(context.generateTokens(ids, { maxTokens: 1 }));
  running = false;
  delay.disable();
  expect(turns).toBeGreaterThan(20); // a blocking prefill would allow a few turns, one per batch
  expect(delay.max / 1e6).toBeLessThan(500); // generous: a shared machine may take the core away
  await context.dispose();
});
