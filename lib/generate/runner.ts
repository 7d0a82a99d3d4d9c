/**
 * One native context under TypeScript: runs its steps one after the other and its generations together, knows what every
 * sequence holds, and is disposed exactly once. Context, evaluation and everything else that runs a model goes through it.
 *
 * It does not sample, decode or know options; those are its callers'.
 */
import { LowbitError } from '../errors';
import {
  native,
  runJob,
  throwIfAborted,
  toLowbitError,
  type ContextHandle,
  type ContextSpec,
  type GenerationEnd,
  type GenerationSpec,
  type ModelHandle,
  type StepResult,
  type StepSpec,
} from '../native';
import { TokenFeed } from './feed';
import { commonPrefix, reusablePrefix } from './prefix';
import { Sequences } from './sequences';

/** What a runner needs of its model. lib/model implements it. */
export interface RunnerOwner {
  readonly handle: ModelHandle;
  /** Throws DISPOSED once the model is disposed. */
  assertUsable(): void;
  /** Runners to dispose before the model. */
  readonly runners: Set<StepRunner>;
}

/** Tokens per native step while a prompt is read: large enough for full matrix throughput, small enough to abort soon. */
export const prefillBatch = 512;

const contextDisposed = (): LowbitError =>
  new LowbitError('DISPOSED', 'The context was disposed; create a new one with model.createContext()');

/** A generation and what its sequence holds meanwhile: the prompt and every token that was read but the newest one. */
export class RunningGeneration {
  /** Tokens at the start of the prompt that the sequence already held. */
  readonly reused: number;
  private started = false;
  private newest: number | undefined;

  constructor(
    private readonly feed: TokenFeed,
    private readonly held: number[],
    private readonly prompt: Int32Array,
    private readonly onEnd: () => void,
  ) {
    this.reused = held.length;
  }

  /**
   * The next token, or how the text ended.
   *
   * @throws {LowbitError} CANCELLED, DISPOSED, or what the engine failed with
   */
  async next(signal: AbortSignal | undefined): Promise<number | 'eos' | 'length'> {
    const token = await this.feed.next(signal);
    if (!this.started) this.holdPrompt(this.prompt.length);
    this.started = true;
    if (this.newest !== undefined && token !== 'length') this.held.push(this.newest);
    this.newest = typeof token === 'number' ? token : undefined;
    return token;
  }

  /** Stops the work and cuts the sequence to what was read. Idempotent. */
  async end(): Promise<GenerationEnd> {
    try {
      const end = await this.feed.end();
      this.holdPrompt(Math.min(end.length, this.prompt.length));
      this.held.length = Math.min(this.held.length, end.length);
      return end;
    } finally {
      this.onEnd();
    }
  }

  private holdPrompt(length: number): void {
    for (let i = this.held.length; i < length; i++) this.held.push(this.prompt[i] as number);
  }
}

export class StepRunner {
  private readonly held: number[][];
  private readonly sequences: Sequences;
  private readonly feeds = new Set<TokenFeed>();
  private queue: Promise<unknown> = Promise.resolve();
  private disposal: Promise<void> | undefined;

  private constructor(
    private readonly owner: RunnerOwner,
    private readonly created: Promise<ContextHandle>,
    readonly spec: ContextSpec,
  ) {
    this.held = Array.from({ length: spec.sequences }, () => []);
    this.sequences = new Sequences(spec.sequences);
  }

  /** @throws {LowbitError} DISPOSED, OUT_OF_MEMORY when the key/value store does not fit */
  static async create(owner: RunnerOwner, spec: ContextSpec): Promise<StepRunner> {
    owner.assertUsable();
    const created = runJob({}, () => native().createContext(owner.handle, spec));
    const runner = new StepRunner(owner, created, spec);
    owner.runners.add(runner); // before the first wait: a model disposed meanwhile must find it
    try {
      await created;
    } catch (error) {
      owner.runners.delete(runner);
      throw error;
    }
    runner.assertUsable();
    return runner;
  }

  get disposed(): boolean {
    return this.disposal !== undefined;
  }

  assertUsable(): void {
    this.owner.assertUsable();
    if (this.disposed) throw contextDisposed();
  }

  /** Tokens that the sequence's key/value store holds now. */
  tokens(sequence: number): readonly number[] {
    return this.sequenceAt(sequence);
  }

