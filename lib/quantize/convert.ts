/**
 * lib/quantize: moves a model to another format without calibration. What the format can hold is carried over bit for bit, everything else is
 * rounded once or stays dense, and the report says which tensor fared how. conversions/ has a file per kind of output. No numerics here: the
 * engine encodes, lib/checkpoint writes.
 */
import path from 'node:path';
import { openCheckpoint, withAtomicDirectory } from '../checkpoint';
import { LowbitError, invalidArgument } from '../errors';
import { type HubOptions, type PullResult, hubOption, localModel } from '../hub';
import { buildPlan, modelSummary } from '../models';
import { native, runJob } from '../native';
import { abortSignal, boolean, callback, checkOptions, integer, oneOf, pathString } from '../options';
import { ggufTypes, type GgufType } from './gguf_types';
import { checkOutput, checkSpace } from './preflight';
import { directoryConversion } from './conversions/directory';
import { ggufConversion } from './conversions/gguf';
import { denseTypes, type Conversion, type ConvertedTensor, type ConvertTarget, type DenseType } from './conversions/conversion';

export { denseTypes } from './conversions/conversion';
export type { ConvertedTensor, ConvertTarget } from './conversions/conversion';

export type ConvertType = GgufType | DenseType;

export interface ConvertOptions {
  /** A Hugging Face directory, dense or quantised (GPTQ, AWQ, compressed-tensors, lowbit), a .gguf file, or the name of one on a hub, `hf:owner/name`. */
  readonly model: string;
  /** How a model named `hf:owner/name` is found and fetched. */
  readonly hub?: HubOptions;
  /** Directory to create. Nothing appears there unless the conversion succeeds. */
  readonly output: string;
  /**
   * The format to write:
   *
   * - 'gguf': one file, model.gguf, for llama.cpp.
   * - 'hf': a dense Hugging Face directory.
   * - 'gptq': a GPTQ checkpoint, version 1 where that holds all zero points and version 2 otherwise; 'gptq_v2': version 2. Codes, scales and zero points of
   *   the source are carried over bit for bit.
   * - 'lowbit': lowbit's own container, likewise bit for bit.
   */
  readonly to: ConvertTarget;
  /**
   * What matrices that are not carried over become. With 'gguf': a dense type, a block type or a mixture of llama.cpp. Otherwise 'F32', 'F16' or 'BF16'. Default:
   * what holds the source best, so dense matrices keep their type; for 'gguf' GPTQ checkpoints become Q4_0, Q4_1 or Q8_0 and blocks stay as they are, for the
   * others codes become the `torch_dtype` of config.json, or BF16.
   */
  readonly type?: ConvertType;
  /** With 'gptq', 'gptq_v2' and 'lowbit': write linears that the format cannot hold exactly dense, in place of refusing. Default false. */
  readonly allowDense?: boolean;
  /** Largest size of one .safetensors file in bytes, 65,536 or more. Default 4 GiB. A larger tensor has a file of its own. */
  readonly maxShardBytes?: number;
  /** Threads including the engine's own, 1 to 256. Default: the physical cores this process may use. */
  readonly threads?: number;
  /** Replace an existing output directory. Default false. */
  readonly overwrite?: boolean;
  /** Fraction of the work done, 0 to 1. */
  readonly onProgress?: (fraction: number) => void;
  /** Ends the conversion: the promise rejects with CANCELLED and nothing is left behind. */
  readonly signal?: AbortSignal;
}

