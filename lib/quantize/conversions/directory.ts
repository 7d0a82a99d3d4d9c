/**
 * lib/quantize/conversions: to a Hugging Face directory: dense, a GPTQ checkpoint or a lowbit container. Quantised weights are carried over where the format
 * holds them (carry.ts decides), become dense where not; everything else is what the source has.
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { SafetensorsWriter } from '../../checkpoint';
import { DTYPES, tensorBytes, type DtypeSize } from '../../checkpoint/dtype';
import { readGgufKeys } from '../../checkpoint/gguf';
import type { Checkpoint, TensorEntry } from '../../checkpoint/types';
import { LowbitError } from '../../errors';
import type { Plan, Weight } from '../../graph/plan';
import { buildPlan, modelSummary } from '../../models';
import { native, runJob, throwIfAborted, type StoredTensor } from '../../native';
import { findSideFiles, writeSideFiles } from '../sidefiles';
import { hfVector, readTensor, type DenseTensor } from '../write';
import { carriedWeights, type Carried } from './carry';
import {
  isQuantized,
  packedAs,
  relativeError,
  storedAs,
  type Conversion,
  type ConversionRun,
  type ConversionSource,
  type ConvertedTensor,
  type ConvertTarget,
  type DenseType,
} from './conversion';
import { containerConfig, gptqConfig } from './packed_config';

export interface DirectoryOptions {
  readonly target: Exclude<ConvertTarget, 'gguf'>;
  readonly type: DenseType | undefined;
  readonly allowDense: boolean;
  readonly maxShardBytes: number;
}

/** Part of the writing that looking at the codes first is, where codes are carried over. */
const carryShare = 0.3;

/** @throws {LowbitError} UNSUPPORTED for a source that the target has nothing to do with */
export async function directoryConversion(source: ConversionSource, options: DirectoryOptions): Promise<Conversion> {
  const { checkpoint, plan } = source;
  const { target } = options;
  if (target !== 'hf' && !plan.weights.some((weight) => weight.role === 'linear' && isQuantized(checkpoint, weight))) {
    throw new LowbitError(
      'UNSUPPORTED',
      `${checkpoint.path} holds no quantised linears that could be carried over: compress it with quantize (lowbit quantize --format ${target})`,
      { file: checkpoint.path, option: 'to' },
    );
  }
  const sideFiles = await findSideFiles(checkpoint);
  // What becomes of codes is known when they have been read; carried over, they take as much as before.
  const whole = target === 'hf' ? denseTensors(source, undefined, denseTypesOf(source, options.type), new Set()) : undefined;
  return {
    bytes: whole?.reduce((sum, { bytes }) => sum + bytes, 0) ?? modelSummary(plan, checkpoint).storedBytes,
    async write(run) {
      const carried =
        target === 'hf' ? undefined : await carriedWeights({ ...run, onProgress: (f) => run.onProgress(carryShare * f) }, options);
      const share = carried === undefined ? 0 : carryShare;
      const biases = needlessBiases(run, carried?.weights ?? new Map<number, Carried>());
      const types = denseTypesOf(source, options.type);
      const dense = denseTensors(source, carried, types, biases);
      if (target === 'hf') checkDense(checkpoint, dense);
      const writer = new SafetensorsWriter(run.directory, { maxShardBytes: options.maxShardBytes });
      try {
        const tensors = await writeAll(writer, carried, dense, { ...run, onProgress: (f) => run.onProgress(share + (1 - share) * f) });
        const files = await writer.finish();
        const changes = { [dtypeKey(checkpoint)]: torchName(mainType(dense, carried)) };
        const explicit = options.type !== undefined && carried === undefined;
        const quantization =
          carried === undefined ? undefined : target === 'lowbit' ? containerConfig(checkpoint) : gptqConfig(source, carried);
        await writeSideFiles(run.directory, checkpoint, sideFiles, quantization, explicit || checkpoint.kind === 'gguf' ? changes : {});
        const sizes = await Promise.all(files.map(async (file) => (await stat(path.join(run.directory, file))).size));
        return {
          format: carried?.format ?? 'hf',
          file: '',
          tensors,
          dropped: [
            ...(await droppedOf(checkpoint, target)),
            ...(biases.size > 0 ? [`biases of ${biases.size} linears that are all zero`] : []),
          ],
          bytes: sizes.reduce((sum, size) => sum + size, 0),
        };
      } catch (reason) {
        await writer.abort();
        throw reason;
      }
    },
  };
}

