/** checkpoint tests: temporary directories, and writers of small safetensors and GGUF files, right or deliberately wrong. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { LowbitError } from '../../lib/errors';

export const FIXTURES = path.join(__dirname, '..', 'fixtures');

/** A new directory that is removed after the tests of the file. */
export function temporaryDirectory(): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'lowbit-test-'));
  afterAll(() => fs.rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** The LowbitError that `call` throws or rejects with; fails when it does not. */
export async function errorOf(call: () => unknown): Promise<LowbitError> {
  let result: unknown;
  try {
    result = await call();
  } catch (error) {
    if (error instanceof LowbitError) return error;
    throw error;
  }
  throw new Error(`Expected a LowbitError but the call returned ${String(result)}`);
}

/** A safetensors file around any header; `json` may be wrong in every way. */
export function safetensorsFile(json: unknown, data: Uint8Array = new Uint8Array(0), headerLength?: bigint): Buffer {
  const header = Buffer.from(typeof json === 'string' ? json : JSON.stringify(json));
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(headerLength ?? BigInt(header.length));
  return Buffer.concat([start, header, data]);
}

export type GgufKey =
  | readonly [key: string, type: 'u8' | 'i8' | 'u16' | 'u32' | 'i32' | 'f32' | 'u64' | 'f64', value: number | bigint]
  | readonly [key: string, type: 'bool', value: boolean | number]
  | readonly [key: string, type: 'string', value: string]
  | readonly [key: string, type: 'strings', value: readonly string[]]
  | readonly [key: string, type: 'i32s' | 'u32s' | 'f32s', value: readonly number[]];

export interface GgufTensor {
  readonly name: string;
  /** Contiguous dimension first, as in the file. */
  readonly dims: readonly (number | bigint)[];
  readonly type: number;
  readonly data: Uint8Array;
  /** Instead of the place where the data goes. */
  readonly offset?: number | bigint;
}

export interface GgufSpec {
  readonly version?: number;
  readonly magic?: string;
  readonly keys?: readonly GgufKey[];
  readonly tensors?: readonly GgufTensor[];
  readonly alignment?: number;
  readonly tensorCount?: bigint;
  readonly keyCount?: bigint;
  /** Raw bytes after the keys. */
  readonly extra?: Uint8Array;
}

const SCALARS: Readonly<Record<string, readonly [id: number, bytes: number]>> = {
  u8: [0, 1],
  i8: [1, 1],
  u16: [2, 2],
  u32: [4, 4],
  i32: [5, 4],
  f32: [6, 4],
  bool: [7, 1],
  u64: [10, 8],
  f64: [12, 8],
};

export function ggufFile(spec: GgufSpec): Buffer {
  const { keys = [], tensors = [], alignment = 32 } = spec;
  const parts: Uint8Array[] = [
    Buffer.from(spec.magic ?? 'GGUF'),
    u32(spec.version ?? 3),
    u64(spec.tensorCount ?? BigInt(tensors.length)),
    u64(spec.keyCount ?? BigInt(keys.length)),
  ];
  for (const key of keys) parts.push(text(key[0]), ...ggufValue(key));
  if (spec.extra) parts.push(spec.extra);
  const pad = (length: number): number => (alignment - (length % alignment)) % alignment;
  let offset = 0;
  for (const tensor of tensors) {
    parts.push(
      text(tensor.name),
      u32(tensor.dims.length),
      ...tensor.dims.map((size) => u64(BigInt(size))),
      u32(tensor.type),
      u64(BigInt(tensor.offset ?? offset)),
    );
    offset += tensor.data.length + pad(tensor.data.length);
  }
  const header = Buffer.concat(parts);
  const data = tensors.flatMap((tensor) => [tensor.data, Buffer.alloc(pad(tensor.data.length))]);
  return Buffer.concat([header, Buffer.alloc(tensors.length > 0 ? pad(header.length) : 0), ...data]);
}

export function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(BigInt(bytes.length)), bytes]);
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

function ggufValue([, type, value]: GgufKey): Uint8Array[] {
  if (type === 'string') return [u32(8), text(value)];
  if (type === 'strings') return [u32(9), u32(8), u64(BigInt(value.length)), ...value.map(text)];
  if (type === 'i32s' || type === 'u32s' || type === 'f32s') {
    const scalar = type.slice(0, -1);
    return [
      u32(9),
      u32((SCALARS[scalar] as readonly [number, number])[0]),
      u64(BigInt(value.length)),
      ...value.map((item) => scalarBytes(scalar, item)),
    ];
  }
  return [u32((SCALARS[type] as readonly [number, number])[0]), scalarBytes(type, value as number | bigint | boolean)];
}

function scalarBytes(type: string, value: number | bigint | boolean): Buffer {
  const bytes = Buffer.alloc((SCALARS[type] as readonly [number, number])[1]);
  if (type === 'f32') bytes.writeFloatLE(Number(value));
  else if (type === 'f64') bytes.writeDoubleLE(Number(value));
  else if (type === 'u64') bytes.writeBigUInt64LE(BigInt(value));
  else if (Number(value) < 0) bytes.writeIntLE(Number(value), 0, bytes.length);
  else bytes.writeUIntLE(Number(value), 0, bytes.length);
  return bytes;
}

export function f32(values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => bytes.writeFloatLE(value, 4 * i));
  return bytes;
}

export interface TinyModel {
  readonly architecture?: string;
  readonly keys?: readonly GgufKey[];
  readonly tensors?: readonly GgufTensor[];
  readonly tokenizer?: readonly GgufKey[];
}

/** The least that openCheckpoint needs of a GGUF model: 2 layers, hidden size 8, 2 heads, 4 tokens. */
export function tinyGguf({ architecture = 'llama', keys = [], tensors = [], tokenizer = [] }: TinyModel = {}): GgufSpec {
  const base: readonly GgufKey[] = [
    ['general.architecture', 'string', architecture],
    [`${architecture}.embedding_length`, 'u32', 8],
    [`${architecture}.block_count`, 'u32', 2],
    [`${architecture}.feed_forward_length`, 'u32', 16],
    [`${architecture}.attention.head_count`, 'u32', 2],
    [`${architecture}.attention.head_count_kv`, 'u32', 1],
    [`${architecture}.context_length`, 'u32', 128],
    [`${architecture}.attention.layer_norm_rms_epsilon`, 'f32', 2 ** -20],
  ];
  const given = new Set(keys.map(([key]) => key));
  return {
    keys: [...base.filter(([key]) => !given.has(key)), ...keys, ...tokenizer],
    tensors: [{ name: 'token_embd.weight', dims: [8, 4], type: 0, data: Buffer.alloc(128) }, ...tensors],
  };
}

/** A small generator with a fixed seed (mulberry32), in [0, 1). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
