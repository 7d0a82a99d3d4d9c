/**
 * Rotary tables against numbers computed apart from this code (Python, extended precision, formulas of the papers and of
 * transformers' modeling_rope_utils), and old configuration keys against new ones.
 */
import { LowbitError } from '../../lib/errors';
import type { RopeTable } from '../../lib/graph/plan';
import { ConfigReader } from '../../lib/models/config';
import { type RopeRequest, readRope, resolveContext } from '../../lib/models/rope';

function reader(config: Record<string, unknown>): ConfigReader {
  return new ConfigReader({ max_position_embeddings: 4096, ...config }, 'config.json');
}

function table(config: Record<string, unknown>, request: Partial<RopeRequest> = {}): RopeTable {
  return readRope(reader(config), { headDim: 128, defaultTheta: 10000, contextSize: 4096, ...request });
}

function expectFrequencies({ inverseFrequencies }: RopeTable, expected: Readonly<Record<number, number>>): void {
  for (const [index, value] of Object.entries(expected)) {
    // A few rounding errors of a double's power function.
    const relative = Math.abs((inverseFrequencies[Number(index)] as number) / value - 1);
    if (!(relative < 1e-13)) throw new Error(`frequency ${index} is ${inverseFrequencies[Number(index)]}, expected ${value}`);
  }
}

