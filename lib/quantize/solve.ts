/**
 * lib/quantize: drives the engine through a model, linear by linear, and hands every solved block to the journal as soon as it is complete, so that
 * only the linears of one block are held in memory, and a run that dies goes on behind them.
 *
 * GPTQ is true-sequential: the inputs of a linear come from blocks and linears that are already quantised.
 */
import { LowbitError } from '../errors';
import type { Plan } from '../graph/plan';
import { quantizableWeights } from '../models';
import {
  native,
  runJob,
  type CalibrationHandle,
  type CalibrationSpec,
  type CalibrationStop,
  type ModelHandle,
  type SolveOptions,
  type SolveResult,
} from '../native';
import { minTotalTokens, type CalibrationSamples } from './calibration';
import type { Target } from './layout';
import type { Journal, SolvedLinear } from './journal';
import { methods, type QuantizeMethod } from './methods';
import type { OutputFormat } from './outputs';
import { type ProgressTracker, hessianWork, roundWork, runWork, solveWork, type Step, type Work } from './progress';
import type { RunRecord } from './report';

export interface SolveRun {
  readonly model: ModelHandle;
  readonly plan: Plan;
  readonly targets: ReadonlyMap<number, Target>;
  readonly method: QuantizeMethod;
  readonly format: OutputFormat;
  readonly record: RunRecord;
  readonly progress: ProgressTracker;
  readonly signal: AbortSignal | undefined;
  readonly journal: Journal;
}

/** Columns per lazy update; 128 is the paper's and no result depends on it beyond rounding. */
const blockSize = 128;

/** One pause of a calibration: the linears that are calibrated together (LinearGroup), in the order the engine visits them. */
export interface Stop {
  readonly block: number;
  readonly weights: readonly number[];
  /** See LinearGroup; 1 when absent. */
  readonly inputs?: number;
  readonly share?: number;
}

/** Stops of a plan in order: one per linear op of each block, then one with no weights for the rest of the block. */
export function stopsOf(plan: Plan): readonly Stop[] {
  const groups = quantizableWeights(plan);
  return plan.blocks.flatMap((_, block) => [...groups.filter((group) => group.block === block), { block, weights: [] }]);
}

/** Estimated work of a whole run, in the unit of progress.ts. */
export function totalWork(plan: Plan, targets: ReadonlyMap<number, Target>, tokens: number | undefined): Work {
  const sum = (works: readonly number[]): number => works.reduce((all, work) => all + work, 0);
  if (tokens === undefined)
    return { calibrate: 0, solve: sum([...targets.values()].map(({ n, k, settings }) => roundWork(n, k, settings.mse))) };
  const stops = stopsOf(plan);
  return {
    calibrate: sum(stops.map((stop) => advanceStep(plan, targets, stop, tokens).work)),
    solve: sum(stops.map((stop) => solveStep(targets, stop).work)),
  };
}

export function advanceStep(
  plan: Plan,
  targets: ReadonlyMap<number, Target>,
  { block, weights, inputs = 1, share = 1 }: Stop,
  tokens: number,
): Step {
  const linears = weights.flatMap((weight) => plan.weights[weight] ?? []);
  const seen = tokens * share;
  const hessian = weights.some((weight) => targets.has(weight)) ? inputs * hessianWork(seen, linears[0]?.k ?? 0) : 0;
  return { phase: 'calibrate', block, weights: [], work: hessian + linears.reduce((sum, { n, k }) => sum + runWork(seen, n, k), 0) };
}

function solveStep(targets: ReadonlyMap<number, Target>, { block, weights }: Stop): Step {
  const linears = weights.flatMap((weight) => targets.get(weight) ?? []);
  return {
    phase: 'solve',
    block,
    weights: linears.map(({ name }) => name),
    work: linears.reduce((sum, { n, k }) => sum + solveWork(n, k), 0),
  };
}

/** How a calibration computes: see QuantizeOptions. */
export type Arithmetic = Pick<CalibrationSpec, 'precision' | 'tokenWeights' | 'stateBytes'>;

/** A state is written when the work since the last one took this many times longer than writing it did: at most 5 % of a run. */
const stateInterval = 20;

