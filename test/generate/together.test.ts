/** Several generations of one context together: same texts as alone, whoever comes, goes, waits or fails. Prompt lookup: same texts, too. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { ChatSession, type Context, type GenerateOptions, type Model, loadModel } from '../../lib';
import { failure, prompt, readAll, readSome, removeVariants, storyModel, storyText, storyVariant } from './fixture';

let model: Model;
let context: Context;
const sequences = 10;
beforeAll(async () => {
  model = await loadModel(storyModel, { precision: 'exact' });
});
beforeEach(async () => {
  context = await model.createContext({ contextSize: 400, sequences });
});
afterEach(() => context.dispose());
afterAll(async () => {
  await model.dispose();
  removeVariants();
});

/** What a generation gives in a context of its own. */
async function alone(ids: Int32Array, options: GenerateOptions): Promise<{ text: string; tokens: number[]; finishReason: string }> {
  const own = await model.createContext({ contextSize: 400 });
  const { sequence: _sequence, signal: _signal, promptLookup: _lookup, ...rest } = options;
  const { items, result } = await readAll(own.generate(ids, rest));
  await own.dispose();
  return { text: items.join(''), tokens: [...result.tokens], finishReason: result.finishReason };
}

/** Pseudorandom integers below a limit, the same on every run. */
function randomizer(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
}

/** A task of its own at a random number of turns of the event loop from now. */
const turns = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i++) await new Promise(setImmediate);
};

const story = (): Int32Array => model.tokenizer.encode(storyText);

test('ten at once, greedy and drawn, short and long prompts, give what each gives alone', async () => {
  const ids = story();
  const random = randomizer(3);
  const cases = Array.from({ length: sequences }, (_, sequence) => ({
    ids: ids.slice(random(500), 500 + 1 + random(300)).slice(0, [3, 8, 9, 60, 250][sequence % 5]),
    options: {
      sequence,
      maxTokens: 10 + random(40),
      ...(sequence % 2 === 0 ? {} : { temperature: 0.9, topP: 0.95, repetitionPenalty: 1.1, seed: sequence }),
      ...(sequence % 3 === 0 ? { promptLookup: true } : {}),
      ...(sequence === 4 ? { stop: ['. ', 'the'] } : {}),
    } satisfies GenerateOptions,
  }));
  const together = await Promise.all(
    cases.map(async ({ ids: start, options }) => {
      await turns(random(6));
      return readAll(context.generate(start, options));
    }),
  );
  for (const [i, { ids: start, options }] of cases.entries()) {
    const expected = await alone(start, options);
    const { items, result } = together[i]!;
    expect(items.join('')).toBe(expected.text);
    expect(result.finishReason).toBe(expected.finishReason);
    expect([...context.tokens(i)]).toEqual([...start, ...result.tokens.slice(0, -1)]);
  }
});

test('random joins, aborts, breaks and pauses leave everybody else alone', async () => {
  const ids = story();
  const random = randomizer(17);
  let aborted = 0;
  let left = 0;
  await Promise.all(
    Array.from({ length: 40 }, async (_, i) => {
      await turns(random(60));
      const start = ids.slice(i * 7, i * 7 + 1 + random(120));
      const limit = 1 + random(40);
      const abort = new AbortController();
      const options: GenerateOptions = {
        sequence: 'any',
        maxTokens: 1 + random(40),
        ...(i % 2 === 0 ? {} : { temperature: 1, seed: i }),
        ...(i % 3 === 0 ? { promptLookup: { ngram: 2, maxTokens: 4 } } : {}),
        signal: abort.signal,
      };
      const way = i % 4; // to the end, leave, abort at once, abort in the middle
      if (way === 2) void turns(random(40)).then(() => abort.abort());
      const tokens: number[] = [];
      const stream = context.generateTokens(start, options);
      try {
        for await (const token of stream) {
          tokens.push(token);
          if (random(8) === 0) await turns(random(3));
          if (tokens.length >= limit && way === 1) break;
          if (tokens.length >= limit && way === 3) abort.abort();
        }
      } catch (error) {
        expect((error as { code: string }).code).toBe('CANCELLED');
        aborted++;
      }
      if (stream.result === undefined) left++;
      const expected = await alone(start, options);
      expect(tokens).toEqual(expected.tokens.slice(0, tokens.length));
      if (stream.result !== undefined) expect(tokens.length).toBe(expected.tokens.length);
    }),
  );
  expect(aborted).toBeGreaterThan(3);
  expect(left).toBeGreaterThan(aborted);
  // and every sequence is free again
  await Promise.all(Array.from({ length: sequences }, (_, sequence) => context.reset(sequence)));
});

