/**
 * checkpoint: parses the header of a GGUF file: metadata and tensor table. Pure: bytes in, table out; gguf.ts reads the bytes.
 *
 * Layout (little endian): "GGUF" | u32 version | u64 tensor count | u64 key count | keys | tensor infos | zeros to the alignment | data.
 * String: u64 length, bytes. Key: string, u32 type, value. Array: u32 element type, u64 count, elements. Tensor info: name, u32 rank,
 * u64 dimensions (contiguous one first), u32 type, u64 offset from the start of the data. (format: ggml docs/gguf.md)
 * Versions 2 and 3 have this layout; version 1 had 32-bit lengths.
 */
import { TextDecoder } from 'node:util';
import { LowbitError } from '../errors';
import { DTYPES, type DtypeSize, tensorBytes } from './dtype';
import { corruptFile } from './files';
import { checkOverlap } from './table';
import type { TensorEntry } from './types';

/** Integers beyond 2^53 stay bigint. */
export type GgufValue = number | bigint | boolean | string | readonly GgufValue[];

export interface GgufHeader {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly TensorEntry[];
  /** Where type and value of each key lie in the file: [begin, end). For writers that copy them. */
  readonly ranges: ReadonlyMap<string, readonly [number, number]>;
}

/** The header continues beyond the bytes given: at least `bytes` of the file are needed to go on. Never leaves this file by throwing. */
export class NeedMoreBytes extends Error {
  constructor(readonly bytes: number) {
    super(`the header needs ${bytes} bytes`);
  }
}

/** Type ids of ggml that this engine reads, by their names in cpp/base/dtype.def. */
export const GGUF_TYPES: ReadonlyMap<number, string> = new Map([
  [0, 'F32'],
  [1, 'F16'],
  [2, 'Q4_0'],
  [3, 'Q4_1'],
  [6, 'Q5_0'],
  [7, 'Q5_1'],
  [8, 'Q8_0'],
  [10, 'Q2_K'],
  [11, 'Q3_K'],
  [12, 'Q4_K'],
  [13, 'Q5_K'],
  [14, 'Q6_K'],
  [20, 'IQ4_NL'],
  [24, 'I8'],
  [25, 'I16'],
  [26, 'I32'],
  [27, 'I64'],
  [28, 'F64'],
  [30, 'BF16'],
  [34, 'TQ1_0'],
  [35, 'TQ2_0'],
]);

/** For messages about the others. */
const OTHER_TYPES: ReadonlyMap<number, string> = new Map([
  [9, 'Q8_1'],
  [15, 'Q8_K'],
  [16, 'IQ2_XXS'],
  [17, 'IQ2_XS'],
  [18, 'IQ3_XXS'],
  [19, 'IQ1_S'],
  [21, 'IQ3_S'],
  [22, 'IQ2_S'],
  [23, 'IQ4_XS'],
  [29, 'IQ1_M'],
  [39, 'MXFP4'],
  [40, 'NVFP4'],
  [41, 'Q1_0'],
  [42, 'Q2_0'],
]);

const STRING = 8;
const ARRAY = 9;
/** Bytes of the scalar value types; strings and arrays count their smallest form. */
const VALUE_BYTES: readonly number[] = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8];

/** Keys and names are short; only values may be long. */
const MAX_NAME_BYTES = 65_535;
/** The format allows 64; some tools write more. */
const MAX_TENSOR_NAME_BYTES = 255;
const MAX_RANK = 4;
const MAX_ARRAY_DEPTH = 4;
/** Alignments in use are 32 and, with page-aligned files, up to 64 KiB. */
const MAX_ALIGNMENT = 1 << 24;
const MIN_KEY_BYTES = 8 + 4 + 1;
const MIN_TENSOR_BYTES = 8 + 4 + 4 + 8;

/**
 * @param bytes the first bytes of the file
 * @param fileSize of the whole file
 * @param limit a header may not be longer than this
 * @param file for messages
 * @returns the header, or NeedMoreBytes when `bytes` does not hold all of it
 * @throws {LowbitError} CORRUPT_FILE, or UNSUPPORTED for versions and element types that are not read
 */
export function parseGgufHeader(bytes: Buffer, fileSize: number, limit: number, file: string): GgufHeader | NeedMoreBytes {
  try {
    return new HeaderParser(bytes, fileSize, limit, file).parse();
  } catch (reason) {
    if (reason instanceof NeedMoreBytes) return reason;
    throw reason;
  }
}

class HeaderParser {
  private position = 0;
  private readonly end: number;
  private readonly utf8 = new TextDecoder('utf-8', { fatal: true });

  constructor(
    private readonly bytes: Buffer,
    private readonly fileSize: number,
    limit: number,
    private readonly file: string,
  ) {
    this.end = Math.min(fileSize, limit);
  }

