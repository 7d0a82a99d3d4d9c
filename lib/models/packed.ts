/**
 * models: the tensors of a linear whose codes lie packed in 32-bit words: GPTQ, AWQ and compressed-tensors checkpoints. Checks shapes
 * against the settings and names what is wrong; the byte layouts are in docs/formats.md, the bytes are the engine's business.
 */
import { readSmallSync } from '../checkpoint/files';
import { resolveZeroOffset } from '../checkpoint/gptq_zeros';
import type { QuantizationConfig } from '../checkpoint/quantization_config';
import type { Checkpoint } from '../checkpoint/types';
import type { WeightSource } from '../graph/plan';

/** Weights and scales a plan may take directly; block types are GGUF's and need whole blocks per row, which the reader has checked. */
export const FLOATS: readonly string[] = ['F32', 'F16', 'BF16'];

/** Stands for a tensor that is not there, until TensorResolver.finish() throws. */
export const ABSENT = -1;

/** The tensor that says that a linear is packed. */
export const packedTensorNames = ['qweight', 'weight_packed'] as const;

const PARTS = {
  qweight: ['qweight', 'qzeros', 'scales', 'g_idx'],
  weight_packed: ['weight_packed', 'weight_scale', 'weight_zero_point', 'weight_g_idx', 'weight_shape'],
} as const;

/** What this file needs of TensorResolver. */
export interface PackedTensors {
  readonly checkpoint: Checkpoint;
  /** Collects a problem. */
  problem(message: string): void;
  warn(message: string): void;
  /** The number of a tensor, or ABSENT; what is wrong with it is noted. */
  take(name: string, shape: readonly number[], dtypes: readonly string[]): number;
  /** Counts a tensor as known, should it exist. */
  use(name: string): void;
  /** Problems so far. */
  count(): number;
}

/** The source of a linear [n, k] that is packed as `part` says. */
export function packedLinear(
  tensors: PackedTensors,
  config: QuantizationConfig | undefined,
  part: (typeof packedTensorNames)[number],
  name: string,
  n: number,
  k: number,
): WeightSource {
  const source = part === 'qweight' ? qweightLinear(tensors, config, name, n, k) : weightPackedLinear(tensors, config, name, n, k);
  if (typeof source !== 'string') return source;
  tensors.problem(`${name}.${part} is packed, but ${source}`);
  for (const known of PARTS[part]) tensors.use(`${name}.${known}`);
  return { kind: 'tensor', tensor: ABSENT };
}

/** A source, or why there is none. */
type Found = WeightSource | string;

function qweightLinear(tensors: PackedTensors, config: QuantizationConfig | undefined, name: string, n: number, k: number): Found {
  if (config === undefined) return 'there is no quantization_config';
  if (config.method === 'compressed-tensors') return 'quantization_config describes compressed-tensors';
  if (config.method === 'lowbit') return 'quantization_config describes a lowbit container';
  if (config.method === 'awq')
    return config.packs(name) ? awqLinear(tensors, config.groupSize, name, n, k) : 'modules_to_not_convert leaves it dense';
  const settings = config.module(name);
  if (settings === undefined) return 'a dynamic rule leaves it dense';
  return gptqLinear(tensors, { ...settings, format: config.format, module: (other) => config.module(other) }, name, n, k);
}

/** GPTQ: qweight [k*bits/32, n], qzeros [groups, n*bits/32], scales [groups, n] and, when columns were reordered, g_idx [k]. */
function gptqLinear(
  tensors: PackedTensors,
  settings: Parameters<typeof resolveZeroOffset>[2] & { readonly groupSize: number; readonly descAct: boolean },
  name: string,
  n: number,
  k: number,
): WeightSource {
  const { bits, descAct } = settings;
  const { groupSize, groups } = groupsOf(settings.groupSize, k);
  for (const [side, length] of [
    ['rows', n],
    ['columns', k],
  ] as const) {
    if ((length * bits) % 32 !== 0) tensors.problem(`${name} has ${length} ${side} of ${bits} bits, which do not fill whole 32-bit words`);
  }
  const qweight = tensors.take(`${name}.qweight`, [(k * bits) / 32, n], ['I32']);
  const before = tensors.count();
  const qzeros = tensors.take(`${name}.qzeros`, [groups, (n * bits) / 32], ['I32']);
  const zeroOffset = tensors.count() === before ? gptqZeroOffset(tensors, qzeros, settings) : 1;
  const scales = tensors.take(`${name}.scales`, [groups, n], FLOATS);
  const ordered = descAct || tensors.checkpoint.find(`${name}.g_idx`) !== undefined;
  const gIdx = ordered ? { gIdx: tensors.take(`${name}.g_idx`, [k], ['I32']) } : {};
  return { kind: 'gptq', qweight, qzeros, scales, ...gIdx, bits, groupSize, zeroOffset };
}

