/**
 * checkpoint: writes safetensors files tensor by tensor, without holding a model in memory, in one or several shards.
 *
 * The header stands before the data but is known only at the end. So a shard starts with reserved room; when it is finished the
 * header is written there, padded with spaces as the format allows, or, when the shard is small or the room too little, the shard
 * is copied behind a header of exact size. Tensors whose size is no multiple of 8 are held back and written last, largest element
 * first, so that every tensor is aligned to its elements: readers map the file.
 *
 * Not atomic by itself: use it inside withAtomicDirectory.
 */
import fs from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { LowbitError, invalidArgument } from '../errors';
import { DTYPES, tensorBytes } from './dtype';
import { ioError } from './files';
import { MAX_HEADER_BYTES } from './safetensors';

export interface SafetensorsWriterOptions {
  /** A tensor that would make a shard's data larger than this starts a new shard. 1 to 2^53; default 5e9, as Hugging Face has it. */
  readonly maxShardBytes?: number | undefined;
  /** Goes into __metadata__ of every file. Default {format: "pt"}, which transformers insists on. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

/** Room for about 4,000 tensors; models have a few hundred to a few thousand. */
export const RESERVED_BYTES = 512 * 1024;
/** Below this, copying costs less than reserved room in the file would look odd. */
export const SMALL_SHARD_BYTES = 64 * 1024 * 1024;
const COPY_CHUNK_BYTES = 4 * 1024 * 1024;

interface Written {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

interface Shard {
  readonly file: string; // until finish() knows how many there are
  readonly handle: FileHandle;
  readonly tensors: Written[];
  readonly heldBack: { readonly name: string; readonly dtype: string; readonly shape: readonly number[]; readonly data: Uint8Array }[];
  /** Bytes of data on the disk. */
  end: number;
  /** The same with what is held back. */
  total: number;
}

/**
 * @example
 * const writer = new SafetensorsWriter(directory);
 * await writer.add('model.norm.weight', 'BF16', [576], bytes);
 * const files = await writer.finish(); // ['model.safetensors']
 */
export class SafetensorsWriter {
  private readonly maxShardBytes: number;
  private readonly metadata: Readonly<Record<string, string>>;
  private readonly names = new Set<string>();
  private readonly done: Shard[] = [];
  private shard: Shard | undefined;
  private state: 'open' | 'busy' | 'finished' | 'failed' = 'open';

  /** `directory` must exist. */
  constructor(
    private readonly directory: string,
    options: SafetensorsWriterOptions = {},
  ) {
    const limit = options.maxShardBytes ?? 5e9;
    if (!Number.isSafeInteger(limit) || limit < 1)
      throw invalidArgument('maxShardBytes', `integer between 1 and ${Number.MAX_SAFE_INTEGER}`, limit);
    this.maxShardBytes = limit;
    this.metadata = options.metadata ?? { format: 'pt' };
  }

  /**
   * Appends a tensor. Wait for the promise before the next call; `data` may be reused afterwards.
   *
   * @param dtype F32 F16 BF16 F64 I8 U8 I16 I32 I64
   * @param shape in PyTorch order
   * @param data little-endian bytes, or a typed array, exactly as many bytes as dtype and shape take
   * @throws {LowbitError} INVALID_ARGUMENT; IO naming the file, after which the writer is unusable
   */
  async add(name: string, dtype: string, shape: readonly number[], data: ArrayBufferView): Promise<void> {
    await this.addPieces(name, dtype, shape, [data]);
  }

