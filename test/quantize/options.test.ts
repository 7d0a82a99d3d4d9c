// lib/quantize options: every option x every kind of wrong value, and that all problems arrive in one error.
import path from 'node:path';
import { LowbitError } from '../../lib/errors';
import { stateBytesFor } from '../../lib/quantize/memory';
import { joinProblems, resolveOptions } from '../../lib/quantize/options';

const base = { model: 'model', output: 'out', calibration: 'text' };

function problemsOf(options: unknown): LowbitError[] {
  const problems: LowbitError[] = [];
  const resolved = resolveOptions(options, problems);
  expect(resolved === undefined).toBe(problems.length > 0);
  return problems;
}

test('defaults are those that are documented', () => {
  const problems: LowbitError[] = [];
  expect(resolveOptions(base, problems)).toMatchObject({
    model: 'model',
    output: path.resolve('out'),
    method: 'gptq',
    format: 'gptq',
    preset: 'quality',
    settings: {
      bits: 4,
      groupSize: 128,
      sym: true,
      descAct: true,
      staticGroups: true,
      actGroupAware: true,
      mse: 2,
      hessianMse: true,
      refitScales: true,
      sweeps: 4,
      rowGuard: true,
      classic: false,
      dampPercent: 0.05,
      dampAutoIncrement: 0.01,
      awqGrid: 20,
      awqClip: true,
      hqqLpNorm: 0.7,
      hqqBeta: 10,
      hqqIterations: 20,
      spqrOutlierThreshold: 0.2,
      spqrMaxOutliers: 0.05,
      spqrOrder: 'act_order',
      mixllmFraction: 0.1,
      finequantAlpha: 0.88,
      smoothAlpha: 0,
      eoraRank: 0,
    },
    calibrationSamples: 128,
    calibrationLength: 512,
    calibrationPrecision: 'fast',
    tokenWeights: 'equal',
    threads: 0,
    overwrite: false,
    maxShardBytes: 4 * 2 ** 30,
    report: 'full',
  });
  expect(problems).toEqual([]);
});

test('a preset gives settings, and settings beside it win', () => {
  const settings = (options: object): unknown => resolveOptions({ ...base, ...options }, [])?.settings;
  expect(settings({ preset: 'quality' })).toMatchObject({
    bits: 4,
    descAct: true,
    staticGroups: true,
    mse: 2,
    hessianMse: true,
    rowGuard: true,
    sweeps: 4,
    refitScales: true,
  });
  expect(resolveOptions({ ...base, preset: 'quality' }, [])?.tokenWeights).toBe('equal');
  expect(resolveOptions({ ...base, preset: 'quality', tokenWeights: 'magnitude' }, [])?.tokenWeights).toBe('magnitude');
  expect(settings({ preset: 'compat' })).toMatchObject({ actGroupAware: false, dampPercent: 0.01, classic: true, refitScales: false });
  expect(settings({ preset: 'fast' })).toEqual(settings({ method: 'rtn' }));
  expect(settings({ preset: 'quality', rowGuard: false, mse: 2.4, bits: 3 })).toMatchObject({ rowGuard: false, mse: 2.4, bits: 3 });
  expect(problemsOf({ ...base, method: 'rtn', preset: 'quality' })[0]?.message).toContain("preset is a choice of settings of 'gptq'");
});

test('undefined counts as absent', () => {
  expect(problemsOf({ ...base, bits: undefined, signal: undefined, dynamic: undefined })).toEqual([]);
});

test('calibrationMemory: bytes, given or by what is free', () => {
  const given = (value: unknown): unknown => resolveOptions({ ...base, calibrationMemory: value }, [])?.calibrationMemory;
  expect([given(2 ** 20), given('1MiB'), given('4GB'), given(undefined)]).toEqual([2 ** 20, 2 ** 20, 4e9, undefined]);
  for (const wrong of [2 ** 20 - 1, 0, -1, '1 MB', '4 bananas', NaN, true])
    expect(problemsOf({ ...base, calibrationMemory: wrong })[0]?.message).toMatch(/^Expected .* for calibrationMemory but received/);
  expect([
    stateBytesFor(3e9, 0),
    stateBytesFor(undefined, 0),
    stateBytesFor(undefined, 2 ** 30),
    stateBytesFor(undefined, 2 ** 40),
  ]).toEqual([3e9, 2 ** 26, 2 ** 28, 2 ** 30]);
  expect(stateBytesFor(undefined)).toBeGreaterThanOrEqual(2 ** 26);
});