function gptqZeroOffset(tensors: PackedTensors, qzeros: number, settings: Parameters<typeof resolveZeroOffset>[2]): 0 | 1 {
  const { zeroOffset, warning } = resolveZeroOffset(tensors.checkpoint, qzeros, settings);
  if (warning !== undefined) tensors.warn(warning);
  return zeroOffset;
}

/** AWQ: qweight [k, n/8], qzeros [groups, n/8], scales [groups, n]. */
function awqLinear(tensors: PackedTensors, size: number, name: string, n: number, k: number): WeightSource {
  const { groupSize, groups } = groupsOf(size, k);
  if (n % 8 !== 0) tensors.problem(`${name} has ${n} rows, which do not fill words of 8`);
  const qweight = tensors.take(`${name}.qweight`, [k, n / 8], ['I32']);
  const qzeros = tensors.take(`${name}.qzeros`, [groups, n / 8], ['I32']);
  const scales = tensors.take(`${name}.scales`, [groups, n], FLOATS);
  return { kind: 'words', layout: 'awq', qweight, qzeros, scales, bits: 4, groupSize };
}

/**
 * compressed-tensors: weight_packed [n, words of k values], weight_scale [n, groups], weight_shape [2] and, when there are such,
 * weight_zero_point ([words of n values, groups], or I8 [n, groups] as old versions wrote it) and weight_g_idx [k].
 */
function weightPackedLinear(tensors: PackedTensors, config: QuantizationConfig | undefined, name: string, n: number, k: number): Found {
  if (config?.method !== 'compressed-tensors') return 'quantization_config does not describe compressed-tensors';
  const settings = config.module(name);
  if (settings === undefined) return 'quantization_config ignores it or has no target for it';
  const { checkpoint } = tensors;
  const { bits } = settings;
  const part = (suffix: string): string => `${name}.${suffix}`;
  const entry = (suffix: string): Checkpoint['tensors'][number] | undefined => checkpoint.tensors[checkpoint.find(part(suffix)) ?? -1];
  const { groupSize, groups } = groupsOf(settings.groupSize === 'tensor' ? -1 : settings.groupSize, k);
  const layout = bitLayout(entry('weight_packed')?.shape[1], k, bits);
  const qweight = tensors.take(part('weight_packed'), [n, wordsOf(layout, k, bits)], ['I32']);
  const oneScale = settings.groupSize === 'tensor' && entry('weight_scale')?.shape.length === 1;
  const scales = tensors.take(part('weight_scale'), oneScale ? [1] : [n, groups], FLOATS);
  const zeros = entry('weight_zero_point');
  const zerosShape = zeros?.dtype === 'I8' ? [n, groups] : [wordsOf(layout, n, bits), groups];
  const qzeros =
    zeros === undefined && settings.symmetric ? {} : { qzeros: tensors.take(part('weight_zero_point'), zerosShape, ['I32', 'I8']) };
  const gIdx = entry('weight_g_idx') === undefined ? {} : { gIdx: tensors.take(part('weight_g_idx'), [k], ['I32']) };
  checkShape(tensors, part('weight_shape'), n, k);
  return { kind: 'words', layout, qweight, ...qzeros, scales, ...gIdx, bits, groupSize };
}

/**
 * Versions of compressed-tensors before 0.18 left the last bits of a word empty where `bits` does not divide 32; later ones let values
 * cross words. Nothing in the settings tells; the width of a row does, for every row of more than 20 columns.
 */
function bitLayout(words: number | undefined, k: number, bits: number): 'stream' | 'padded' {
  return words === wordsOf('padded', k, bits) && words !== wordsOf('stream', k, bits) ? 'padded' : 'stream';
}

function wordsOf(layout: 'stream' | 'padded', count: number, bits: number): number {
  return layout === 'stream' ? Math.ceil((count * bits) / 32) : Math.ceil(count / Math.floor(32 / bits));
}

/** weight_shape holds n and k. */
function checkShape(tensors: PackedTensors, name: string, n: number, k: number): void {
  const { checkpoint } = tensors;
  const entry = checkpoint.tensors[checkpoint.find(name) ?? -1];
  const before = tensors.count();
  tensors.take(name, [2], ['I64', 'I32']);
  const file = entry && checkpoint.files[entry.file];
  if (tensors.count() !== before || entry === undefined || file === undefined) return;
  const bytes = readSmallSync(file, entry.offset, entry.bytes);
  const at = (i: number): bigint => (entry.dtype === 'I64' ? bytes.readBigInt64LE(8 * i) : BigInt(bytes.readInt32LE(4 * i)));
  if (at(0) !== BigInt(n) || at(1) !== BigInt(k)) tensors.problem(`${name} says [${at(0)}, ${at(1)}], expected [${n}, ${k}]`);
}

function groupsOf(size: number, k: number): { readonly groupSize: number; readonly groups: number } {
  const groupSize = size === -1 ? k : Math.min(size, k);
  return { groupSize, groups: Math.ceil(k / groupSize) };
}