/** The dense type of each weight: its own where it has one. */
function denseTypesOf({ checkpoint }: ConversionSource, wanted: DenseType | undefined): (weight: Weight) => string {
  const named = configType(checkpoint);
  return (weight) => {
    const stored = storedAs(checkpoint, weight);
    // Routers run in f32 and choose among experts: rounding them is never worth the bytes.
    if (!isQuantized(checkpoint, weight)) return weight.role === 'router' ? stored : (wanted ?? stored);
    return wanted ?? named ?? 'BF16';
  };
}

function configType(checkpoint: Checkpoint): DenseType | undefined {
  const name = checkpoint.config['dtype'] ?? checkpoint.config['torch_dtype'];
  return ({ float32: 'F32', float16: 'F16', bfloat16: 'BF16' } as const)[String(name) as 'float32'];
}

const dtypeKey = (checkpoint: Checkpoint): string =>
  checkpoint.config['dtype'] !== undefined && checkpoint.config['torch_dtype'] === undefined ? 'dtype' : 'torch_dtype';

const torchName = (type: string): string => ({ F32: 'float32', F16: 'float16' })[type] ?? 'bfloat16';

/** The type of most dense matrices; where all are carried, the one that cannot overflow. */
function mainType(dense: readonly DenseTensor[], carried: unknown): string {
  const bytes = new Map<string, number>();
  for (const { dtype, bytes: size, shape } of dense) if (shape.length > 1) bytes.set(dtype, (bytes.get(dtype) ?? 0) + size);
  return [...bytes].sort(([, a], [, b]) => b - a)[0]?.[0] ?? (carried === undefined ? 'F32' : 'BF16');
}

/** Tensors of a packed linear behind its name and a dot. */
const packedTensor = /^(qweight|qzeros|scales|g_idx|weight_(packed|scale|zero_point|g_idx|shape)|parts|input_scale|\d+\.\w+)$/;

/** Everything that is not carried over, under the names of Hugging Face. */
function denseTensors(
  { checkpoint, plan }: ConversionSource,
  carried: { readonly weights: ReadonlyMap<number, Carried>; readonly kept: boolean } | undefined,
  typeOf: (weight: Weight) => string,
  without: ReadonlySet<string>,
): readonly DenseTensor[] {
  const file = (entry: TensorEntry): DenseTensor => ({ ...entry, from: { kind: 'file', entry } });
  if (carried?.kept === true) return checkpoint.tensors.map(file);
  const changed = new Map<string, DenseTensor | undefined>(); // by the name in the source; undefined: replaced by carried tensors
  const added: DenseTensor[] = [];
  plan.weights.forEach((weight, index) => {
    const { name, n, k, source } = weight;
    const dtype = typeOf(weight);
    const entry = source.kind === 'tensor' ? checkpoint.tensors[source.tensor] : undefined;
    const isCarried = carried?.weights.has(index) === true;
    if (checkpoint.kind === 'hf' && !isCarried && entry?.dtype === dtype) return;
    // GPT-2's Conv1D holds its matrices the other way round.
    const transposed =
      (source.kind === 'tensor' && source.transposed === true) || (plan.architecture === 'gpt2' && weight.role === 'linear');
    const shape = transposed ? [k, n] : [n, k];
    const bytes = tensorBytes(DTYPES.get(dtype) as DtypeSize, shape, `tensor "${name}.weight"`);
    const encoded: DenseTensor = {
      name: entry?.name !== undefined && checkpoint.kind === 'hf' ? entry.name : `${name}.weight`,
      dtype,
      shape,
      bytes,
      from: { kind: 'encoded', weight: index, order: undefined, whole: source.kind === 'parts', transposed },
    };
    if (checkpoint.kind === 'hf' && entry !== undefined) changed.set(entry.name, isCarried ? undefined : encoded);
    else if (!isCarried) added.push(encoded);
  });
  if (checkpoint.kind === 'gguf') return [...added, ...vectors(plan)];
  const packed = new Set(plan.weights.filter(({ source }) => source.kind !== 'tensor').map(({ name }) => name));
  const kept = checkpoint.tensors.flatMap((entry): readonly DenseTensor[] => {
    if (without.has(entry.name)) return [];
    if (changed.has(entry.name)) return [changed.get(entry.name)].filter((tensor) => tensor !== undefined);
    return isOfPacked(entry.name, packed) ? [] : [file(entry)];
  });
  return [...added, ...kept];
}

