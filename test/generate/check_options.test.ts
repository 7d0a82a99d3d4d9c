/** lib/options.ts: rules, wording, and the options of the public functions that need no engine to be refused. */
import type { LowbitError } from '../../lib/errors';
import { generateSpec, sampleSpec } from '../../lib/generate/options';
import { abortSignal, checkOptions, integer, nested, number, oneOf, pathString, stopStrings, tokenIds } from '../../lib/options';

/** The error a call throws, as code and message. */
function thrown(call: () => unknown): { code: string; message: string } {
  try {
    call();
  } catch (error) {
    const { code, message } = error as LowbitError;
    return { code, message };
  }
  throw new Error('nothing was thrown');
}

const invalid = (message: string) => ({ code: 'INVALID_ARGUMENT', message });

describe('checkOptions', () => {
  const spec = { threads: integer(1, 256), precision: oneOf('fast', 'exact') };

  test('returns what is present; undefined is absent', () => {
    expect(checkOptions('f', undefined, spec)).toEqual({});
    expect(checkOptions('f', { threads: 2, precision: undefined }, spec)).toEqual({ threads: 2 });
  });

  test.each([
    [{ thread: 2 }, 'Unknown option "thread" for f. Did you mean "threads"? Known options: threads, precision'],
    [{ num_threads: 2 }, 'Unknown option "num_threads" for f. Known options: threads, precision'],
    [{ Threads: 2 }, 'Unknown option "Threads" for f. Did you mean "threads"? Known options: threads, precision'],
    [null, 'Expected object for the options of f but received null'],
    [[], 'Expected object for the options of f but received an instance of Array'],
    ['x', 'Expected object for the options of f but received "x" of type string'],
    [{ threads: null }, 'Expected integer between 1 and 256 for threads but received null'],
    [{ threads: '2' }, 'Expected integer between 1 and 256 for threads but received "2" of type string'],
    [{ precision: 'float' }, 'Expected one of "fast", "exact" for precision but received "float" of type string'],
  ])('refuses %j', (value, message) => expect(thrown(() => checkOptions('f', value, spec))).toEqual(invalid(message)));

  test('nested objects are checked by the same rules', () => {
    const outer = { kvCache: nested({ key: oneOf('f16', 'f32') }) };
    expect(checkOptions('f', { kvCache: { key: 'f32' } }, outer)).toEqual({ kvCache: { key: 'f32' } });
    expect(thrown(() => checkOptions('f', { kvCache: { keys: 'f32' } }, outer)).message).toContain(
      'Unknown option "keys" for kvCache. Did you mean "key"?',
    );
    expect(thrown(() => checkOptions('f', { kvCache: 'f16' }, outer)).message).toBe(
      'Expected object for kvCache but received "f16" of type string',
    );
  });
});

