/**
 * lib/quantize: moves a model to another format without calibration. What the format can hold is carried over, everything else is rounded once, and
 * the report says which tensor fared how. No numerics here: the engine encodes, lib/checkpoint writes.
 */
import path from 'node:path';
import { openCheckpoint, withAtomicDirectory } from '../checkpoint';
import { GgufWriter } from '../checkpoint/gguf_writer';
import type { Checkpoint } from '../checkpoint/types';
import { LowbitError, invalidArgument } from '../errors';
import type { Plan } from '../graph/plan';
import { buildPlan, modelSummary } from '../models';
import { native, runJob, throwIfAborted, type ModelHandle } from '../native';
import { abortSignal, boolean, callback, checkOptions, integer, oneOf, pathString } from '../options';
import { fitted, ggufTypes, linearType, outerType, type GgufType } from './gguf_types';
import { ggufFileName, ggufKeys } from './outputs/gguf';
import { architectureOf, ggufTensors, placeOf, reordered } from './outputs/gguf_tensors';
import { readTensor, type DenseTensor } from './write';

export const denseTypes = ['F32', 'F16', 'BF16'] as const;
export type ConvertType = GgufType | (typeof denseTypes)[number];

export interface ConvertOptions {
  /** A Hugging Face directory, dense or GPTQ, or a .gguf file. */
  readonly model: string;
  /** Directory to create; it will hold model.gguf. Nothing appears there unless the conversion succeeds. */
  readonly output: string;
  /** The format to write. */
  readonly to: 'gguf';
  /**
   * What matrices become: a dense type, a block type or a mixture of llama.cpp. Default: what holds the source best. Dense files become BF16 (F16, F32 where
   * the source is that), GPTQ checkpoints Q4_0, Q4_1 or Q8_0, blocks stay as they are.
   */
  readonly type?: ConvertType;
  /** Threads including the engine's own, 1 to 256. Default: the physical cores this process may use. */
  readonly threads?: number;
  /** Replace an existing output directory. Default false. */
  readonly overwrite?: boolean;
  /** Fraction of the work done, 0 to 1. */
  readonly onProgress?: (fraction: number) => void;
  /** Ends the conversion: the promise rejects with CANCELLED and nothing is left behind. */
  readonly signal?: AbortSignal;
}

export interface ConvertedTensor {
  readonly name: string;
  /** As the source stores it: a dtype, or "GPTQ 4 bit, group 128". */
  readonly from: string;
  readonly to: string;
  /** Every value is the same. */
  readonly exact: boolean;
  /** Squared error relative to the squared norm; 0 when exact. */
  readonly error: number;
}

