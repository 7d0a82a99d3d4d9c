/**
 * Perplexity in one of two protocols, so that figures can be compared with those of others. llama.cpp's, digit by digit: one tokenisation of the
 * whole text, non-overlapping chunks, an empty context for each, and only the second half of a chunk scored. Hugging Face's: windows
 * that overlap, and every token of the text scored but the first.
 *
 * The engine returns log-probabilities of the targets; no logits reach JavaScript.
 */
import { LowbitError, invalidArgument } from '../errors';
import { type Model, type ModelState, modelState } from '../model';
import { StepRunner, batches, defaultKvType, prefillBatch } from '../generate';
import { throwIfAborted } from '../native';
import { abortSignal, callback, checkOptions, integer, maxInt32, oneOf, string, tokenIds } from '../options';
import { type CheckedText, type EvaluatedText, addedBos, chunksOf, evaluatedTokens } from './chunks';
import { LossSum, firstScoredRow } from './loss_sum';
import { slidingWindows } from './sliding';

export interface PerplexityProgress {
  /** Chunks done and in all. */
  readonly done: number;
  readonly total: number;
  /** Of the chunks done. */
  readonly perplexity: number;
}

export type PerplexityProtocol = 'llama.cpp' | 'huggingface';

export interface PerplexityOptions extends Omit<EvaluatedText, 'contextSize' | 'chunks'> {
  /**
   * 'llama.cpp': chunks side by side, the second half of each scored. 'huggingface': overlapping windows, everything scored once.
   * Default 'llama.cpp'.
   */
  readonly protocol?: PerplexityProtocol;
  /** Tokens per chunk or window, 4 to the model's context length. Default 512 ('huggingface': 1024), or that length if it is smaller. */
  readonly contextSize?: number;
  /** 'huggingface' only: tokens from the begin of a window to that of the next, 1 to contextSize. Default: half of contextSize. */
  readonly stride?: number;
  /** Chunks or windows to evaluate, from the start of the text, 1 to 2^31 - 1. Default: all (of 'llama.cpp': all whole ones). */
  readonly chunks?: number;
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
  readonly protocol: PerplexityProtocol;
  readonly contextSize: number;
  /** Of 'huggingface'. */
  readonly stride?: number;
  /** 'llama.cpp': whether the first token of every chunk was replaced by BOS. 'huggingface': whether the text began with it. */
  readonly addBos: boolean;
  readonly seconds: number;
}

/**
 * Perplexity of a model on a text.
 *
 * 'llama.cpp': chunks of `contextSize` tokens; in each, the first token is replaced by BOS if the tokenizer adds one, and the targets at positions
 * floor(contextSize / 2) + 1 to contextSize - 1 are scored: 255 of 512. An incomplete last chunk is left out.
 *
 * 'huggingface': the text as the tokenizer encodes it, with the special tokens that it adds; a window begins every `stride` tokens and scores
 * what the one before it did not reach, so that every target counts once, with contextSize - stride to contextSize - 1 tokens before it. (The
 * code in the documentation of transformers weighs the mean of a window by one target less than it has.)
 *
 * @throws {LowbitError} INVALID_ARGUMENT for a bad option or a text of fewer than 2 * contextSize tokens ('huggingface': of fewer than 2); CANCELLED;
 *   DISPOSED; CORRUPT_FILE when the model yields NaN
 */
export async function perplexity(model: Model, options: PerplexityOptions): Promise<PerplexityResult> {
  const state = modelState(model);
  const checked = checkOptions('perplexity', options, {
    text: string,
    tokens: (option, value) => tokenIds(option, value, state.vocabSize),
    protocol: oneOf('llama.cpp', 'huggingface'),
    contextSize: integer(4, state.contextLength),
    stride: integer(1, state.contextLength),
    chunks: integer(1, maxInt32),
    onProgress: callback<(progress: PerplexityProgress) => void>(),
    signal: abortSignal,
  });
  throwIfAborted(checked.signal);
  const { passes, contextSize, ...facts } = checked.protocol === 'huggingface' ? windowsOf(state, checked) : halvesOf(state, checked);
  const total = passes.length;
  const runner = await StepRunner.create(state, { contextSize, sequences: 1, kvType: defaultKvType(state.precision) });
  const sum = new LossSum();
  const start = performance.now();
  try {
    for (let done = 0; done < total; done++) {
      const scores = await score(runner, passes[done] as Pass, checked.signal);
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
    contextSize,
    ...facts,
    seconds: (performance.now() - start) / 1000,
  };
}

/** Tokens to run from an empty context, and the first row whose next token is scored. */
interface Pass {
  readonly tokens: Int32Array;
  readonly firstRow: number;
}

interface Passes extends Pick<PerplexityResult, 'protocol' | 'contextSize' | 'stride' | 'addBos'> {
  readonly passes: readonly Pass[];
}

interface CheckedWindows extends CheckedText {
  readonly stride?: number | undefined;
}

/** llama.cpp's chunks. */
function halvesOf(state: ModelState, options: CheckedWindows): Passes {
  if (options.stride !== undefined) throw invalidArgument('stride', "no value (it belongs to the protocol 'huggingface')", options.stride);
  const { tokens, contextSize, total } = chunksOf('perplexity', state, options);
  const bos = addedBos(state);
  const passes = Array.from({ length: total }, (_, i) => {
    const chunk = tokens.slice(i * contextSize, (i + 1) * contextSize);
    if (bos !== undefined) chunk[0] = bos;
    return { tokens: chunk, firstRow: firstScoredRow(contextSize) };
  });
  return { passes, protocol: 'llama.cpp', contextSize, addBos: bos !== undefined };
}

/** Hugging Face's windows. */
function windowsOf(state: ModelState, options: CheckedWindows): Passes {
  const contextSize = options.contextSize ?? Math.min(1024, state.contextLength);
  const stride = options.stride ?? Math.floor(contextSize / 2);
  if (stride > contextSize) throw invalidArgument('stride', `integer between 1 and contextSize, ${contextSize}`, stride);
  const chunks = options.chunks ?? Infinity;
  const tokens = evaluatedTokens(state, options, (chunks - 1) * stride + contextSize);
  if (tokens.length < 2) {
    throw new LowbitError('INVALID_ARGUMENT', `The text has ${tokens.length} tokens but perplexity needs at least 2: use a longer text`, {
      tokens: tokens.length,
    });
  }
  const windows = slidingWindows(tokens.length, contextSize, stride).slice(0, options.chunks);
  const passes = windows.map(({ begin, end, firstRow }) => ({ tokens: tokens.slice(begin, end), firstRow }));
  const bos = state.optionalTokenizer?.bosId;
  return { passes, protocol: 'huggingface', contextSize, stride, addBos: bos !== undefined && tokens[0] === bos };
}

/** Log-probabilities of the targets. The last token is only a target, so it is not run. */
async function score(runner: StepRunner, { tokens, firstRow }: Pass, signal: AbortSignal | undefined): Promise<Float64Array> {
  const rows = tokens.length - 1;
  const scores = new Float64Array(rows - firstRow);
  await runner.truncate(0, 0);
  for (const [begin, end] of batches(0, rows, prefillBatch)) {
    const from = Math.max(firstRow, begin);
    const targets =
      from < end
        ? { from: from - begin, targets: tokens.slice(from + 1, end + 1), out: scores.subarray(from - firstRow, end - firstRow) }
        : undefined;
    await runner.step({ sequence: 0, tokens: tokens.slice(begin, end), ...(targets ? { score: targets } : {}) }, signal);
  }
  return scores;
}
