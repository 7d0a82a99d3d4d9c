/** Settings of AWQ and compressed-tensors checkpoints as tools write them, and the methods that are refused by name. */
import { parseQuantizationConfig } from '../../lib/checkpoint';
import type { AwqConfig } from '../../lib/checkpoint/awq_config';
import type { CompressedTensorsConfig } from '../../lib/checkpoint/compressed_tensors_config';
import { foreignByTensors } from '../../lib/checkpoint/quantization_config';
import { errorOf } from './support';

const parse = (quantization_config: unknown): unknown => parseQuantizationConfig({ quantization_config });
const awq = (config: object): AwqConfig => parse({ quant_method: 'awq', ...config }) as AwqConfig;

describe('AWQ', () => {
  test('keys of AutoAWQ, transformers and GPTQModel', () => {
    expect(awq({ bits: 4, group_size: 128, zero_point: true, version: 'gemm' })).toMatchObject({ method: 'awq', bits: 4, groupSize: 128 });
    expect(awq({ w_bit: 4, q_group_size: 64, version: 'GEMM', backend: 'autoawq' })).toMatchObject({ groupSize: 64 });
    expect(awq({ bits: 4, group_size: -1, format: 'gemm', checkpoint_format: 'gemm', method: 'awq' })).toMatchObject({ groupSize: -1 });
  });

  test('modules_to_not_convert are parts of names; the head is never packed', () => {
    const config = awq({ modules_to_not_convert: ['mlp.gate', 'layers.3.'] });
    const names = ['model.layers.0.mlp.up_proj', 'model.layers.0.mlp.gate_proj', 'model.layers.3.mlp.up_proj', 'lm_head'];
    expect(names.map((name) => config.packs(name))).toEqual([true, false, false, false]);
    expect(awq({ modules_to_not_convert: null }).packs('model.layers.3.mlp.up_proj')).toBe(true);
  });
});

const scheme = (weights: object, rest: object = {}): object => ({
  weights: { num_bits: 4, type: 'int', ...weights },
  targets: ['Linear'],
  ...rest,
});
const ct = (config: object): CompressedTensorsConfig =>
  parse({ quant_method: 'compressed-tensors', format: 'pack-quantized', ...config }) as CompressedTensorsConfig;

describe('compressed-tensors', () => {
  test('strategies', () => {
    const module = (weights: object): unknown => ct({ config_groups: { group_0: scheme(weights) } }).module('a');
    expect(module({ strategy: 'group', group_size: 64, symmetric: false })).toEqual({ bits: 4, groupSize: 64, symmetric: false });
    expect(module({ strategy: 'channel', group_size: null, num_bits: 8 })).toEqual({ bits: 8, groupSize: -1, symmetric: true });
    expect(module({ strategy: 'tensor' })).toEqual({ bits: 4, groupSize: 'tensor', symmetric: true });
    // without a strategy the group size says it
    expect(module({ group_size: 32 })).toMatchObject({ groupSize: 32 });
    expect(module({ group_size: -1 })).toMatchObject({ groupSize: -1 });
    expect(module({})).toMatchObject({ groupSize: 'tensor' });
  });

  test('names before patterns before classes; ignored ones are dense', () => {
    const bits = (num_bits: number, ...targets: string[]): object => ({ weights: { num_bits, group_size: 32 }, targets });
    const config = ct({
      config_groups: {
        a: bits(2, 'Linear'),
        b: bits(3, 're:.*b', 're:.*z'),
        c: bits(5, 'x.b'),
        d: bits(6, 're:.*a.*'),
        e: { weights: null, targets: ['y'] },
      },
      ignore: ['lm_head', 're:skip', 'y.a'],
    });
    const widths = ['x.b', 'y.b', 'q', 'y.ab', 'skipped', 'x.skip', 'lm_head', 'y.a', 'y.a.b'].map((name) => config.module(name)?.bits);
    expect(widths).toEqual([5, 3, 2, 6, undefined, 2, undefined, undefined, 6]);
    expect(config.warnings).toEqual([]);
  });

  test('no target: dense', () => {
    const config = ct({ config_groups: { a: { weights: { num_bits: 4, group_size: 32 }, targets: ['re:.*proj'] } } });
    expect(config.module('a.q_proj')).toBeDefined();
    expect(config.module('a.dense')).toBeUndefined();
  });

  test('activations that are quantised as they run stay as they are, which is said', () => {
    const activations = { num_bits: 8, type: 'int', dynamic: true };
    const config = ct({ config_groups: { a: scheme({ group_size: 32 }, { input_activations: activations }) } });
    expect(config.warnings).toEqual([expect.stringContaining('config_groups.a.input_activations asks for quantised activations')]);
  });
});

