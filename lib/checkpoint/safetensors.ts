/**
 * checkpoint: reads the header of a safetensors file. The bytes of tensors are not touched.
 *
 * Layout: u64 little-endian header length N (at most 100,000,000) | N bytes of JSON that start with '{' and may end in spaces | data.
 * JSON: name -> {dtype, shape, data_offsets: [begin, end)} relative to the data, and optionally __metadata__ (string -> string).
 * The format allows no holes and no overlap: sorted by offset, each tensor starts where the one before it ends, the first at 0,
 * and the last ends where the file does. (format: safetensors 0.8, safetensors/src/tensor.rs)
 */
import { LowbitError } from '../errors';
import { DTYPES, tensorBytes } from './dtype';
import { corruptFile, readExactly, withFile } from './files';
import { isObject, own, parseJson } from './json';
import type { TensorEntry } from './types';

/** The limit of the format itself. */
export const MAX_HEADER_BYTES = 100_000_000;

/** Names of the format that this engine has no use for; a file with such a tensor is valid. */
const FOREIGN_DTYPES: ReadonlySet<string> = new Set(
  'BOOL F4 F6_E2M3 F6_E3M2 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ U16 U32 C64 U64'.split(' '),
);

export interface SafetensorsHeader {
  readonly tensors: readonly TensorEntry[];
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * Parses the JSON part of a header.
 *
 * @param json the N bytes after the length
 * @param fileSize bytes of the whole file
 * @param file for messages
 * @param fileIndex goes into TensorEntry.file
 * @throws {LowbitError} CORRUPT_FILE, or UNSUPPORTED for an element type that the engine has not
 */
export function parseSafetensorsHeader(json: Uint8Array, fileSize: number, file: string, fileIndex = 0): SafetensorsHeader {
  if (json[0] !== 0x7b) throw corruptFile(file, 'the header does not start with "{": this is no safetensors file');
  const header = parseJson(json, file, 'the header', { uniqueKeys: true });
  if (!isObject(header)) throw corruptFile(file, 'the header is no JSON object');
  const dataStart = 8 + json.length;
  const tensors: TensorEntry[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') metadata = parseMetadata(value, file);
    else tensors.push(parseEntry(name, value, { dataStart, dataBytes: fileSize - dataStart, file, fileIndex }));
  }
  checkContiguous(tensors, dataStart, fileSize, file);
  return { tensors, metadata };
}

/** Reads and parses the header of a file. */
export function readSafetensorsHeader(file: string, fileIndex = 0): Promise<SafetensorsHeader> {
  return withFile(file, async (handle, size) => {
    if (size < 8) throw corruptFile(file, `has ${size} bytes, too few for a safetensors header: it is truncated or no safetensors file`);
    const length = (await readExactly(handle, file, 0, 8)).readBigUInt64LE();
    if (length > BigInt(MAX_HEADER_BYTES)) {
      throw corruptFile(
        file,
        `claims a header of ${length} bytes, more than the ${MAX_HEADER_BYTES} of the format: this is no safetensors file`,
      );
    }
    if (length > BigInt(size - 8))
      throw corruptFile(file, `claims a header of ${length} bytes but has only ${size - 8} after the length: it is truncated`);
    return parseSafetensorsHeader(await readExactly(handle, file, 8, Number(length)), size, file, fileIndex);
  });
}

interface EntryContext {
  readonly dataStart: number;
  readonly dataBytes: number;
  readonly file: string;
  readonly fileIndex: number;
}

function parseEntry(name: string, value: unknown, { dataStart, dataBytes, file, fileIndex }: EntryContext): TensorEntry {
  const bad = (problem: string): LowbitError => corruptFile(file, `the tensor "${name.slice(0, 200)}" ${problem}`, { tensor: name });
  if (!isObject(value)) throw bad('is described by no JSON object');
  const [dtype, shape, offsets] = [own(value, 'dtype'), own(value, 'shape'), own(value, 'data_offsets')];
  if (typeof dtype !== 'string') throw bad('has no dtype');
  const size = DTYPES.get(dtype);
  if (size === undefined || size.values !== 1) {
    if (!FOREIGN_DTYPES.has(dtype)) throw bad(`has the unknown dtype "${dtype.slice(0, 60)}"`);
    throw new LowbitError(
      'UNSUPPORTED',
      `${file}: the tensor "${name}" holds ${dtype} elements, which this version does not read; use a BF16, F16 or F32 version of the model`,
      {
        file,
        tensor: name,
        dtype,
      },
    );
  }
  if (!Array.isArray(shape)) throw bad('has no shape');
  const bytes = tensorBytes(size, shape, `tensor "${name.slice(0, 200)}" in ${file}`);
  if (!Array.isArray(offsets) || offsets.length !== 2) throw bad('has no data_offsets [begin, end]');
  const [begin, end] = offsets as [unknown, unknown];
  if (!isOffset(begin) || !isOffset(end) || end < begin) throw bad(`has the data_offsets [${String(begin)}, ${String(end)}]`);
  if (end > dataBytes) throw bad(`ends at byte ${end} of the data, but the file holds ${Math.max(dataBytes, 0)}: it is truncated`);
  if (end - begin !== bytes) throw bad(`has ${end - begin} bytes, but ${dtype} [${shape.join(', ')}] takes ${bytes}`);
  return { name, file: fileIndex, dtype, shape: shape as number[], offset: dataStart + begin, bytes };
}

function isOffset(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function checkContiguous(tensors: readonly TensorEntry[], dataStart: number, fileSize: number, file: string): void {
  // An empty tensor may share its offset with the next one, so it sorts first.
  const sorted = [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let end = dataStart;
  for (const tensor of sorted) {
    if (tensor.offset !== end) {
      const problem = tensor.offset < end ? 'overlaps the tensor before it' : `leaves a hole of ${tensor.offset - end} bytes before it`;
      throw corruptFile(file, `the tensor "${tensor.name.slice(0, 200)}" ${problem}`, { tensor: tensor.name });
    }
    end += tensor.bytes;
  }
  if (end !== fileSize) throw corruptFile(file, `its tensors end at byte ${end}, but the file has ${fileSize} bytes`);
}

function parseMetadata(value: unknown, file: string): ReadonlyMap<string, string> {
  if (!isObject(value)) throw corruptFile(file, '__metadata__ is no JSON object');
  const metadata = new Map<string, string>();
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') throw corruptFile(file, `__metadata__ holds no string for "${key.slice(0, 60)}"`);
    metadata.set(key, text);
  }
  return metadata;
}
