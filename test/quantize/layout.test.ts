// lib/quantize layout and config: which linears become which tensors, and the JSON that describes them.
import { type LowbitError } from '../../lib/errors';
import type { Plan, Weight } from '../../lib/graph/plan';
import { configText, editConfigText, quantizationConfig } from '../../lib/quantize/config';
import { DynamicTable } from '../../lib/quantize/dynamic';
import {
  checkpointFormat,
  groupCount,
  listed,
  packedBytes,
  partShapes,
  selectTargets,
  shortGroups,
  type Selection,
} from '../../lib/quantize/layout';
import { resolveOptions, type QuantizeOptions, type ResolvedOptions } from '../../lib/quantize/options';
import { defaultSettings, type SolveSettings } from '../../lib/quantize/settings';

function planOf(shapes: readonly (readonly [string, number, number])[]): Plan {
  const weights = shapes.map(([name, n, k], tensor): Weight => ({ name, n, k, source: { kind: 'tensor', tensor }, role: 'linear' }));
  return { weights } as unknown as Plan;
}

function select(
  shapes: readonly (readonly [string, number, number])[],
  settings: Partial<SolveSettings> = {},
  rules?: object,
): Selection & { problems: LowbitError[] } {
  const problems: LowbitError[] = [];
  const dynamic = DynamicTable.parse(rules, problems);
  const selection = selectTargets(planOf(shapes), [...shapes.keys()], { ...defaultSettings, ...settings }, dynamic, problems);
  return { ...selection, problems };
}

function resolved(options: Partial<QuantizeOptions> = {}): ResolvedOptions {
  return resolveOptions({ model: 'm', output: 'o', calibration: 'text', ...options }, []) as ResolvedOptions;
}

test.each([
  [{ bits: 4, groupSize: 128 }, 384, 128, [48, 128], [3, 16], [3, 128]],
  [{ bits: 3, groupSize: 64 }, 96, 64, [9, 64], [2, 6], [2, 64]],
  [{ bits: 2, groupSize: 32 }, 64, 16, [4, 16], [2, 1], [2, 16]],
  [{ bits: 8, groupSize: -1 }, 160, 4, [40, 4], [1, 1], [1, 4]],
  [{ bits: 4, groupSize: 128 }, 576, 8, [72, 8], [5, 1], [5, 8]],
] as const)('shapes for %p, k %d, n %d', (settings, k, n, qweight, qzeros, scales) => {
  const shapes = partShapes({ n, k, settings: { ...defaultSettings, ...settings } });
  expect(shapes.map(({ part, dtype, shape }) => [part, dtype, shape])).toEqual([
    ['qweight', 'I32', qweight],
    ['qzeros', 'I32', qzeros],
    ['scales', 'F16', scales],
    ['g_idx', 'I32', [k]],
  ]);
  for (const { dtype, shape, bytes } of shapes) expect(bytes).toBe(shape.reduce((a, b) => a * b, 1) * (dtype === 'F16' ? 2 : 4));
});

test('bits per weight are those of the reference table plus the stored column order', () => {
  // 4 bit, group 128, F16 scale and 4-bit zero: 4 + 20 / 128; g_idx: 32 / n.
  const target = { n: 1024, k: 1024, settings: defaultSettings };
  expect((packedBytes(target) * 8) / (1024 * 1024)).toBeCloseTo(4 + 20 / 128 + 32 / 1024, 12);
  expect(groupCount(576, 128)).toBe(5);
  expect(groupCount(576, -1)).toBe(1);
});

test('rules change or skip single linears', () => {
  const { targets, skipped, problems } = select(
    [
      ['model.layers.0.q', 64, 64],
      ['model.layers.0.v', 64, 64],
      ['model.layers.0.down', 64, 64],
    ],
    { groupSize: 64 },
    { '.*\\.v': { bits: 8, sym: false }, '-:.*down': {} },
  );
  expect(problems).toEqual([]);
  expect(skipped).toEqual(['model.layers.0.down']);
  expect([...targets.values()].map(({ weight, settings }) => [weight, settings.bits, settings.groupSize, settings.sym])).toEqual([
    [0, 4, 64, true],
    [1, 8, 64, false],
  ]);
});

test('all linears that do not fit are in one problem', () => {
  const { problems } = select([
    ['a', 64, 48],
    ['b', 64, 64],
    ['c', 12, 64],
  ]);
  expect(problems).toHaveLength(1);
  expect(problems[0]?.code).toBe('UNSUPPORTED');
  expect(problems[0]?.message).toBe(
    '2 of 3 linears do not fit the layout of the output: a (48 input columns are not a multiple of 32), c (12 output rows of 4 bit do not fill 32-bit words). Leave them dense with a rule such as dynamic: { "-:<name>": {} } or choose other bits',
  );
  expect(
    select(
      [
        ['a', 64, 48],
        ['b', 64, 64],
      ],
      {},
      { '-:a': {} },
    ).problems,
  ).toEqual([]);
  expect(select([['c', 12, 64]], { bits: 8 }).problems).toEqual([]);
  expect(select([['c', 16, 64]], { bits: 3 }).problems).toHaveLength(1);
});

test('rules that match nothing, and rules that leave nothing', () => {
  expect(select([['model.q', 64, 64]], {}, { q: { bits: 8 } }).problems[0]?.message).toBe(
    'No linear of the model matches dynamic "q"; names look like model.q and are matched from their start',
  );
  expect(select([['model.q', 64, 64]], {}, { '-:.*': {} }).problems[0]?.message).toBe(
    'Nothing to quantise: the rules in dynamic leave every linear dense',
  );
});

