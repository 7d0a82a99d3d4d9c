/**
 * checkpoint: opens models as they are published, reading headers only: Hugging Face directories with safetensors, and GGUF files.
 * The result is one typed form (types.ts); the engine maps the tensor bytes.
 */
import fs from 'node:fs';
import path from 'node:path';
import { LowbitError, invalidArgument } from '../errors';
import { ioError } from './files';
import { openGguf } from './gguf';
import { openHfDirectory } from './hf';
import type { Checkpoint } from './types';

export type { Checkpoint, TensorEntry } from './types';
export { GgufWriter, type GgufTensorSpec } from './gguf_writer';
export { withAtomicDirectory, type AtomicDirectoryOptions } from './atomic';
export type { GptqConfig, GptqModuleConfig } from './gptq_config';
export { resolveZeroOffset, type ZeroOffset } from './gptq_zeros';
export { parseQuantizationConfig, type QuantizationConfig } from './quantization_config';
export { SafetensorsWriter, type SafetensorsWriterOptions } from './safetensors_writer';

/**
 * Opens a checkpoint: a directory with config.json and safetensors files, or a .gguf file.
 *
 * @param checkpointPath a directory or a .gguf file
 * @param options.signal stops between files
 * @throws {LowbitError} IO for what is missing or unreadable, CORRUPT_FILE for what contradicts itself, UNSUPPORTED for formats and
 *   versions that are not read (the message says what to do), CANCELLED, INVALID_ARGUMENT
 */
export async function openCheckpoint(
  checkpointPath: string,
  options: { readonly signal?: AbortSignal | undefined } = {},
): Promise<Checkpoint> {
  if (typeof checkpointPath !== 'string' || checkpointPath === '')
    throw invalidArgument('path', 'path of a directory or a .gguf file', checkpointPath);
  const checkAborted = (): void => {
    if (options.signal?.aborted) throw new LowbitError('CANCELLED', 'The operation was aborted', {}, { cause: options.signal.reason });
  };
  checkAborted();
  const resolved = path.resolve(checkpointPath);
  let stat: fs.Stats;
  try {
    stat = await fs.promises.stat(resolved);
  } catch (cause) {
    throw ioError('open', resolved, cause);
  }
  if (stat.isDirectory()) return openHfDirectory(resolved, checkAborted);
  if (resolved.endsWith('.safetensors')) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `${resolved} holds weights only: give the directory that holds it together with config.json`,
      { file: resolved },
    );
  }
  return openGguf(resolved, checkAborted);
}
