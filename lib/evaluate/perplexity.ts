/**
 * Perplexity in llama.cpp's protocol, so that figures can be compared with it digit by digit: one tokenisation of the
 * whole text, non-overlapping chunks, an empty context for each, and only the second half of a chunk scored.
 *
 * The engine returns log-probabilities of the targets; no logits reach JavaScript.
 */
import { LowbitError } from '../errors';
import { type Model, modelState } from '../model';
import { StepRunner, batches, defaultKvType, prefillBatch } from '../generate';
import { throwIfAborted } from '../native';
import { abortSignal, callback, checkOptions, integer, maxInt32, string, tokenIds } from '../options';
import { type EvaluatedText, addedBos, chunksOf } from './chunks';
import { LossSum, firstScoredRow } from './loss_sum';

export interface PerplexityProgress {
  /** Chunks done and in all. */
  readonly done: number;
  readonly total: number;
  /** Of the chunks done. */
  readonly perplexity: number;
}

export interface PerplexityOptions extends EvaluatedText {
  /** Called after each chunk. */
  readonly onProgress?: (progress: PerplexityProgress) => void;
}

export interface PerplexityResult {
  readonly perplexity: number;
  /** perplexity * sqrt((mean(nll^2) - mean(nll)^2) / (tokens - 1)) */
  readonly standardError: number;
  /** Scored targets. */
  readonly tokens: number;
  readonly chunks: number;
  /** What was measured; figures of different protocols, context sizes or BOS policies cannot be compared. */
  readonly protocol: 'llama.cpp';
  readonly contextSize: number;
  /** Whether the first token of every chunk was replaced by BOS. */
  readonly addBos: boolean;
  readonly seconds: number;
}

/**
 * Perplexity of a model on a text.
 *
 * Chunks of `contextSize` tokens; in each, the first token is replaced by BOS if the tokenizer adds one, and the targets at positions
 * floor(contextSize / 2) + 1 to contextSize - 1 are scored: 255 of 512. An incomplete last chunk is left out.
 *
 * @throws {LowbitError} INVALID_ARGUMENT for a bad option or a text of fewer than 2 * contextSize tokens; CANCELLED; DISPOSED;
 *   CORRUPT_FILE when the model yields NaN
 */
export async function perplexity(model: Model, options: PerplexityOptions): Promise<PerplexityResult> {
  const state = modelState(model);
  const checked = checkOptions('perplexity', options, {
    text: string,
    tokens: (option, value) => tokenIds(option, value, state.vocabSize),
    contextSize: integer(4, state.contextLength),
    chunks: integer(1, maxInt32),
    onProgress: callback<(progress: PerplexityProgress) => void>(),
    signal: abortSignal,
  });
  throwIfAborted(checked.signal);
  const { tokens, contextSize, total } = chunksOf('perplexity', state, checked);
  const bos = addedBos(state);
  const runner = await StepRunner.create(state, { contextSize, sequences: 1, kvType: defaultKvType(state.precision) });
  const sum = new LossSum();
  const start = performance.now();
  try {
    for (let done = 0; done < total; done++) {
      const chunk = tokens.slice(done * contextSize, (done + 1) * contextSize);
      if (bos !== undefined) chunk[0] = bos;
      const scores = await scoreChunk(runner, chunk, checked.signal);
      if (!scores.every(Number.isFinite)) {
        throw new LowbitError(
          'CORRUPT_FILE',
          `The model ${state.path} yields log-probabilities that are no finite numbers in chunk ${done}: its weights are damaged or out of range`,
          {
            file: state.path,
            chunk: done,
          },
        );
      }
      sum.add(scores);
      checked.onProgress?.({ done: done + 1, total, perplexity: sum.perplexity });
    }
  } finally {
    await runner.dispose();
  }
  return {
    perplexity: sum.perplexity,
    standardError: sum.standardError,
    tokens: sum.count,
    chunks: total,
    protocol: 'llama.cpp',
    contextSize,
    addBos: bos !== undefined,
    seconds: (performance.now() - start) / 1000,
  };
}

/** Log-probabilities of the chunk's targets from its middle on. The last token is only a target, so it is not run. */
async function scoreChunk(runner: StepRunner, chunk: Int32Array, signal: AbortSignal | undefined): Promise<Float64Array> {
  const first = firstScoredRow(chunk.length);
  const rows = chunk.length - 1;
  const scores = new Float64Array(rows - first);
  await runner.truncate(0, 0);
  for (const [begin, end] of batches(0, rows, prefillBatch)) {
    const from = Math.max(first, begin);
    const score =
      from < end
        ? { from: from - begin, targets: chunk.slice(from + 1, end + 1), out: scores.subarray(from - first, end - first) }
        : undefined;
    await runner.step({ sequence: 0, tokens: chunk.slice(begin, end), ...(score ? { score } : {}) }, signal);
  }
  return scores;
}
