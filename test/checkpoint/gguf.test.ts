/** GGUF containers: right ones of both versions, and hostile ones. */
import fs from 'node:fs';
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import { NeedMoreBytes, parseGgufHeader } from '../../lib/checkpoint/gguf_header';
import { GGUF_ARCHITECTURES, ggufName } from '../../lib/checkpoint/gguf_names';
import { type GgufSpec, errorOf, f32, ggufFile, temporaryDirectory, text, tinyGguf, u32, u64 } from './support';

const directory = temporaryDirectory();
let files = 0;
function write(bytes: Uint8Array): string {
  const file = path.join(directory, `${files++}.gguf`);
  fs.writeFileSync(file, bytes);
  return file;
}

function parse(bytes: Buffer, limit = 2 ** 29): ReturnType<typeof parseGgufHeader> {
  return parseGgufHeader(bytes, bytes.length, limit, 'x.gguf');
}

function header(spec: GgufSpec): Exclude<ReturnType<typeof parseGgufHeader>, NeedMoreBytes> {
  const parsed = parse(ggufFile(spec));
  if (parsed instanceof NeedMoreBytes) throw new Error('unexpected end');
  return parsed;
}

test.each([2, 3])('version %d: values of all types', (version) => {
  const { metadata } = header({
    version,
    keys: [
      ['a', 'u8', 255],
      ['b', 'i8', -128],
      ['c', 'u16', 65535],
      ['d', 'u32', 2 ** 32 - 1],
      ['e', 'i32', -(2 ** 31)],
      ['f', 'f32', 0.5],
      ['g', 'bool', true],
      ['h', 'string', 'h\u00e9'],
      ['i', 'strings', ['', 'x']],
      ['j', 'f32s', [1, -2]],
      ['k', 'u64', 2n ** 53n - 1n],
      ['l', 'u64', 2n ** 64n - 1n],
      ['m', 'f64', 1e300],
    ],
  });
  expect(Object.fromEntries(metadata)).toEqual({
    a: 255,
    b: -128,
    c: 65535,
    d: 2 ** 32 - 1,
    e: -(2 ** 31),
    f: 0.5,
    g: true,
    h: 'h\u00e9',
    i: ['', 'x'],
    j: [1, -2],
    k: Number.MAX_SAFE_INTEGER,
    l: 2n ** 64n - 1n,
    m: 1e300,
  });
});

test('arrays of arrays', () => {
  const inner = (value: number): Buffer => Buffer.concat([u32(4), u64(1n), u32(value)]);
  const extra = Buffer.concat([text('n'), u32(9), u32(9), u64(2n), inner(1), inner(2)]);
  expect(header({ keyCount: 1n, extra }).metadata.get('n')).toEqual([[1], [2]]);
});

test('tensors: shapes turned round, blocks, alignment', () => {
  const spec: GgufSpec = {
    keys: [['general.alignment', 'u32', 64]],
    alignment: 64,
    tensors: [
      { name: 'q', dims: [64, 3], type: 3, data: Buffer.alloc(120) },
      { name: 'f', dims: [5], type: 0, data: Buffer.alloc(20) },
    ],
  };
  const bytes = ggufFile(spec);
  const { tensors } = header(spec);
  const start = bytes.length - 192;
  expect(start % 64).toBe(0);
  expect(tensors).toEqual([
    { name: 'q', file: 0, dtype: 'Q4_1', shape: [3, 64], offset: start, bytes: 120 },
    { name: 'f', file: 0, dtype: 'F32', shape: [5], offset: start + 128, bytes: 20 },
  ]);
});

test('a header that comes in pieces says how much it needs', () => {
  const bytes = ggufFile(tinyGguf());
  let pieces = 0;
  for (let length = 1; ; pieces++) {
    const parsed = parseGgufHeader(bytes.subarray(0, length), bytes.length, 2 ** 29, 'x');
    if (!(parsed instanceof NeedMoreBytes)) break;
    expect(parsed.bytes).toBeGreaterThan(length);
    length = parsed.bytes;
  }
  expect(pieces).toBeGreaterThan(20);
});

test('a header of several megabytes, read piece by piece', async () => {
  const tokens = Array.from({ length: 120_000 }, (_, i) => `token number ${i}`);
  const spec = tinyGguf({ keys: [['other.tokens', 'strings', tokens]] });
  const checkpoint = await openCheckpoint(write(ggufFile(spec)));
  expect(checkpoint.tensors).toHaveLength(1);
});

const tensor = { name: 't', dims: [32], type: 0, data: Buffer.alloc(128) } as const;

