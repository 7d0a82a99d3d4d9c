/**
 * The reader's end of one generation that runs in the engine: a queue of tokens, filled by the engine's news. The engine may be
 * some tokens ahead; what its sequence holds in the end is cut to what was read here.
 */
import { LowbitError } from '../errors';
import {
  type ContextHandle,
  type GenerationEnd,
  type GenerationHandle,
  type GenerationNews,
  type GenerationSpec,
  native,
  throwIfAborted,
  toLowbitError,
} from '../native';

export class TokenFeed {
  private readonly handle: GenerationHandle;
  private queue: number[] = [];
  private at = 0; // of the queue
  private read = 0;
  private finish: 'eos' | 'length' | LowbitError | undefined;
  private failure: LowbitError | undefined;
  private wake: (() => void) | undefined;
  private ended: Promise<GenerationEnd> | undefined;

  /** @throws {LowbitError} INVALID_ARGUMENT */
  constructor(context: ContextHandle, spec: GenerationSpec) {
    const onNews: GenerationNews = (tokens, finish) => {
      if (this.at === this.queue.length) [this.queue, this.at] = [[], 0];
      for (const token of tokens) this.queue.push(token);
      if (finish !== undefined) this.finish = typeof finish === 'string' ? finish : toLowbitError(finish);
      this.wake?.();
    };
    try {
      this.handle = native().startGeneration(context, spec, onNews);
    } catch (reason) {
      throw toLowbitError(reason);
    }
  }

  /**
   * The next token, or how the text ended. An abort comes before tokens that are here already.
   *
   * @throws {LowbitError} CANCELLED, what the engine failed with, or what fail() was given
   */
  async next(signal: AbortSignal | undefined): Promise<number | 'eos' | 'length'> {
    for (;;) {
      throwIfAborted(signal);
      if (this.failure) throw this.failure;
      const token = this.queue[this.at];
      if (token !== undefined) {
        this.at++;
        this.read++;
        return token;
      }
      if (this.finish instanceof LowbitError) throw this.finish;
      if (this.finish !== undefined) {
        if (this.finish === 'eos') this.read++; // the token that said so
        return this.finish;
      }
      await this.news(signal);
    }
  }

  /** next() throws this from now on. */
  fail(error: LowbitError): void {
    this.failure ??= error;
    this.wake?.();
  }

  /** Stops the engine's work behind what was read. Idempotent. */
  end(): Promise<GenerationEnd> {
    this.ended ??= native()
      .endGeneration(this.handle, this.read)
      .catch((reason: unknown) => Promise.reject(toLowbitError(reason)));
    return this.ended;
  }

  private async news(signal: AbortSignal | undefined): Promise<void> {
    native().readGeneration(this.handle, this.read);
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        this.wake = undefined;
        signal?.removeEventListener('abort', wake);
        resolve();
      };
      this.wake = wake;
      signal?.addEventListener('abort', wake, { once: true });
    });
  }
}
