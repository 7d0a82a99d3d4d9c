/**
 * lib/quantize/conversions: to one GGUF file. Codes that a block type holds are carried over, other blocks are rounded on ranges that are searched.
 */
import path from 'node:path';
import { GgufWriter } from '../../checkpoint/gguf_writer';
import type { Checkpoint } from '../../checkpoint/types';
import { LowbitError } from '../../errors';
import type { Plan } from '../../graph/plan';
import { throwIfAborted } from '../../native';
import { fitted, ggufTypes, linearType, outerType, type GgufType } from '../gguf_types';
import { ggufFileName, ggufKeys } from '../outputs/gguf';
import { architectureOf, ggufTensors, placeOf } from '../outputs/gguf_tensors';
import { readTensor, type DenseTensor } from '../write';
import {
  denseTypes,
  relativeError,
  storedAs,
  type Conversion,
  type ConversionRun,
  type ConversionSource,
  type ConvertedTensor,
} from './conversion';
import type { ConvertType } from '../convert';

/** @throws {LowbitError} UNSUPPORTED for models that GGUF has no place for */
export async function ggufConversion({ checkpoint, plan }: ConversionSource, type: ConvertType | undefined): Promise<Conversion> {
  const dense = ggufTensors(checkpoint, plan, typesOf(checkpoint, plan, type));
  const keys = await ggufKeys(checkpoint, plan, fileType(dense, type));
  return {
    bytes: dense.reduce((sum, { bytes }) => sum + bytes, 0),
    async write(run) {
      const writer = await GgufWriter.create(path.join(run.directory, ggufFileName), keys, dense);
      try {
        const tensors = await writeAll(writer, dense, run);
        const dropped = droppedOf(checkpoint, plan);
        return { format: 'gguf', file: ggufFileName, tensors, dropped, bytes: await writer.finish() };
      } catch (reason) {
        await writer.abort();
        throw reason;
      }
    },
  };
}

async function writeAll(writer: GgufWriter, dense: readonly DenseTensor[], run: ConversionRun): Promise<ConvertedTensor[]> {
  const { checkpoint, plan, model, signal, onProgress } = run;
  const total = dense.reduce((sum, { bytes }) => sum + bytes, 0);
  const converted: ConvertedTensor[] = [];
  let done = 0;
  for (const tensor of dense) {
    throwIfAborted(signal);
    const sums = { error: 0, norm: 0 };
    const onEncoded = (error: number, norm: number): void => void ((sums.error += error), (sums.norm += norm));
    const report = (bytes: number): void => onProgress((done + bytes) / total);
    await writer.writePieces(
      tensor.name,
      readTensor(tensor, { checkpoint, model, signal, onProgress: () => undefined, onEncoded }, report),
    );
    done += tensor.bytes;
    onProgress(done / total);
    if (tensor.from.kind === 'values') continue;
    const error = relativeError(sums.error, sums.norm);
    converted.push({ name: tensor.name, from: sourceType(checkpoint, plan, tensor), to: tensor.dtype, exact: error === 0, error });
  }
  return converted;
}

function sourceType(checkpoint: Checkpoint, plan: Plan, { from, dtype }: DenseTensor): string {
  if (from.kind === 'stored') return checkpoint.tensors[plan.vectors[from.vector]?.tensor ?? -1]?.dtype ?? dtype;
  const weight = from.kind === 'encoded' ? plan.weights[from.weight] : undefined;
  return weight === undefined ? dtype : storedAs(checkpoint, weight);
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
      if (source.kind === 'words' && k % 32 === 0) {
        const sym = source.qzeros === undefined;
        return source.bits > 5 ? 'Q8_0' : source.bits === 5 ? (sym ? 'Q5_0' : 'Q5_1') : sym ? 'Q4_0' : 'Q4_1';
      }
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
