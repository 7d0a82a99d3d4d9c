// lib/quantize calibration: which tokens are used, in what order, and what is said when there are too few.
import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { LowbitError } from '../../lib/errors';
import { calibrationSamples, type CalibrationTokenizer } from '../../lib/quantize/calibration';
import type { CalibrationSource } from '../../lib/quantize/options';

/** One id per character, its code; so ids show where a piece of text went. Counts calls and the longest text seen. */
class CodeTokenizer implements CalibrationTokenizer {
  longest = 0;
  readonly prefix: readonly number[];
  constructor(...prefix: number[]) {
    this.prefix = prefix;
  }
  encode(text: string): number[] {
    this.longest = Math.max(this.longest, text.length);
    return Array.from({ length: text.length }, (_, i) => text.charCodeAt(i));
  }
  encodeChat(messages: readonly { readonly role: string; readonly content: string }[]): number[] {
    return this.encode(messages.map(({ role, content }) => `<${role}>${content}`).join(''));
  }
}

const limits = { samples: 4, length: 128, vocabSize: 0x10000 };
/** Ascending codes, so that every position is recognisable. */
const text = (length: number, from = 0): string => String.fromCharCode(...Array.from({ length }, (_, i) => from + i));
const range = (length: number, from = 0): number[] => Array.from({ length }, (_, i) => from + i);

const errorOf = async (promise: Promise<unknown>): Promise<LowbitError> => {
  const caught: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(caught).toBeInstanceOf(LowbitError);
  return caught as LowbitError;
};

test('a text becomes windows from its start, one after the other, without the rest', async () => {
  const samples = await calibrationSamples(text(128 * 3 + 100), new CodeTokenizer(), limits);
  expect([...samples.offsets]).toEqual([0, 128, 256, 384]);
  expect([...samples.tokens]).toEqual(range(384));
  expect(samples).toMatchObject({ source: 'text', dropped: 0 });
});

test('no more than the samples asked for', async () => {
  const samples = await calibrationSamples(text(2000), new CodeTokenizer(), limits);
  expect([...samples.tokens]).toEqual(range(512));
});

test('BOS starts every window where the tokenizer adds one, and no text token is lost', async () => {
  const samples = await calibrationSamples(text(127 * 3, 10), new CodeTokenizer(7), limits);
  expect([...samples.offsets]).toEqual([0, 128, 256, 384]);
  expect([...samples.tokens]).toEqual([0, 1, 2].flatMap((s) => [7, ...range(127, 10 + 127 * s)]));
});

test('a long text is tokenised only as far as needed, with the same ids', async () => {
  const tokenizer = new CodeTokenizer();
  const long = text(1000).repeat(200);
  const samples = await calibrationSamples(long, tokenizer, limits);
  expect(tokenizer.longest).toBeLessThan(long.length / 10);
  expect([...samples.tokens]).toEqual([...new CodeTokenizer().encode(long).slice(0, 512)]);
});

test('texts, tokens and chats are one sample each, cut to the length', async () => {
  const cases: [CalibrationSource, string, number[][]][] = [
    [[text(300), text(100, 1000), text(128, 2000)], 'texts', [range(128), range(100, 1000), range(128, 2000)]],
    [[range(300), range(200, 5)], 'tokens', [range(128), range(128, 5)]],
    [[Int32Array.from(range(300)), Int32Array.from(range(128, 9))], 'tokens', [range(128), range(128, 9)]],
    [
      [[{ role: 'user', content: text(300) }], [{ role: 'system', content: text(300) }]],
      'chats',
      [new CodeTokenizer().encode('<user>').concat(range(122)), new CodeTokenizer().encode('<system>').concat(range(120))],
    ],
  ];
  for (const [source, kind, expected] of cases) {
    const samples = await calibrationSamples(source, new CodeTokenizer(), limits);
    expect(samples.source).toBe(kind);
    expect(expected.map((_, s) => [...samples.tokens.subarray(samples.offsets[s], samples.offsets[s + 1])])).toEqual(expected);
    expect(samples.offsets).toHaveLength(expected.length + 1);
  }
});

