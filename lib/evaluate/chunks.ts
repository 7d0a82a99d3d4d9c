/** Which tokens an evaluation in llama.cpp's protocol sees: one tokenisation of the whole text, cut into chunks. */
import { LowbitError, invalidArgument } from '../errors';
import type { ModelState } from '../model';
import { startTokens } from './text_start';

/** What perplexity() (in this protocol) and compare() have in common. */
export interface EvaluatedText {
  /** The text, taken byte for byte. Either this or `tokens`. */
  readonly text?: string;
  /** Token ids as a tokenizer (of compare(): the reference's) returned them for the whole text. */
  readonly tokens?: Int32Array | readonly number[];
  /** Tokens per chunk, 4 to the context length of the model (the smaller one of two). Default 512, or that length if it is smaller. */
  readonly contextSize?: number;
  /** Chunks to evaluate, from the start of the text, 1 to 2^31 - 1. Default: all whole ones. */
  readonly chunks?: number;
  readonly signal?: AbortSignal;
}

export interface CheckedText {
  readonly text?: string | undefined;
  readonly tokens?: Int32Array | undefined;
  readonly contextSize?: number | undefined;
  readonly chunks?: number | undefined;
}

export interface Chunks {
  readonly tokens: Int32Array;
  readonly contextSize: number;
  /** Whole chunks to evaluate, from the start of `tokens`. */
  readonly total: number;
}

/**
 * @param name of the evaluation, for messages
 * @throws {LowbitError} INVALID_ARGUMENT unless there is exactly one of text and tokens, and enough of it for two chunks
 */
export function chunksOf(name: string, state: ModelState, options: CheckedText): Chunks {
  const contextSize = options.contextSize ?? Math.min(512, state.contextLength);
  const wanted = Math.max(2, options.chunks ?? Infinity) * contextSize;
  const tokens = evaluatedTokens(state, options, wanted);
  if (tokens.length < 2 * contextSize) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `The text has ${tokens.length} tokens but ${name} with contextSize ${contextSize} needs at least ${2 * contextSize}: use a longer text or a smaller contextSize`,
      { tokens: tokens.length, contextSize },
    );
  }
  return { tokens, contextSize, total: Math.min(Math.floor(tokens.length / contextSize), options.chunks ?? Infinity) };
}

/** The tokens given, or those of the start of the text, at least `wanted` of them if it has so many. */
export function evaluatedTokens(state: ModelState, { text, tokens }: CheckedText, wanted: number): Int32Array {
  if ((text === undefined) === (tokens === undefined)) {
    throw invalidArgument('text', 'exactly one of the options text and tokens', text === undefined ? undefined : 'both');
  }
  return tokens ?? startTokens(state.tokenizer, text as string, wanted);
}

/** The BOS token if the tokenizer puts it before every text. */
export function addedBos({ optionalTokenizer: tokenizer }: ModelState): number | undefined {
  return tokenizer?.bosId !== undefined && tokenizer.prefixIds.includes(tokenizer.bosId) ? tokenizer.bosId : undefined;
}
