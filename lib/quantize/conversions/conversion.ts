/** lib/quantize/conversions: what every kind of output is given and returns, and the words for where a tensor comes from. */
import type { Checkpoint } from '../../checkpoint/types';
import type { Plan, Weight } from '../../graph/plan';
import type { ModelHandle } from '../../native';

export const denseTypes = ['F32', 'F16', 'BF16'] as const;
export type DenseType = (typeof denseTypes)[number];

export type ConvertTarget = 'gguf' | 'hf' | 'gptq' | 'gptq_v2' | 'lowbit';

export interface ConvertedTensor {
  /** A linear that is carried over without ".weight". */
  readonly name: string;
  /** As the source stores it: a dtype, or "GPTQ 4 bit, group 128". */
  readonly from: string;
  readonly to: string;
  /** Every value is the same. */
  readonly exact: boolean;
  /** Squared error relative to the squared norm; 0 when exact. */
  readonly error: number;
}

export interface ConversionSource {
  readonly checkpoint: Checkpoint;
  readonly plan: Plan;
}

export interface ConversionRun extends ConversionSource {
  /** Lazy. */
  readonly model: ModelHandle;
  /** Exists and is empty. */
  readonly directory: string;
  readonly signal: AbortSignal | undefined;
  /** Fraction of the writing, never called while the engine works. */
  readonly onProgress: (fraction: number) => void;
}

export interface Written {
  readonly format: ConvertTarget;
  /** Within the directory; '' for the directory itself. */
  readonly file: string;
  readonly tensors: readonly ConvertedTensor[];
  readonly dropped: readonly string[];
  /** Of the files with weights. */
  readonly bytes: number;
}

/** A conversion that was found possible as far as headers tell. */
export interface Conversion {
  /** About what the output takes. */
  readonly bytes: number;
  write(run: ConversionRun): Promise<Written>;
}

/** How the source stores a weight. */
export function storedAs(checkpoint: Checkpoint, { source, k }: Weight): string {
  if (source.kind === 'tensor') return checkpoint.tensors[source.tensor]?.dtype ?? 'unknown';
  if (source.kind === 'parts') return 'lowbit';
  const name = source.kind === 'gptq' ? 'GPTQ' : source.layout === 'awq' ? 'AWQ' : 'compressed-tensors';
  return `${name} ${packedAs(source.bits, source.groupSize, k)}`;
}

export function packedAs(bits: number, groupSize: number, k: number): string {
  return `${bits} bit, ${groupSize >= k ? 'group = row' : `group ${groupSize}`}`;
}

/** Whether a weight consists of codes, in words, parts or blocks. */
export function isQuantized(checkpoint: Checkpoint, weight: Weight): boolean {
  return !(denseTypes as readonly string[]).includes(storedAs(checkpoint, weight));
}

/** Relative squared error from sums. */
export const relativeError = (error: number, norm: number): number => (norm > 0 ? error / norm : 0);