const group = (weights: object, rest?: object): object => ({ config_groups: { g: scheme(weights, rest) } });
test.each<[string, object, string, string]>([
  [
    'AWQ gemv',
    { quant_method: 'awq', version: 'gemv' },
    'UNSUPPORTED',
    'AWQ weights in the layout "gemv", which this version does not read; use a version',
  ],
  ['AWQ gemv_fast', { quant_method: 'awq', version: 'gemv_fast' }, 'UNSUPPORTED', '"gemv_fast"'],
  ['AWQ marlin', { quant_method: 'awq', version: 'marlin' }, 'UNSUPPORTED', '"marlin"'],
  ['llm-awq', { quant_method: 'awq', version: 'gemm', backend: 'llm-awq' }, 'UNSUPPORTED', 'llm-awq'],
  ['AWQ of 8 bits', { quant_method: 'awq', bits: 8 }, 'UNSUPPORTED', 'AWQ weights of 8 bits'],
  ['AWQ bits as text', { quant_method: 'awq', bits: '4' }, 'CORRUPT_FILE', 'Expected 4 for quantization_config.bits'],
  ['AWQ group size', { quant_method: 'awq', group_size: 0 }, 'CORRUPT_FILE', 'quantization_config.group_size'],
  ['AWQ exceptions', { quant_method: 'awq', modules_to_not_convert: 'lm_head' }, 'CORRUPT_FILE', 'an array of at most 4096 strings'],
  ...[
    'int-quantized',
    'float-quantized',
    'naive-quantized',
    'nvfp4-pack-quantized',
    'mxfp4-pack-quantized',
    'mxfp8-quantized',
    'marlin-24',
  ].map((format): [string, object, string, string] => [
    format,
    { quant_method: 'compressed-tensors', format, ...group({ group_size: 32 }) },
    'UNSUPPORTED',
    `compressed-tensors weights in the format "${format}", which this version does not read; use a version of the model in the format pack-quantized`,
  ]),
  ['a group of another format', group({ group_size: 32 }, { format: 'float-quantized' }), 'UNSUPPORTED', '"float-quantized"'],
  ['float weights', group({ type: 'float', group_size: 32 }), 'UNSUPPORTED', 'of type float with 4 bits'],
  ['block scales', group({ strategy: 'block' }), 'UNSUPPORTED', 'the strategy "block"'],
  ['one zero point', group({ strategy: 'tensor', symmetric: false }), 'UNSUPPORTED', 'one zero point for a whole tensor'],
  [
    'static activations',
    group({ group_size: 32 }, { input_activations: { num_bits: 8 } }),
    'UNSUPPORTED',
    'activations quantised with stored scales',
  ],
  ['sparsity', { ...group({ group_size: 32 }), sparsity_config: { format: 'sparse-24-bitmask' } }, 'UNSUPPORTED', '"sparse-24-bitmask"'],
  ['transforms', { ...group({ group_size: 32 }), transform_config: { config_groups: { u: {} } } }, 'UNSUPPORTED', 'transforms'],
  ['a KV cache', { ...group({ group_size: 32 }), kv_cache_scheme: { num_bits: 8 } }, 'UNSUPPORTED', 'kv_cache_scheme'],
  ['unpacked', { ...group({ group_size: 32 }), quantization_status: 'frozen' }, 'UNSUPPORTED', 'in the state "frozen", not yet packed'],
  ['no groups', { quant_method: 'compressed-tensors' }, 'CORRUPT_FILE', 'Expected an object for quantization_config.config_groups'],
  ['9 bits', group({ num_bits: 9, group_size: 32 }), 'CORRUPT_FILE', 'config_groups.g.weights.num_bits in config.json but received 9'],
  ['half a group', group({ strategy: 'group', group_size: 1.5 }), 'CORRUPT_FILE', 'weights.group_size'],
  ['no group size', group({ strategy: 'group' }), 'CORRUPT_FILE', 'weights.group_size'],
  ['a bad target', group({ group_size: 32 }, { targets: ['re:('] }), 'UNSUPPORTED', 'the target "("'],
  ['targets of numbers', group({ group_size: 32 }, { targets: [1] }), 'CORRUPT_FILE', 'config_groups.g.targets'],
  ['a bad ignore', { ...group({ group_size: 32 }), ignore: {} }, 'CORRUPT_FILE', 'quantization_config.ignore'],
  [
    'bitsandbytes',
    { quant_method: 'bitsandbytes', load_in_4bit: true },
    'UNSUPPORTED',
    'a bitsandbytes checkpoint, which this version does not read; quantise',
  ],
  ['fp8', { quant_method: 'fp8' }, 'UNSUPPORTED', 'an FP8 checkpoint, which this version does not read; use a GPTQ'],
  ['HQQ', { quant_method: 'hqq' }, 'UNSUPPORTED', 'an HQQ checkpoint'],
  ['AQLM', { quant_method: 'aqlm' }, 'UNSUPPORTED', 'an AQLM checkpoint'],
  ['EXL2', { quant_method: 'exl2' }, 'UNSUPPORTED', 'an EXL2 checkpoint'],
  ['EXL3', { quant_method: 'exl3' }, 'UNSUPPORTED', 'an EXL3 checkpoint'],
  ['MXFP4', { quant_method: 'mxfp4' }, 'UNSUPPORTED', 'an MXFP4 checkpoint, which this version does not read; use a BF16 version'],
  ['AutoRound', { quant_method: 'auto-round' }, 'UNSUPPORTED', 'an AutoRound checkpoint'],
  ['another method', { quant_method: 'constructor' }, 'UNSUPPORTED', 'weights quantised by "constructor"'],
])('%s', async (_, config, code, text) => {
  const error = await errorOf(() => parse(config));
  expect(error.code).toBe(code);
  expect(error.message).toContain(text);
});

test('checkpoints without settings are known by their tensors', () => {
  expect(foreignByTensors(['a.weight', 'a.weight.quant_state.bitsandbytes__nf4'])).toBe('a bitsandbytes checkpoint');
  expect(foreignByTensors(['a.q_weight'])).toContain('EXL2');
  expect(foreignByTensors(['a.trellis'])).toContain('EXL3');
  expect(foreignByTensors(['a.weight', 'b.bias'])).toBeUndefined();
});