describe('rules', () => {
  const refused = [-1, 0.5, 2 ** 32, NaN, Infinity, '4', null, true, {}, [4], 4n];
  test.each(refused.map((value) => [value]))('integer(1, 256) refuses %p', (value) => {
    expect(thrown(() => integer(1, 256)('threads', value)).message).toMatch(
      /^Expected integer between 1 and 256 for threads but received /,
    );
  });
  test.each([[-0.1], [1.1], [2 ** 32], [NaN], [Infinity], ['0.5'], [null]])('number(0, 1) refuses %p', (value) => {
    expect(thrown(() => number(0, 1)('topP', value)).message).toMatch(/^Expected number between 0 and 1 for topP but received /);
  });
  test('limits are included', () => {
    expect([integer(1, 3)('n', 1), integer(1, 3)('n', 3), number(0, 1)('p', 0), number(0, 1)('p', 1)]).toEqual([1, 3, 0, 1]);
  });
  test('pathString', () => {
    expect(pathString('path', 'a')).toBe('a');
    for (const value of ['', 'a\0b', 3, null, undefined]) expect(thrown(() => pathString('path', value)).code).toBe('INVALID_ARGUMENT');
  });
  test('stopStrings', () => {
    expect(stopStrings('stop', 'a')).toEqual(['a']);
    expect(stopStrings('stop', ['a', 'b'])).toEqual(['a', 'b']);
    expect(thrown(() => stopStrings('stop', ['a', ''])).message).toBe(
      'Expected non-empty string or array of non-empty strings for stop but received "" of type string',
    );
    expect(thrown(() => stopStrings('stop', 3)).code).toBe('INVALID_ARGUMENT');
    expect(thrown(() => stopStrings('stop', Array(65).fill('a'))).message).toBe(
      'Expected at most 64 strings for stop but received an instance of Array',
    );
  });
  test('abortSignal takes signals of other origin, but no controller', () => {
    const { signal } = new AbortController();
    expect(abortSignal('signal', signal)).toBe(signal);
    expect(thrown(() => abortSignal('signal', new AbortController())).message).toBe(
      'Expected AbortSignal for signal but received an instance of AbortController',
    );
  });
  test('tokenIds names the bad id', () => {
    expect(tokenIds('prompt', [0, 9], 10)).toEqual(Int32Array.of(0, 9));
    expect(thrown(() => tokenIds('prompt', [0, 10], 10)).message).toBe(
      'Expected token id between 0 and 9 for prompt[1] but received 10 of type number',
    );
    expect(thrown(() => tokenIds('prompt', Int32Array.of(-1), 10)).message).toContain('prompt[0] but received -1');
    expect(thrown(() => tokenIds('prompt', [0.5], 10)).message).toContain('prompt[0] but received 0.5');
    expect(thrown(() => tokenIds('prompt', new Float32Array(1), 10)).message).toBe(
      'Expected Int32Array or array of token ids for prompt but received an instance of Float32Array',
    );
  });
});

describe('generation options', () => {
  const spec = generateSpec(2);
  const ranges: Record<string, [number, number]> = {
    maxTokens: [1, 2 ** 31 - 1],
    topK: [0, 2 ** 31 - 1],
    repetitionLastN: [-1, 2 ** 31 - 1],
    seed: [0, Number.MAX_SAFE_INTEGER],
    sequence: [0, 1],
  };
  test.each(Object.entries(ranges))('%s is an integer in %j', (name, [min, max]) => {
    expect(checkOptions('generate', { [name]: min }, spec)).toEqual({ [name]: min });
    expect(checkOptions('generate', { [name]: max }, spec)).toEqual({ [name]: max });
    for (const value of [min - 1, max + 1, min + 0.5, String(min), null, NaN]) {
      expect(thrown(() => checkOptions('generate', { [name]: value }, spec)).message).toMatch(
        new RegExp(`^Expected integer between ${min} and ${max} for ${name} but received `),
      );
    }
  });
  const numbers: Record<string, [number, number]> = { temperature: [0, 100], topP: [0, 1], minP: [0, 1], repetitionPenalty: [0.1, 10] };
  test.each(Object.entries(numbers))('%s is a number in %j', (name, [min, max]) => {
    for (const value of [-1, max + 1, 2 ** 32, '0.5', null, NaN, Infinity]) {
      expect(thrown(() => checkOptions('generate', { [name]: value }, spec)).message).toMatch(
        new RegExp(`^Expected number between ${min} and ${max} for ${name} but received `),
      );
    }
  });
  test('names of other libraries are refused with the right one', () => {
    expect(thrown(() => checkOptions('generate', { top_p: 0.9 }, spec)).message).toContain('Did you mean "topP"?');
    expect(thrown(() => checkOptions('generate', { max_tokens: 1 }, spec)).message).toContain('Did you mean "maxTokens"?');
  });
  test('greedy by default; a seed is drawn when there is none', () => {
    const { seed, ...rest } = sampleSpec({});
    expect(rest).toEqual({ temperature: 0, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, repeatLastN: 64 });
    expect(seed >= 0n && seed < 2n ** 48n).toBe(true);
    expect(sampleSpec({ seed: Number.MAX_SAFE_INTEGER }).seed).toBe(9007199254740991n);
    expect(new Set(Array.from({ length: 8 }, () => sampleSpec({}).seed)).size).toBe(8);
  });
});
