/**
 * lib/quantize: one rising fraction for the whole run, from estimated work per step, and the time that is left, from measured speed.
 *
 * Estimates are floating-point operations: a linear [n, k] with T tokens takes 2Tnk to run, its Hessian Tk^2, its solution 4k^3/3 + 2nk^2
 * (Frantar et al. 2022, section 3). Loading and writing get a fixed share. Calibration and solutions reach very different speeds, so each has its
 * own seconds per operation, measured in this run: after the first block the time left is good to a few percent.
 */
import type { QuantizeProgress } from './options';

const loadShare = 0.03;
const writeShare = 0.03;
/** Of a run that chooses forms first: it solves each linear about ten times, on fewer samples. */
const allocateShare = 0.5;
/** Time left is not told before so much of the work, or so many seconds of it, are behind: what comes out earlier is noise. */
const minShare = 0.01;
const minSeconds = 2;

export interface Step {
  readonly phase: 'calibrate' | 'solve';
  readonly block: number;
  readonly weights: readonly string[];
  readonly work: number;
}

/** Estimated work of a run by phase. */
export interface Work {
  readonly calibrate: number;
  readonly solve: number;
  /** An allocation comes first. */
  readonly allocates?: boolean;
}

export class ProgressTracker {
  private readonly total: number;
  private readonly allocates: boolean;
  private readonly left: { calibrate: number; solve: number };
  /** Work done and measured, and the seconds it took. */
  private readonly speed = { calibrate: { work: 0, seconds: 0 }, solve: { work: 0, seconds: 0 } };
  private readonly started: number;
  private readonly loaded: { from: number | undefined; seconds: number } = { from: undefined, seconds: 0 };
  private stepStarted: number | undefined;
  private last = 0;

  /**
   * @param report called on the caller's thread; what it throws reaches the caller of the tracker
   * @param now seconds of a clock that never goes back
   */
  constructor(
    work: Work,
    private readonly blocks: number,
    private readonly report: ((event: QuantizeProgress) => void) | undefined,
    private readonly error: () => number | undefined,
    private readonly now: () => number = () => performance.now() / 1000,
  ) {
    this.total = work.calibrate + work.solve;
    this.left = { calibrate: work.calibrate, solve: work.solve };
    this.allocates = work.allocates === true;
    this.started = now();
  }

  load(fraction: number): void {
    this.loaded.from ??= this.now();
    this.loaded.seconds = this.now() - this.loaded.from;
    this.emit('load', -1, [], undefined, loadShare * fraction, undefined);
  }

  /** Forms are being chosen; what comes behind is not known from it. */
  allocate(fraction: number): void {
    this.emit('allocate', -1, [], undefined, loadShare + allocateShare * fraction, undefined);
  }

  private overall(share: number): number {
    const before = loadShare + (this.allocates ? allocateShare : 0);
    return before + (1 - before - writeShare) * share;
  }

  write(fraction: number): void {
    // What is written is about what was read, and takes about as long.
    this.emit('write', -1, [], undefined, 1 - writeShare + writeShare * fraction, this.loaded.seconds * (1 - fraction));
  }

  /** A step begins. */
  begin(step: Step): void {
    this.stepStarted = this.now();
    this.within(step, 0);
  }

  /** A step in progress. */
  within(step: Step, fraction: number): void {
    const inside = step.work * fraction;
    const share = this.total > 0 ? (this.total - this.left.calibrate - this.left.solve + inside) / this.total : 1;
    // The engine solves the linears of a stop one after the other and counts those that are done.
    const linear = step.weights[Math.min(step.weights.length - 1, Math.floor(fraction * step.weights.length))];
    const all = this.overall(share);
    this.emit(step.phase, step.block, step.weights, linear, all, this.secondsLeft(step.phase, inside, share));
  }

  /** A step is done. */
  finish(step: Step): void {
    const measured = this.speed[step.phase];
    measured.seconds += this.now() - (this.stepStarted ?? this.now());
    measured.work += step.work;
    this.stepStarted = undefined;
    this.left[step.phase] = Math.max(0, this.left[step.phase] - step.work);
    const share = this.total > 0 ? (this.total - this.left.calibrate - this.left.solve) / this.total : 1;
    const all = this.overall(share);
    this.emit(step.phase, step.block, step.weights, step.weights.at(-1), all, this.secondsLeft(step.phase, 0, share));
  }

  /** A step that needs no time, because an earlier run did it: it counts as done and says nothing about speed. */
  skip(step: Step): void {
    this.left[step.phase] = Math.max(0, this.left[step.phase] - step.work);
  }

  /** `inside`: work of the running step that is done. */
  private secondsLeft(phase: 'calibrate' | 'solve', inside: number, share: number): number | undefined {
    const running = this.stepStarted === undefined ? 0 : this.now() - this.stepStarted;
    const rate = (of: 'calibrate' | 'solve'): number | undefined => {
      const { work, seconds } = this.speed[of];
      const own = of === phase ? { work: work + inside, seconds: seconds + running } : { work, seconds };
      return own.work > 0 ? own.seconds / own.work : undefined;
    };
    const measured = this.speed.calibrate.seconds + this.speed.solve.seconds + running;
    if (share < 1 && share < minShare && measured < minSeconds) return undefined;
    const rates = { calibrate: rate('calibrate'), solve: rate('solve') };
    const either = rates.calibrate ?? rates.solve;
    if (either === undefined) return undefined;
    const seconds = (of: 'calibrate' | 'solve'): number => Math.max(0, this.left[of] - (of === phase ? inside : 0)) * (rates[of] ?? either);
    return seconds('calibrate') + seconds('solve') + this.loaded.seconds;
  }

  private emit(
    phase: QuantizeProgress['phase'],
    block: number,
    weights: readonly string[],
    linear: string | undefined,
    fraction: number,
    secondsLeft: number | undefined,
  ): void {
    this.last = Math.max(this.last, Math.min(1, fraction));
    if (this.report === undefined) return;
    const secondsElapsed = this.now() - this.started;
    this.report({
      phase,
      block,
      blocks: this.blocks,
      weights,
      linear,
      fraction: this.last,
      error: this.error(),
      secondsElapsed,
      secondsLeft,
    });
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