  parse(): GgufHeader {
    const version = this.version();
    const tensorCount = this.count('tensors', MIN_TENSOR_BYTES);
    const keyCount = this.count('keys', MIN_KEY_BYTES);
    const metadata = new Map<string, GgufValue>();
    const ranges = new Map<string, readonly [number, number]>();
    for (let i = 0; i < keyCount; i++) {
      const key = this.name('key', MAX_NAME_BYTES);
      if (metadata.has(key)) throw this.corrupt(`has the key "${key.slice(0, 200)}" twice`);
      const begin = this.position;
      metadata.set(key, this.value(this.u32(), key, 0));
      ranges.set(key, [begin, this.position]);
    }
    const split = metadata.get('split.count');
    if (typeof split === 'number' && split > 1) {
      throw new LowbitError(
        'UNSUPPORTED',
        `${this.file} is one of ${split} parts of a split GGUF model, which is not supported; join them with "llama-gguf-split --merge" and open the result`,
        {
          file: this.file,
        },
      );
    }
    const infos = Array.from({ length: tensorCount }, () => this.tensorInfo());
    const alignment = this.alignment(metadata);
    const dataStart = Math.ceil(this.position / alignment) * alignment;
    const tensors = infos.map((info) => this.tensor(info, dataStart, alignment));
    checkOverlap(tensors, this.file);
    return { version, metadata, tensors, ranges };
  }

  private version(): number {
    if (this.fileSize < 8) throw this.corrupt(`has ${this.fileSize} bytes, too few for a GGUF header`);
    this.take(8);
    if (this.bytes.toString('latin1', 0, 4) !== 'GGUF') throw this.corrupt('does not start with "GGUF": this is no GGUF file');
    const version = this.bytes.readUInt32LE(4);
    if (version === 2 || version === 3) return version;
    const swapped = this.bytes.readUInt32BE(4);
    const unsupported = (problem: string): LowbitError => new LowbitError('UNSUPPORTED', `${this.file} ${problem}`, { file: this.file });
    if (swapped >= 1 && swapped <= 3)
      throw unsupported('is a big-endian GGUF file, which is not supported; convert the model to a little-endian one');
    if (version === 1) throw unsupported('is a GGUF file of version 1 of August 2023, which is not supported; convert the model again');
    throw unsupported(`is a GGUF file of version ${version}; this version of lowbit reads 2 and 3`);
  }

  /** A count of things of at least `smallest` bytes each, checked against what the file can hold before anything is allocated. */
  private count(what: string, smallest: number): number {
    const count = this.u64();
    if (count > BigInt(Math.floor((this.end - this.position) / smallest)))
      throw this.corrupt(`claims ${count} ${what}, more than its header can hold`);
    return Number(count);
  }

  private value(type: number, key: string, depth: number): GgufValue {
    if (type === STRING) return this.text(key);
    if (type === ARRAY) return this.array(key, depth);
    return this.scalar(type, key);
  }

  private array(key: string, depth: number): readonly GgufValue[] {
    if (depth >= MAX_ARRAY_DEPTH) throw this.corrupt(`nests arrays too deep in the key "${key}"`);
    const type = this.u32();
    const smallest = VALUE_BYTES[type];
    if (smallest === undefined) throw this.corrupt(`has the unknown value type ${type} in the key "${key}"`);
    const count = this.count(`values in the key "${key}"`, smallest);
    // Asked for at once, so that a header that is not loaded yet is not parsed value by value first.
    this.require(count * smallest);
    if (type === STRING) return this.texts(count, key);
    const values: GgufValue[] = [];
    for (let i = 0; i < count; i++) values.push(this.value(type, key, depth + 1));
    return values;
  }

  private scalar(type: number, key: string): number | bigint | boolean {
    const size = VALUE_BYTES[type];
    if (size === undefined) throw this.corrupt(`has the unknown value type ${type} in the key "${key}"`);
    const at = this.take(size);
    const { bytes } = this;
    switch (type) {
      case 0:
        return bytes.readUInt8(at);
      case 1:
        return bytes.readInt8(at);
      case 2:
        return bytes.readUInt16LE(at);
      case 3:
        return bytes.readInt16LE(at);
      case 4:
        return bytes.readUInt32LE(at);
      case 5:
        return bytes.readInt32LE(at);
      case 6:
        return bytes.readFloatLE(at);
      case 7: {
        const value = bytes.readUInt8(at);
        if (value > 1) throw this.corrupt(`has the boolean ${value} in the key "${key}"`);
        return value === 1;
      }
      case 10:
        return exact(bytes.readBigUInt64LE(at));
      case 11:
        return exact(bytes.readBigInt64LE(at));
      default:
        return bytes.readDoubleLE(at);
    }
  }