  /**
   * Reserves a sequence for one generation; two that append to the same sequence would mix their texts. 'any': the free one that
   * holds most of the beginning of `prompt`, and among equals the one used least recently; waits for one if there is none, first
   * come first served.
   *
   * @returns the sequence, to be given back with release()
   * @throws {LowbitError} INVALID_ARGUMENT when it is reserved already; CANCELLED, DISPOSED
   */
  async claim(sequence: number | 'any', prompt: Int32Array = new Int32Array(0), signal?: AbortSignal): Promise<number> {
    this.assertUsable();
    if (sequence !== 'any') {
      this.sequences.claim(sequence);
      return sequence;
    }
    const shared = (one: number): number => commonPrefix(this.sequenceAt(one), prompt);
    return this.sequences.claimAny((free) => free.reduce((best, one) => (shared(one) > shared(best) ? one : best)), signal);
  }

  release(sequence: number): void {
    this.sequences.release(sequence);
  }

  /** Drops the sequence's tokens from `length` on. */
  truncate(sequence: number, length: number): Promise<void> {
    return this.inTurn((handle) => {
      const held = this.sequenceAt(sequence);
      try {
        if (native().sequenceLength(handle, sequence) > length) native().truncate(handle, sequence, length);
      } catch (reason) {
        throw toLowbitError(reason);
      }
      held.length = Math.min(held.length, length);
    });
  }

  /** One native step. On failure or abort the sequence holds what it held before. */
  step(spec: StepSpec, signal?: AbortSignal): Promise<StepResult> {
    return this.inTurn(async (handle) => {
      throwIfAborted(signal);
      const held = this.sequenceAt(spec.sequence);
      try {
        const result = await runJob({ signal }, (control) => native().step(handle, spec, control));
        for (const token of spec.tokens) held.push(token);
        return result;
      } catch (error) {
        this.rollBack(handle, spec.sequence, held);
        throw error;
      }
    });
  }

  /**
   * Makes the sequence hold all of `prompt`, reusing the prefix it already holds, and generates behind it, together with the
   * context's other generations. The caller has claimed the sequence, and calls end() when it wants no more. An abort while the
   * prompt is read keeps the batches that were done, so that a second attempt goes on from there.
   */
  generate(
    sequence: number,
    prompt: Int32Array,
    spec: Omit<GenerationSpec, 'sequence' | 'keep' | 'prompt'>,
    signal: AbortSignal | undefined,
  ): Promise<RunningGeneration> {
    return this.inTurn((handle) => {
      throwIfAborted(signal);
      const held = this.sequenceAt(sequence);
      const reused = reusablePrefix(held, prompt);
      const feed = new TokenFeed(handle, { ...spec, sequence, keep: reused, prompt: prompt.subarray(reused) });
      held.length = reused;
      this.feeds.add(feed);
      return new RunningGeneration(feed, held, prompt, () => this.feeds.delete(feed));
    });
  }

  /** Waits for the running step, then frees; generations and those who wait for a sequence get DISPOSED. Idempotent. */
  dispose(): Promise<void> {
    this.disposal ??= this.free();
    return this.disposal;
  }

  private async free(): Promise<void> {
    try {
      this.sequences.fail(contextDisposed());
      for (const feed of this.feeds) feed.fail(contextDisposed());
      await Promise.allSettled([...this.feeds].map((feed) => feed.end()));
      const handle = await this.created.catch(() => undefined); // a creation that failed left nothing to free
      await this.queue.catch(() => undefined); // its failure was reported to the caller of the step
      if (handle !== undefined) await runJob({}, () => native().disposeContext(handle));
    } finally {
      this.owner.runners.delete(this);
    }
  }

  /** Runs `work` after everything that was asked for before, on whatever sequence: the engine has one scratch space per context. */
  private inTurn<T>(work: (handle: ContextHandle) => T | Promise<T>): Promise<T> {
    const turn = this.queue
      .catch(() => undefined)
      .then(async () => {
        this.assertUsable();
        return work(await this.created);
      });
    this.queue = turn;
    turn.catch(() => undefined); // reported through the returned promise
    return turn;
  }

  /** After a failed step: the engine may have appended part of its tokens. */
  private rollBack(handle: ContextHandle, sequence: number, held: number[]): void {
    try {
      const binding = native();
      if (binding.sequenceLength(handle, sequence) > held.length) binding.truncate(handle, sequence, held.length);
      held.length = Math.min(held.length, binding.sequenceLength(handle, sequence));
    } catch {
      held.length = 0; // the step's own error is the one to report; the next prefill starts the sequence anew
    }
  }

  private sequenceAt(sequence: number): number[] {
    const held = this.held[sequence];
    if (held === undefined) throw new LowbitError('INTERNAL', `The context has no sequence ${sequence}`);
    return held;
  }
}
