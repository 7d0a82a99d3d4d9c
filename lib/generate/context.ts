/**
 * Context: sequences of tokens with their key/value store, and generation from them. The public face of runner.ts and
 * stream.ts; checks everything that can be checked before the engine works.
 */
import { LowbitError, invalidArgument } from '../errors';
import { checkOptions, integer, maxInt32, nested, oneOf, tokenIds } from '../options';
import type { Tokenizer } from '../tokenizer';
import { type GenerateOptions, type GenerateTokensOptions, generateSpec, generateTokensSpec, lookupOf, sampleSpec } from './options';
import { type RunnerOwner, StepRunner } from './runner';
import { Generation, type GenerationStream, type TokenRun, streamText, streamTokens } from './stream';

export type KvType = 'f16' | 'f32';

export interface ContextOptions {
  /** Tokens per sequence, 1 to the model's context length. Default: the model's context length, at most 4096. */
  readonly contextSize?: number;
  /** Independent sequences, 1 to 256. Default 1. */
  readonly sequences?: number;
  /** Storage of keys and values, the same for both. Default 'f16' for a fast model, 'f32' for an exact one. */
  readonly kvCache?: { readonly key?: KvType; readonly value?: KvType };
}

/** What a context needs of its model. lib/model implements it. */
export interface ContextOwner extends RunnerOwner {
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly precision: 'fast' | 'exact';
  /** Throws when the checkpoint has no tokenizer. */
  readonly tokenizer: Tokenizer;
  /** The tokenizer, or undefined when the checkpoint has none. */
  readonly optionalTokenizer: Tokenizer | undefined;
}

/** Default of contextSize: the store is allocated whole, and models claim lengths that few machines can hold. */
const defaultContextSize = 4096;

/** @throws {LowbitError} INVALID_ARGUMENT, or UNSUPPORTED for different key and value types */
export async function createContext(owner: ContextOwner, options: ContextOptions | undefined): Promise<Context> {
  const kvType = oneOf('f16', 'f32');
  const checked = checkOptions('createContext', options, {
    contextSize: integer(1, owner.contextLength),
    sequences: integer(1, 256),
    kvCache: nested({ key: kvType, value: kvType }),
  });
  const { key, value } = checked.kvCache ?? {};
  const kind = key ?? value ?? defaultKvType(owner.precision);
  if ((value ?? kind) !== kind) {
    throw new LowbitError(
      'UNSUPPORTED',
      `Keys and values of different types are not supported: received key "${key}" and value "${value}" for kvCache; use the same for both`,
      {
        option: 'kvCache',
      },
    );
  }
  const runner = await StepRunner.create(owner, {
    contextSize: checked.contextSize ?? Math.min(owner.contextLength, defaultContextSize),
    sequences: checked.sequences ?? 1,
    kvType: kind,
  });
  return new Context(owner, runner);
}

export function defaultKvType(precision: 'fast' | 'exact'): KvType {
  return precision === 'exact' ? 'f32' : 'f16';
}

/**
 * Sequences of tokens in one model, from `model.createContext()`. A sequence keeps what it holds between generations: a
 * prompt that begins like the last one costs only its new end.
 *
 * @example
 * const context = await model.createContext({ contextSize: 2048 });
 * for await (const piece of context.generate('Once upon a time', { maxTokens: 64 })) process.stdout.write(piece);
 */
export class Context {
  /** Made by model.createContext(). */
  constructor(
    private readonly owner: ContextOwner,
    private readonly runner: StepRunner,
  ) {}

  /** Tokens per sequence. */
  get contextSize(): number {
    return this.runner.spec.contextSize;
  }

  get sequences(): number {
    return this.runner.spec.sequences;
  }

  get kvCache(): { readonly key: KvType; readonly value: KvType } {
    return { key: this.runner.spec.kvType, value: this.runner.spec.kvType };
  }

  get disposed(): boolean {
    return this.runner.disposed;
  }

  get tokenizer(): Tokenizer {
    return this.owner.tokenizer;
  }

