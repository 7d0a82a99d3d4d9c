/**
 * One native context under TypeScript: runs its steps one after the other, knows what every sequence holds, and is
 * disposed exactly once. Context, evaluation and everything else that steps a model goes through it.
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
  type ModelHandle,
  type StepResult,
  type StepSpec,
} from '../native';
import { batches, reusablePrefix } from './prefix';

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

export class StepRunner {
  private readonly held: number[][];
  private readonly claimed: boolean[];
  private queue: Promise<unknown> = Promise.resolve();
  private disposal: Promise<void> | undefined;

  private constructor(
    private readonly owner: RunnerOwner,
    private readonly created: Promise<ContextHandle>,
    readonly spec: ContextSpec,
  ) {
    this.held = Array.from({ length: spec.sequences }, () => []);
    this.claimed = Array.from({ length: spec.sequences }, () => false);
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
    if (this.disposed) throw new LowbitError('DISPOSED', 'The context was disposed; create a new one with model.createContext()');
  }

  /** Tokens that the sequence's key/value store holds now. */
  tokens(sequence: number): readonly number[] {
    return this.sequenceAt(sequence);
  }

  /**
   * Reserves a sequence for one generation; two that append to the same sequence would mix their texts.
   *
   * @returns the function that releases it
   * @throws {LowbitError} INVALID_ARGUMENT when it is reserved already
   */
  claim(sequence: number): () => void {
    this.assertUsable();
    if (this.claimed[sequence]) {
      throw new LowbitError(
        'INVALID_ARGUMENT',
        `Sequence ${sequence} is still generating: finish or return() its iterator first, or create the context with more sequences`,
        { sequence },
      );
    }
    this.claimed[sequence] = true;
    return () => {
      this.claimed[sequence] = false;
    };
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
   * Makes the sequence hold all of `prompt`, reusing the prefix it already holds, and returns the result of the last
   * step, which samples the first new token if `sample` is given. An abort keeps the batches that were done, so that a
   * second attempt goes on from there.
   *
   * @returns the step's result and how many tokens were reused
   */
  async prefill(
    sequence: number,
    prompt: Int32Array,
    sample: StepSpec['sample'],
    signal?: AbortSignal,
  ): Promise<{ readonly token: number; readonly reused: number }> {
    const reused = reusablePrefix(this.sequenceAt(sequence), prompt);
    await this.truncate(sequence, reused);
    let token = -1;
    for (const [begin, end] of batches(reused, prompt.length, prefillBatch)) {
      const last = end === prompt.length && sample !== undefined;
      ({ token } = await this.step({ sequence, tokens: prompt.subarray(begin, end), ...(last ? { sample } : {}) }, signal));
    }
    return { token, reused };
  }

  /** Waits for the running step, then frees. Idempotent. */
  dispose(): Promise<void> {
    this.disposal ??= this.free();
    return this.disposal;
  }

  private async free(): Promise<void> {
    try {
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
