/**
 * checkpoint: writes a GGUF file of version 3, tensor by tensor in any order. All keys, names, types and shapes are given at the start, so that the
 * header stands before any data and nothing is copied. What the keys and names mean is decided elsewhere. Layout: gguf_header.ts.
 *
 * Not atomic by itself: use it inside withAtomicDirectory or on a temporary name.
 */
import fs from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { LowbitError, invalidArgument } from '../errors';
import { DTYPES, type DtypeSize, tensorBytes } from './dtype';
import { ioError } from './files';
import { GGUF_TYPES } from './gguf_header';
import { type GgufKey, ggufString, u32, u64 } from './gguf_keys';

export interface GgufTensorSpec {
  readonly name: string;
  readonly dtype: string; // a name of DTYPES that GGUF has
  readonly shape: readonly number[]; // in PyTorch order
}

/** What the format says unless general.alignment does. */
const ALIGNMENT = 32;
const MAX_NAME_BYTES = 63;
const VERSION = 3;

interface Place {
  readonly offset: number; // in the file
  readonly bytes: number;
  written: boolean;
}

/**
 * @example
 * const writer = await GgufWriter.create('model.gguf', [ggufKey.string('general.architecture', 'llama')], [{ name: 'a', dtype: 'F32', shape: [2] }]);
 * await writer.write('a', new Float32Array(2));
 * const bytes = await writer.finish();
 */
export class GgufWriter {
  private constructor(
    private readonly file: string,
    private readonly handle: FileHandle,
    private readonly places: ReadonlyMap<string, Place>,
    private readonly end: number,
  ) {}

  /**
   * Makes a new file and writes its header.
   *
   * @throws {LowbitError} INVALID_ARGUMENT for names twice, too long names and types that GGUF has not; IO
   */
  static async create(file: string, keys: readonly GgufKey[], tensors: readonly GgufTensorSpec[]): Promise<GgufWriter> {
    const ids = new Map([...GGUF_TYPES].map(([id, name]) => [name, id]));
    const infos: Buffer[] = [];
    const relative: [string, number, number][] = [];
    const names = new Set<string>();
    let at = 0;
    for (const { name, dtype, shape } of tensors) {
      const id = ids.get(dtype);
      if (id === undefined) throw invalidArgument(`dtype of "${name}"`, 'a type that GGUF files hold', dtype);
      if (names.has(name)) throw new LowbitError('INVALID_ARGUMENT', `The tensor "${name}" is given twice`, { tensor: name });
      if (Buffer.byteLength(name) > MAX_NAME_BYTES)
        throw invalidArgument('name', `at most ${MAX_NAME_BYTES} bytes of a tensor's name`, name);
      names.add(name);
      const bytes = tensorBytes(DTYPES.get(dtype) as DtypeSize, shape, `tensor "${name}"`);
      infos.push(ggufString(name), u32(shape.length), ...[...shape].reverse().map(u64), u32(id), u64(at));
      relative.push([name, at, bytes]);
      at += aligned(bytes);
    }
    if (new Set(keys.map(({ name }) => name)).size !== keys.length) {
      const twice = keys.find(({ name }, i) => keys.findIndex((key) => key.name === name) !== i)?.name;
      throw new LowbitError('INVALID_ARGUMENT', `The key "${twice}" is given twice`, { key: twice });
    }
    const header = Buffer.concat([
      Buffer.from('GGUF'),
      u32(VERSION),
      u64(tensors.length),
      u64(keys.length),
      ...keys.flatMap(({ name, value }) => [ggufString(name), value]),
      ...infos,
    ]);
    const start = aligned(header.length);
    const places = new Map(relative.map(([name, offset, bytes]) => [name, { offset: start + offset, bytes, written: false }]));
    let handle: FileHandle;
    try {
      handle = await fs.promises.open(file, 'wx');
    } catch (cause) {
      throw ioError('write', file, cause);
    }
    const writer = new GgufWriter(file, handle, places, start + at);
    try {
      await writer.put(Buffer.concat([header, Buffer.alloc(start - header.length)]), 0);
    } catch (cause) {
      await writer.abort();
      throw cause;
    }
    return writer;
  }

  /** @param data little-endian bytes of the whole tensor. @throws {LowbitError} INVALID_ARGUMENT; IO */
  async write(name: string, data: ArrayBufferView): Promise<void> {
    const place = this.placeOf(name);
    if (data.byteLength !== place.bytes) throw invalidArgument(`data of "${name}"`, `${place.bytes} bytes`, data.byteLength);
    await this.put(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), place.offset);
    place.written = true;
  }

  /** The same from pieces in order. @throws {LowbitError} INVALID_ARGUMENT when they are not as many bytes as the tensor has; IO; what `pieces` throws */
  async writePieces(name: string, pieces: AsyncIterable<ArrayBufferView>): Promise<void> {
    const place = this.placeOf(name);
    let done = 0;
    for await (const { buffer, byteOffset, byteLength } of pieces) {
      if (done + byteLength > place.bytes) throw invalidArgument(`data of "${name}"`, `${place.bytes} bytes`, done + byteLength);
      await this.put(new Uint8Array(buffer, byteOffset, byteLength), place.offset + done);
      done += byteLength;
    }
    if (done !== place.bytes) throw invalidArgument(`data of "${name}"`, `${place.bytes} bytes`, done);
    place.written = true;
  }

  private placeOf(name: string): Place {
    const place = this.places.get(name);
    if (place === undefined) throw invalidArgument('name', 'one of the tensors given at the start', name);
    if (place.written) throw new LowbitError('INVALID_ARGUMENT', `The tensor "${name}" was written already`, { tensor: name });
    return place;
  }

  /** Closes the complete file. @returns its bytes. @throws {LowbitError} INTERNAL when a tensor is missing; IO */
  async finish(): Promise<number> {
    const missing = [...this.places].find(([, { written }]) => !written)?.[0];
    if (missing !== undefined) throw new LowbitError('INTERNAL', `The tensor "${missing}" was never written to ${this.file}`);
    try {
      await this.handle.truncate(this.end); // the padding behind the last tensor
      await this.handle.close();
    } catch (cause) {
      throw ioError('write', this.file, cause);
    }
    return this.end;
  }

  /** Closes and removes the file after a failure. */
  async abort(): Promise<void> {
    await this.handle.close().catch(() => undefined);
    await fs.promises.rm(this.file, { force: true }).catch(() => undefined);
  }

  private async put(bytes: Uint8Array, position: number): Promise<void> {
    try {
      for (let done = 0; done < bytes.length;)
        done += (await this.handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
    } catch (cause) {
      throw ioError('write', this.file, cause);
    }
  }
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
