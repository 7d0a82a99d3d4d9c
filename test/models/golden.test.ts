/**
 * Plans compute what transformers computes: every golden checkpoint runs through the reference executor and must give the logits
 * that transformers gave for the same bf16 weights in f32 arithmetic.
 *
 * The files under arch/ were made from a model cast to bf16 and back, which also rounded the rotary frequencies it holds as a buffer.
 * Their logits are therefore compared with a copy of the plan whose tables are rounded the same way; that the tables themselves are
 * right is shown by tiny-stories, made with unrounded frequencies, and by rope.test.ts. One test pins this down.
 */
import type { Plan } from '../../lib/graph/plan';
import { buildPlan } from '../../lib/models/registry';
import {
  ARCHITECTURES,
  GGUF_FIXTURES,
  type Golden,
  type MutableConfig,
  type TestCheckpoint,
  asGguf,
  fixture,
  readFixture,
  readGolden,
} from './fixtures';
import { runPlan } from './reference';

/**
 * The executor works in doubles, so what remains is f32 rounding in the expected values: 6e-8 relative per op, some hundred roundings
 * deep, on logits of magnitude up to 20. Measured worst cases: arch 7e-6, tiny-stories 4e-5.
 */
const TOLERANCE = 1e-4;

/** NaN anywhere gives NaN. */
function worstError(actual: Float64Array, expected: Float64Array): number {
  if (actual.length !== expected.length) return NaN;
  return actual.reduce((worst, value, i) => {
    const error = Math.abs(value - (expected[i] as number));
    return Number.isNaN(worst) || error <= worst ? worst : error;
  }, 0);
}