  private tensorInfo(): TensorInfo {
    const name = this.name('tensor name', MAX_TENSOR_NAME_BYTES);
    const rank = this.u32();
    if (rank > MAX_RANK) throw this.corrupt(`the tensor "${name}" has ${rank} dimensions, more than ${MAX_RANK}`, { tensor: name });
    const shape = Array.from({ length: rank }, () => exact(this.u64())).reverse();
    const type = this.u32();
    const offset = exact(this.u64());
    return { name, shape, type, offset };
  }

  private tensor({ name, shape, type, offset }: TensorInfo, dataStart: number, alignment: number): TensorEntry {
    const dtype = GGUF_TYPES.get(type);
    if (dtype === undefined) {
      const other = OTHER_TYPES.get(type) ?? `of the unknown type ${type}`;
      throw new LowbitError(
        'UNSUPPORTED',
        `${this.file}: the tensor "${name}" is ${other}, which this version does not read; use a file of another type, such as Q4_K_M or Q8_0 (it reads ${[...GGUF_TYPES.values()].join(', ')})`,
        {
          file: this.file,
          tensor: name,
        },
      );
    }
    const bytes = tensorBytes(DTYPES.get(dtype) as DtypeSize, shape, `tensor "${name}" in ${this.file}`);
    const bad = (problem: string): LowbitError => this.corrupt(`the tensor "${name}" ${problem}`, { tensor: name });
    if (typeof offset !== 'number' || offset % alignment !== 0) throw bad(`has the offset ${offset}, which is no multiple of ${alignment}`);
    const begin = dataStart + offset;
    if (begin + bytes > this.fileSize) {
      throw bad(`ends at byte ${begin + bytes}, but the file has ${this.fileSize}: it is truncated`);
    }
    return { name, file: 0, dtype, shape: shape as number[], offset: begin, bytes };
  }

  private alignment(metadata: ReadonlyMap<string, GgufValue>): number {
    const value = metadata.get('general.alignment') ?? 32;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > MAX_ALIGNMENT || (value & (value - 1)) !== 0) {
      throw this.corrupt(`has the general.alignment ${String(value)}; expected a power of two up to ${MAX_ALIGNMENT}`);
    }
    return value;
  }

  private u32(): number {
    return this.bytes.readUInt32LE(this.take(4));
  }

  private u64(): bigint {
    return this.bytes.readBigUInt64LE(this.take(8));
  }

  /** A u64 that is compared with a size, so that rounding beyond 2^53 does not matter. No bigint: there are 100,000 of them. */
  private length(): number {
    const at = this.take(8);
    return this.bytes.readUInt32LE(at) + 2 ** 32 * this.bytes.readUInt32LE(at + 4);
  }

  /** Metadata text. Vocabularies may hold tokens that are no whole characters, so wrong UTF-8 is replaced and not refused. */
  private text(key: string): string {
    const length = this.length();
    if (length > this.end - this.position)
      throw this.corrupt(`claims a text of ${BigInt(length)} bytes in the key "${key}", more than its header can hold`);
    const at = this.take(length);
    return this.bytes.toString('utf8', at, at + length);
  }

  /** A vocabulary or its merges. */
  private texts(count: number, key: string): readonly string[] {
    const values: string[] = [];
    for (let i = 0; i < count; i++) values.push(this.text(key));
    return values;
  }

  private name(what: string, limit: number): string {
    const length = this.u64();
    if (length > BigInt(limit)) throw this.corrupt(`has a ${what} of ${length} bytes, more than ${limit}`);
    const at = this.take(Number(length));
    try {
      return this.utf8.decode(this.bytes.subarray(at, at + Number(length)));
    } catch {
      throw this.corrupt(`has a ${what} that is no valid UTF-8`);
    }
  }

  /** Moves over `size` bytes and returns where they start. */
  private take(size: number): number {
    this.require(size);
    const at = this.position;
    this.position += size;
    return at;
  }

  private require(size: number): void {
    const until = this.position + size;
    if (until > this.end) {
      throw this.corrupt(
        this.end < this.fileSize
          ? `has a header of more than ${this.end} bytes`
          : `ends inside its header, at byte ${this.end}: it is truncated`,
      );
    }
    if (until > this.bytes.length) throw new NeedMoreBytes(until);
  }

  private corrupt(problem: string, details: Record<string, unknown> = {}): LowbitError {
    return corruptFile(this.file, problem, details);
  }
}

interface TensorInfo {
  readonly name: string;
  readonly shape: readonly (number | bigint)[];
  readonly type: number;
  readonly offset: number | bigint;
}

function exact(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