  /** The same for a tensor that is too large to be held: its bytes in pieces, in order. Each may be reused when the next one is asked for. */
  async addPieces(
    name: string,
    dtype: string,
    shape: readonly number[],
    pieces: AsyncIterable<ArrayBufferView> | Iterable<ArrayBufferView>,
  ): Promise<void> {
    const size = DTYPES.get(dtype);
    if (size === undefined || size.values !== 1) throw invalidArgument(`dtype of "${name}"`, 'a safetensors dtype', dtype);
    if (typeof name !== 'string' || name === '' || name === '__metadata__') throw invalidArgument('name', 'name of a tensor', name);
    if (this.names.has(name)) throw new LowbitError('INVALID_ARGUMENT', `The tensor "${name}" was written already`, { tensor: name });
    const expected = tensorBytes(size, shape, `tensor "${name}"`);
    const wrong = (bytes: number): LowbitError =>
      invalidArgument(`data of "${name}"`, `${expected} bytes (${dtype} [${shape.join(', ')}])`, bytes);
    const only = Array.isArray(pieces) && pieces.length === 1 ? (pieces[0] as ArrayBufferView) : undefined;
    if (only !== undefined && only.byteLength !== expected) throw wrong(only.byteLength); // before anything is written
    await this.exclusive('open', async () => {
      if (this.shard && this.shard.total > 0 && this.shard.total + expected > this.maxShardBytes) await this.endShard();
      const shard = (this.shard ??= await this.openShard());
      this.names.add(name);
      shard.total += expected;
      const begin = shard.end;
      const heldBack = expected % 8 === 0 ? undefined : new Uint8Array(expected);
      let done = 0;
      for await (const piece of pieces) {
        const bytes = new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
        if (done + bytes.length > expected) throw wrong(done + bytes.length);
        if (heldBack) heldBack.set(bytes, done);
        else await writeFully(shard.handle, shard.file, bytes, RESERVED_BYTES + begin + done);
        done += bytes.length;
      }
      if (done !== expected) throw wrong(done);
      if (heldBack) {
        shard.heldBack.push({ name, dtype, shape: [...shape], data: heldBack });
        return;
      }
      shard.tensors.push({ name, dtype, shape: [...shape], begin, end: begin + expected });
      shard.end += expected;
    });
  }

  /**
   * Writes headers, gives the files their names, and writes model.safetensors.index.json when there are several.
   *
   * @returns names of the weight files: ['model.safetensors'], or model-00001-of-0000N.safetensors and so on
   */
  async finish(): Promise<readonly string[]> {
    return this.exclusive('finished', async () => {
      this.shard ??= this.done.length === 0 ? await this.openShard() : undefined;
      await this.endShard();
      const count = this.done.length;
      const digits = (i: number): string => String(i).padStart(5, '0');
      const names = this.done.map((_, i) => (count === 1 ? 'model.safetensors' : `model-${digits(i + 1)}-of-${digits(count)}.safetensors`));
      for (const [i, shard] of this.done.entries()) await rename(shard.file, path.join(this.directory, names[i] as string));
      if (count > 1) await this.writeIndex(names);
      return names;
    });
  }

  /** Closes files after a failure or an abort and removes what was written. Does nothing after finish(). */
  async abort(): Promise<void> {
    if (this.state === 'finished') return;
    this.state = 'failed';
    for (const shard of [...this.done, ...(this.shard ? [this.shard] : [])]) {
      await shard.handle.close().catch(() => undefined);
      await fs.promises.rm(shard.file, { force: true }).catch(() => undefined);
    }
  }

  /** One call at a time: two appends would write to the same place. */
  private async exclusive<T>(next: 'open' | 'finished', work: () => Promise<T>): Promise<T> {
    if (this.state === 'busy') throw new LowbitError('INVALID_ARGUMENT', 'The writer is busy: wait for the promise of the last call');
    if (this.state !== 'open')
      throw new LowbitError(
        'INVALID_ARGUMENT',
        `The writer has ${this.state === 'finished' ? 'finished' : 'failed'} and takes no more calls`,
      );
    this.state = 'busy';
    try {
      const result = await work();
      this.state = next;
      return result;
    } catch (cause) {
      this.state = 'open';
      await this.abort();
      throw cause;
    }
  }

  private async openShard(): Promise<Shard> {
    const file = path.join(this.directory, `model-${String(this.done.length + 1).padStart(5, '0')}.partial`);
    try {
      return { file, handle: await fs.promises.open(file, 'wx+'), tensors: [], heldBack: [], end: 0, total: 0 };
    } catch (cause) {
      throw ioError('write', file, cause);
    }
  }

