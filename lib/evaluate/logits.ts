/** Logits of a token sequence, for comparisons with other implementations. */
import { LowbitError, invalidArgument } from '../errors';
import { StepRunner, batches, defaultKvType, prefillBatch } from '../generate';
import { type Model, modelState } from '../model';
import { abortSignal, checkOptions, tokenIds } from '../options';

export interface LogitsOptions {
  readonly signal?: AbortSignal;
}

/**
 * Logits after every token of one sequence, from an empty context: float32, row-major [tokens.length, vocabSize].
 *
 * @param tokens 1 to the model's context length ids; nothing is added to them
 * @throws {LowbitError} INVALID_ARGUMENT, OUT_OF_MEMORY when the array does not fit, CANCELLED, DISPOSED
 */
export async function logits(model: Model, tokens: Int32Array | readonly number[], options?: LogitsOptions): Promise<Float32Array> {
  const state = modelState(model);
  const { signal } = checkOptions('logits', options, { signal: abortSignal });
  const ids = tokenIds('tokens', tokens, state.vocabSize).slice();
  if (ids.length === 0 || ids.length > state.contextLength) {
    throw invalidArgument('the length of tokens', `integer between 1 and ${state.contextLength}`, ids.length);
  }
  const out = allocate(ids.length, state.vocabSize);
  const runner = await StepRunner.create(state, { contextSize: ids.length, sequences: 1, kvType: defaultKvType(state.precision) });
  try {
    for (const [begin, end] of batches(0, ids.length, prefillBatch)) {
      const rows = out.subarray(begin * state.vocabSize, end * state.vocabSize);
      await runner.step({ sequence: 0, tokens: ids.slice(begin, end), logits: { from: 0, out: rows } }, signal);
    }
  } finally {
    await runner.dispose();
  }
  return out;
}

function allocate(rows: number, columns: number): Float32Array {
  try {
    return new Float32Array(rows * columns);
  } catch (cause) {
    throw new LowbitError(
      'OUT_OF_MEMORY',
      `The logits of ${rows} tokens need ${rows * columns * 4} bytes: evaluate fewer tokens at once`,
      { rows, columns },
      { cause },
    );
  }
}