function bf16(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  const bits = view.getUint32(0);
  view.setUint32(0, ((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0);
  return view.getFloat32(0);
}

function withRoundedRopes(plan: Plan): Plan {
  return { ...plan, ropes: plan.ropes.map((rope) => ({ ...rope, inverseFrequencies: rope.inverseFrequencies.map(bf16) })) };
}

function errorOf(plan: Plan, checkpoint: TestCheckpoint, golden: Golden): number {
  return worstError(runPlan(plan, checkpoint, golden.tokens).logits, golden.logits);
}

function expectWithin(error: number, tolerance: number): void {
  if (!(error <= tolerance)) throw new Error(`logits differ by ${error}, allowed ${tolerance}`);
}

test('the comparison fails on NaN, on a sign and on one bad element', () => {
  const expected = Float64Array.of(1, 2, 3);
  expect(worstError(expected, expected)).toBe(0);
  for (const bad of [
    [1, NaN, 3],
    [1, -2, 3],
    [1, 2, 3.001],
    [1, 2],
    [NaN, 2, 3],
  ]) {
    expect(() => expectWithin(worstError(Float64Array.from(bad), expected), TOLERANCE)).toThrow('logits differ');
  }
});

describe.each(ARCHITECTURES)('golden %s', (name) => {
  const directory = fixture('arch', name);
  const golden = readGolden(directory);

  test('logits', () => {
    const checkpoint = readFixture(directory);
    expectWithin(errorOf(withRoundedRopes(buildPlan(checkpoint)), checkpoint, golden), TOLERANCE);
  });
});

describe.each(GGUF_FIXTURES)('golden %s', (name) => {
  const directory = fixture('arch', name);
  const golden = readGolden(directory);

  test('logits of the GGUF form: names, interleaved q and k, norms stored as 1 + w', () => {
    const checkpoint = asGguf(readFixture(directory));
    expectWithin(errorOf(withRoundedRopes(buildPlan(checkpoint)), checkpoint, golden), TOLERANCE);
  });
});

describe('tiny-stories', () => {
  const directory = fixture('tiny-stories');
  const checkpoint = readFixture(directory);
  const golden = readGolden(directory);

  test('logits with the rotary table as it is', () => {
    expectWithin(errorOf(buildPlan(checkpoint), checkpoint, golden), TOLERANCE);
  });

  test('a few wanted rows give the same logits as all rows', () => {
    const plan = buildPlan(checkpoint);
    const tokens = golden.tokens.slice(0, 40);
    const all = runPlan(plan, checkpoint, tokens).logits;
    const wanted = [39, 3, 17];
    const some = runPlan(plan, checkpoint, tokens, wanted).logits;
    const expected = wanted.flatMap((row) => [...all.subarray(row * plan.vocabSize, (row + 1) * plan.vocabSize)]);
    expect(worstError(some, Float64Array.from(expected))).toBe(0);
  });
});

describe('the golden comparison is sharp', () => {
  const first = 96;
  const goldenOf = (directory: string): Golden => {
    const { tokens, logits } = readGolden(directory);
    return { tokens: tokens.slice(0, first), logits: logits.slice(0, (logits.length / tokens.length) * Math.min(first, tokens.length)) };
  };

  test('rounded and exact rotary frequencies are told apart, each by its files', () => {
    const tiny = readFixture(fixture('tiny-stories'));
    expect(errorOf(withRoundedRopes(buildPlan(tiny)), tiny, goldenOf(fixture('tiny-stories')))).toBeGreaterThan(10 * TOLERANCE);
    const llama = readFixture(fixture('arch', 'llama'));
    expect(errorOf(buildPlan(llama), llama, goldenOf(fixture('arch', 'llama')))).toBeGreaterThan(10 * TOLERANCE);
  });

  const mutations: readonly (readonly [string, string, (config: MutableConfig) => void])[] = [
    ['a window one token wider', 'mistral-swa', (config) => (config['sliding_window'] = 25)],
    [
      'another order of sliding layers',
      'gemma2',
      (config) => (config['layer_types'] = ['full_attention', 'sliding_attention', 'full_attention']),
    ],
    ['a default attention scale', 'gemma2', (config) => (config['query_pre_attn_scalar'] = 32)],
    ['no attention softcap', 'gemma2', (config) => (config['attn_logit_softcapping'] = null)],
    ['no final softcap', 'gemma2', (config) => (config['final_logit_softcapping'] = null)],
    ['one rotary base for all layers', 'gemma3', (config) => (config['rope_parameters'] = { rope_theta: 1e6 })],
    ['an unscaled rotary table', 'llama3-rope', (config) => (config['rope_parameters'] = { rope_theta: 5e5 })],
    ['another eps', 'olmo2', (config) => (config['rms_norm_eps'] = 1e-4)],
    ['the other activation', 'qwen3', (config) => (config['hidden_act'] = 'gelu_pytorch_tanh')],
    ['the exact gelu', 'gpt2', (config) => (config['activation_function'] = 'gelu')],
    ['unscaled attention', 'gpt2', (config) => (config['scale_attn_weights'] = false)],
    ['attention scaled by depth', 'gpt2', (config) => (config['scale_attn_by_inverse_layer_idx'] = true)],
    ['another eps of layer norms', 'gpt2', (config) => (config['layer_norm_epsilon'] = 1e-3)],
    ['one expert less', 'mixtral', (config) => (config['num_experts_per_tok'] = 1)],
    ['scores of the experts as they are', 'qwen3-moe', (config) => (config['norm_topk_prob'] = false)],
    ['experts of all groups', 'deepseek-v3', (config) => (config['topk_group'] = 2)],
    ['another scale of the experts', 'deepseek-v3', (config) => (config['routed_scaling_factor'] = 1)],
    ['rotated pairs half a head apart', 'deepseek-v3', (config) => (config['rope_interleave'] = false)],
    ['another activation', 'opt', (config) => (config['activation_function'] = 'silu')],
  ];
  test.each(mutations)('%s (%s) shows', (_, name, edit) => {
    const checkpoint = readFixture(fixture('arch', name), edit);
    expect(errorOf(withRoundedRopes(buildPlan(checkpoint)), checkpoint, goldenOf(fixture('arch', name)))).toBeGreaterThan(5 * TOLERANCE);
  });
});