/** The LowbitError `call` throws. */
function errorOf(call: () => unknown): LowbitError {
  try {
    call();
  } catch (error) {
    if (error instanceof LowbitError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

// Llama 3.1: theta 500000, head 128. Wavelengths: pair 28 1956 (kept, below 8192/4), 29 2402 .. 34 6695 (blended), 35 8219 (divided).
const LLAMA3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
const LLAMA3_EXPECTED = {
  0: 1,
  1: 0.8146172338565447,
  28: 0.003211445994752591,
  29: 0.0021665707635033587,
  30: 0.0013718935677611381,
  34: 0.00017850781276799644,
  35: 9.556212353964683e-5,
  36: 7.78465527393245e-5,
  63: 3.068925988914511e-7,
};

// Qwen 2.5 with YaRN: theta 1e6, head 128. Turns 32 and 1 fall on pairs 23.596 and 39.651, so the ramp runs from 23 to 40.
const YARN = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32768 };
const YARN_EXPECTED = {
  0: 1,
  23: 0.006978305848598663,
  24: 0.005375321490790101,
  31: 0.0008029597275452303,
  39: 6.490394320837029e-5,
  40: 4.445698525097307e-5,
  63: 3.102344401879299e-7,
};

const LONGROPE = { rope_type: 'longrope', short_factor: [1, 1.5], long_factor: [2, 8] };

describe('scaling', () => {
  test('default: theta^(-2i/d)', () => {
    expectFrequencies(table({}, { headDim: 4 }), { 0: 1, 1: 0.01 });
    expect(table({ rope_theta: 1e6 }, { headDim: 4 }).inverseFrequencies).toEqual(Float64Array.of(1, 1e-3));
    expect(table({}).inverseFrequencies).toHaveLength(64);
    expect(table({}).scale).toBe(1);
  });

  test('linear divides', () => {
    const { inverseFrequencies, scale } = table({ rope_scaling: { type: 'linear', factor: 8 } }, { headDim: 4 });
    expect(inverseFrequencies).toEqual(Float64Array.of(0.125, 0.00125));
    expect(scale).toBe(1);
  });

  test('llama3', () => expectFrequencies(table({ rope_theta: 5e5, rope_scaling: LLAMA3 }), LLAMA3_EXPECTED));

  test('GGUF divisors give the llama3 table', () => {
    const plain = table({ rope_theta: 5e5 }).inverseFrequencies;
    const scaled = table({ rope_theta: 5e5, rope_scaling: LLAMA3 }).inverseFrequencies;
    const divisors = [...plain].map((f, i) => f / (scaled[i] as number));
    expectFrequencies(table({ rope_parameters: { rope_theta: 5e5, rope_type: 'lowbit_divisors', divisors } }), LLAMA3_EXPECTED);
  });

  test('yarn', () => {
    const yarn = table({ rope_theta: 1e6, rope_scaling: YARN });
    expectFrequencies(yarn, YARN_EXPECTED);
    expect(yarn.scale).toBeCloseTo(1.138629436111989, 14); // 0.1 ln 4 + 1
    // The ramp between the unrounded pairs 23.5959476083381 and 39.6508807104171.
    expectFrequencies(table({ rope_theta: 1e6, rope_scaling: { ...YARN, truncate: false } }), { 30: 0.0010792377416765538 });
    expect(table({ rope_theta: 1e6, rope_scaling: { ...YARN, attention_factor: 1.25 } }).scale).toBe(1.25);
    // (0.1 * 2 ln 4 + 1) / (0.1 * 0.5 ln 4 + 1)
    expect(table({ rope_theta: 1e6, rope_scaling: { ...YARN, mscale: 2, mscale_all_dim: 0.5 } }).scale).toBeCloseTo(1.1944648761087142, 14);
  });

  test('longrope: one set of divisors up to the trained length, the other beyond', () => {
    const config = { max_position_embeddings: 131072, original_max_position_embeddings: 4096, rope_scaling: LONGROPE };
    const short = table(config, { headDim: 4, contextSize: 4096 });
    expectFrequencies(short, { 0: 1, 1: 0.01 / 1.5 });
    expectFrequencies(table(config, { headDim: 4, contextSize: 4097 }), { 0: 0.5, 1: 0.00125 });
    // sqrt(1 + ln 32 / ln 4096) = sqrt(17 / 12): also what Phi-3.5 is published with.
    expect(short.scale).toBeCloseTo(1.1902380714238083, 14);
    expect(table({ ...config, rope_scaling: { ...LONGROPE, attention_factor: 1.5 } }, { headDim: 4 }).scale).toBe(1.5);
    expect(table({ ...config, rope_scaling: { ...LONGROPE, rope_type: 'su' } }, { headDim: 4, contextSize: 4096 })).toEqual(short);
  });

  test('dynamic: the base grows beyond the trained length', () => {
    const config = { max_position_embeddings: 2048, rope_scaling: { type: 'dynamic', factor: 2 } };
    expect(table(config, { headDim: 64, contextSize: 2048 })).toEqual(table({}, { headDim: 64 }));
    // theta 10000 * (2 * 4096 / 2048 - 1)^(64 / 62) = 31082.236667168814
    expectFrequencies(table(config, { headDim: 64, contextSize: 4096 }), { 0: 1, 1: 0.7237840223942559, 31: 4.4450714405444134e-5 });
  });

  test('a partly rotated head has frequencies of its rotated part', () => {
    expectFrequencies(table({ partial_rotary_factor: 0.5 }, { headDim: 8 }), { 0: 1, 1: 0.01 });
    expect(table({ rope_parameters: { partial_rotary_factor: 0.75 } }, { headDim: 96 }).inverseFrequencies).toHaveLength(36);
    for (let rotary = 2; rotary <= 96; rotary += 2) {
      expect(table({ partial_rotary_factor: rotary / 96 }, { headDim: 96 }).inverseFrequencies).toHaveLength(rotary / 2);
    }
  });
});

describe('old and new keys', () => {
  const same: readonly (readonly [string, Record<string, unknown>, Record<string, unknown>])[] = [
    ['default', { rope_theta: 5e5 }, { rope_parameters: { rope_type: 'default', rope_theta: 5e5 } }],
    ['theta only at the top', { rope_theta: 5e5 }, { rope_theta: 5e5, rope_parameters: { rope_type: 'default' } }],
    [
      'linear',
      { rope_theta: 5e5, rope_scaling: { type: 'linear', factor: 4 } },
      { rope_parameters: { rope_type: 'linear', factor: 4, rope_theta: 5e5 } },
    ],
    ['llama3', { rope_theta: 5e5, rope_scaling: LLAMA3 }, { rope_parameters: { ...LLAMA3, rope_theta: 5e5 } }],
    ['yarn', { rope_theta: 1e6, rope_scaling: YARN }, { rope_parameters: { ...YARN, rope_theta: 1e6 } }],
    [
      'longrope',
      {
        original_max_position_embeddings: 512,
        rope_scaling: { ...LONGROPE, short_factor: Array(64).fill(1), long_factor: Array(64).fill(3) },
      },
      {
        rope_parameters: {
          ...LONGROPE,
          short_factor: Array(64).fill(1),
          long_factor: Array(64).fill(3),
          original_max_position_embeddings: 512,
        },
      },
    ],
    ['partial', { partial_rotary_factor: 0.5 }, { rope_parameters: { partial_rotary_factor: 0.5, rope_type: 'default' } }],
    ['null', {}, { rope_scaling: null, rope_parameters: null, partial_rotary_factor: null }],
  ];
  test.each(same)('%s', (_, before, after) => expect(table(after)).toEqual(table(before)));

  test('two kinds of layers', () => {
    const nested = {
      rope_parameters: {
        full_attention: { rope_type: 'linear', factor: 8, rope_theta: 1e6 },
        sliding_attention: { rope_type: 'default', rope_theta: 20000 },
      },
    };
    const old = { rope_theta: 1e6, rope_local_base_freq: 20000, rope_scaling: { rope_type: 'linear', factor: 8 } };
    const full = { layerType: 'full_attention' };
    const local = { layerType: 'sliding_attention', oldThetaKey: 'rope_local_base_freq' };
    expect(table(old, full)).toEqual(table(nested, full));
    expect(table(old, local)).toEqual(table(nested, local));
    expect(table(nested, local)).toEqual(table({ rope_theta: 20000 }));
    // A flat table serves both.
    expect(table({ rope_parameters: { rope_theta: 1e6 } }, local)).toEqual(table({ rope_theta: 1e6 }));
    expect(errorOf(() => table({ rope_parameters: { full_attention: {} } }, local))).toMatchObject({
      code: 'CORRUPT_FILE',
      message: 'Expected object for rope_parameters.sliding_attention in config.json but received undefined',
    });
  });
});

describe('context', () => {
  const long = { max_position_embeddings: 131072, original_max_position_embeddings: 4096, rope_scaling: LONGROPE };

  test.each([
    ['default', {}, undefined, 4096],
    ['default, less asked for', {}, 100, 4096],
    ['longrope stays within the trained length', long, undefined, 4096],
    ['longrope, less asked for', long, 4096, 4096],
    ['longrope, more asked for', long, 4097, 131072],
    ['dynamic stays within the trained length', { rope_scaling: { type: 'dynamic', factor: 4 } }, undefined, 4096],
    ['dynamic, more asked for', { rope_scaling: { type: 'dynamic', factor: 4 } }, 10000, 10000],
    ['yarn switched on by hand', { max_position_embeddings: 32768, rope_scaling: YARN }, undefined, 131072],
    ['yarn as published', { max_position_embeddings: 131072, rope_scaling: YARN }, undefined, 131072],
  ])('%s', (_, config, requested, expected) => expect(resolveContext(reader(config), requested)).toBe(expected));

  test.each([4097, 0, -1, 1.5, 2 ** 32, NaN, '1' as unknown as number])('contextSize %p is refused', (requested) => {
    expect(errorOf(() => resolveContext(reader({}), requested))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/^Expected integer between 1 and 4096 for contextSize but received /),
    });
  });
});

