/**
 * GPTQ checkpoints: plans of tiny-stories as GPTQModel compressed it, run by the reference executor, and what is wrong with damaged ones.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { LowbitError } from '../../lib/errors';
import { buildPlan } from '../../lib/models/registry';
import { modelSummary, quantizableWeights } from '../../lib/models/summary';
import { GPTQ_CHECKPOINTS, type MutableConfig, type TestCheckpoint, fixture, readFixture, readGolden, withTensors } from './fixtures';
import { runPlan } from './reference';

/**
 * Expected logits come from f32 arithmetic on weights de-quantised apart from this project; measured worst case 1.2e-5. Tokens
 * beyond the first rows add nothing but time.
 */
const TOLERANCE = 1e-4;
const ROWS = 64;

const directory = (name: string): string => fixture('interop', name);
const q0 = 'model.layers.0.self_attn.q_proj';

/** Changes keys of quantization_config. */
const quantization =
  (changes: MutableConfig) =>
  (config: MutableConfig): void =>
    void Object.assign(config['quantization_config'] as MutableConfig, changes);

function problemsOf(checkpoint: TestCheckpoint): unknown {
  try {
    buildPlan(checkpoint);
  } catch (error) {
    if (error instanceof LowbitError && error.code === 'CORRUPT_FILE') return error.details['problems'];
    throw error;
  }
  return [];
}

describe.each(GPTQ_CHECKPOINTS)('%s', (name) => {
  const checkpoint = readFixture(directory(name));
  const plan = buildPlan(checkpoint, {
    onWarning: (message) => {
      throw new Error(`unexpected warning: ${message}`);
    },
  });
  const settings = checkpoint.config['quantization_config'] as { bits: number; group_size: number };

  test('weights', () => {
    const linears = plan.weights.filter(({ role }) => role === 'linear');
    expect(linears).toHaveLength(28);
    for (const { source } of linears) {
      expect(source).toMatchObject({
        kind: 'gptq',
        bits: settings.bits,
        groupSize: settings.group_size,
        zeroOffset: name.startsWith('gptq-v2') ? 0 : 1,
      });
    }
    expect(quantizableWeights(plan)).toHaveLength(16);
  });

  test('logits', () => {
    const golden = readGolden(directory(name));
    const { logits } = runPlan(plan, checkpoint, golden.tokens.slice(0, ROWS));
    const worst = logits.reduce((max, value, i) => {
      const error = Math.abs(value - (golden.logits[i] as number));
      return Number.isNaN(max) || error <= max ? max : error;
    }, 0);
    if (!(worst <= TOLERANCE)) throw new Error(`logits differ by ${worst}, allowed ${TOLERANCE}`);
  });

  test('summary', () => {
    const summary = modelSummary(plan, checkpoint);
    expect(summary.quantization).toBe(`GPTQ ${settings.bits} bit, group ${settings.group_size}`);
    expect(summary.parameters).toBe(
      modelSummary(buildPlan(readFixture(fixture('tiny-stories'))), readFixture(fixture('tiny-stories'))).parameters,
    );
    expect(summary.storedBytes).toBe(checkpoint.tensors.reduce((total, { bytes }) => total + bytes, 0));
    expect(summary.bitsPerWeight).toBeLessThan(16);
  });
});

