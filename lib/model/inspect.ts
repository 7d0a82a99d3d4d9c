/** inspect(): what a checkpoint holds, from its headers alone. Needs no engine and reads no weights. */
import { openCheckpoint } from '../checkpoint';
import { type HubOptions, type PullResult, hubOption, localModel } from '../hub';
import { buildPlan, modelSummary, type ModelSummary } from '../models';
import { abortSignal, checkOptions, pathString } from '../options';

/** Tensors of one storage type. */
export interface TensorTypeSummary {
  /** F32, F16, BF16, I32, Q4_0, Q6_K, ... */
  readonly dtype: string;
  readonly tensors: number;
  readonly elements: number;
  readonly bytes: number;
}

export interface InspectOptions {
  /** How a model named `hf:owner/name` is found and fetched. */
  readonly hub?: HubOptions;
  readonly signal?: AbortSignal;
}

export interface InspectResult extends ModelSummary {
  readonly path: string;
  /** Where it came from, if it was named `hf:owner/name`. */
  readonly hub?: PullResult;
  readonly kind: 'hf' | 'gguf';
  /** Files that hold tensors. */
  readonly files: readonly string[];
  readonly tensors: number;
  /** Bytes of all tensors, those the model does not use included. */
  readonly tensorBytes: number;
  /** By falling number of bytes. */
  readonly tensorTypes: readonly TensorTypeSummary[];
  readonly hasTokenizer: boolean;
  readonly hasChatTemplate: boolean;
}

/**
 * Summary of a Hugging Face directory or a GGUF file. A model named `hf:owner/name` is fetched whole if it is not in the cache.
 *
 * @example
 * const { parameters, bitsPerWeight, quantization } = await inspect('model.gguf');
 * @throws {LowbitError} IO, CORRUPT_FILE, UNSUPPORTED for an architecture or a format that lowbit cannot run
 */
export async function inspect(model: string, options?: InspectOptions): Promise<InspectResult> {
  const { hub, signal } = checkOptions('inspect', options, { hub: hubOption, signal: abortSignal });
  const { path, pulled } = await localModel(pathString('path', model), hub, signal);
  const checkpoint = await openCheckpoint(path, { signal });
  const summary = modelSummary(buildPlan(checkpoint), checkpoint);
  const types = new Map<string, { tensors: number; elements: number; bytes: number }>();
  for (const { dtype, shape, bytes } of checkpoint.tensors) {
    const total = types.get(dtype) ?? { tensors: 0, elements: 0, bytes: 0 };
    total.tensors++;
    total.elements += shape.reduce((product, size) => product * size, 1);
    total.bytes += bytes;
    types.set(dtype, total);
  }
  return {
    path,
    ...(pulled === undefined ? {} : { hub: pulled }),
    kind: checkpoint.kind,
    ...summary,
    files: checkpoint.files,
    tensors: checkpoint.tensors.length,
    tensorBytes: checkpoint.tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    tensorTypes: [...types].map(([dtype, total]) => ({ dtype, ...total })).sort((a, b) => b.bytes - a.bytes),
    hasTokenizer: checkpoint.tokenizerJson !== undefined,
    hasChatTemplate: checkpoint.chatTemplate !== undefined,
  };
}