function isOfPacked(name: string, packed: ReadonlySet<string>): boolean {
  for (let dot = name.indexOf('.'); dot >= 0; dot = name.indexOf('.', dot + 1)) {
    if (packed.has(name.slice(0, dot)) && packedTensor.test(name.slice(dot + 1))) return true;
  }
  return false;
}

/** Of a GGUF source, as files hold them otherwise. */
function vectors(plan: Plan): readonly DenseTensor[] {
  return plan.vectors.map(({ name, length }, vector) => ({
    name: name.endsWith('.bias') ? name : `${name}.weight`,
    dtype: 'F32',
    shape: [length],
    bytes: length * 4,
    from: { kind: 'vector', vector },
  }));
}

/**
 * Zero biases of packed linears that become dense, where the model has none by its configuration: old writers of packed weights add them to every
 * linear, and readers of a dense model refuse or ignore tensors that it does not have.
 */
function needlessBiases({ checkpoint, plan, model }: ConversionRun, carried: ReadonlyMap<number, Carried>): ReadonlySet<string> {
  if (checkpoint.kind === 'gguf') return new Set();
  const zero = plan.weights.flatMap(({ name, source, bias }, index) => {
    if (source.kind === 'tensor' || bias === undefined || carried.has(index)) return [];
    return native()
      .exportVector(model, bias)
      .every((value) => value === 0)
      ? [`${name}.bias`]
      : [];
  });
  if (zero.length === 0) return new Set();
  const without = new Set(zero);
  try {
    asDense(
      checkpoint,
      denseTensors({ checkpoint, plan }, undefined, () => 'BF16', without),
    );
    return without;
  } catch {
    return new Set(); // the model has them
  }
}

/** The plan of a dense model of these tensors. @throws {LowbitError} CORRUPT_FILE where they are not what the configuration asks for */
function asDense(checkpoint: Checkpoint, dense: readonly DenseTensor[]): Plan {
  const tensors = dense.map(({ name, dtype, shape, bytes }): TensorEntry => ({ name, dtype, shape, bytes, file: 0, offset: 0 }));
  const index = new Map(tensors.map(({ name }, i) => [name, i]));
  const { quantization_config: _, ...config } = checkpoint.config;
  return buildPlan({
    ...checkpoint,
    kind: 'hf',
    config,
    tensors,
    conventions: { ropePermuted: false, normPlusOneStored: false },
    find: (name) => index.get(name),
  });
}

/** Nothing is written that this library would not load. */
function checkDense(checkpoint: Checkpoint, dense: readonly DenseTensor[]): void {
  try {
    asDense(checkpoint, dense);
  } catch (cause) {
    if (!(cause instanceof LowbitError)) throw cause;
    throw new LowbitError(
      'UNSUPPORTED',
      `${checkpoint.path} cannot be written as a dense Hugging Face directory: ${cause.message}`,
      { ...cause.details, file: checkpoint.path },
      { cause },
    );
  }
}

