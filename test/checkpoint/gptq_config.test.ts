/** GPTQ settings as tools write them, and zero points told apart by content. */
import fs from 'node:fs';
import path from 'node:path';
import { type GptqConfig, openCheckpoint, parseQuantizationConfig, resolveZeroOffset } from '../../lib/checkpoint';
import type { Checkpoint } from '../../lib/checkpoint/types';
import { integers } from './tiny';
import { FIXTURES, errorOf, safetensorsFile, temporaryDirectory } from './support';

const parse = (quantization_config: unknown): GptqConfig => {
  const parsed = parseQuantizationConfig({ quantization_config });
  if (parsed?.method !== 'gptq') throw new Error('not GPTQ');
  return parsed;
};

test('no quantisation', () => {
  expect(parseQuantizationConfig({})).toBeUndefined();
  expect(parseQuantizationConfig({ quantization_config: null })).toBeUndefined();
});

test('defaults, synonyms, null as not given', () => {
  expect(parse({ bits: 4 })).toMatchObject({ bits: 4, groupSize: -1, sym: true, descAct: false, format: 'v1', lmHead: false });
  expect(parse({ w_bit: 3, q_group_size: 64, quant_method: null })).toMatchObject({ bits: 3, groupSize: 64 });
  expect(parse({ wbits: 8, group_size: 128, sym: false, desc_act: true, lm_head: true, checkpoint_format: 'gptq_v2' })).toMatchObject({
    bits: 8,
    groupSize: 128,
    sym: false,
    descAct: true,
    format: 'v2',
    lmHead: true,
  });
  expect(parse({ bits: 4, method: 'gptq', format: 'gptq_v2' })).toMatchObject({ format: 'v2' });
});

test('dynamic rules: skipping ones first, then the first match, from the start of the name', () => {
  const config = parse({
    bits: 4,
    group_size: 128,
    dynamic: { '.*': { bits: 8 }, '+:lm_head': { bits: 2 }, '-:.*down_proj': {}, 'model\\.layers\\.0\\.': { group_size: 32 } },
  });
  expect(config.module('model.layers.0.mlp.down_proj')).toBeUndefined();
  expect(config.module('model.layers.0.mlp.up_proj')).toEqual({ bits: 8, groupSize: 128, sym: true, descAct: false });

  const second = parse({ bits: 4, dynamic: { 'layers\\.0': { bits: 8 }, '+:.*\\.1\\.': { sym: false } } });
  expect(second.module('model.layers.0.x')?.bits).toBe(4); // matches only from the start
  expect(second.module('layers.0.x')?.bits).toBe(8);
  expect(second.module('model.layers.1.x')).toMatchObject({ bits: 4, sym: false });
});

test.each<[string, unknown, string, string]>([
  ['planar', { bits: 4, format: 'gptq_p' }, 'UNSUPPORTED', '"gptq_p" (planar words)'],
  ['marlin by format', { bits: 4, checkpoint_format: 'marlin' }, 'UNSUPPORTED', '"marlin"'],
  ['marlin by flag', { bits: 4, is_marlin_format: true }, 'UNSUPPORTED', 'Marlin layout'],
  ['64-bit words', { bits: 4, pack_dtype: 'int64' }, 'UNSUPPORTED', 'packed in int64'],
  ['no bits', {}, 'CORRUPT_FILE', 'Expected 2, 3, 4 or 8 for quantization_config.bits in config.json but received undefined'],
  ['5 bits', { bits: 5 }, 'CORRUPT_FILE', 'but received 5 of type number'],
  ['bits as text', { bits: '4' }, 'CORRUPT_FILE', 'received "4" of type string'],
  ['group size 0', { bits: 4, group_size: 0 }, 'CORRUPT_FILE', 'quantization_config.group_size'],
  ['group size -2', { bits: 4, group_size: -2 }, 'CORRUPT_FILE', 'quantization_config.group_size'],
  ['group size 2^40', { bits: 4, group_size: 2 ** 40 }, 'CORRUPT_FILE', 'quantization_config.group_size'],
  ['sym as text', { bits: 4, sym: 'yes' }, 'CORRUPT_FILE', 'quantization_config.sym'],
  ['a list', [], 'CORRUPT_FILE', 'an object'],
  ['a rule that is no expression', { bits: 4, dynamic: { '(': {} } }, 'UNSUPPORTED', 'dynamic rule "("'],
  ['a rule of wrong settings', { bits: 4, dynamic: { a: { bits: 7 } } }, 'CORRUPT_FILE', 'but received 7'],
  ['a rule that is no object', { bits: 4, dynamic: { a: 1 } }, 'CORRUPT_FILE', 'dynamic["a"]'],
  ['an endless rule', { bits: 4, dynamic: { ['a'.repeat(2000)]: {} } }, 'CORRUPT_FILE', 'at most 1024 characters'],
])('%s', async (_, config, code, text) => {
  const error = await errorOf(() => parse(config));
  expect(error.code).toBe(code);
  expect(error.message).toContain(text);
});

