/**
 * checkpoint: metadata keys of GGUF files as bytes. Layout: gguf_header.ts.
 */

/** A key with its value, encoded. */
export interface GgufKey {
  readonly name: string;
  /** u32 type and the value. */
  readonly value: Buffer;
}

const U32 = 4;
const I32 = 5;
const F32 = 6;
const BOOL = 7;
const STRING = 8;
const ARRAY = 9;

export const ggufKey = {
  u32: (name: string, value: number): GgufKey => ({ name, value: Buffer.concat([u32(U32), u32(value)]) }),
  f32: (name: string, value: number): GgufKey => ({ name, value: Buffer.concat([u32(F32), f32(value)]) }),
  bool: (name: string, value: boolean): GgufKey => ({ name, value: Buffer.concat([u32(BOOL), Buffer.from([value ? 1 : 0])]) }),
  string: (name: string, value: string): GgufKey => ({ name, value: Buffer.concat([u32(STRING), ggufString(value)]) }),
  strings: (name: string, values: readonly string[]): GgufKey => ({
    name,
    value: Buffer.concat([u32(ARRAY), u32(STRING), u64(values.length), ...values.map(ggufString)]),
  }),
  i32s: (name: string, values: readonly number[]): GgufKey => ({
    name,
    value: Buffer.concat([u32(ARRAY), u32(I32), u64(values.length), bytesOf(Int32Array.from(values))]),
  }),
  f32s: (name: string, values: readonly number[]): GgufKey => ({
    name,
    value: Buffer.concat([u32(ARRAY), u32(F32), u64(values.length), bytesOf(Float32Array.from(values))]),
  }),
} as const;

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

export function ggufString(value: string): Buffer {
  const bytes = Buffer.from(value, 'utf8');
  return Buffer.concat([u64(bytes.length), bytes]);
}

function f32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}

function bytesOf({ buffer, byteOffset, byteLength }: Int32Array | Float32Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}
