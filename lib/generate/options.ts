/** Options of generation: names, ranges, defaults. The words are node-llama-cpp's and transformers' in camelCase. */
import { randomInt } from 'node:crypto';
import { invalidArgument } from '../errors';
import { type Checked, type Rule, abortSignal, boolean, checkOptions, integer, maxInt32, number, stopStrings } from '../options';
import type { GenerationSpec, SampleSpec } from '../native';

/** How the next token is drawn. Order: repetition penalty, topK, topP, minP, temperature, draw. */
export interface SamplingOptions {
  /** 0 to 100. 0 = greedy: always the most probable token, lowest id on ties; topK, topP, minP and seed then have no effect. Default 0. */
  readonly temperature?: number;
  /** Keep the k most probable tokens, 0 = all. Default 0. */
  readonly topK?: number;
  /** Keep the most probable tokens whose probabilities reach this sum, 0 to 1, 1 = all. Default 1. */
  readonly topP?: number;
  /** Keep tokens at least this probable relative to the best one, 0 to 1, 0 = all. Default 0. */
  readonly minP?: number;
  /** Divides positive and multiplies negative logits of tokens seen lately, 0.1 to 10, 1 = off. Default 1. */
  readonly repetitionPenalty?: number;
  /** How many tokens back "lately" is, -1 = the whole sequence, 0 = off. Default 64. */
  readonly repetitionLastN?: number;
  /** 0 to 2^53 - 1. The same seed, prompt and options give the same tokens. Default: random; the result reports it. */
  readonly seed?: number;
}

/** Prompt lookup decoding; the names are transformers' max_matching_ngram_size and prompt_lookup_num_tokens. */
export interface PromptLookupOptions {
  /** Most tokens of the end of the text that must have occurred before, 1 to 16; two are enough. Default 3. */
  readonly ngram?: number;
  /** Most tokens guessed in one step, 1 to 7 (a step of up to 16 rows reads the weights once). Default 7. */
  readonly maxTokens?: number;
}

export interface GenerateOptions extends SamplingOptions {
  /** 1 to 2^31 - 1. Default: until the model ends the text or the context is full. */
  readonly maxTokens?: number;
  /** Ends the text before the first of these; no part of it is yielded. One string or up to 64. Default: none. */
  readonly stop?: string | readonly string[];
  /** Go on after the model's end-of-text tokens, as benchmarks need. Default false. */
  readonly ignoreEos?: boolean;
  /**
   * Which of the context's sequences to use, from 0; or 'any': one that is not generating, preferably one that holds the beginning of
   * the prompt. If all are, the generation waits for its turn. Default 0.
   */
  readonly sequence?: number | 'any';
  /**
   * Guess the next tokens from what followed the same words earlier in the text, and verify them in one step. The output is the same
   * with every sampling setting; text that repeats its prompt (summaries, extraction, edits) comes faster. Default false.
   */
  readonly promptLookup?: boolean | PromptLookupOptions;
  /** Abort: the iterator rejects with CANCELLED; the context stays usable. */
  readonly signal?: AbortSignal;
}

export type GenerateTokensOptions = Omit<GenerateOptions, 'stop'>;

const lookupSpec = { ngram: integer(1, 16), maxTokens: integer(1, 7) };

const promptLookup: Rule<boolean | PromptLookupOptions> = (option, value) => {
  if (typeof value === 'boolean') return value;
  if (typeof value !== 'object' || value === null) throw invalidArgument(option, 'boolean or object', value);
  return checkOptions(option, value, lookupSpec);
};

/** A sequence of a context that has `sequences`, or 'any'. */
export function sequenceRule(sequences: number): Rule<number | 'any'> {
  const number = integer(0, sequences - 1);
  return (option, value) => (value === 'any' ? value : number(option, value));
}

const tokenSpec = {
  maxTokens: integer(1, maxInt32),
  temperature: number(0, 100),
  topK: integer(0, maxInt32),
  topP: number(0, 1),
  minP: number(0, 1),
  repetitionPenalty: number(0.1, 10),
  repetitionLastN: integer(-1, maxInt32),
  seed: integer(0, Number.MAX_SAFE_INTEGER),
  ignoreEos: boolean,
  promptLookup,
  signal: abortSignal,
};

/** Rules of generateTokens() for a context of `sequences` sequences. */
export const generateTokensSpec = (sequences: number) => ({ ...tokenSpec, sequence: sequenceRule(sequences) });

/** Rules of generate() for a context of `sequences` sequences. */
export const generateSpec = (sequences: number) => ({ ...generateTokensSpec(sequences), stop: stopStrings });

/** The engine's form of the sampling options, with defaults; draws a seed if there is none. */
export function sampleSpec(options: Checked<typeof tokenSpec>): SampleSpec {
  return {
    temperature: options.temperature ?? 0,
    topK: options.topK ?? 0,
    topP: options.topP ?? 1,
    minP: options.minP ?? 0,
    repeatPenalty: options.repetitionPenalty ?? 1,
    repeatLastN: options.repetitionLastN ?? 64,
    seed: BigInt(options.seed ?? randomInt(2 ** 48 - 1)),
  };
}

/** The engine's form of promptLookup, with defaults; undefined = off. */
export function lookupOf(option: boolean | PromptLookupOptions | undefined): GenerationSpec['promptLookup'] {
  if (option === undefined || option === false) return undefined;
  const { ngram = 3, maxTokens = 7 } = option === true ? {} : option;
  return { ngram, maxTokens };
}
