/**
 * The loops of generation: tokens that come from the engine, tokens to text, stop strings. Options are checked before
 * (context.ts); the engine runs by itself (runner.ts).
 */
import type { GenerationEnd, GenerationSpec, SampleSpec } from '../native';
import type { Tokenizer } from '../tokenizer';
import type { StepRunner } from './runner';
import { StopFilter } from './stop';

/** Why a generation ended: a stop string, the model's end-of-text token, or maxTokens or the end of the context. */
export type FinishReason = 'stop' | 'eos' | 'length';

export interface GenerationTiming {
  readonly promptTokens: number;
  /** Tokens at the start of the prompt that the sequence already held. */
  readonly reusedTokens: number;
  /** From the first step that read a part of the prompt to the first token. */
  readonly prefillSeconds: number;
  /** From then on, without the time the engine waited for the consumer of the iterator. It may be some tokens ahead of it. */
  readonly decodeSeconds: number;
  /** Over promptTokens - reusedTokens; 0 when nothing was measured. */
  readonly prefillTokensPerSecond: number;
  /** Over the tokens after the first one, those included that the consumer did not read; 0 when there were none. */
  readonly decodeTokensPerSecond: number;
  /** Tokens that prompt lookup guessed, and how many of them were right; 0 without. */
  readonly guessedTokens: number;
  readonly acceptedTokens: number;
}

export interface GenerationResult {
  readonly finishReason: FinishReason;
  /** All generated ids without the end-of-text token; with finishReason 'stop' including those of the stop string. */
  readonly tokens: Int32Array;
  /** The seed that was used: given or drawn. */
  readonly seed: number;
  readonly timing: GenerationTiming;
}

/** A running generation. `return()` or leaving a for-await loop stops the work and leaves the context usable. */
export interface GenerationStream<T> extends AsyncGenerator<T, GenerationResult, void> {
  /** Set once the iterator has come to its end by itself; undefined before and after return(), abort or failure. */
  readonly result: GenerationResult | undefined;
}

export interface TokenRun {
  readonly runner: StepRunner;
  readonly sequence: number | 'any';
  readonly prompt: Int32Array;
  readonly sample: SampleSpec;
  readonly maxTokens: number;
  readonly promptLookup: GenerationSpec['promptLookup'];
  /** Tokens that end the text. */
  readonly eos: readonly number[];
  readonly signal: AbortSignal | undefined;
}

/** A token run and its result, which is there once the tokens are at their end or were returned. */
interface TokenSource {
  readonly tokens: AsyncGenerator<number, FinishReason, void>;
  result(finishReason: FinishReason): GenerationResult;
}

/** Yields ids; returns the result. */
export async function* streamTokens(run: TokenRun): AsyncGenerator<number, GenerationResult, void> {
  const source = tokenSource(run);
  return source.result(yield* source.tokens);
}

/** Yields text pieces, never empty, never with a part of a stop string; returns the result. */
export async function* streamText(
  run: TokenRun,
  tokenizer: Tokenizer,
  stops: readonly string[],
): AsyncGenerator<string, GenerationResult, void> {
  const source = tokenSource(run);
  const decoder = tokenizer.createStreamDecoder();
  const filter = new StopFilter(stops);
  try {
    for (;;) {
      const next = await source.tokens.next();
      const text = filter.push(next.done ? decoder.flush() : decoder.push(next.value)) + (next.done ? filter.flush() : '');
      if (text !== '') yield text;
      if (filter.stopped) {
        await source.tokens.return('stop');
        return source.result('stop');
      }
      if (next.done) return source.result(next.value);
    }
  } finally {
    await source.tokens.return('stop'); // releases the sequence when the consumer leaves early
  }
}

function tokenSource(run: TokenRun): TokenSource {
  const { runner, prompt, sample, maxTokens, promptLookup, signal } = run;
  const generated: number[] = [];
  let reused = 0;
  let end: GenerationEnd | undefined;

  async function* loop(): AsyncGenerator<number, FinishReason, void> {
    const sequence = await runner.claim(run.sequence, prompt, signal);
    try {
      const spec = { sample, maxTokens, stopTokens: Int32Array.from(run.eos), ...(promptLookup ? { promptLookup } : {}) };
      const running = await runner.generate(sequence, prompt, spec, signal);
      reused = running.reused;
      try {
        for (;;) {
          const token = await running.next(signal);
          if (typeof token !== 'number') return token;
          generated.push(token);
          yield token;
        }
      } finally {
        end = await running.end();
      }
    } finally {
      runner.release(sequence);
    }
  }

  return {
    tokens: loop(),
    result: (finishReason) => ({
      finishReason,
      tokens: Int32Array.from(generated),
      seed: Number(sample.seed),
      timing: timing(prompt.length, reused, end),
    }),
  };
}

function timing(promptTokens: number, reusedTokens: number, end: GenerationEnd | undefined): GenerationTiming {
  const rate = (tokens: number, seconds: number): number => (seconds > 0 ? tokens / seconds : 0);
  const { promptSeconds = 0, decodeSeconds = 0, decoded = 0, guessed = 0, accepted = 0 } = end ?? {};
  return {
    promptTokens,
    reusedTokens,
    prefillSeconds: promptSeconds,
    decodeSeconds,
    prefillTokensPerSecond: rate(promptTokens - reusedTokens, promptSeconds),
    decodeTokensPerSecond: rate(decoded, decodeSeconds),
    guessedTokens: guessed,
    acceptedTokens: accepted,
  };
}

/** Wraps a generator so that its result can be read after a for-await loop, which drops return values. */
export class Generation<T> implements GenerationStream<T> {
  private finished: GenerationResult | undefined;

  constructor(private readonly source: AsyncGenerator<T, GenerationResult, void>) {}

  get result(): GenerationResult | undefined {
    return this.finished;
  }

  async next(): Promise<IteratorResult<T, GenerationResult>> {
    const next = await this.source.next();
    if (next.done) this.finished ??= next.value;
    return next;
  }

  return(value: GenerationResult | PromiseLike<GenerationResult>): Promise<IteratorResult<T, GenerationResult>> {
    return this.source.return(value);
  }

  throw(error: unknown): Promise<IteratorResult<T, GenerationResult>> {
    return this.source.throw(error);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source.return(undefined as never);
  }
}