test('one asymmetric linear makes the checkpoint version 2', () => {
  const shapes = [
    ['a', 64, 64],
    ['b', 64, 64],
  ] as const;
  expect(checkpointFormat(select(shapes).targets.values())).toBe('gptq');
  expect(checkpointFormat(select(shapes, { sym: false }).targets.values())).toBe('gptq_v2');
  expect(checkpointFormat(select(shapes, {}, { b: { sym: false } }).targets.values())).toBe('gptq_v2');
});

test('short groups and long lists are told', () => {
  const { targets } = select([
    ['a', 64, 576],
    ['b', 64, 512],
  ]);
  expect(shortGroups(targets.values())).toEqual(['a']);
  expect(shortGroups(select([['a', 64, 576]], { groupSize: -1 }).targets.values())).toEqual([]);
  expect(listed(['a', 'b', 'c'], 2)).toBe('a, b and 1 more');
});

describe('quantization_config', () => {
  test('has the keys that readers of GPTQ checkpoints want', () => {
    expect(quantizationConfig(resolved(), 'gptq', '1.2.3')).toEqual({
      bits: 4,
      group_size: 128,
      desc_act: false,
      sym: true,
      lm_head: false,
      quant_method: 'gptq',
      method: 'gptq',
      checkpoint_format: 'gptq',
      format: 'gptq',
      pack_dtype: 'int32',
      meta: {
        quantizer: ['lowbit:1.2.3'],
        damp_percent: 0.05,
        damp_auto_increment: 0.01,
        static_groups: true,
        true_sequential: true,
        mse: 2,
        act_group_aware: false,
      },
    });
  });

  test('says what was used', () => {
    const options = resolved({
      bits: 3,
      groupSize: -1,
      sym: false,
      descAct: true,
      staticGroups: true,
      mse: 2.4,
      dynamic: { '.*v_proj': { bits: 8 } },
    });
    expect(quantizationConfig(options, 'gptq_v2', '1')).toMatchObject({
      bits: 3,
      group_size: -1,
      desc_act: false, // no order is stored
      sym: false,
      checkpoint_format: 'gptq_v2',
      format: 'gptq_v2',
      dynamic: { '.*v_proj': { bits: 8 } },
      meta: { static_groups: true, act_group_aware: false, mse: 2.4 },
    });
    expect(quantizationConfig(resolved({ preset: 'fast', descAct: true }), 'gptq', '1')).toMatchObject({ desc_act: true });
    const rtn = quantizationConfig(resolved({ method: 'rtn', descAct: true }), 'gptq', '1');
    expect(rtn).toMatchObject({ desc_act: false, quant_method: 'gptq' });
    expect(rtn['meta']).toEqual({ quantizer: ['lowbit:1'], mse: 0, algorithm: 'rtn' });
  });

  test('goes into config.json without touching the rest', () => {
    const text = '{\n  "rope_theta": 10000.0,\n  "quantization_config": null,\n  "big": 12345678901234567890\n}\n';
    const added = editConfigText(text, { quantization_config: { bits: 4 } }, 'config.json');
    expect(added).toBe('{\n  "rope_theta": 10000.0,\n  "big": 12345678901234567890,\n  "quantization_config": {\n    "bits": 4\n  }\n}\n');
    expect(JSON.parse(editConfigText('{}', { a: { bits: 4 } }, 'config.json'))).toEqual({ a: { bits: 4 } });
    expect(() => editConfigText('[1]', {}, 'x/config.json')).toThrow(expect.objectContaining({ code: 'CORRUPT_FILE' }));
    expect(() => editConfigText('{"a": ', {}, 'x/config.json')).toThrow(expect.objectContaining({ code: 'CORRUPT_FILE' }));
  });

  test.each([
    ['{"a": {"b": [1, {"a": 2}], "c": "}\\",{"}, "b": 1.0}', '{ "b": 1.0\n}\n'],
    ['{"b": "\\\\", "a": 1}', '{"b": "\\\\"\n}\n'],
    ['{"a": []}', '{\n}\n'],
    ['{\n\t"b" : {"a": 1} ,\n\t"\\u0061": 3,"d":[1,2]}', '{\n\t"b" : {"a": 1},"d":[1,2]\n}\n'],
  ])('a key goes out of %s', (text, expected) => {
    const without = editConfigText(text, { a: undefined }, 'config.json');
    expect(without).toBe(expected);
    const { a: _a, ...rest } = JSON.parse(text) as Record<string, unknown>;
    expect(JSON.parse(without)).toEqual(rest);
  });

  test('rebuilt configurations keep floats as floats', () => {
    const text = configText(
      { rope_theta: 10000, hidden_size: 64, rope_parameters: { factor: 8, rope_theta: 5e5 }, list: [1, 'a'], none: undefined, empty: {} },
      { bits: 4 },
    );
    expect(text).toContain('"rope_theta": 10000.0,');
    expect(text).toContain('"factor": 8.0,');
    expect(text).toContain('"hidden_size": 64,');
    expect(JSON.parse(text)).toEqual({
      rope_theta: 10000,
      hidden_size: 64,
      rope_parameters: { factor: 8, rope_theta: 5e5 },
      list: [1, 'a'],
      empty: {},
      quantization_config: { bits: 4 },
    });
  });
});