const expected: Record<string, string> = {
  model: 'non-empty path',
  output: 'non-empty path',
  method: 'one of "gptq", "rtn", "awq", "hqq", "spqr", "mixllm", "finequant"',
  preset: 'one of "quality", "fast", "compat"',
  format: 'one of "gptq", "gptq_v2", "gguf", "lowbit"',
  bits: 'one of 2, 3, 4, 5, 6, 8',
  groupSize: 'one of 32, 64, 128, -1',
  sym: 'boolean',
  descAct: 'boolean',
  staticGroups: 'boolean',
  actGroupAware: 'boolean',
  mse: '0 or a number between 1 and 8',
  hessianMse: 'boolean',
  refitScales: 'boolean',
  sweeps: 'integer between 0 and 100',
  rowGuard: 'boolean',
  classic: 'boolean',
  dampPercent: 'number greater than 0 and less than 1',
  dampAutoIncrement: 'number greater than 0 and less than 1',
  awqGrid: 'integer between 1 and 100',
  awqClip: 'boolean',
  hqqLpNorm: 'number above 0 to 1',
  hqqBeta: 'number above 0 to 1000000',
  hqqIterations: 'integer between 0 and 1000',
  spqrOutlierThreshold: 'number of at least 0',
  spqrMaxOutliers: 'number from 0 to 1',
  spqrOrder: 'one of "act_order", "group_aware", "identity"',
  mixllmFraction: 'number from 0 to 1',
  finequantAlpha: 'number greater than 0 and less than 1',
  smoothAlpha: 'number from 0 to 1',
  eoraRank: 'integer between 0 and 256',
  calibrationSamples: 'integer between 1 and 1000000',
  calibrationLength: 'integer between 16 and 32768',
  calibrationPrecision: 'one of "fast", "exact"',
  tokenWeights: 'one of "magnitude", "equal"',
  threads: 'integer between 1 and 256',
  overwrite: 'boolean',
  maxShardBytes: 'integer between 65536 and 1125899906842624',
  report: 'one of "full", "json", "none"',
  onProgress: 'function',
  signal: 'AbortSignal',
  calibration: 'a text, { file }, or an iterable of texts, token ids, conversations or records of them',
  dynamic: 'an object of regular expressions to overrides or false',
};

// [value, how it is described]; options of that type are left out below.
const wrong: readonly [unknown, string][] = [
  [-3, '-3 of type number'],
  [1.5, '1.5 of type number'],
  [2 ** 32, '4294967296 of type number'],
  [NaN, 'NaN of type number'],
  [10n, '10 of type bigint'],
  ['5', '"5" of type string'],
  [null, 'null'],
  [true, 'true of type boolean'],
  [{ other: 1 }, 'an instance of Object'],
];

// Values of the list above that an option accepts.
const accepted: Record<string, readonly unknown[]> = {
  model: ['5'],
  output: ['5'],
  calibration: ['5'],
  mse: [1.5],
  hqqBeta: [1.5],
  spqrOutlierThreshold: [1.5, 2 ** 32],
  maxShardBytes: [2 ** 32],
  dynamic: [wrong.at(-1)?.[0]],
};

describe.each(Object.entries(expected))('%s', (option, text) => {
  test.each(wrong.filter(([value]) => !(accepted[option] ?? (text === 'boolean' ? [true] : [])).includes(value)))(
    'refuses %p',
    (value, described) => {
      const [problem, ...more] = problemsOf({ ...base, [option]: value });
      expect(more).toEqual([]);
      expect(problem?.code).toBe('INVALID_ARGUMENT');
      expect(problem?.message).toBe(`Expected ${text} for ${option} but received ${described}`);
      expect(problem?.details['option']).toBe(option);
    },
  );
});

test.each([
  ['bits', [2, 3, 4, 5, 6, 8], [0, 1, 7, 9, 16]],
  ['groupSize', [32, 64, 128, -1], [0, 1, 16, 256, -2]],
  ['mse', [0, 1, 2.4, 8], [0.5, 8.1, Infinity]],
  ['dampPercent', [1e-6, 0.05, 0.999], [0, 1, -0.1, Infinity]],
  ['hqqLpNorm', [1e-3, 1], [0, 1.01, -1]],
  ['spqrOutlierThreshold', [0, 3, Infinity], [-1e-9]],
  ['mixllmFraction', [0, 1], [-0.1, 1.1]],
  ['eoraRank', [0, 256], [257]],
  ['calibrationLength', [16, 32_768], [15, 32_769]],
  ['calibrationSamples', [1, 1_000_000], [0, 1_000_001]],
  ['maxShardBytes', [65_536, 2 ** 50], [65_535, 2 ** 50 + 2 ** 10]],
  ['threads', [1, 256], [0, 257]],
])('limits of %s', (option, good, bad) => {
  for (const value of good) expect(problemsOf({ ...base, [option]: value })).toEqual([]);
  for (const value of bad) expect(problemsOf({ ...base, [option]: value })).toHaveLength(1);
});

