/**
 * lib/quantize: one rising fraction for the whole run, from estimated work per step.
 * Estimates are floating-point operations: a linear [n, k] with T tokens takes 2Tnk to run, its Hessian Tk^2, its solution 4k^3/3 + 2nk^2
 * (Frantar et al. 2022, section 3). Loading and writing get a fixed share.
 */
import type { QuantizeProgress } from './options';

const loadShare = 0.03;
const writeShare = 0.03;

export interface Step {
  readonly phase: 'calibrate' | 'solve';
  readonly block: number;
  readonly weights: readonly string[];
  readonly work: number;
}

export class ProgressTracker {
  private done = 0;
  private last = 0;

  /** `report` is called on the caller's thread; what it throws reaches the caller of the tracker. */
  constructor(
    private readonly total: number,
    private readonly blocks: number,
    private readonly report: ((event: QuantizeProgress) => void) | undefined,
    private readonly error: () => number | undefined,
  ) {}

  load(fraction: number): void {
    this.emit('load', -1, [], loadShare * fraction);
  }

  write(fraction: number): void {
    this.emit('write', -1, [], 1 - writeShare + writeShare * fraction);
  }

  /** A step in progress. */
  within(step: Step, fraction: number): void {
    const share = this.total > 0 ? (this.done + step.work * fraction) / this.total : 1;
    this.emit(step.phase, step.block, step.weights, loadShare + (1 - loadShare - writeShare) * share);
  }

  /** A step is done. */
  finish(step: Step): void {
    this.done += step.work;
    this.within({ ...step, work: 0 }, 0);
  }

  private emit(phase: QuantizeProgress['phase'], block: number, weights: readonly string[], fraction: number): void {
    this.last = Math.max(this.last, Math.min(1, fraction));
    this.report?.({ phase, block, blocks: this.blocks, weights, fraction: this.last, error: this.error() });
  }
}

export function runWork(tokens: number, n: number, k: number): number {
  return 2 * tokens * n * k;
}

export function hessianWork(tokens: number, k: number): number {
  return tokens * k * k;
}

export function solveWork(n: number, k: number): number {
  return (4 / 3) * k ** 3 + 2 * n * k * k;
}

/** Rounding visits each weight once, and 80 times more with the range search. */
export function roundWork(n: number, k: number, mse: number): number {
  return n * k * (mse > 0 ? 80 : 1);
}