  private async endShard(): Promise<void> {
    const { shard } = this;
    if (shard === undefined) return;
    const elementBytes = (dtype: string): number => DTYPES.get(dtype)?.bytes ?? 1;
    shard.heldBack.sort((a, b) => elementBytes(b.dtype) - elementBytes(a.dtype));
    for (const { name, dtype, shape, data } of shard.heldBack) await append(shard, name, dtype, shape, data);
    shard.heldBack.length = 0;
    const header = headerBytes(shard.tensors, this.metadata);
    if (header.length > MAX_HEADER_BYTES) {
      throw new LowbitError(
        'INVALID_ARGUMENT',
        `The header of ${shard.file} has ${header.length} bytes, more than the format allows: choose a smaller maxShardBytes`,
      );
    }
    if (header.length > RESERVED_BYTES - 8 || shard.end < SMALL_SHARD_BYTES) await copyBehind(header, shard);
    else await writeFully(shard.handle, shard.file, prefixed(header, RESERVED_BYTES - 8), 0);
    await close(shard);
    this.done.push(shard);
    this.shard = undefined;
  }

  private async writeIndex(names: readonly string[]): Promise<void> {
    const entries = this.done.flatMap((shard, i) => shard.tensors.map(({ name }) => [name, names[i] as string] as const));
    entries.sort(([a], [b]) => (a < b ? -1 : 1));
    const index = {
      metadata: { total_size: this.done.reduce((sum, shard) => sum + shard.end, 0) },
      weight_map: Object.fromEntries(entries),
    };
    const file = path.join(this.directory, 'model.safetensors.index.json');
    try {
      await fs.promises.writeFile(file, `${JSON.stringify(index, null, 2)}\n`, { flag: 'wx' });
    } catch (cause) {
      throw ioError('write', file, cause);
    }
  }
}

/** JSON, padded with spaces so that the data starts at a multiple of 8. */
function headerBytes(tensors: readonly Written[], metadata: Readonly<Record<string, string>>): Buffer {
  const entries = tensors.map(({ name, dtype, shape, begin, end }) => [name, { dtype, shape, data_offsets: [begin, end] }] as const);
  const json = Buffer.from(JSON.stringify(Object.fromEntries<unknown>([['__metadata__', metadata], ...entries])));
  return Buffer.concat([json, Buffer.alloc(-json.length & 7, 0x20)]);
}

/** The length and the header, padded to `length`. */
function prefixed(header: Buffer, length: number): Buffer {
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(BigInt(length));
  return Buffer.concat([start, header, Buffer.alloc(length - header.length, 0x20)]);
}

async function append(shard: Shard, name: string, dtype: string, shape: readonly number[], bytes: Uint8Array): Promise<void> {
  await writeFully(shard.handle, shard.file, bytes, RESERVED_BYTES + shard.end);
  shard.tensors.push({ name, dtype, shape: [...shape], begin: shard.end, end: shard.end + bytes.length });
  shard.end += bytes.length;
}

/** Rewrites the shard as header and data without the reserved room. */
async function copyBehind(header: Buffer, shard: Shard): Promise<void> {
  const copy = `${shard.file}-copy`;
  try {
    const target = await fs.promises.open(copy, 'wx');
    try {
      const start = prefixed(header, header.length);
      await writeFully(target, copy, start, 0);
      const chunk = Buffer.alloc(Math.min(COPY_CHUNK_BYTES, shard.end));
      for (let at = 0; at < shard.end;) {
        const { bytesRead } = await shard.handle.read(chunk, 0, Math.min(chunk.length, shard.end - at), RESERVED_BYTES + at);
        if (bytesRead === 0)
          throw new LowbitError('IO', `Cannot read back ${shard.file}: it became shorter while it was written`, { file: shard.file });
        await writeFully(target, copy, chunk.subarray(0, bytesRead), start.length + at);
        at += bytesRead;
      }
    } finally {
      await target.close();
    }
    await close(shard); // Windows renames over no open file
    await fs.promises.rename(copy, shard.file);
  } catch (cause) {
    await fs.promises.rm(copy, { force: true }).catch(() => undefined);
    throw ioError('write', copy, cause);
  }
}

async function writeFully(handle: FileHandle, file: string, bytes: Uint8Array, position: number): Promise<void> {
  try {
    for (let done = 0; done < bytes.length;) done += (await handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  } catch (cause) {
    throw ioError('write', file, cause);
  }
}

async function close(shard: Shard): Promise<void> {
  try {
    await shard.handle.close();
  } catch (cause) {
    throw ioError('write', shard.file, cause);
  }
}

async function rename(from: string, to: string): Promise<void> {
  try {
    await fs.promises.rename(from, to);
  } catch (cause) {
    throw ioError('write', to, cause);
  }
}