test.each<[string, GgufSpec | Buffer, string]>([
  ['another format', { magic: 'GGML' }, 'does not start with "GGUF"'],
  ['an empty file', Buffer.alloc(0), 'has 0 bytes'],
  ['half a header', ggufFile({}).subarray(0, 20), 'ends inside its header, at byte 20: it is truncated'],
  ['2^63 tensors', { tensorCount: 2n ** 63n }, `claims ${2n ** 63n} tensors`],
  ['2^64 - 1 keys', { keyCount: 2n ** 64n - 1n }, `claims ${2n ** 64n - 1n} keys`],
  ['more keys than there are', { keyCount: 2n, keys: [['a', 'u32', 1]], extra: Buffer.alloc(12) }, 'ends inside its header'],
  ['a key of 2^40 bytes', { keyCount: 1n, extra: Buffer.concat([u64(2n ** 40n), Buffer.alloc(64)]) }, 'has a key of 1099511627776 bytes'],
  [
    'a text of 2^60 bytes',
    { keyCount: 1n, extra: Buffer.concat([text('k'), u32(8), u64(2n ** 60n)]) },
    'claims a text of 1152921504606846976 bytes in the key "k"',
  ],
  [
    'an array of 2^60',
    { keyCount: 1n, extra: Buffer.concat([text('k'), u32(9), u32(4), u64(2n ** 60n)]) },
    'claims 1152921504606846976 values in the key "k"',
  ],
  [
    'an array of an unknown type',
    { keyCount: 1n, extra: Buffer.concat([text('k'), u32(9), u32(99), u64(1n)]) },
    'unknown value type 99 in the key "k"',
  ],
  ['an unknown type', { keyCount: 1n, extra: Buffer.concat([text('k'), u32(13), u64(1n)]) }, 'unknown value type 13'],
  ['a boolean of 2', { keys: [['k', 'bool', 2]] }, 'boolean 2 in the key "k"'],
  [
    'a key twice',
    {
      keys: [
        ['k', 'u32', 1],
        ['k', 'u32', 2],
      ],
    },
    'key "k" twice',
  ],
  [
    'a key of wrong UTF-8',
    { keyCount: 1n, extra: Buffer.concat([u64(1n), Buffer.from([0xff]), u32(4), u32(1)]) },
    'key that is no valid UTF-8',
  ],
  ['five dimensions', { tensors: [{ ...tensor, dims: [1, 1, 1, 1, 1] }] }, '"t" has 5 dimensions'],
  ['a product that overflows', { tensors: [{ ...tensor, dims: [2 ** 32, 2 ** 32] }] }, 'size overflows'],
  ['a dimension of 2^64 - 1', { tensors: [{ ...tensor, dims: [2n ** 64n - 1n] }] }, 'has the dimension 18446744073709551615'],
  ['rows that are no whole blocks', { tensors: [{ ...tensor, dims: [33], type: 2 }] }, 'rows of 33 values'],
  ['an offset off the alignment', { tensors: [{ ...tensor, offset: 16 }] }, 'the offset 16, which is no multiple of 32'],
  ['an offset of 2^64 - 32', { tensors: [{ ...tensor, offset: 2n ** 64n - 32n }] }, 'has the offset 18446744073709551584'],
  ['an offset beyond the file', { tensors: [{ ...tensor, offset: 2 ** 40 }] }, 'it is truncated'],
  ['a truncated tensor', ggufFile({ tensors: [tensor] }).subarray(0, -1), 'it is truncated'],
  ['an overlap', { tensors: [tensor, { ...tensor, name: 'u', offset: 96 }] }, 'overlap'],
  ['an alignment of 0', { keys: [['general.alignment', 'u32', 0]] }, 'general.alignment 0'],
  ['an alignment of 24', { keys: [['general.alignment', 'u32', 24]] }, 'general.alignment 24'],
  ['an alignment of 2^31', { keys: [['general.alignment', 'u32', 2 ** 31]] }, 'general.alignment 2147483648'],
  ['an alignment that is a text', { keys: [['general.alignment', 'string', '32']] }, 'general.alignment 32'],
])('%s', async (_, spec, message) => {
  const error = await errorOf(() => {
    const parsed = parse(Buffer.isBuffer(spec) ? spec : ggufFile(spec));
    return parsed instanceof NeedMoreBytes ? 'NeedMoreBytes' : parsed;
  });
  expect(error.code).toBe('CORRUPT_FILE');
  expect(error.message).toContain(message);
  expect(error.message).toContain('x.gguf');
});

