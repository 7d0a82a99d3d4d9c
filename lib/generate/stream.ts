/**
 * The loops of generation: one native step per token, tokens to text, stop strings. Options are checked before
 * (context.ts); what a step does is the engine's.
 */
import type { SampleSpec } from '../native';
import type { Tokenizer } from '../tokenizer';
import type { StepRunner } from './runner';
import { StopFilter } from './stop';

/** Why a generation ended: a stop string, the model's end-of-text token, or maxTokens or the end of the context. */
export type FinishReason = 'stop' | 'eos' | 'length';

export interface GenerationTiming {
  readonly promptTokens: number;
  /** Tokens at the start of the prompt that the sequence already held. */
  readonly reusedTokens: number;
  /** Time in the engine, without the time the consumer of the iterator took. */
  readonly prefillSeconds: number;
  readonly decodeSeconds: number;
  /** Over promptTokens - reusedTokens; 0 when nothing was measured. */
  readonly prefillTokensPerSecond: number;
  /** Over the steps after the prefill, which yields the first token; 0 when there were none. */
  readonly decodeTokensPerSecond: number;
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
  readonly sequence: number;
  readonly prompt: Int32Array;
  readonly sample: SampleSpec;
  readonly maxTokens: number;
  /** Tokens that end the text. */
  readonly eos: ReadonlySet<number>;
  readonly signal: AbortSignal | undefined;
}

/** Ends a token run from outside with its result: what a stop string does. */
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
      if (filter.stopped) return source.result('stop');
      if (next.done) return source.result(next.value);
    }
  } finally {
    await source.tokens.return('stop'); // releases the sequence when the consumer leaves early
  }
}

function tokenSource(run: TokenRun): TokenSource {
  const { runner, sequence, prompt, sample, signal } = run;
  const generated: number[] = [];
  const clock: Clock = { prefill: 0, decode: 0, reused: 0, steps: 0 };

  async function* loop(): AsyncGenerator<number, FinishReason, void> {
    const release = runner.claim(sequence);
    try {
      let start = performance.now();
      const first = await runner.prefill(sequence, prompt, sample, signal);
      clock.prefill = performance.now() - start;
      clock.reused = first.reused;
      let { token } = first;
      for (;;) {
        if (run.eos.has(token)) return 'eos';
        generated.push(token);
        yield token;
        if (generated.length === run.maxTokens || runner.tokens(sequence).length === runner.spec.contextSize) return 'length';
        start = performance.now();
        ({ token } = await runner.step({ sequence, tokens: Int32Array.of(token), sample }, signal));
        clock.decode += performance.now() - start;
        clock.steps++;
      }
    } finally {
      release();
    }
  }

  return {
    tokens: loop(),
    result: (finishReason) => ({
      finishReason,
      tokens: Int32Array.from(generated),
      seed: Number(sample.seed),
      timing: timing(prompt.length, clock),
    }),
  };
}

/** Milliseconds inside the engine, reused prompt tokens, steps after the prefill. */
interface Clock {
  prefill: number;
  decode: number;
  reused: number;
  steps: number;
}

function timing(promptTokens: number, clock: Clock): GenerationTiming {
  const rate = (tokens: number, milliseconds: number): number => (milliseconds > 0 ? (tokens * 1000) / milliseconds : 0);
  return {
    promptTokens,
    reusedTokens: clock.reused,
    prefillSeconds: clock.prefill / 1000,
    decodeSeconds: clock.decode / 1000,
    prefillTokensPerSecond: rate(promptTokens - clock.reused, clock.prefill),
    decodeTokensPerSecond: rate(clock.steps, clock.decode),
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