describe('settings', () => {
  const name = 'gptq-v1-4bit-g128-sym';
  const read = (changes: MutableConfig): TestCheckpoint => readFixture(directory(name), quantization(changes));

  test('a wrong label: the content is believed and said once', () => {
    const warnings: string[] = [];
    const plan = buildPlan(read({ checkpoint_format: 'gptq_v2', format: 'gptq_v2' }), { onWarning: (message) => warnings.push(message) });
    expect(plan.weights.filter(({ source }) => source.kind === 'gptq' && source.zeroOffset === 1)).toHaveLength(28);
    expect(warnings).toEqual([expect.stringMatching(/labelled gptq_v2, but .* \(and so are 27 more\)$/)]);
  });

  test('other bits than the tensors have', () => {
    expect(problemsOf(read({ bits: 8 }))).toContain(`${q0}.qweight has shape [16, 128], expected [32, 128]`);
    expect(problemsOf(read({ bits: 8 }))).toContain(`${q0}.qzeros has shape [1, 16], expected [1, 32]`);
  });

  test('another group size than the tensors have', () => {
    expect(problemsOf(read({ group_size: 64 }))).toContain(`${q0}.scales has shape [1, 128], expected [2, 128]`);
  });

  test('a group of the whole row', () => {
    const problems = problemsOf(read({ group_size: -1 })) as string[];
    // q, k, v, o, gate and up have 128 columns, so one group of 128 is the row; down has 384.
    expect(problems.every((problem) => problem.includes('down_proj'))).toBe(true);
    expect(problems).toContain('model.layers.0.mlp.down_proj.scales has shape [3, 128], expected [1, 128]');
  });

  test('dynamic rules', () => {
    expect(problemsOf(read({ dynamic: { '.*q_proj': { bits: 8 } } }))).toContain(`${q0}.qweight has shape [16, 128], expected [32, 128]`);
    expect(problemsOf(read({ dynamic: { '-:.*q_proj': {} } }))).toEqual(
      [0, 1, 2, 3].map((layer) => `model.layers.${layer}.self_attn.q_proj.qweight is packed, but a dynamic rule leaves it dense`),
    );
  });

  test('packed tensors without a quantization_config', () => {
    const problems = problemsOf(readFixture(directory(name), (config) => delete config['quantization_config'])) as string[];
    expect(problems).toHaveLength(28);
    expect(problems[0]).toBe(`${q0}.qweight is packed, but there is no quantization_config`);
  });

  test('missing and mistyped parts', () => {
    const part = (suffix: string): string => `${q0}.${suffix}`;
    const base = readFixture(directory('gptq-v1-4bit-g64-descact'));
    expect(problemsOf(withTensors(base, { drop: [part('qzeros'), part('g_idx')] }))).toEqual([
      `${part('qzeros')} is missing`,
      `${part('g_idx')} is missing`,
    ]);
    expect(problemsOf(withTensors(base, { drop: ['qweight', 'qzeros', 'scales', 'g_idx'].map(part) }))).toEqual([
      `${q0} has neither qweight nor weight`,
    ]);
    expect(problemsOf(withTensors(base, { alter: { [part('qzeros')]: { dtype: 'F32' }, [part('scales')]: { dtype: 'I32' } } }))).toEqual([
      `${part('qzeros')} has dtype F32, expected I32`,
      `${part('scales')} has dtype I32, expected F32 or F16 or BF16`,
    ]);
  });

  test('g_idx may be absent without desc_act', () => {
    const base = read({});
    const drop = base.tensors.map(({ name: tensor }) => tensor).filter((tensor) => tensor.endsWith('.g_idx'));
    expect(
      buildPlan(withTensors(base, { drop })).weights.filter(({ source }) => source.kind === 'gptq' && source.gIdx === undefined),
    ).toHaveLength(28);
  });

  test('a linear left dense stands beside packed ones', () => {
    const drop = ['qweight', 'qzeros', 'scales', 'g_idx'].map((part) => `${q0}.${part}`);
    const mixed = withTensors(read({}), { drop, add: [{ name: `${q0}.weight`, dtype: 'BF16', shape: [128, 128], bytes: 32768 }] });
    const plan = buildPlan(mixed);
    expect(plan.weights.find(({ name: weight }) => weight === q0)?.source).toEqual({ kind: 'tensor', tensor: mixed.find(`${q0}.weight`) });
    expect(modelSummary(plan, mixed).quantization).toBe('GPTQ 4 bit, group 128 + BF16');
  });

  test('biases that old writers add to every linear are used', () => {
    const plan = buildPlan(withTensors(read({}), { add: [{ name: `${q0}.bias`, dtype: 'F16', shape: [128] }] }));
    expect(plan.weights.filter(({ bias }) => bias !== undefined).map(({ name: weight }) => weight)).toEqual([q0]);
  });

  test('methods other than GPTQ', () => {
    for (const method of ['awq', 'compressed-tensors']) {
      expect(() => buildPlan(read({ quant_method: method, method }))).toThrow(expect.objectContaining({ code: 'UNSUPPORTED' }));
    }
  });

  test('a truncated file is named', () => {
    const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'lowbit-models-'));
    try {
      const file = path.join(temporary, 'model.safetensors');
      fs.writeFileSync(file, Buffer.alloc(16));
      expect(() => buildPlan({ ...read({}), files: [file] })).toThrow(
        expect.objectContaining({ code: 'CORRUPT_FILE', message: expect.stringContaining(file) }),
      );
    } finally {
      fs.rmSync(temporary, { recursive: true });
    }
  });
});