test('arrays nested without end', async () => {
  const level = Buffer.concat([u32(9), u64(1n)]);
  const extra = Buffer.concat([text('k'), u32(9), ...Array<Buffer>(10_000).fill(level)]);
  expect((await errorOf(() => parse(ggufFile({ keyCount: 1n, extra })))).message).toContain('nests arrays too deep');
});

test('a header longer than the limit', async () => {
  const bytes = ggufFile({ keys: [['k', 'string', 'x'.repeat(1000)]] });
  expect((await errorOf(() => parse(bytes, 500))).message).toMatch(/more than its header can hold|header of more than 500 bytes/);
});

const bigEndian = ggufFile({});
bigEndian.writeUInt32BE(3, 4);
test.each<[string, Uint8Array, string]>([
  ['version 1', ggufFile({ version: 1 }), 'version 1'],
  ['version 4', ggufFile({ version: 4 }), 'version 4; this version of lowbit reads 2 and 3'],
  ['big-endian', bigEndian, 'big-endian'],
  ['a part of a split model', ggufFile({ keys: [['split.count', 'u16', 3]] }), 'one of 3 parts of a split GGUF model'],
  ['a quantisation that is not read', ggufFile({ tensors: [{ ...tensor, dims: [256], type: 16 }] }), '"t" is IQ2_XXS'],
  ['an unknown quantisation', ggufFile({ tensors: [{ ...tensor, type: 999 }] }), 'of the unknown type 999'],
  ['an unknown architecture', ggufFile({ keys: [['general.architecture', 'string', 'mamba']] }), '"mamba"; this version knows llama'],
  ['an architecture of the prototype', ggufFile({ keys: [['general.architecture', 'string', 'constructor']] }), '"constructor"'],
])('%s is UNSUPPORTED', async (_, bytes, message) => {
  const error = await errorOf(() => openCheckpoint(write(bytes)));
  expect(error.code).toBe('UNSUPPORTED');
  expect(error.message).toContain(message);
});

test('no architecture, and a tensor name twice', async () => {
  expect((await errorOf(() => openCheckpoint(write(ggufFile({}))))).message).toContain('general.architecture is missing');
  const twice = tinyGguf({ tensors: [tensor, tensor] });
  expect((await errorOf(() => openCheckpoint(write(ggufFile(twice))))).message).toContain('the tensor "t" stands in it twice');
});

test('names', async () => {
  const norm = { name: 'blk.1.attn_norm.weight', dims: [8], type: 0, data: f32(Array<number>(8).fill(1)) };
  const checkpoint = await openCheckpoint(write(ggufFile(tinyGguf({ tensors: [norm] }))));
  expect(checkpoint.find('model.layers.1.input_layernorm.weight')).toBe(1);
  expect(checkpoint.find('model.embed_tokens.weight')).toBe(0);
  expect(checkpoint.find('model.layers.0.input_layernorm.weight')).toBeUndefined();
  expect(checkpoint.find('blk.1.attn_norm.weight')).toBeUndefined();

  expect(ggufName('llama', 'model.layers.12.post_attention_layernorm.weight')).toBe('blk.12.ffn_norm.weight');
  expect(ggufName('gemma2', 'model.layers.12.post_attention_layernorm.weight')).toBe('blk.12.post_attention_norm.weight');
  expect(ggufName('gemma3', 'model.layers.0.pre_feedforward_layernorm.weight')).toBe('blk.0.ffn_norm.weight');
  expect(ggufName('olmo2', 'model.layers.0.post_feedforward_layernorm.weight')).toBe('blk.0.post_ffw_norm.weight');
  expect(ggufName('qwen2', 'model.layers.0.self_attn.q_proj.bias')).toBe('blk.0.attn_q.bias');
  expect(ggufName('qwen3', 'model.layers.0.self_attn.k_norm.weight')).toBe('blk.0.attn_k_norm.weight');
  expect(ggufName('phi3', 'model.layers.0.mlp.gate_up_proj.weight')).toBe('blk.0.ffn_up.weight');
  for (const architecture of GGUF_ARCHITECTURES) {
    expect(ggufName(architecture, 'lm_head.weight')).toBe('output.weight');
    for (const name of ['model.layers.0.constructor.weight', 'constructor.weight', 'model.layers.x.mlp.up_proj.weight', 'lm_head', '']) {
      expect(ggufName(architecture, name)).toBeUndefined();
    }
  }
  expect(ggufName('llama', 'model.layers.0.self_attn.q_norm.weight')).toBeUndefined();
});