describe('zero points of files that other tools wrote', () => {
  const interop = path.join(FIXTURES, 'interop');
  test.each(fs.readdirSync(interop).filter((name) => name.startsWith('gptq-')))('%s', async (name) => {
    const checkpoint = await openCheckpoint(path.join(interop, name));
    const config = parseQuantizationConfig(checkpoint.config) as GptqConfig;
    const qzeros = checkpoint.tensors.flatMap((tensor, i) => (tensor.name.endsWith('.qzeros') ? [i] : []));
    expect(qzeros.length).toBeGreaterThan(0);
    for (const i of qzeros) expect(resolveZeroOffset(checkpoint, i, config)).toEqual({ zeroOffset: name.includes('-v1-') ? 1 : 0 });
    if (!config.sym && config.bits !== 3 && config.bits !== 4) return;
    const wrong = { ...config, format: config.format === 'v1' ? 'v2' : 'v1' } as const;
    const resolved = resolveZeroOffset(checkpoint, qzeros[0] as number, wrong);
    expect(resolved.zeroOffset).toBe(config.format === 'v1' ? 1 : 0);
    expect(resolved.warning).toContain('is labelled');
  });
});

describe('zero points made here', () => {
  const directory = temporaryDirectory();
  fs.writeFileSync(path.join(directory, 'config.json'), '{}');
  const withWords = async (words: readonly number[], shape: readonly number[], dtype = 'I32'): Promise<Checkpoint> => {
    const data = Buffer.alloc(words.length * 4);
    words.forEach((word, i) => data.writeUInt32LE(word >>> 0, 4 * i));
    fs.writeFileSync(
      path.join(directory, 'model.safetensors'),
      safetensorsFile({ 'a.qzeros': { dtype, shape, data_offsets: [0, data.length] } }, data),
    );
    return openCheckpoint(directory);
  };

  // 3 bit: fields of 3 (v1) and 4 (v2), least significant bit first, run across words.
  test.each([
    [2, [0x55555555], 1],
    [2, [0xaaaaaaaa], 0],
    [3, [0xdb6db6db, 0xb6db6db6, 0x6db6db6d], 1],
    [3, [0x24924924, 0x49249249, 0x92492492], 0],
    [4, [0x77777777, 0x77777777], 1],
    [4, [0x88888888, 0x88888888], 0],
    [8, [0x7f7f7f7f], 1],
    [8, [0x80808080], 0],
  ] as const)('%d bit %j', async (bits, words, expected) => {
    const checkpoint = await withWords(words, [1, words.length]);
    for (const format of ['v1', 'v2'] as const)
      expect(resolveZeroOffset(checkpoint, 0, { bits, sym: true, format }).zeroOffset).toBe(expected);
  });

  test('the label decides where the content cannot', async () => {
    const offsets = async (words: readonly number[], sym: boolean): Promise<number[]> => {
      const checkpoint = await withWords(words, [1, words.length]);
      return (['v1', 'v2'] as const).map((format) => resolveZeroOffset(checkpoint, 0, { bits: 4, sym, format }).zeroOffset);
    };
    expect(await offsets([0x88888888], false)).toEqual([1, 0]);
    expect(await offsets(Array<number>(31).fill(0x88888888), false)).toEqual([1, 0]);
    expect(await offsets(Array<number>(32).fill(0x88888888), false)).toEqual([0, 0]);
    expect(await offsets(Array<number>(32).fill(0x77777777), false)).toEqual([1, 1]);
    expect(await offsets([0x88888887], true)).toEqual([1, 0]);
    expect(await offsets([], true)).toEqual([1, 0]);
  });

  // Zero points around the middle of the range, 7.5, as asymmetric weights have; stored as they are (v2) and one less (v1).
  test('asymmetric zero points by their mean', async () => {
    const random = integers(7);
    const fields = (offset: number, count: number): number[] =>
      Array.from({ length: count }, () =>
        Array.from({ length: 8 }, () => 6 + (random() % 4) - offset).reduce((word, z) => word * 16 + z, 0),
      );
    const settings = { bits: 4, groupSize: 128, sym: false, descAct: false } as const;
    const read = async (words: readonly number[], sym = false): Promise<(0 | 1)[]> => {
      const checkpoint = await withWords(words, [1, words.length]);
      return (['v1', 'v2'] as const).map(
        (format) => resolveZeroOffset(checkpoint, 0, { ...settings, sym, format, module: () => ({ ...settings, sym }) }).zeroOffset,
      );
    };
    expect(await read(fields(0, 256))).toEqual([0, 0]);
    expect(await read(fields(1, 256))).toEqual([1, 1]);
    expect(await read(fields(0.5, 256).map(() => 0x12345678))).toEqual([1, 0]); // a mean that neither predicts
    expect(await read(fields(0, 255))).toEqual([1, 0]); // too few
    expect(await read(fields(0, 256), true)).toEqual([1, 0]); // not where they should be equal
  });

  test('a tensor that is no I32 matrix', async () => {
    for (const checkpoint of [await withWords([1], [1]), await withWords([1], [1, 1], 'F32')]) {
      const error = await errorOf(() => resolveZeroOffset(checkpoint, 0, { bits: 4, sym: true, format: 'v1' }));
      expect(error.code).toBe('CORRUPT_FILE');
      expect(error.message).toContain('expected an I32 matrix for "a.qzeros"');
    }
  });
});