export interface ConvertReport {
  /** The file written. */
  readonly output: string;
  readonly tensors: readonly ConvertedTensor[];
  /** What the source had and the output has not, in words. */
  readonly dropped: readonly string[];
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

const spec = {
  model: pathString,
  output: pathString,
  to: oneOf('gguf'),
  type: oneOf(...denseTypes, ...ggufTypes),
  threads: integer(1, 256),
  overwrite: boolean,
  onProgress: callback<(fraction: number) => void>(),
  signal: abortSignal,
};

/**
 * Converts a model without calibration.
 *
 * @example
 * const report = await convert({ model: 'model-4bit', output: 'model-gguf', to: 'gguf' });
 * console.log(report.tensors.filter(({ exact }) => !exact));
 * @throws {LowbitError} INVALID_ARGUMENT; UNSUPPORTED for models that the format cannot hold; CORRUPT_FILE, IO, OUT_OF_MEMORY, CANCELLED. No output is
 *   left behind then
 */
export async function convert(options: ConvertOptions): Promise<ConvertReport> {
  const checked = checkOptions('convert', options, spec);
  for (const name of ['model', 'output', 'to'] as const)
    if (checked[name] === undefined) throw invalidArgument(name, name === 'to' ? 'one of "gguf"' : 'non-empty path', undefined);
  const { signal, threads, overwrite } = checked;
  const checkpoint = await openCheckpoint(checked.model as string, { signal });
  const plan = buildPlan(checkpoint);
  const output = path.resolve(checked.output as string);
  if (output === path.resolve(checkpoint.path)) throw invalidArgument('output', 'another path than that of the model', output);
  const dense = ggufTensors(checkpoint, plan, typesOf(checkpoint, plan, checked.type));
  const keys = await ggufKeys(checkpoint, plan, fileType(dense, checked.type));

  const write = async (directory: string): Promise<ConvertReport> => {
    const { files, tensors } = checkpoint;
    const model = await runJob({ signal }, (control) =>
      native().loadModel({ files, tensors, plan, precision: 'exact', threads: threads ?? 0 }, control),
    );
    try {
      const writer = await GgufWriter.create(path.join(directory, ggufFileName), keys, dense);
      try {
        const converted = await writeAll(writer, { checkpoint, plan, model, dense, signal, onProgress: checked.onProgress });
        return {
          output: path.join(output, ggufFileName),
          tensors: converted,
          dropped: droppedOf(checkpoint, plan),
          bytesBefore: modelSummary(plan, checkpoint).storedBytes,
          bytesAfter: await writer.finish(),
        };
      } catch (reason) {
        await writer.abort();
        throw reason;
      }
    } finally {
      await native().disposeModel(model);
    }
  };
  return withAtomicDirectory(output, write, { overwrite, signal });
}

interface Work {
  readonly checkpoint: Checkpoint;
  readonly plan: Plan;
  readonly model: ModelHandle;
  readonly dense: readonly DenseTensor[];
  readonly signal: AbortSignal | undefined;
  readonly onProgress: ((fraction: number) => void) | undefined;
}

async function writeAll(writer: GgufWriter, { checkpoint, plan, model, dense, signal, onProgress }: Work): Promise<ConvertedTensor[]> {
  const total = dense.reduce((sum, { bytes }) => sum + bytes, 0);
  const converted: ConvertedTensor[] = [];
  let done = 0;
  for (const tensor of dense) {
    throwIfAborted(signal);
    const { from, name, dtype } = tensor;
    let error = 0;
    if (from.kind === 'encoded') {
      const encoded = await runJob({ signal }, (control) => native().encodeWeight(model, from.weight, dtype, control));
      error = encoded.error;
      await writer.write(name, reordered(encoded.bytes, from.order));
    } else {
      await writer.writePieces(
        name,
        readTensor(tensor, { checkpoint, model, signal, onProgress: () => undefined }, () => undefined),
      );
    }
    done += tensor.bytes;
    onProgress?.(done / total);
    if (from.kind !== 'values') converted.push({ name, from: sourceType(checkpoint, plan, tensor), to: dtype, exact: error === 0, error });
  }
  return converted;
}

function sourceType(checkpoint: Checkpoint, plan: Plan, { from, dtype }: DenseTensor): string {
  if (from.kind === 'stored') return checkpoint.tensors[plan.vectors[from.vector]?.tensor ?? -1]?.dtype ?? dtype;
  if (from.kind !== 'encoded') return dtype;
  const source = plan.weights[from.weight]?.source;
  if (source === undefined) return dtype;
  if (source.kind === 'tensor') return checkpoint.tensors[source.tensor]?.dtype ?? dtype;
  if (source.kind === 'parts') return 'parts';
  return `${source.kind === 'gptq' ? 'GPTQ' : 'packed'} ${source.bits} bit, group ${source.groupSize}`;
}

/** The type of each weight. */
function typesOf(checkpoint: Checkpoint, plan: Plan, wanted: ConvertType | undefined): (weight: number) => string {
  const architecture = architectureOf(checkpoint);
  const quantization = checkpoint.config['quantization_config'] as Readonly<Record<string, unknown>> | undefined;
  const symmetric = quantization?.['sym'] !== false;
  const tied = !plan.weights.some(({ role }) => role === 'head');
  return (weight) => {
    const { name, role, k, source } = plan.weights[weight] as Plan['weights'][number];
    if (wanted === undefined) {
      if (source.kind === 'gptq') return source.bits === 8 ? 'Q8_0' : symmetric ? 'Q4_0' : 'Q4_1';
      return source.kind === 'tensor' ? (checkpoint.tensors[source.tensor]?.dtype ?? 'BF16') : 'BF16';
    }
    if ((denseTypes as readonly string[]).includes(wanted)) return wanted;
    const type = wanted as GgufType;
    if (role !== 'linear') return outerType(type, role === 'head' || tied, k).type;
    const place = placeOf(architecture, name);
    const chosen = place === undefined ? fitted('Q8_0', k) : linearType(type, place.name, place.layer, plan.blocks.length, k);
    if (k % 32 !== 0)
      throw new LowbitError('UNSUPPORTED', `${name} has ${k} columns, no multiple of 32: choose a dense type`, { option: 'type' });
    return chosen.type;
  };
}

/** general.file_type: the type asked for, or the one that most bytes have. */
function fileType(dense: readonly DenseTensor[], wanted: ConvertType | undefined): ConvertType {
  if (wanted !== undefined) return wanted;
  const bytes = new Map<string, number>();
  for (const { dtype, bytes: size } of dense) bytes.set(dtype, (bytes.get(dtype) ?? 0) + size);
  const [most] = [...bytes].sort(([, a], [, b]) => b - a)[0] ?? ['BF16'];
  return ([...denseTypes, ...ggufTypes] as readonly string[]).includes(most) ? (most as ConvertType) : 'F16';
}

/** Settings that only Hugging Face files have. */
function droppedOf(checkpoint: Checkpoint, plan: Plan): string[] {
  if (checkpoint.kind === 'gguf') return [];
  const generation = Object.keys(checkpoint.generationConfig).filter(
    (key) => !/_token_id$|^transformers_version$|^_from_model_config$/.test(key),
  );
  const ordered = plan.weights.some(({ source }) => source.kind === 'gptq' && source.gIdx !== undefined);
  return [
    ...(generation.length > 0 ? [`generation_config.json: ${generation.join(', ')}`] : []),
    ...(checkpoint.config['quantization_config'] !== undefined ? ['quantization_config of config.json'] : []),
    ...(ordered &&
    checkpoint.config['quantization_config'] !== undefined &&
    (checkpoint.config['quantization_config'] as { desc_act?: unknown }).desc_act === true
      ? ['the stored order of columns (desc_act): those linears are rounded again']
      : []),
    ...(plan.architecture === 'mistral' && typeof checkpoint.config['sliding_window'] === 'number'
      ? ['the attention window of Mistral, which llama.cpp does not apply to llama files']
      : []),
  ];
}
