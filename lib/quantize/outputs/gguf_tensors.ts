/**
 * lib/quantize/outputs: which tensors a GGUF file of a model holds, under which names, in which row order, from where. Shared by outputs that hold
 * solved linears and by conversions. Names are those of lib/checkpoint/gguf_names.ts; no bytes here.
 */
import { DTYPES, isBlockType, tensorBytes, type DtypeSize } from '../../checkpoint/dtype';
import { ggufArchitecture } from '../../checkpoint/gguf_write_config';
import { ggufName, type GgufArchitecture } from '../../checkpoint/gguf_names';
import type { Checkpoint } from '../../checkpoint/types';
import { LowbitError } from '../../errors';
import type { Plan } from '../../graph/plan';
import type { DenseTensor } from '../write';

/** @throws {LowbitError} UNSUPPORTED */
export function architectureOf(checkpoint: Checkpoint): GgufArchitecture {
  const architecture = ggufArchitecture(checkpoint.config);
  if (architecture !== undefined) return architecture;
  throw new LowbitError(
    'UNSUPPORTED',
    `Models of the type "${String(checkpoint.config['model_type'])}" cannot be written as GGUF by this version (${checkpoint.path})`,
    { file: checkpoint.path, option: 'format' },
  );
}

/** The GGUF name of a weight or vector of the plan. @throws {LowbitError} UNSUPPORTED */
export function storedName(architecture: GgufArchitecture, hfName: string): string {
  const name = ggufName(architecture, hfName);
  if (name !== undefined) return name;
  throw new LowbitError('UNSUPPORTED', `GGUF files of ${architecture} models have no tensor for ${hfName}`, {
    tensor: hfName,
    option: 'format',
  });
}

/** 'model.layers.3.mlp.up_proj' -> ['ffn_up', 3]; undefined outside the blocks. */
export function placeOf(architecture: GgufArchitecture, module: string): { readonly name: string; readonly layer: number } | undefined {
  const parts = /^blk\.(\d+)\.(.+)\.weight$/.exec(ggufName(architecture, `${module}.weight`) ?? '');
  return parts === null ? undefined : { name: parts[2] as string, layer: Number(parts[1]) };
}

/**
 * Row i of the stored matrix is row order[i] of the Hugging Face one: llama files keep the two halves of every rotary head interleaved. Undefined
 * where the orders are the same.
 */
export function rowOrder(architecture: GgufArchitecture, plan: Plan, module: string, n: number): Int32Array | undefined {
  if (architecture !== 'llama') return undefined;
  const attention = plan.ops.find((op) => op.op === 'attention');
  if (attention === undefined) return undefined;
  const heads = module.endsWith('.q_proj') ? attention.nHeads : module.endsWith('.k_proj') ? attention.nKvHeads : 0;
  if (heads === 0) return undefined;
  const dim = n / heads;
  return Int32Array.from({ length: n }, (_, row) => {
    const within = row % dim;
    return row - within + (within % 2) * (dim / 2) + Math.floor(within / 2);
  });
}

/** Rows of equal length in another order. */
export function reordered(data: ArrayBufferView, order: Int32Array | undefined): Uint8Array {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (order === undefined) return bytes;
  const row = bytes.length / order.length;
  const out = new Uint8Array(bytes.length);
  order.forEach((from, to) => out.set(bytes.subarray(from * row, (from + 1) * row), to * row));
  return out;
}

/** What a weight becomes: a type to encode it to, 'source' for the bytes as they are (GGUF sources), undefined to leave it out (solved). */
export type TypeOf = (weight: number) => string | undefined;

/**
 * Every tensor of the file but those that `typeOf` leaves out, weights first. Vectors are F32. Rotary factors that the configuration describes
 * become the tensor that readers expect.
 */
export function ggufTensors(checkpoint: Checkpoint, plan: Plan, typeOf: TypeOf): readonly DenseTensor[] {
  const architecture = architectureOf(checkpoint);
  const weights = plan.weights.flatMap(({ name, n, k, source }, weight): readonly DenseTensor[] => {
    const dtype = typeOf(weight);
    if (dtype === undefined) return [];
    const stored = storedName(architecture, `${name}.weight`);
    const entry = source.kind === 'tensor' ? checkpoint.tensors[source.tensor] : undefined;
    const bytes = tensorBytes(DTYPES.get(dtype) as DtypeSize, [n, k], `tensor "${stored}"`);
    // The rows of a GGUF source are in their order already.
    if (checkpoint.kind === 'gguf' && entry?.dtype === dtype)
      return [{ name: stored, dtype, shape: [n, k], bytes, from: { kind: 'file', entry } }];
    const order = rowOrder(architecture, plan, name, n);
    const whole = order !== undefined || source.kind === 'parts';
    return [{ name: stored, dtype, shape: [n, k], bytes, from: { kind: 'encoded', weight, order, whole } }];
  });
  const vectors = plan.vectors.map(({ name, length }, vector): DenseTensor => {
    const bias = name.endsWith('.bias');
    return {
      name: storedName(architecture, bias ? name : `${name}.weight`),
      dtype: 'F32',
      shape: [length],
      bytes: length * 4,
      from: { kind: 'stored', vector, order: bias ? rowOrder(architecture, plan, name.slice(0, -'.bias'.length), length) : undefined },
    };
  });
  return [...weights, ...vectors, ...rotaryTensors(checkpoint, plan)];
}

/** Whether a weight of the source is in blocks already. */
export function storedInBlocks(checkpoint: Checkpoint, plan: Plan, weight: number): boolean {
  const source = plan.weights[weight]?.source;
  return source?.kind === 'tensor' && isBlockType(checkpoint.tensors[source.tensor]?.dtype ?? '');
}

/** Divisors of the rotary frequencies, where a formula of config.json or a tensor of the source gives them. */
function rotaryTensors(checkpoint: Checkpoint, plan: Plan): readonly DenseTensor[] {
  const tensor = (name: string, values: readonly number[]): DenseTensor => ({
    name,
    dtype: 'F32',
    shape: [values.length],
    bytes: 4 * values.length,
    from: { kind: 'values', values: Float32Array.from(values) },
  });
  const parameters = (checkpoint.config['rope_parameters'] ?? checkpoint.config['rope_scaling'] ?? {}) as Readonly<Record<string, unknown>>;
  const type = parameters['rope_type'] ?? parameters['type'];
  if (type === 'lowbit_divisors') return [tensor('rope_freqs.weight', parameters['divisors'] as number[])];
  if (type === 'longrope' || type === 'su') {
    return [
      tensor('rope_factors_long.weight', parameters['long_factor'] as number[]),
      tensor('rope_factors_short.weight', parameters['short_factor'] as number[]),
    ];
  }
  const table = plan.ropes[0];
  if (type !== 'llama3' || table === undefined) return [];
  const theta = Number(parameters['rope_theta'] ?? checkpoint.config['rope_theta'] ?? 10000);
  const pairs = table.inverseFrequencies.length;
  return [
    tensor(
      'rope_freqs.weight',
      Array.from(table.inverseFrequencies, (frequency, i) => theta ** (-i / pairs) / frequency),
    ),
  ];
}