describe('bad parameters', () => {
  test.each([
    [
      'an unknown type',
      { rope_scaling: { rope_type: 'spiral' } },
      'UNSUPPORTED',
      'rope_scaling.rope_type = "spiral" in config.json is not supported',
    ],
    ['mrope, the old key', { rope_scaling: { type: 'mrope' } }, 'UNSUPPORTED', 'rope_scaling.type = "mrope"'],
    ['no factor', { rope_scaling: { type: 'linear' } }, 'CORRUPT_FILE', 'rope_scaling.factor in config.json but received undefined'],
    [
      'a zero factor',
      { rope_scaling: { type: 'linear', factor: 0 } },
      'CORRUPT_FILE',
      'Expected number between 1 and 65536 for rope_scaling.factor',
    ],
    ['a string', { rope_theta: '10000' }, 'CORRUPT_FILE', 'for rope_theta in config.json but received "10000" of type string'],
    ['a zero base', { rope_theta: 0 }, 'CORRUPT_FILE', 'for rope_theta in config.json but received 0'],
    ['an array', { rope_scaling: [] }, 'CORRUPT_FILE', 'Expected object for rope_scaling'],
    [
      'llama3 without the trained length',
      { rope_scaling: { ...LLAMA3, original_max_position_embeddings: null } },
      'CORRUPT_FILE',
      'rope_scaling.original_max_position_embeddings',
    ],
    [
      'llama3 with crossed bounds',
      { rope_scaling: { ...LLAMA3, low_freq_factor: 4 } },
      'CORRUPT_FILE',
      'above low_freq_factor (4) for rope_scaling.high_freq_factor',
    ],
    ['too few divisors', { rope_scaling: LONGROPE }, 'CORRUPT_FILE', 'Expected array of 64 numbers'],
    ['no divisors', { rope_parameters: { rope_type: 'lowbit_divisors' } }, 'CORRUPT_FILE', 'rope_parameters.divisors'],
    [
      'a zero divisor',
      { rope_parameters: { rope_type: 'lowbit_divisors', divisors: Array(64).fill(0) } },
      'CORRUPT_FILE',
      'rope_parameters.divisors',
    ],
    ['an odd number of rotary dimensions', { partial_rotary_factor: 3 / 128 }, 'CORRUPT_FILE', 'gives 3 of head_dim 128'],
    ['none at all', { partial_rotary_factor: 0 }, 'CORRUPT_FILE', 'gives 0 of head_dim 128'],
  ])('%s', (_, config, code, text) => {
    expect(errorOf(() => table(config))).toMatchObject({ code, message: expect.stringContaining(text) });
  });
});