test('missing options are named', () => {
  expect(problemsOf({}).map(({ message }) => message)).toEqual([
    'Expected non-empty path for model but received undefined',
    'Expected non-empty path for output but received undefined',
  ]);
  expect(problemsOf({ model: 'm', output: 'o', method: 'rtn' })).toEqual([]);
});

test.each([undefined, null, 3, 'model', [base]])('options %p are refused', (options) => {
  expect(problemsOf(options)[0]?.message).toMatch(/^Expected object for the options of quantize but received /);
});

test('unknown options are errors that name the nearest known one', () => {
  const [problem] = problemsOf({ ...base, group_size: 64 });
  expect(problem?.code).toBe('INVALID_ARGUMENT');
  expect(problem?.message).toContain('Unknown option "group_size" for quantize. Did you mean "groupSize"?');
  for (const option of ['continue', 'trueSequential', 'percdamp'])
    expect(problemsOf({ ...base, [option]: true })[0]?.message).toContain(`Unknown option "${option}"`);
});

test('a dense head is accepted, a quantised one is not supported', () => {
  expect(problemsOf({ ...base, lmHead: false })).toEqual([]);
  const [problem] = problemsOf({ ...base, lmHead: true });
  expect(problem?.code).toBe('UNSUPPORTED');
  expect(problem?.message).toContain('lmHead: true is not supported');
  expect(problemsOf({ ...base, lmHead: 1 })[0]?.message).toBe('Expected boolean for lmHead but received 1 of type number');
});

test.each([
  ['text', 'some text'],
  ['file', { file: 'a.txt' }],
  ['texts', ['a', 'b']],
  ['tokens', [[1, 2], [3]]],
  ['typed tokens', [Int32Array.of(1, 2)]],
  ['chats', [[{ role: 'user', content: 'hi' }]]],
  ['empty', []],
  [
    'mixed forms',
    ['a', [1], { text: 'b' }, { prompt: 'a', completion: 'b' }, { tokens: [1] }, { messages: [{ role: 'user', content: 'hi' }], id: 7 }],
  ],
  ['a set', new Set(['a'])],
  ['a generator', (function* () {})()],
  ['an asynchronous generator', (async function* () {})()],
])('calibration as %s', (_name, calibration) => {
  expect(problemsOf({ ...base, calibration })).toEqual([]);
});

test.each([
  ['a record of nothing', [{}]],
  ['a record of two forms', [{ text: 'a', tokens: [1] }]],
  ['a prompt without completion', [{ prompt: 'a' }]],
  ['one array of tokens that is typed', Int32Array.of(1)],
  ['a file without path', { file: 3 }],
  ['a file with more keys', { file: 'a', encoding: 'latin1' }],
  ['Float32Array tokens', [Float32Array.of(1)]],
  ['text tokens', [['1', '2']]],
  ['a chat without role', [[{ content: 'hi' }]]],
  ['an empty chat beside one', [[{ role: 'user', content: 'hi' }], [null]]],
])('calibration with %s is refused', (_name, calibration) => {
  expect(problemsOf({ ...base, calibration })[0]?.message).toMatch(
    /^Expected a text, \{ file \}, or an iterable .* for calibration but received /,
  );
});

describe('several problems', () => {
  const problem = (code: LowbitError['code'], message: string): LowbitError => new LowbitError(code, message, { option: message });

  test('one is thrown as it is, several as a list', () => {
    const one = problem('IO', 'a');
    expect(joinProblems([one])).toBe(one);
    const error = joinProblems([problem('IO', 'first'), problem('UNSUPPORTED', 'second')]);
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toBe('quantize cannot start, 2 problems:\n- first\n- second');
    expect(error.details['problems']).toEqual([
      { code: 'IO', message: 'first', option: 'first' },
      { code: 'UNSUPPORTED', message: 'second', option: 'second' },
    ]);
  });

  test('a code that all share is kept', () => {
    expect(joinProblems([problem('IO', 'a'), problem('IO', 'b')]).code).toBe('IO');
  });

  test('all bad options of a call are in one error', () => {
    const problems = problemsOf({ output: 'o', bits: 7, sym: 'yes', dynamic: { '(': {}, a: { bits: 9, groupSize: 3 } }, other: 1 });
    expect(problems).toHaveLength(7);
  });
});
