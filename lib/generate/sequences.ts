/**
 * Who uses which sequence of a context, and who waits for one. Pure bookkeeping: first come, first served.
 */
import { LowbitError } from '../errors';
import { throwIfAborted } from '../native';

interface Waiter {
  readonly choose: (free: readonly number[]) => number;
  readonly settle: (sequence: number | LowbitError) => void;
}

export class Sequences {
  private readonly used: boolean[];
  /** Free sequences, the one that was used least recently first. */
  private free: number[];
  private waiters: Waiter[] = [];

  constructor(readonly count: number) {
    this.used = Array.from({ length: count }, () => false);
    this.free = this.used.map((_, i) => i);
  }

  /** @throws {LowbitError} INVALID_ARGUMENT when it is in use */
  claim(sequence: number): void {
    if (this.used[sequence]) {
      throw new LowbitError(
        'INVALID_ARGUMENT',
        `Sequence ${sequence} is still generating: finish or return() its iterator first, use sequence 'any', or create the context with more sequences`,
        { sequence },
      );
    }
    this.used[sequence] = true;
    this.free = this.free.filter((one) => one !== sequence);
  }

  /**
   * Claims a free sequence, the one that `choose` returns; waits if there is none.
   *
   * @throws {LowbitError} CANCELLED, or what fail() was given
   */
  async claimAny(choose: (free: readonly number[]) => number, signal: AbortSignal | undefined): Promise<number> {
    throwIfAborted(signal);
    if (this.free.length > 0) {
      const sequence = choose(this.free);
      this.claim(sequence);
      return sequence;
    }
    let onAbort: (() => void) | undefined;
    try {
      const settled = await new Promise<number | LowbitError>((settle) => {
        const waiter: Waiter = { choose, settle };
        this.waiters.push(waiter);
        onAbort = () => {
          this.waiters = this.waiters.filter((one) => one !== waiter);
          settle(new LowbitError('CANCELLED', 'The operation was aborted', {}, { cause: signal?.reason }));
        };
        signal?.addEventListener('abort', onAbort, { once: true });
      });
      if (settled instanceof LowbitError) throw settled;
      return settled;
    } finally {
      if (onAbort) signal?.removeEventListener('abort', onAbort);
    }
  }

  release(sequence: number): void {
    this.used[sequence] = false;
    this.free.push(sequence);
    const waiter = this.waiters.shift();
    if (waiter === undefined) return;
    const chosen = waiter.choose(this.free);
    this.claim(chosen);
    waiter.settle(chosen);
  }

  /** Everybody who waits gets `error`. */
  fail(error: LowbitError): void {
    for (const waiter of this.waiters.splice(0)) waiter.settle(error);
  }
}
