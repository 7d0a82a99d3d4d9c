/**
 * lib/quantize/allocation: what a target in bytes leaves to choose, and whether it and the machine's memory suffice. Before any work.
 */
import os from 'node:os';
import { LowbitError } from '../../errors';
import { formatBytes } from '../../units';
import { leastBytes, type AllocationItem } from './candidates';
import type { ResolvedAllocation } from './options';

export interface Budget {
  readonly items: readonly AllocationItem[];
  /** Of all weight files. */
  readonly targetBytes: number;
  /** Of them, what is not up to choice. */
  readonly fixedBytes: number;
}

/** Reference logits (cpp/engine/trials.h), activations, Hessians: beside the model and its forms. */
const workBytes = 2 ** 30;

/** @param parameters of the whole model */
export function targetBytesOf({ target }: Pick<ResolvedAllocation, 'target'>, parameters: number): number {
  return 'bytes' in target ? target.bytes : Math.floor((target.bitsPerWeight * parameters) / 8);
}

/**
 * @param parameters of the whole model
 * @param denseBytes the model in memory
 * @throws {LowbitError} INVALID_ARGUMENT for a target that nothing can meet, OUT_OF_MEMORY for a machine that the choice does not fit
 */
export function budgetOf(
  items: readonly AllocationItem[],
  { target }: ResolvedAllocation,
  model: { readonly parameters: number; readonly denseBytes: number; readonly fixedBytes: number },
): Budget {
  const targetBytes = targetBytesOf({ target }, model.parameters);
  const option = 'bytes' in target ? 'targetSize' : 'bitsPerWeight';
  const least = leastBytes(items) + model.fixedBytes;
  if (least > targetBytes) {
    const bits = ((8 * least) / model.parameters).toFixed(2);
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `${option} asks for ${formatBytes(targetBytes)}, but the smallest forms take ${formatBytes(least)} (${bits} bits per weight), ${formatBytes(model.fixedBytes)} of it for what stays as it is: ` +
        `raise ${option}, allow smaller forms by allocation, or use a format that holds embedding and head as well ('lowbit', 'gguf')`,
      { option, targetBytes, least },
    );
  }
  const forms = items.reduce((sum, { candidates }) => sum + candidates.reduce((all, { bytes }) => all + bytes, 0), 0);
  const memory = model.denseBytes + forms + workBytes;
  if (memory > os.totalmem()) {
    throw new LowbitError(
      'OUT_OF_MEMORY',
      `The choice for ${option} keeps the model and all forms of its weights in memory, about ${formatBytes(memory)}, and this machine has ${formatBytes(os.totalmem())}: allow fewer forms by allocation, or set bits and groupSize yourself`,
      { option, memory },
    );
  }
  return { items, targetBytes, fixedBytes: model.fixedBytes };
}
