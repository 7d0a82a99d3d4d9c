/**
 * lib/quantize: drives the engine through a model, linear by linear, and hands every solved linear on as soon as it exists, so that
 * only the linears of one stop are held in memory.
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
import type { QuantizeMethod } from './options';
import type { OutputFormat, PartTensor } from './outputs';
import { type ProgressTracker, hessianWork, roundWork, runWork, solveWork, type Step, type Work } from './progress';
import type { RunRecord } from './report';

export interface SolveRun {
  readonly model: ModelHandle;
  readonly plan: Plan;
  readonly targets: ReadonlyMap<number, Target>;
  readonly format: OutputFormat;
  readonly record: RunRecord;
  readonly progress: ProgressTracker;
  readonly signal: AbortSignal | undefined;
  /** Takes one solved linear; awaited before the next. */
  readonly sink: (target: Target, tensors: readonly PartTensor[]) => Promise<void>;
}

/** Columns per lazy update; 128 is the paper's and no result depends on it beyond rounding. */
const blockSize = 128;

/**
 * What the states of a calibration may take. Up to it nothing runs twice; above it, the products before the widest stop of each block (gate and up
 * before down) do, at a fifth of the time of a run. 1 GiB is 128 x 512 tokens of a model 1,024 wide, or 2,048 without that stop.
 */
const stateBytes = 2 ** 30;

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

function advanceStep(
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
type Arithmetic = Pick<CalibrationSpec, 'precision' | 'tokenWeights'>;

/** GPTQ: calibrates and solves stop by stop. @throws {LowbitError} CANCELLED; what the engine reports */
export async function solveCalibrated(run: SolveRun, samples: CalibrationSamples, arithmetic: Arithmetic): Promise<void> {
  const { model, plan, targets, record, progress, signal } = run;
  const { tokens, offsets } = samples;
  const calibration = await record.timed('calibrate', () =>
    runJob({ signal }, (control) =>
      native().createCalibration(model, { tokens, offsets, ...arithmetic, stateBytes, firstBlock: 0 }, control),
    ),
  );
  try {
    const stops = stopsOf(plan);
    for (const stop of stops) {
      const advance = advanceStep(plan, targets, stop, tokens.length);
      const hessian = stop.weights.some((weight) => targets.has(weight));
      const reached = await record.timed('calibrate', () =>
        step(run, advance, (control) => native().calibrationAdvance(calibration, { hessian }, control)),
      );
      checkStop(stop, reached, stop === stops.at(-1));
      record.rowsDropped += hessian ? reached.droppedRows : 0;
      progress.finish(advance);
      if (hessian) await solveStop(run, calibration, stop);
    }
  } finally {
    await native().disposeCalibration(calibration);
  }
}

async function solveStop(run: SolveRun, calibration: CalibrationHandle, stop: Stop): Promise<void> {
  const solve = solveStep(run.targets, stop);
  const jobs = stop.weights.flatMap((weight) => {
    const target = run.targets.get(weight);
    return target ? [{ weight, options: solveJob(target, 'gptq', run.format) }] : [];
  });
  const results = await run.record.timed('solve', () =>
    step(run, solve, (control) => native().calibrationSolve(calibration, jobs, control)),
  );
  if (results.length !== jobs.length) throw new LowbitError('INTERNAL', `The engine solved ${results.length} of ${jobs.length} linears`);
  for (const result of results) await deliver(run, result, true);
  run.progress.finish(solve);
}

/** Plain rounding: each linear by itself, no data. */
export async function solveUncalibrated(run: SolveRun): Promise<void> {
  for (const { block, weights } of quantizableWeights(run.plan)) {
    for (const weight of weights) {
      const target = run.targets.get(weight);
      if (target === undefined) continue;
      const { n, k, settings } = target;
      const solve: Step = { phase: 'solve', block, weights: [target.name], work: roundWork(n, k, settings.mse) };
      const job = solveJob(target, 'rtn', run.format);
      const result = await run.record.timed('solve', () =>
        step(run, solve, (control) => native().solveWeight(run.model, weight, job, control)),
      );
      await deliver(run, result, false);
      run.progress.finish(solve);
    }
  }
}

/** One engine call with progress. */
function step<T>(run: SolveRun, current: Step, call: Parameters<typeof runJob<T>>[1]): Promise<T> {
  run.progress.begin(current);
  const onProgress = (done: number, total: number): void => run.progress.within(current, total > 0 ? Math.min(1, done / total) : 0);
  return runJob({ signal: run.signal, onProgress }, call);
}

async function deliver(run: SolveRun, result: SolveResult, hessian: boolean): Promise<void> {
  const target = run.targets.get(result.weight);
  if (target === undefined) throw new LowbitError('INTERNAL', `The engine solved weight ${result.weight}, which was not asked for`);
  const tensors = run.format.solved(target, result);
  run.record.add(target, result, hessian, run.format.solvedBytes(target));
  await run.record.timed('write', () => run.sink(target, tensors));
}

/** Settings of one job as the engine takes them. */
function solveJob(target: Target, method: QuantizeMethod, format: OutputFormat): SolveOptions {
  return { ...target.settings, method, blockSize, minTokens: method === 'gptq' ? minTotalTokens : 0, ...format.jobOptions(target) };
}

function checkStop(expected: Stop, reached: CalibrationStop, last: boolean): void {
  if (reached.block === expected.block && reached.weights.join() === expected.weights.join() && reached.finished === last) return;
  throw new LowbitError(
    'INTERNAL',
    `Calibration stopped at block ${reached.block}, weights [${reached.weights.join()}], expected block ${expected.block}, weights [${expected.weights.join()}]`,
  );
}