test('texts get BOS, token ids and chats are taken as they are', async () => {
  const tokenizer = new CodeTokenizer(7);
  expect([...(await calibrationSamples([text(300), text(300)], tokenizer, limits)).tokens]).toEqual([7, ...range(127), 7, ...range(127)]);
  expect([...(await calibrationSamples([range(300), range(300)], tokenizer, limits)).tokens]).toEqual([...range(128), ...range(128)]);
});

test('samples under ten tokens are left out and counted', async () => {
  const samples = await calibrationSamples([text(9), text(200), '', text(200)], new CodeTokenizer(), limits);
  expect(samples).toMatchObject({ dropped: 2 });
  expect(samples.offsets).toHaveLength(3);
});

test('the hash is that of the ids as little-endian 32-bit integers', async () => {
  const { tokens, sha256 } = await calibrationSamples(text(512), new CodeTokenizer(), limits);
  const bytes = Buffer.concat([...tokens].map((id) => Buffer.from([id & 255, (id >> 8) & 255, id >> 16, id >> 24])));
  expect(sha256).toBe(createHash('sha256').update(bytes).digest('hex'));
});

describe('too little data', () => {
  const cases: [string, CalibrationSource, number, number][] = [
    ['an empty text', '', 0, 256],
    ['a short text', text(100), 100, 256],
    ['an empty list', [], 0, 256],
    ['short samples', [range(100), range(100), range(5)], 200, 256],
  ];
  test.each(cases)('%s', async (_name, source, tokens, needed) => {
    const error = await errorOf(calibrationSamples(source, new CodeTokenizer(), limits));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain(`Expected at least ${needed} tokens for calibration but received ${tokens} from `);
    expect(error.message).toContain('512 are wanted for 4 samples of 128');
    expect(error.details).toMatchObject({ option: 'calibration', tokens, needed, wanted: 512 });
  });

  test('a text shorter than one window names the length of the window', async () => {
    const error = await errorOf(calibrationSamples(text(900), new CodeTokenizer(), { ...limits, length: 1000 }));
    expect(error.message).toContain('Expected at least 1000 tokens for calibration but received 900 from the calibration text');
  });

  test('windows that are too few in all', async () => {
    const error = await errorOf(calibrationSamples(text(500), new CodeTokenizer(), { ...limits, samples: 1 }));
    expect(error.message).toContain('Expected at least 256 tokens for calibration but received 128');
  });
});

test('ids outside the vocabulary', async () => {
  const small = { ...limits, vocabSize: 300 };
  const own = await errorOf(calibrationSamples([range(301)], new CodeTokenizer(), small));
  expect(own.message).toBe('Expected token id between 0 and 299 for calibration[0][300] but received 300 of type number');
  expect((await errorOf(calibrationSamples([[...range(299), -1]], new CodeTokenizer(), small))).code).toBe('INVALID_ARGUMENT');
  expect((await errorOf(calibrationSamples([[...range(299), 1.5]], new CodeTokenizer(), small))).code).toBe('INVALID_ARGUMENT');
  const tokenizers = await errorOf(calibrationSamples(text(512), new CodeTokenizer(), small));
  expect(tokenizers.message).toBe(
    'The tokenizer yields id 300, but the model has ids 0 to 299: tokenizer and model do not belong together',
  );
});

