/**
 * checkpoint: the element types of tensors, as cpp/base/dtype.def lists them, and what a shape of them occupies in a file.
 */
import { LowbitError } from '../errors';

export interface DtypeSize {
  /** Values per block; 1 for plain types. */
  readonly values: number;
  /** Bytes per block. */
  readonly bytes: number;
}

/** The list of cpp/base/dtype.def; a test keeps the two equal. */
export const DTYPES: ReadonlyMap<string, DtypeSize> = new Map(
  (
    [
      ['F32', 1, 4],
      ['F16', 1, 2],
      ['BF16', 1, 2],
      ['F64', 1, 8],
      ['I8', 1, 1],
      ['U8', 1, 1],
      ['I16', 1, 2],
      ['U16', 1, 2],
      ['I32', 1, 4],
      ['I64', 1, 8],
      ['Q4_0', 32, 18],
      ['Q4_1', 32, 20],
      ['Q5_0', 32, 22],
      ['Q5_1', 32, 24],
      ['Q8_0', 32, 34],
      ['Q2_K', 256, 84],
      ['Q3_K', 256, 110],
      ['Q4_K', 256, 144],
      ['Q5_K', 256, 176],
      ['Q6_K', 256, 210],
      ['IQ4_NL', 32, 18],
      ['TQ1_0', 256, 54],
      ['TQ2_0', 256, 66],
    ] as const
  ).map(([name, values, bytes]) => [name, { values, bytes }]),
);

/** Whether values come in blocks with scales of their own: the types of GGUF that are quantised. */
export function isBlockType(dtype: string): boolean {
  return (DTYPES.get(dtype)?.values ?? 1) > 1;
}

/** More dimensions than any tensor of a language model has. */
const MAX_RANK = 8;

/**
 * Bytes of a tensor. `shape` is in PyTorch order, so blocks run along its last dimension.
 *
 * @param where names the tensor and the file in errors: 'tensor "a" in model.safetensors'
 * @throws {LowbitError} CORRUPT_FILE for a bad dimension, too many of them, a product beyond 2^53 or a row that is no whole number of blocks
 */
export function tensorBytes(dtype: DtypeSize, shape: readonly unknown[], where: string): number {
  if (shape.length > MAX_RANK) throw corrupt(where, `has ${shape.length} dimensions, more than ${MAX_RANK}`);
  let count = 1;
  let zero = false;
  for (const size of shape) {
    if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) throw corrupt(where, `has the dimension ${String(size)}`);
    // A zero must not hide an overflow of the other dimensions, which readers multiply in another order.
    if (size === 0) zero = true;
    else count *= size;
    if (!Number.isSafeInteger(count * dtype.bytes)) throw corrupt(where, `has a shape [${shape.join(', ')}] whose size overflows`);
  }
  const row = shape.length === 0 ? 1 : (shape[shape.length - 1] as number);
  if (row % dtype.values !== 0) throw corrupt(where, `has rows of ${row} values, which is no multiple of the block size ${dtype.values}`);
  return zero ? 0 : (count / dtype.values) * dtype.bytes;
}

function corrupt(where: string, problem: string): LowbitError {
  return new LowbitError('CORRUPT_FILE', `The ${where} ${problem}`, { where });
}