/** With data: calibrates and solves stop by stop, from the journal's first block on. @throws {LowbitError} CANCELLED; what the engine reports */
export async function solveCalibrated(run: SolveRun, samples: CalibrationSamples, arithmetic: Arithmetic): Promise<void> {
  const { model, plan, targets, record, progress, signal, journal } = run;
  const { tokens, offsets } = samples;
  const { firstBlock } = journal;
  const count = offsets.length - 1;
  const stops = stopsOf(plan);
  for (const stop of stops.filter(({ block }) => block < firstBlock)) {
    progress.skip(advanceStep(plan, targets, stop, tokens.length));
    progress.skip(solveStep(targets, stop));
  }
  if (firstBlock >= plan.blocks.length) return;
  const calibration = await record.timed('calibrate', () =>
    runJob({ signal }, (control) => native().createCalibration(model, { tokens, offsets, ...arithmetic, firstBlock }, control)),
  );
  try {
    if (firstBlock > 0) await record.timed('load', () => restoreState(run, calibration, count));
    const due = new StateClock(tokens.length * plan.hiddenSize * 4);
    let block = new BlockInWork(run);
    for (const stop of stops.filter((each) => each.block >= firstBlock)) {
      const advance = advanceStep(plan, targets, stop, tokens.length);
      const hessian = stop.weights.some((weight) => targets.has(weight));
      const last = stop === stops.at(-1);
      if (stop.weights.length === 0) {
        await block.finish(stop.block);
        block = new BlockInWork(run);
      }
      const reached = await record.timed('calibrate', () =>
        step(run, advance, (control) => native().calibrationAdvance(calibration, { hessian }, control)),
      );
      checkStop(stop, reached, last);
      record.rowsDropped += hessian ? reached.droppedRows : 0;
      progress.finish(advance);
      if (hessian) block.add(await solveStop(run, calibration, stop));
      if (stop.weights.length === 0 && !last) {
        await due.write(() => record.timed('write', () => journal.writeState(stop.block + 1, count, statesOf(run, calibration, count))));
      }
    }
  } finally {
    await native().disposeCalibration(calibration);
  }
}

/** The linears of a block on their way to the journal. */
class BlockInWork {
  private readonly linears: SolvedLinear[] = [];
  private readonly seconds: RunRecord['seconds'];
  private readonly rowsDropped: number;

  constructor(private readonly run: SolveRun) {
    this.seconds = { ...run.record.seconds };
    this.rowsDropped = run.record.rowsDropped;
  }

  add(linears: readonly SolvedLinear[]): void {
    this.linears.push(...linears);
  }

  finish(block: number): Promise<void> {
    const { record, journal } = this.run;
    const { calibrate, solve, write } = record.seconds;
    const seconds = {
      calibrate: calibrate - this.seconds.calibrate,
      solve: solve - this.seconds.solve,
      write: write - this.seconds.write,
    };
    const rowsDropped = record.rowsDropped - this.rowsDropped;
    return record.timed('write', () => journal.writeBlock({ block, linears: this.linears, rowsDropped, seconds }));
  }
}

/** States up to this size are written at the end of every block. */
const smallState = 16 * 2 ** 20;

/** Decides when a state is worth its writing. */
class StateClock {
  constructor(private readonly bytes: number) {}
  private lastEnd: number | undefined;
  private lastTook = 0;

  async write(work: () => Promise<void>): Promise<void> {
    const begin = performance.now();
    if (this.bytes > smallState && this.lastEnd !== undefined && begin - this.lastEnd < stateInterval * this.lastTook) return;
    await work();
    this.lastEnd = performance.now();
    this.lastTook = this.lastEnd - begin;
  }
}

async function* statesOf({ signal }: SolveRun, calibration: CalibrationHandle, samples: number): AsyncGenerator<Uint8Array> {
  for (let sample = 0; sample < samples; sample++) {
    const { buffer, byteOffset, byteLength } = await runJob({ signal }, (control) =>
      native().calibrationState(calibration, sample, control),
    );
    yield new Uint8Array(buffer, byteOffset, byteLength);
  }
}

async function restoreState({ signal, journal }: SolveRun, calibration: CalibrationHandle, samples: number): Promise<void> {
  let sample = 0;
  for await (const values of journal.readState(samples)) {
    const state = { sample: sample++, values };
    await runJob({ signal }, (control) => native().setCalibrationState(calibration, state, control));
  }
}