describe('a file', () => {
  let directory: string;
  beforeAll(async () => (directory = await mkdtemp(path.join(os.tmpdir(), 'lowbit-calibration-'))));
  afterAll(() => rm(directory, { recursive: true }));
  const inside = (name: string): string => path.join(directory, name);

  test('gives the tokens of its text, line ends included', async () => {
    const content = 'één\r\ntwo\n'.repeat(100);
    await writeFile(inside('text.txt'), content);
    const fromFile = await calibrationSamples({ file: inside('text.txt') }, new CodeTokenizer(), limits);
    const fromText = await calibrationSamples(content, new CodeTokenizer(), limits);
    expect(fromFile).toEqual({ ...fromText, source: 'file' });
  });

  test('that is missing or no UTF-8', async () => {
    const missing = await errorOf(calibrationSamples({ file: inside('none.txt') }, new CodeTokenizer(), limits));
    expect(missing.code).toBe('IO');
    expect(missing.message).toContain(`Cannot read the calibration file ${inside('none.txt')}`);
    await writeFile(inside('latin1.txt'), Buffer.from([0x61, 0xe9, 0x61]));
    const latin1 = await errorOf(calibrationSamples({ file: inside('latin1.txt') }, new CodeTokenizer(), limits));
    expect(latin1.code).toBe('CORRUPT_FILE');
    expect(latin1.message).toBe(`The calibration file ${inside('latin1.txt')} is not UTF-8 text`);
  });
});

describe('a JSONL file', () => {
  let directory: string;
  beforeAll(async () => (directory = await mkdtemp(path.join(os.tmpdir(), 'lowbit-calibration-'))));
  afterAll(() => rm(directory, { recursive: true }));
  const write = async (lines: string | Buffer, name = 'samples.jsonl'): Promise<{ file: string }> => {
    await writeFile(path.join(directory, name), lines);
    return { file: path.join(directory, name) };
  };

  test('holds every form of sample, one per line', async () => {
    const chat = [{ role: 'user', content: text(300) }];
    const lines = [
      { text: text(300), id: 5 },
      '',
      { messages: chat },
      { prompt: text(50), completion: text(60, 50) },
      { tokens: range(20, 9) },
      { prompt: chat, completion: [{ role: 'assistant', content: 'x' }] },
      text(90),
      range(12),
    ];
    const content = `\ufeff${lines.map((line) => (line === '' ? '' : JSON.stringify(line))).join('\r\n')}`;
    const samples = await calibrationSamples(await write(content), new CodeTokenizer(7), { ...limits, samples: 10 });
    const chatIds = new CodeTokenizer().encode(`<user>${text(300)}`).slice(0, 128);
    const expected = [[7, ...range(127)], chatIds, [7, ...range(110)], range(20, 9), chatIds, [7, ...range(90)], range(12)];
    expect(samples).toMatchObject({ source: 'jsonl', dropped: 0 });
    expect([...samples.tokens]).toEqual(expected.flat());
  });

  test('is read as far as needed: what is behind may be anything', async () => {
    const good = `${JSON.stringify({ text: text(200) })}\n`.repeat(4);
    const samples = await calibrationSamples(await write(`${good}no JSON\n`), new CodeTokenizer(), limits);
    expect(samples.offsets).toHaveLength(5);
    // Long enough for many pieces of the stream, split anywhere.
    const long = await calibrationSamples(await write(good.repeat(200)), new CodeTokenizer(), { ...limits, samples: 800 });
    expect([...long.tokens]).toEqual(Array<number[]>(800).fill(range(128)).flat());
  });

  test.each<[string, string | Buffer, string]>([
    ['no JSON', '{"text": "a"}\n\n{"text": \n', ', line 3: not JSON: '],
    ['no sample', '{"content": "a"}', ', line 1: expected a text, token ids, messages, or an object with text'],
    ['two forms at once', '{"text": "a", "tokens": [1]}', ', line 1: expected a text'],
    ['not UTF-8', Buffer.from([0x22, 0xe9, 0x22, 10]), ', line 1: not UTF-8'],
    ['a line without end', Buffer.alloc(16 * 2 ** 20 + 2 ** 17, 0x20), ', line 1: longer than 16777216 bytes'],
  ])('%s is refused with file and line', async (_name, content, message) => {
    const source = await write(content, 'bad.NDJSON');
    const error = await errorOf(calibrationSamples(source, new CodeTokenizer(), limits));
    expect(error.code).toBe('CORRUPT_FILE');
    expect(error.message).toContain(source.file + message);
  });

  test('a token outside the vocabulary names file and line; a missing file is IO', async () => {
    const source = await write(`\n{"tokens": [1, 300]}`);
    const error = await errorOf(calibrationSamples(source, new CodeTokenizer(), { ...limits, vocabSize: 300 }));
    expect(error.message).toContain(`${source.file}, line 2[1]`);
    expect((await errorOf(calibrationSamples({ file: path.join(directory, 'none.jsonl') }, new CodeTokenizer(), limits))).code).toBe('IO');
  });
});