test('a full context ends its own generation only', async () => {
  const long = story().slice(0, 395);
  const [full, other] = await Promise.all([
    readAll(context.generateTokens(long, { sequence: 0, promptLookup: true, ignoreEos: true })),
    readAll(context.generateTokens(prompt, { sequence: 1, maxTokens: 30, ignoreEos: true })),
  ]);
  expect([full.items.length, full.result.finishReason]).toEqual([6, 'length']);
  expect(context.tokens(0).length).toBe(400);
  expect(other.items.length).toBe(30);
});

test('disposing while several run, wait and pause ends them all with DISPOSED', async () => {
  const small = await model.createContext({ contextSize: 300, sequences: 2 });
  const ids = story().slice(0, 250);
  const endless = { sequence: 'any', ignoreEos: true } as const;
  const paused = small.generateTokens('Once', endless);
  await paused.next();
  const running = readAll(small.generateTokens(ids, endless));
  const waiting = [readAll(small.generateTokens(ids, endless)), small.generateTokens('The', endless).next()];
  const codes = [running, ...waiting].map(async (one) => (await failure(() => one)).code);
  await turns(2);
  await small.dispose();
  expect(await Promise.all(codes)).toEqual(['DISPOSED', 'DISPOSED', 'DISPOSED']);
  expect((await failure(() => paused.next())).code).toBe('DISPOSED');
});

describe("sequence 'any'", () => {
  test('serves more requests than sequences, first come first served', async () => {
    const small = await model.createContext({ contextSize: 64, sequences: 2 });
    const started: number[] = [];
    const texts = await Promise.all(
      Array.from({ length: 7 }, async (_, i) => {
        let text = '';
        for await (const piece of small.generate(prompt, { sequence: 'any', maxTokens: 5 })) {
          if (text === '') started.push(i);
          text += piece;
        }
        return text;
      }),
    );
    expect(new Set(texts).size).toBe(1);
    expect(started).toEqual([0, 1, 2, 3, 4, 5, 6]);
    await small.dispose();
  });

  test('prefers the sequence that holds the beginning of the prompt, else the one unused for longest', async () => {
    const small = await model.createContext({ contextSize: 64, sequences: 3 });
    const run = async (text: string) => (await readAll(small.generate(text, { sequence: 'any', maxTokens: 2 }))).result.timing.reusedTokens;
    const texts = ['Once upon a time there was a cat.', 'The sun is hot.', 'Lily and Tom play.'];
    for (const text of texts) expect(await run(text)).toBe(0);
    for (const text of [...texts].reverse()) expect(await run(`${text} Then`)).toBeGreaterThan(4);
    const held = [0, 1, 2].map((sequence) => small.tokenizer.decode(small.tokens(sequence)));
    texts.forEach((text, i) => expect(held[i]).toContain(text));
    await run('A new start');
    expect(small.tokenizer.decode(small.tokens(2))).toContain('A new start'); // the texts were used in reverse order
    await small.dispose();
  });

  test('an abort while waiting is CANCELLED and takes nobody’s turn', async () => {
    const small = await model.createContext({ contextSize: 64, sequences: 1 });
    const first = small.generate(prompt, { sequence: 'any', maxTokens: 20 });
    await first.next();
    const abort = new AbortController();
    const second = failure(() => readAll(small.generate(prompt, { sequence: 'any', signal: abort.signal })));
    const third = readAll(small.generate(prompt, { sequence: 'any', maxTokens: 3 }));
    abort.abort();
    expect((await second).code).toBe('CANCELLED');
    await readSome(first, 3);
    expect((await third).result.tokens.length).toBe(3);
    await small.dispose();
  });

  test('conversations share sequences and find theirs again', async () => {
    const template =
      '{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}';
    const talking = await loadModel(storyVariant({ 'chat_template.jinja': template }));
    const two = await talking.createContext({ contextSize: 256, sequences: 2 });
    const chats = ['The big dog', 'A small cat', 'Her red hat'].map((text) => ({ text, chat: new ChatSession(two, { sequence: 'any' }) }));
    await Promise.all(chats.map(({ text, chat }) => chat.prompt(text, { maxTokens: 6 })));
    const [, , last] = chats;
    await last!.chat.prompt('And then?', { maxTokens: 6 });
    expect(last!.chat.lastResult?.timing.reusedTokens).toBeGreaterThan(8);
    await talking.dispose();
  });
});