export interface ConvertReport {
  /** What was written: a .gguf file, or a directory. */
  readonly output: string;
  /** As asked for, but that 'gptq' says which version it became. */
  readonly format: ConvertTarget;
  readonly tensors: readonly ConvertedTensor[];
  /** What the source had and the output has not, in words. */
  readonly dropped: readonly string[];
  /** Where the model came from, if a hub. */
  readonly hub?: PullResult;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

const targets = ['gguf', 'hf', 'gptq', 'gptq_v2', 'lowbit'] as const;

const spec = {
  model: pathString,
  hub: hubOption,
  output: pathString,
  to: oneOf(...targets),
  type: oneOf(...denseTypes, ...ggufTypes),
  allowDense: boolean,
  maxShardBytes: integer(65_536, 2 ** 50),
  threads: integer(1, 256),
  overwrite: boolean,
  onProgress: callback<(fraction: number) => void>(),
  signal: abortSignal,
};

/** Part of the work that reading and checking all weights once is. */
const loadShare = 0.2;

/**
 * Converts a model without calibration. Output and free space are checked first. Weights are read from their files one at a time: a model may be larger than memory.
 *
 * @example
 * const report = await convert({ model: 'model-awq', output: 'model-gptq', to: 'gptq' });
 * console.log(report.tensors.filter(({ exact }) => !exact));
 * @throws {LowbitError} INVALID_ARGUMENT; UNSUPPORTED for what the format cannot hold, with all linears at fault in details.layers; CORRUPT_FILE, IO,
 *   OUT_OF_MEMORY, CANCELLED. No output is left behind then
 */
export async function convert(options: ConvertOptions): Promise<ConvertReport> {
  const checked = checkOptions('convert', options, spec);
  const { model: from, output: to, to: target } = checked;
  if (from === undefined || to === undefined) throw invalidArgument(from === undefined ? 'model' : 'output', 'non-empty path', undefined);
  if (target === undefined) throw invalidArgument('to', `one of ${targets.map((word) => `"${word}"`).join(', ')}`, undefined);
  const { signal, threads, overwrite, onProgress } = checked;
  checkTogether(target, checked.type, checked.allowDense);
  const { path: model, pulled } = await localModel(from, checked.hub, signal);
  const checkpoint = await openCheckpoint(model, { signal });
  const plan = buildPlan(checkpoint);
  const output = path.resolve(to);
  await checkOutput({ output, overwrite: overwrite ?? false }, checkpoint, false);
  const source = { checkpoint, plan };
  const conversion: Conversion =
    target === 'gguf'
      ? await ggufConversion(source, checked.type)
      : await directoryConversion(source, {
          target,
          type: checked.type as DenseType | undefined,
          allowDense: checked.allowDense ?? false,
          maxShardBytes: checked.maxShardBytes ?? 4 * 2 ** 30,
        });

  await checkSpace(output, conversion.bytes + 2 ** 20); // headers and the files beside the weights
  const write = async (directory: string): Promise<ConvertReport> => {
    const { files, tensors } = checkpoint;
    const model = await runJob({ signal }, (control) =>
      native().loadModel({ files, tensors, plan, precision: 'exact', threads: threads ?? 0, lazy: true }, control),
    );
    try {
      onProgress?.(loadShare);
      const written = await conversion.write({
        ...source,
        model,
        directory,
        signal,
        onProgress: (fraction) => onProgress?.(loadShare + (1 - loadShare) * fraction),
      });
      return {
        output: path.join(output, written.file),
        format: written.format,
        tensors: written.tensors,
        dropped: written.dropped,
        ...(pulled !== undefined && { hub: pulled }),
        bytesBefore: modelSummary(plan, checkpoint).storedBytes,
        bytesAfter: written.bytes,
      };
    } finally {
      await native().disposeModel(model);
    }
  };
  return withAtomicDirectory(output, write, { overwrite, signal });
}

function checkTogether(target: ConvertTarget, type: ConvertType | undefined, allowDense: boolean | undefined): void {
  if (target !== 'gguf' && type !== undefined && !(denseTypes as readonly string[]).includes(type)) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `Expected one of ${denseTypes.map((word) => `"${word}"`).join(', ')} for type but received "${type}": block types are those of 'gguf'`,
      { option: 'type' },
    );
  }
  if (allowDense !== undefined && (target === 'gguf' || target === 'hf')) {
    throw new LowbitError('INVALID_ARGUMENT', `allowDense is a choice of 'gptq', 'gptq_v2' and 'lowbit': leave it out with '${target}'`, {
      option: 'allowDense',
    });
  }
}