describe('an iterable', () => {
  /** Counts what is taken and how it ends. */
  function source(value: unknown, fail?: Error) {
    const seen = { taken: 0, closed: 0 };
    const generator = async function* () {
      try {
        for (;;) {
          seen.taken++;
          if (fail !== undefined && seen.taken === 3) throw fail;
          yield value as string;
        }
      } finally {
        seen.closed++;
      }
    };
    return { seen, iterable: generator() };
  }

  test('is read no further than needed, and closed', async () => {
    const { seen, iterable } = source(text(200));
    const samples = await calibrationSamples(iterable, new CodeTokenizer(), limits);
    expect(samples).toMatchObject({ source: 'texts', dropped: 0 });
    expect(seen).toEqual({ taken: 4, closed: 1 });
  });

  test('may be synchronous and mixed; the same tokens have the same hash in every form', async () => {
    const tokens = range(128);
    const record = await calibrationSamples(new Set([{ tokens }, { tokens: [...tokens] }]), new CodeTokenizer(), limits);
    const array = await calibrationSamples([tokens, Int32Array.from(tokens)], new CodeTokenizer(), limits);
    expect(record.sha256).toBe(array.sha256);
    const mixed = await calibrationSamples(new Set([text(200), tokens]), new CodeTokenizer(), limits);
    expect(mixed).toMatchObject({ source: 'mixed', sha256: array.sha256 });
  });

  test('what it throws reaches the caller as it is', async () => {
    const thrown = new TypeError('mine');
    const { seen, iterable } = source(text(200), thrown);
    await expect(calibrationSamples(iterable, new CodeTokenizer(), limits)).rejects.toBe(thrown);
    expect(seen).toEqual({ taken: 3, closed: 1 });
  });

  test('an entry that is no sample is named, and the source closed', async () => {
    const { seen, iterable } = source({ content: 'x' });
    const error = await errorOf(calibrationSamples(iterable, new CodeTokenizer(), limits));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toMatch(/^Expected a text, token ids, .* for calibration\[0\]$/);
    expect(seen.closed).toBe(1);
  });

  test('an abort is heard while the source makes us wait', async () => {
    const controller = new AbortController();
    const closed = jest.fn(() => Promise.resolve({ done: true as const, value: undefined }));
    const waiting = { [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => undefined), return: closed }) };
    const result = errorOf(calibrationSamples(waiting, new CodeTokenizer(), limits, controller.signal));
    setImmediate(() => controller.abort());
    expect((await result).code).toBe('CANCELLED');
    expect(closed).toHaveBeenCalledTimes(1);
  });

  test('an abort ends a source of endless samples that are too short', async () => {
    const controller = new AbortController();
    const { seen, iterable } = source('short');
    const result = errorOf(calibrationSamples(iterable, new CodeTokenizer(), limits, controller.signal));
    setImmediate(() => controller.abort());
    expect((await result).code).toBe('CANCELLED');
    expect(seen.closed).toBe(1);
    // Synchronous ones, too: the event loop gets its turn.
    const other = new AbortController();
    const endless = function* () {
      for (;;) yield 'short';
    };
    const second = errorOf(calibrationSamples(endless(), new CodeTokenizer(), limits, other.signal));
    setImmediate(() => other.abort());
    expect((await second).code).toBe('CANCELLED');
  });
});

test('without data the built-in text is used, for windows of any size', async () => {
  const samples = await calibrationSamples(undefined, new CodeTokenizer(), { ...limits, samples: 128, length: 512 });
  expect(samples.source).toBe('built-in');
  expect(samples.offsets.length - 1).toBeGreaterThan(64);
});
