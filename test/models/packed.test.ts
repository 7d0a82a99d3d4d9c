/** Plans of compressed-tensors checkpoints, and what they say when tensors and settings do not fit. The logits are in test/engine. */
import { LowbitError } from '../../lib/errors';
import { buildPlan } from '../../lib/models/registry';
import { modelSummary } from '../../lib/models/summary';
import { type MutableConfig, type TestCheckpoint, fixture, readFixture, withTensors } from './fixtures';

const read = (name: string, edit?: (config: MutableConfig) => void): TestCheckpoint => readFixture(fixture('interop', name), edit);
const q0 = 'model.layers.0.self_attn.q_proj';

function problemsOf(checkpoint: TestCheckpoint): unknown {
  try {
    buildPlan(checkpoint);
  } catch (error) {
    if (error instanceof LowbitError && error.code === 'CORRUPT_FILE') return error.details['problems'];
    throw error;
  }
  return [];
}

test.each([
  ['ct-pack-3bit-g64-sym', { bits: 3, groupSize: 64 }, false, 'compressed-tensors 3 bit, group 64'],
  ['ct-pack-4bit-g64-asym-actorder', { bits: 4, groupSize: 64 }, true, 'compressed-tensors 4 bit, group 64'],
  ['ct-pack-4bit-g64-sym', { bits: 4, groupSize: 64 }, false, 'compressed-tensors 4 bit, group 64'],
  ['ct-pack-8bit-channel', { bits: 8 }, false, 'compressed-tensors 8 bit, group = row'],
])('%s', (name, source, zeros, quantization) => {
  const checkpoint = read(name);
  const plan = buildPlan(checkpoint);
  const linears = plan.weights.filter(({ role }) => role === 'linear');
  expect(linears).toHaveLength(28);
  for (const linear of linears) {
    expect(linear.source).toMatchObject({ kind: 'words', layout: 'stream', ...source });
    expect('qzeros' in linear.source).toBe(zeros);
  }
  expect(modelSummary(plan, checkpoint).quantization).toBe(quantization);
});

describe('what does not fit is named', () => {
  const base = read('ct-pack-3bit-g64-sym');
  const part = (suffix: string): string => `${q0}.${suffix}`;
  type Groups = Record<string, { weights: MutableConfig }>;
  const weights =
    (changes: MutableConfig) =>
    (config: MutableConfig): void => {
      const groups = (config['quantization_config'] as MutableConfig)['config_groups'] as Groups;
      Object.assign((groups['group_0'] as Groups[string]).weights, changes);
    };

  test('widths', () => {
    expect(problemsOf(read('ct-pack-3bit-g64-sym', weights({ num_bits: 4 })))).toContain(
      `${part('weight_packed')} has shape [128, 12], expected [128, 16]`,
    );
    expect(problemsOf(read('ct-pack-3bit-g64-sym', weights({ group_size: 32 })))).toContain(
      `${part('weight_scale')} has shape [128, 2], expected [128, 4]`,
    );
  });

  test('asymmetric without zero points', () => {
    const problems = problemsOf(read('ct-pack-3bit-g64-sym', weights({ symmetric: false }))) as string[];
    expect(problems).toHaveLength(28);
    expect(problems[0]).toBe(`${part('weight_zero_point')} is missing`);
  });

  test('missing and mistyped parts', () => {
    expect(problemsOf(withTensors(base, { drop: [part('weight_scale'), part('weight_shape')] }))).toEqual([
      `${part('weight_scale')} is missing`,
      `${part('weight_shape')} is missing`,
    ]);
    expect(problemsOf(withTensors(base, { alter: { [part('weight_packed')]: { dtype: 'F32' } } }))).toEqual([
      `${part('weight_packed')} has dtype F32, expected I32`,
    ]);
    const dropped = ['weight_packed', 'weight_scale', 'weight_shape'].map(part);
    expect(problemsOf(withTensors(base, { drop: dropped }))).toEqual([`${q0} has neither weight_packed nor weight`]);
  });

  test('a shape that weight_shape contradicts', () => {
    const at = base.tensors.find(({ name }) => name === 'model.layers.0.mlp.down_proj.weight_shape');
    expect(problemsOf(withTensors(base, { alter: { [part('weight_shape')]: { offset: at?.offset as number } } }))).toEqual([
      `${part('weight_shape')} says [128, 384], expected [128, 128]`,
    ]);
  });

  test('packed linears that are ignored, without settings or of another method', () => {
    const quantization =
      (changes: MutableConfig) =>
      (config: MutableConfig): void =>
        void Object.assign(config['quantization_config'] as MutableConfig, changes);
    expect(problemsOf(read('ct-pack-3bit-g64-sym', quantization({ ignore: ['lm_head', q0] })))).toEqual([
      `${q0}.weight_packed is packed, but quantization_config ignores it or has no target for it`,
    ]);
    const without = problemsOf(read('ct-pack-3bit-g64-sym', (config) => delete config['quantization_config'])) as string[];
    expect(without[0]).toBe(`${q0}.weight_packed is packed, but quantization_config does not describe compressed-tensors`);
    const gptq = problemsOf(
      read(
        'gptq-v1-4bit-g128-sym',
        (config) => (config['quantization_config'] = (read('ct-pack-4bit-g64-sym').config as MutableConfig)['quantization_config']),
      ),
    ) as string[];
    expect(gptq[0]).toBe(`${q0}.qweight is packed, but quantization_config describes compressed-tensors`);
  });

  test('quantised activations are a warning', () => {
    const warnings: string[] = [];
    const checkpoint = read('ct-pack-3bit-g64-sym', (config) => {
      const groups = (config['quantization_config'] as MutableConfig)['config_groups'] as Record<string, MutableConfig>;
      (groups['group_0'] as MutableConfig)['input_activations'] = { num_bits: 8, dynamic: true };
    });
    buildPlan(checkpoint, { onWarning: (message) => warnings.push(message) });
    expect(warnings).toEqual([expect.stringContaining('asks for quantised activations')]);
  });

  test('a checkpoint of another tool without settings', () => {
    const dense = read('../tiny-stories');
    const foreign = withTensors(dense, {
      add: [{ name: `${q0}.weight.quant_state.bitsandbytes__nf4`, dtype: 'U8', shape: [4], bytes: 4 }],
    });
    expect(() => buildPlan(foreign)).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED', message: expect.stringContaining('a bitsandbytes checkpoint') }),
    );
  });
});
