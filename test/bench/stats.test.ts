/** Medians, ratios of alternating samples, and what is read from other programs' output. */
import { pure } from './load';

const { bestByRound, median, pairedRatio, spread } = pure('stats');
const { parseCpuList, parseKernelLines, parseLastJson, parseLlamaBench, parseProblem } = pure('parse');

const rounds = (...values: number[]) => new Map(values.map((value, round) => [round, value]));

describe('statistics', () => {
  test('the median of odd and even counts, in numeric and not in text order', () => {
    expect(median([10, 9, 100])).toBe(10);
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(spread([2, 8, 4])).toEqual({ median: 4, min: 2, max: 8, samples: 3 });
  });

  test('the input stays in its order', () => {
    const values = [3, 1, 2];
    median(values);
    expect(values).toEqual([3, 1, 2]);
  });

  test.each([[[]], [[1, NaN]], [[Infinity]]])('%p is no set of samples', (values) => {
    expect(() => median(values)).toThrow(RangeError);
  });

  test('ratios are taken within rounds: a neighbour that slows one round leaves them as they are', () => {
    expect(pairedRatio(rounds(20, 10, 2), rounds(10, 5, 1))).toEqual({ median: 2, min: 2, max: 2, samples: 3 });
  });

  test('rounds that only one side has do not count; without a common one there is no ratio', () => {
    expect(pairedRatio(rounds(6, 8), new Map([[1, 4]]))).toMatchObject({ median: 2, samples: 1 });
    expect(pairedRatio(rounds(6), new Map())).toBeUndefined();
  });

  test('a divisor of 0 and NaN are errors', () => {
    expect(() => pairedRatio(rounds(1), rounds(0))).toThrow(RangeError);
    expect(() => pairedRatio(rounds(NaN), rounds(1))).toThrow(RangeError);
  });

  test('the best of several thread counts, round by round', () => {
    expect([...bestByRound([rounds(1, 5), rounds(3, 4)])]).toEqual([
      [0, 3],
      [1, 5],
    ]);
  });
});

describe('output of other programs', () => {
  const entry = { n_prompt: 512, n_gen: 0, n_depth: 0, n_threads: 2, avg_ts: 860.1, model_size: 90_000_000 };

  test('llama-bench', () => {
    const text = `log line\n[${JSON.stringify(entry)}, ${JSON.stringify({ ...entry, n_prompt: 0, n_gen: 64, n_depth: 128 })}]\n`;
    expect(parseLlamaBench(text.slice(text.indexOf('[')))).toEqual([
      { prompt: 512, generate: 0, depth: 0, threads: 2, tokensPerSecond: 860.1, modelBytes: 90_000_000 },
      { prompt: 0, generate: 64, depth: 128, threads: 2, tokensPerSecond: 860.1, modelBytes: 90_000_000 },
    ]);
  });

  test.each(['', 'error: no model', '[]', '[{"n_prompt": 1', JSON.stringify([{ ...entry, avg_ts: undefined }])])(
    'llama-bench that printed %p is an error that shows it',
    (text) => {
      expect(() => parseLlamaBench(text)).toThrow(/Expected llama-bench -o json but received/);
    },
  );

  test('the last line of JSON of a worker', () => {
    expect(parseLastJson('warning\n{"a":1}\n{"a":2}\nbye\n')).toEqual({ a: 2 });
    expect(parseLastJson('{"a":1}\n{broken\n')).toEqual({ a: 1 });
    expect(() => parseLastJson('nothing')).toThrow(/Expected a line of JSON/);
  });

  test('lists of processors', () => {
    expect(parseCpuList('0-2,8,10-11\n')).toEqual([0, 1, 2, 8, 10, 11]);
    for (const text of ['', 'a', '3-1', '0-99999', '1,,2']) expect(() => parseCpuList(text)).toThrow(/list of processors/);
  });

  test('kernel lines and problems', () => {
    const line = '{"isa":"avx2","problem":"gemv 3 bit g128 m=1 4096x14336","unit":"GB/s","median":20,"ratio":0.9}';
    expect(parseKernelLines(`text\n${line}\n{"other":1}\n`)).toHaveLength(1);
    expect(parseProblem('gemv 3 bit g128 m=1 4096x14336')).toEqual({
      what: 'gemv',
      format: '3 bit g128',
      m: 1,
      n: 4096,
      k: 14336,
      bitsPerWeight: 3 + 19 / 128,
    });
    expect(parseProblem('gemm q4_0 m=512 1536x576')).toMatchObject({ m: 512, bitsPerWeight: 4.5 });
    expect(parseProblem('gemm unheard-of m=1 16x16')).toMatchObject({ bitsPerWeight: undefined });
    expect(parseProblem('nonsense')).toBeUndefined();
  });
});