describe('prompt lookup', () => {
  /** A text that comes twice, so that its second half can be guessed. */
  const repeated = (): Int32Array => {
    const ids = story().slice(0, 90);
    return Int32Array.from([...ids, ...ids.subarray(0, 45)]);
  };

  test.each([
    ['greedy', {}],
    ['drawn', { temperature: 0.7, seed: 5 }],
    ['with a penalty', { repetitionPenalty: 1.3, repetitionLastN: -1 }],
    ['with filters', { temperature: 1.2, topK: 20, topP: 0.8, minP: 0.02, seed: 9 }],
  ])('%s: the same tokens, some of them guessed', async (_name, options) => {
    const plain = await alone(repeated(), { ...options, maxTokens: 120 });
    for (const promptLookup of [true, { ngram: 2 }, { maxTokens: 3 }, { ngram: 1, maxTokens: 7 }]) {
      const { result } = await readAll(context.generate(repeated(), { ...options, maxTokens: 120, promptLookup }));
      expect([...result.tokens]).toEqual(plain.tokens);
      expect(result.timing.guessedTokens).toBeGreaterThanOrEqual(result.timing.acceptedTokens);
      if (_name === 'greedy') expect(result.timing.acceptedTokens).toBeGreaterThan(3);
      await context.reset();
    }
  });

  test('stop strings, maxTokens and leaving in the middle of right guesses', async () => {
    const { items } = await readAll(context.generate(repeated(), { maxTokens: 40 }));
    const text = items.join('');
    for (let at = 3; at < text.length - 4; at += 5) {
      const stop = text.slice(at, at + 3);
      const plain = await readAll(context.generate(repeated(), { maxTokens: 40, stop, sequence: 1 }));
      const guessed = await readAll(context.generate(repeated(), { maxTokens: 40, stop, sequence: 2, promptLookup: true }));
      expect(guessed.items).toEqual(plain.items);
      expect([guessed.result.finishReason, guessed.result.tokens]).toEqual([plain.result.finishReason, plain.result.tokens]);
      expect(context.tokens(2)).toEqual(context.tokens(1));
    }
    for (let count = 1; count < 40; count += 3) {
      const plain = await readAll(context.generateTokens(repeated(), { maxTokens: count, sequence: 1 }));
      const { items: some } = await readAll(context.generateTokens(repeated(), { maxTokens: count, sequence: 2, promptLookup: true }));
      expect(some).toEqual(plain.items);
      expect(context.tokens(2)).toEqual(context.tokens(1));
      expect(await readSome(context.generateTokens(repeated(), { sequence: 3, promptLookup: true }), count)).toEqual(plain.items);
      expect(context.tokens(3)).toEqual(context.tokens(1));
    }
  });

  test.each([
    [1, 'Expected boolean or object for promptLookup but received 1 of type number'],
    [{ ngram: 0 }, 'Expected integer between 1 and 16 for ngram but received 0 of type number'],
    [{ maxTokens: 8 }, 'Expected integer between 1 and 7 for maxTokens but received 8 of type number'],
    [{ max: 2 }, 'Unknown option "max" for promptLookup. Known options: ngram, maxTokens'],
  ])('refuses %j', async (promptLookup, message) => {
    expect(await failure(() => context.generate(prompt, { promptLookup } as never))).toEqual({ code: 'INVALID_ARGUMENT', message });
  });
});

test('the event loop stays free while eight sequences generate', async () => {
  const run = (maxTokens: number): Promise<unknown> =>
    Promise.all(
      Array.from({ length: 8 }, (_, sequence) => readAll(context.generate('Once upon a time', { sequence, maxTokens, ignoreEos: true }))),
    );
  await run(4); // everything is loaded and compiled
  const delay = monitorEventLoopDelay({ resolution: 5 });
  delay.enable();
  await run(200);
  delay.disable();
  expect(delay.percentile(99) / 1e6).toBeLessThan(200); // ten times what an idle machine must show: this one may take the core away
});