  /**
   * Continues `prompt` and yields text as it comes. Greedy unless a temperature is given.
   *
   * Generations on different sequences of the context run together: one pass over the weights serves up to sixteen of them, so
   * several at once are faster than one after the other. What a generation yields does not depend on the others. The engine works a
   * few tokens ahead of the consumer.
   *
   * Ends with finishReason 'eos' at the model's end-of-text token, 'stop' before a stop string, and 'length' after
   * maxTokens tokens or when the context is full. The result is in the stream's `result`, and the iterator's return value.
   *
   * @param prompt text (special tokens such as BOS are added as the tokenizer says), or token ids, taken as they are
   * @throws {LowbitError} at once: INVALID_ARGUMENT for a bad option or a prompt that is empty or longer than the context, DISPOSED.
   *   From the iterator: CANCELLED on abort, INVALID_ARGUMENT when the sequence is generating already
   */
  generate(prompt: string | Int32Array | readonly number[], options?: GenerateOptions): GenerationStream<string> {
    this.runner.assertUsable();
    const checked = checkOptions('generate', options, generateSpec(this.sequences));
    const tokenizer = this.owner.tokenizer;
    return new Generation(streamText(this.run(prompt, checked), tokenizer, checked.stop ?? []));
  }

  /** As generate(), but yields token ids and needs no tokenizer for a prompt of ids. The end-of-text token is not yielded. */
  generateTokens(prompt: string | Int32Array | readonly number[], options?: GenerateTokensOptions): GenerationStream<number> {
    this.runner.assertUsable();
    return new Generation(streamTokens(this.run(prompt, checkOptions('generateTokens', options, generateTokensSpec(this.sequences)))));
  }

  /** Token ids that a sequence holds: the last prompt and what was generated from it, without the newest token. */
  tokens(sequence = 0): Int32Array {
    this.runner.assertUsable();
    return Int32Array.from(this.runner.tokens(this.checkSequence(sequence)));
  }

  /** Empties a sequence. @throws {LowbitError} INVALID_ARGUMENT while it generates, DISPOSED */
  async reset(sequence = 0): Promise<void> {
    const claimed = await this.runner.claim(this.checkSequence(sequence));
    try {
      await this.runner.truncate(claimed, 0);
    } finally {
      this.runner.release(claimed);
    }
  }

  /** Waits for the running step and frees the key/value store; running generations end with DISPOSED. Idempotent. */
  dispose(): Promise<void> {
    return this.runner.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  private run(prompt: unknown, options: ReturnType<typeof checkOptions<ReturnType<typeof generateTokensSpec>>>): TokenRun {
    const tokens = this.promptTokens(prompt);
    const eos = options.ignoreEos ? [] : (this.owner.optionalTokenizer?.eosIds ?? []);
    return {
      runner: this.runner,
      sequence: options.sequence ?? 0,
      prompt: tokens,
      sample: sampleSpec(options),
      maxTokens: options.maxTokens ?? maxInt32,
      promptLookup: lookupOf(options.promptLookup),
      eos,
      signal: options.signal,
    };
  }

  private promptTokens(prompt: unknown): Int32Array {
    if (typeof prompt !== 'string' && !Array.isArray(prompt) && !(prompt instanceof Int32Array)) {
      throw invalidArgument('prompt', 'string, Int32Array or array of token ids', prompt);
    }
    const tokens =
      typeof prompt === 'string' ? this.owner.tokenizer.encode(prompt) : tokenIds('prompt', prompt, this.owner.vocabSize).slice();
    if (tokens.length === 0) throw invalidArgument('prompt', 'at least one token', prompt);
    if (tokens.length > this.contextSize) {
      throw new LowbitError(
        'INVALID_ARGUMENT',
        `The prompt has ${tokens.length} tokens but the context holds ${this.contextSize}: shorten the prompt or create the context with a larger contextSize (this model: up to ${this.owner.contextLength})`,
        { option: 'prompt', promptTokens: tokens.length, contextSize: this.contextSize },
      );
    }
    return tokens;
  }

  private checkSequence(sequence: number): number {
    return integer(0, this.sequences - 1)('sequence', sequence);
  }
}
