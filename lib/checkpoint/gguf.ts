/**
 * checkpoint: opens GGUF files (version 2 and 3, little endian). Reads the header piece by piece and the few small tensors that are
 * configuration (rotary factors); config, tokenizer and names are rebuilt in Hugging Face terms by gguf_config.ts,
 * gguf_tokenizer.ts and gguf_names.ts.
 */
import { LowbitError } from '../errors';
import { corruptFile, readExactly, withFile } from './files';
import { configFromGguf, generationConfigFromGguf } from './gguf_config';
import { type GgufHeader, NeedMoreBytes, parseGgufHeader } from './gguf_header';
import { GgufMetadata } from './gguf_metadata';
import { GGUF_ARCHITECTURES, ggufName, isGgufArchitecture } from './gguf_names';
import { tokenizerFromGguf } from './gguf_tokenizer';
import { indexByName, makeCheckpoint } from './table';
import type { Checkpoint, TensorEntry } from './types';

/** Headers of published models have up to about 30 MB, most of it vocabulary. */
const HEADER_LIMIT = 512 * 1024 * 1024;
/** Enough for a vocabulary of 50,000 tokens. A parse that runs out of bytes begins anew, with eight times as many. */
const FIRST_PIECE = 2 * 1024 * 1024;

export async function openGguf(file: string, checkAborted: () => void): Promise<Checkpoint> {
  return withFile(file, async (handle, size) => {
    const header = await readHeader(file, size, checkAborted, (length) => readExactly(handle, file, 0, length));
    const metadata = new GgufMetadata(header.metadata, file);
    const index = indexByName(header.tensors, [file]);
    const architecture = metadata.required('general.architecture', metadata.string('general.architecture'));
    if (!isGgufArchitecture(architecture)) {
      throw new LowbitError(
        'UNSUPPORTED',
        `${file} holds a model of the architecture "${architecture}"; this version knows ${GGUF_ARCHITECTURES.join(', ')}`,
        {
          file,
          architecture,
        },
      );
    }
    const find = (name: string): number | undefined => index.get(name);
    const shapeOf = (name: string): readonly number[] | undefined => header.tensors[find(name) ?? -1]?.shape;
    const numbersOf = async (name: string, limit: number): Promise<readonly number[] | undefined> => {
      const tensor = header.tensors[find(name) ?? -1];
      return tensor && readFloats(tensor, limit, file, (offset, length) => readExactly(handle, file, offset, length));
    };
    const config = await configFromGguf(architecture, metadata, { shapeOf, numbersOf });
    checkAborted();
    const parts = {
      kind: 'gguf' as const,
      path: file,
      files: [file],
      tensors: header.tensors,
      config,
      ...tokenizerFromGguf(metadata),
      chatTemplate: metadata.string('tokenizer.chat_template'),
      generationConfig: generationConfigFromGguf(metadata),
      conventions: { ropePermuted: architecture === 'llama', normPlusOneStored: architecture === 'gemma2' || architecture === 'gemma3' },
    };
    return makeCheckpoint(parts, (hfName) => {
      const name = ggufName(architecture, hfName);
      return name === undefined ? undefined : index.get(name);
    });
  });
}

/** Type and value of every key of a GGUF file, as its bytes. For writers that carry metadata over. @throws {LowbitError} as openCheckpoint */
export async function readGgufKeys(file: string): Promise<ReadonlyMap<string, Buffer>> {
  return withFile(file, async (handle, size) => {
    const { ranges } = await readHeader(
      file,
      size,
      () => undefined,
      (length) => readExactly(handle, file, 0, length),
    );
    const keys = new Map<string, Buffer>();
    for (const [key, [begin, end]] of ranges) keys.set(key, await readExactly(handle, file, begin, end - begin));
    return keys;
  });
}

/** Enlarges the piece until the header fits: the length is only known once it is parsed. */
async function readHeader(
  file: string,
  size: number,
  checkAborted: () => void,
  read: (length: number) => Promise<Buffer>,
): Promise<GgufHeader> {
  for (let length = Math.min(size, FIRST_PIECE); ;) {
    const parsed = parseGgufHeader(await read(length), size, HEADER_LIMIT, file);
    if (!(parsed instanceof NeedMoreBytes)) return parsed;
    checkAborted();
    length = Math.min(size, Math.max(8 * length, parsed.bytes));
  }
}

/** A small F32 tensor as numbers. */
async function readFloats(
  tensor: TensorEntry,
  limit: number,
  file: string,
  read: (offset: number, length: number) => Promise<Buffer>,
): Promise<readonly number[]> {
  if (tensor.dtype !== 'F32' || tensor.bytes > 4 * limit) {
    throw corruptFile(
      file,
      `expected at most ${limit} F32 values in the tensor "${tensor.name}" but found ${tensor.dtype} [${tensor.shape.join(', ')}]`,
      {
        tensor: tensor.name,
      },
    );
  }
  const bytes = await read(tensor.offset, tensor.bytes);
  const values = Array.from({ length: tensor.bytes / 4 }, (_, i) => bytes.readFloatLE(4 * i));
  if (!values.every((value) => value > 0 && Number.isFinite(value)))
    throw corruptFile(file, `the tensor "${tensor.name}" holds a rotary factor that is not above 0`, { tensor: tensor.name });
  return values;
}