async function writeAll(
  writer: SafetensorsWriter,
  carried: Awaited<ReturnType<typeof carriedWeights>> | undefined,
  dense: readonly DenseTensor[],
  run: ConversionRun,
): Promise<ConvertedTensor[]> {
  const { checkpoint, plan, model, signal, onProgress } = run;
  const converted: ConvertedTensor[] = [];
  const sizeOf = ({ n, k }: Weight, { bits }: Carried): number => (n * k * bits) / 8;
  const total =
    dense.reduce((sum, { bytes }) => sum + bytes, 0) +
    [...(carried?.weights ?? [])].reduce((sum, [index, one]) => sum + sizeOf(plan.weights[index] as Weight, one), 0);
  let done = 0;
  const advance = (bytes: number): void => onProgress((done += bytes) / total);
  for (const [index, one] of carried?.weights ?? []) {
    throwIfAborted(signal);
    const weight = plan.weights[index] as Weight;
    const { format } = carried as NonNullable<typeof carried>;
    const as = { format: format === 'lowbit' ? 'lowbit' : 'gptq', zeroOffset: format === 'gptq' ? 1 : 0, tensors: true } as const;
    const result = await runJob({ signal }, (control) => native().carryWeight(model, index, as, control));
    const tensors: readonly StoredTensor[] = 'tensors' in result ? result.tensors : [];
    if (tensors.length === 0) throw new LowbitError('INTERNAL', `The engine no longer carries ${weight.name} over`);
    for (const { part, dtype, shape, data } of tensors) await writer.add(`${weight.name}.${part}`, dtype, shape, data);
    const to = `${format === 'lowbit' ? 'lowbit' : 'GPTQ'} ${packedAs(one.bits, one.groupSize, weight.k)}`;
    converted.push({ name: weight.name, from: storedAs(checkpoint, weight), to, exact: true, error: 0 });
    advance(sizeOf(weight, one));
  }
  for (const tensor of dense) {
    const sums = { error: 0, norm: 0 };
    const onEncoded = (error: number, norm: number): void => void ((sums.error += error), (sums.norm += norm));
    const report = (bytes: number): void => onProgress((done + bytes) / total);
    const pieces = readTensor(tensor, { checkpoint, model, signal, onProgress: () => undefined, onEncoded }, report);
    await writer.addPieces(tensor.name, tensor.dtype, tensor.shape, pieces);
    advance(tensor.bytes);
    const { from, dtype, name } = tensor;
    if (from.kind === 'vector') Object.assign(sums, vectorError(run, name, from.vector));
    const source = from.kind === 'encoded' ? storedAs(checkpoint, plan.weights[from.weight] as Weight) : dtype;
    const error = relativeError(sums.error, sums.norm);
    converted.push({ name, from: source, to: dtype, exact: error === 0, error });
  }
  return converted;
}

/** GGUF norms of the Gemma family less 1 may be other numbers when 1 is added again. */
function vectorError(
  { checkpoint, model }: ConversionRun,
  name: string,
  vector: number,
): { readonly error: number; readonly norm: number } {
  const values = native().exportVector(model, vector);
  const stored = hfVector(checkpoint, name, values);
  if (stored === values) return { error: 0, norm: 0 };
  return values.reduce(
    ({ error, norm }, value, i) => ({ error: error + (Math.fround((stored[i] as number) + 1) - value) ** 2, norm: norm + value ** 2 }),
    { error: 0, norm: 0 },
  );
}

/** What the source says and the output has no place for. */
async function droppedOf(checkpoint: Checkpoint, target: DirectoryOptions['target']): Promise<string[]> {
  if (checkpoint.kind === 'gguf') {
    const kept = /^(tokenizer\.|split\.|general\.(architecture|file_type|quantization_version|alignment)$)/;
    const all = await readGgufKeys(checkpoint.files[0] as string);
    // Its own keys begin with its name: type (4 bytes), length (8 bytes), the name.
    const architecture = `${all.get('general.architecture')?.subarray(12).toString('utf8') ?? ''}.`;
    const keys = [...all.keys()].filter((key) => !kept.test(key) && !key.startsWith(architecture));
    return keys.length > 0 ? [`GGUF metadata: ${keys.join(', ')}`] : [];
  }
  const quantization = checkpoint.config['quantization_config'] as Readonly<Record<string, unknown>> | undefined;
  if (quantization === undefined) return [];
  const groups = Object.values((quantization['config_groups'] ?? {}) as Readonly<Record<string, unknown>>);
  const activations = groups.some(
    (group) => ((group as { input_activations?: unknown } | null)?.input_activations ?? undefined) !== undefined,
  );
  const same = quantization['quant_method'] === 'gptq' && (target === 'gptq' || target === 'gptq_v2');
  return [
    ...(same || (quantization['quant_method'] === 'lowbit' && target === 'lowbit') ? [] : ['quantization_config of config.json']),
    ...(activations ? ['the quantisation of activations (input_activations)'] : []),
  ];
}
