/**
 * bench/pure: writes the header of a GGUF file, version 3, for models with random weights. Pure: the data is written by
 * run/synthetic.mjs. The layout is described in lib/checkpoint/gguf_header.ts.
 */
'use strict';

const ALIGNMENT = 32;
const TYPE = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 };
/** ggml's ids and bytes per value of the two types that are written. */
const DTYPE = { F32: { id: 0, bytes: 4 }, F16: { id: 1, bytes: 2 } };

const u32 = (value) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const text = (value) => {
  const bytes = Buffer.from(value, 'utf8');
  return Buffer.concat([u64(bytes.length), bytes]);
};

/** One metadata value: {u32: 5}, {f32: 1e-5}, {bool: true}, {string: 'x'}, {strings: [..]}, {i32s: [..]}. */
function encodeValue(value) {
  const [[kind, content]] = Object.entries(value);
  switch (kind) {
    case 'u32':
      return Buffer.concat([u32(TYPE.u32), u32(content)]);
    case 'f32': {
      const bytes = Buffer.alloc(4);
      bytes.writeFloatLE(content);
      return Buffer.concat([u32(TYPE.f32), bytes]);
    }
    case 'bool':
      return Buffer.concat([u32(TYPE.bool), Buffer.from([content ? 1 : 0])]);
    case 'string':
      return Buffer.concat([u32(TYPE.string), text(content)]);
    case 'strings':
      return Buffer.concat([u32(TYPE.array), u32(TYPE.string), u64(content.length), ...content.map(text)]);
    case 'i32s':
      return Buffer.concat([u32(TYPE.array), u32(TYPE.i32), u64(content.length), ...content.map(u32)]);
    default:
      throw new Error(`Expected u32, f32, bool, string, strings or i32s but received "${kind}"`);
  }
}

const align = (value) => Math.ceil(value / ALIGNMENT) * ALIGNMENT;

/**
 * @param {Record<string, object>} metadata see encodeValue
 * @param {readonly {name: string, dtype: 'F32' | 'F16', shape: readonly number[]}[]} tensors shape in the order of Hugging Face, [n, k]
 * @returns {{header: Buffer, offsets: number[], size: number}} the header padded to the data, where each tensor begins in the file, and
 *   the size of the file
 */
function ggufHeader(metadata, tensors) {
  const parts = [Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(Object.keys(metadata).length)];
  for (const [key, value] of Object.entries(metadata)) parts.push(text(key), encodeValue(value));
  let end = 0;
  const relative = [];
  for (const { name, dtype, shape } of tensors) {
    const { id, bytes } = DTYPE[dtype];
    relative.push(end);
    parts.push(text(name), u32(shape.length), ...[...shape].reverse().map(u64), u32(id), u64(end));
    end = align(end + bytes * shape.reduce((product, size) => product * size, 1));
  }
  const unpadded = Buffer.concat(parts);
  const header = Buffer.concat([unpadded, Buffer.alloc(align(unpadded.length) - unpadded.length)]);
  return { header, offsets: relative.map((offset) => header.length + offset), size: header.length + end };
}

/**
 * A byte-level vocabulary of `size` tokens: the 256 bytes in the alphabet of GPT-2, one merge, and unused control tokens up to `size`.
 * Enough for every program that insists on a tokenizer.
 */
function byteVocabulary(size) {
  const printable = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  const bytes = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
  const space = bytes[32];
  const tokens = [...bytes, `${space}t`, '<|end|>'];
  const types = [...Array.from({ length: 257 }, () => 1), 3];
  while (tokens.length < size) {
    tokens.push(`<|unused_${tokens.length}|>`);
    types.push(3);
  }
  return { tokens, types, merges: [`${space} t`], end: 257 };
}

module.exports = { ggufHeader, byteVocabulary };
