/**
 * lib/quantize: one file of a journal: a JSON value and byte strings, written whole or not at all, with a checksum.
 *
 *   8 bytes   "LOWBITJ1"
 *   8 bytes   length of the JSON, little-endian
 *   JSON      { value, frames: number of byte strings }; a typed array inside value is { "$array": [type, frame] }
 *   frames    each: 8 bytes length, little-endian, and the bytes
 *   32 bytes  SHA-256 of all bytes before
 *
 * Knows files and values, but not what they mean: whatever a solve returns is stored as it is, for any format of the output.
 */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { syncDirectory } from '../checkpoint/atomic';
import { corruptFile, ioError, readExactly, withFile } from '../checkpoint/files';
import type { LowbitError } from '../errors';

const magic = Buffer.from('LOWBITJ1');
const checksumBytes = 32;
/** The JSON of a block is a few hundred bytes per linear; 2^16 experts would still fit. */
const maxJsonBytes = 64 * 2 ** 20;
const pieceBytes = 4 * 2 ** 20;

type TypedArray = Int32Array | Uint32Array | Uint16Array | Int16Array | Uint8Array | Int8Array | Float32Array | Float64Array;
const arrayTypes = { Int32Array, Uint32Array, Uint16Array, Int16Array, Uint8Array, Int8Array, Float32Array, Float64Array } as const;

/** Typed arrays of a value in order, and the value with references in their places. */
function encode(value: unknown, arrays: TypedArray[]): unknown {
  if (ArrayBuffer.isView(value)) {
    arrays.push(value as TypedArray);
    return { $array: [value.constructor.name, arrays.length - 1] };
  }
  if (Array.isArray(value)) return value.map((item) => encode(item, arrays));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, encode(item, arrays)]));
}

/** Writes `value`, typed arrays included, to `file`. @throws {LowbitError} IO */
export function writeValue(file: string, value: unknown): Promise<void> {
  const arrays: TypedArray[] = [];
  const json = encode(value, arrays);
  return writeFrames(
    file,
    json,
    arrays.length,
    arrays.map(({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)),
  );
}

/** Writes a JSON value and `count` frames, one at a time, for what is too large to be held. @throws {LowbitError} IO */
export async function writeFrames(
  file: string,
  value: unknown,
  count: number,
  frames: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<void> {
  const temporary = `${file}.tmp`;
  try {
    const handle = await fs.promises.open(temporary, 'w');
    try {
      const hash = createHash('sha256');
      const put = async (bytes: Uint8Array): Promise<void> => {
        hash.update(bytes);
        for (let done = 0; done < bytes.length;) done += (await handle.write(bytes, done, bytes.length - done)).bytesWritten;
      };
      const json = Buffer.from(JSON.stringify({ value, frames: count }));
      await put(Buffer.concat([magic, length(json.length), json]));
      for await (const frame of frames) {
        await put(length(frame.length));
        await put(frame);
      }
      const checksum = hash.digest();
      await handle.write(checksum, 0, checksum.length);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await fs.promises.rename(temporary, file);
    await syncDirectory(path.dirname(file));
  } catch (cause) {
    await fs.promises.rm(temporary, { force: true }).catch(() => undefined);
    throw ioError('write', file, cause);
  }
}

function length(bytes: number): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64LE(BigInt(bytes));
  return buffer;
}

export interface JournalFile {
  /** The JSON value, with references where typed arrays were. */
  readonly value: unknown;
  readonly frames: number;
  frame(index: number): Promise<Buffer>;
}

/**
 * Opens a file and reads all of it once to check it; frames are read from it when they are asked for.
 *
 * @throws {LowbitError} CORRUPT_FILE when it is not what was written, IO when it cannot be read
 */
export async function openFrames(file: string): Promise<JournalFile> {
  const damaged = (): LowbitError => corruptFile(file, 'its checksum is wrong or it is cut short: it is damaged');
  return withFile(file, async (handle, size) => {
    const hash = createHash('sha256');
    let at = 0;
    const take = async (bytes: number): Promise<Buffer> => {
      if (at + bytes > size - checksumBytes) throw damaged();
      const taken = await readExactly(handle, file, at, bytes);
      hash.update(taken);
      at += bytes;
      return taken;
    };
    const takeLength = async (): Promise<number> => {
      const bytes = (await take(8)).readBigUInt64LE();
      if (bytes > BigInt(size)) throw damaged();
      return Number(bytes);
    };
    if (!(await take(magic.length)).equals(magic)) throw damaged();
    const jsonBytes = await takeLength();
    if (jsonBytes > maxJsonBytes) throw damaged();
    const json = await take(jsonBytes);
    const count = countOf(json);
    const places: { readonly at: number; readonly bytes: number }[] = [];
    for (let i = 0; count !== undefined && i < count; i++) {
      const bytes = await takeLength();
      places.push({ at, bytes });
      for (let left = bytes; left > 0; left -= pieceBytes) await take(Math.min(left, pieceBytes));
    }
    const checksum = size - at === checksumBytes ? await readExactly(handle, file, at, checksumBytes) : undefined;
    if (count === undefined || checksum === undefined || !hash.digest().equals(checksum)) throw damaged();
    return {
      value: (JSON.parse(json.toString('utf8')) as { readonly value: unknown }).value,
      frames: count,
      frame: (index) => {
        const place = places[index];
        if (place === undefined) throw damaged();
        return withFile(file, (again: FileHandle) => readExactly(again, file, place.at, place.bytes));
      },
    };
  });
}

function countOf(json: Buffer): number | undefined {
  try {
    const { frames } = JSON.parse(json.toString('utf8')) as { readonly frames?: unknown };
    return Number.isSafeInteger(frames) && (frames as number) >= 0 ? (frames as number) : undefined;
  } catch {
    return undefined;
  }
}

/** What writeValue wrote. @throws {LowbitError} as openFrames */
export async function readValue(file: string): Promise<unknown> {
  const opened = await openFrames(file);
  const decode = async (value: unknown): Promise<unknown> => {
    if (Array.isArray(value)) return Promise.all(value.map(decode));
    if (typeof value !== 'object' || value === null) return value;
    const reference = (value as { $array?: readonly [string, number] }).$array;
    if (reference === undefined) {
      return Object.fromEntries(await Promise.all(Object.entries(value).map(async ([key, item]) => [key, await decode(item)] as const)));
    }
    const [name, index] = reference;
    const type = Object.hasOwn(arrayTypes, name) ? arrayTypes[name as keyof typeof arrayTypes] : undefined;
    const bytes = await opened.frame(index);
    if (type === undefined || bytes.length % type.BYTES_PER_ELEMENT !== 0) throw corruptFile(file, `it holds an array of type ${name}`);
    return new type(new Uint8Array(bytes).buffer); // a copy: typed arrays begin at multiples of their size
  };
  return decode(opened.value);
}