async function solveStop(run: SolveRun, calibration: CalibrationHandle, stop: Stop): Promise<readonly SolvedLinear[]> {
  const solve = solveStep(run.targets, stop);
  const jobs = stop.weights.flatMap((weight) => {
    const target = run.targets.get(weight);
    return target ? [{ weight, options: solveJob(target, run) }] : [];
  });
  const results = await run.record.timed('solve', () =>
    step(run, solve, (control) => native().calibrationSolve(calibration, jobs, control)),
  );
  if (results.length !== jobs.length) throw new LowbitError('INTERNAL', `The engine solved ${results.length} of ${jobs.length} linears`);
  const linears = results.map((result) => deliver(run, result, true));
  run.progress.finish(solve);
  return linears;
}

/** Without data: each linear by itself. */
export async function solveUncalibrated(run: SolveRun): Promise<void> {
  const { plan, targets, journal, progress } = run;
  const groups = quantizableWeights(plan);
  for (const block of plan.blocks.keys()) {
    const work = new BlockInWork(run);
    for (const weight of groups.filter((group) => group.block === block).flatMap(({ weights }) => weights)) {
      const target = targets.get(weight);
      if (target === undefined) continue;
      const { n, k, settings } = target;
      const solve: Step = { phase: 'solve', block, weights: [target.name], work: roundWork(n, k, settings.mse) };
      if (block < journal.firstBlock) {
        progress.skip(solve);
        continue;
      }
      const job = solveJob(target, run);
      const result = await run.record.timed('solve', () =>
        step(run, solve, (control) => native().solveWeight(run.model, weight, job, control)),
      );
      work.add([deliver(run, result, false)]);
      progress.finish(solve);
    }
    if (block >= journal.firstBlock) await work.finish(block);
  }
}

/** Embedding and head, where they are to be compressed: rounded, as a block of their own behind the others. */
export async function solveOuter(run: SolveRun): Promise<void> {
  const { plan, targets, journal, model, record, signal } = run;
  const outer = [...targets.values()].filter((target) => target.outer === true);
  const block = plan.blocks.length;
  if (outer.length === 0 || journal.firstBlock > block) return;
  const work = new BlockInWork(run);
  for (const target of outer) {
    const result = await record.timed('solve', () =>
      runJob({ signal }, (control) => native().solveWeight(model, target.weight, solveJob(target, run), control)),
    );
    work.add([deliver(run, result, false)]);
  }
  await work.finish(block);
}

/** Blocks of a run's journal: those of the plan, and one for embedding and head. */
export function journalBlocks(plan: Plan, targets: ReadonlyMap<number, Target>): number {
  return plan.blocks.length + ([...targets.values()].some(({ outer }) => outer === true) ? 1 : 0);
}

/** One engine call with progress. */
function step<T>(run: SolveRun, current: Step, call: Parameters<typeof runJob<T>>[1]): Promise<T> {
  run.progress.begin(current);
  const onProgress = (done: number, total: number): void => run.progress.within(current, total > 0 ? Math.min(1, done / total) : 0);
  return runJob({ signal: run.signal, onProgress }, call);
}

function deliver(run: SolveRun, result: SolveResult, hessian: boolean): SolvedLinear {
  const target = run.targets.get(result.weight);
  if (target === undefined) throw new LowbitError('INTERNAL', `The engine solved weight ${result.weight}, which was not asked for`);
  const tensors = run.format.solved(target, result);
  const bytes = tensors.reduce((sum, { data }) => sum + data.byteLength, 0);
  return { weight: result.weight, tensors, report: run.record.add(target, result, hessian, bytes) };
}

/** Settings of one job as the engine takes them. */
export function solveJob(target: Target, { method, format }: Pick<SolveRun, 'method' | 'format'>): SolveOptions {
  const own = target.outer === true ? 'rtn' : method;
  const minTokens = methods[own].calibrated ? minTotalTokens : 0;
  return {
    ...target.settings,
    ...(target.outer === true && outerSettings),
    method: own,
    blockSize,
    minTokens,
    ...format.jobOptions(target),
  };
}

/** Of embedding and head: ranges that are searched, and nothing that needs data. */
const outerSettings = { mse: 2, hessianMse: false, smoothAlpha: 0, eoraRank: 0 };

function checkStop(expected: Stop, reached: CalibrationStop, last: boolean): void {
  if (reached.block === expected.block && reached.weights.join() === expected.weights.join() && reached.finished === last) return;
  throw new LowbitError(
    'INTERNAL',
    `Calibration stopped at block ${reached.block}, weights [${reached.weights.join()}], expected block ${expected.block}, weights [${expected.weights.join()}]`,
  );
}
