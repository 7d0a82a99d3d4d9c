/**
 * lib/quantize: what a run would do, without writing anything: everything is checked as quantize() checks it, and a few real steps on the first block
 * tell how long the others take.
 */
import { native, runJob, throwIfAborted, toLowbitError, type ModelHandle } from '../native';
import type { CalibrationSamples } from './calibration';
import { arithmeticOf, solvesCalibrated } from './chosen';
import { blocksDone } from './journal';
import type { Target } from './layout';
import { load } from './load';
import type { OutputFormat } from './outputs';
import { freeBytes, prepare, type Prepared } from './preflight';
import { roundWork, solveWork } from './progress';
import { modelName, usedOptions, type QuantizeReport } from './report';
import { advanceStep, solveJob, stopsOf } from './solve';
import type { QuantizeOptions } from './options';

/** One linear that would be quantised. */
export interface DryRunLinear {
  readonly name: string;
  readonly n: number;
  readonly k: number;
  readonly bits: number;
  /** Columns per scale; the whole row resolved to k. */
  readonly groupSize: number;
  readonly sym: boolean;
  /** With scales, zero points and column order; of methods whose sizes depend on the weights an estimate. */
  readonly bytes: number;
}

/** What quantize() with the same options would do. */
export interface DryRunReport {
  readonly model: QuantizeReport['model'] & {
    readonly parameters: number;
    /** Tensor bytes. */
    readonly bytes: number;
  };
  readonly output: string;
  readonly checkpointFormat: OutputFormat['name'];
  /** Options as used, with defaults. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Null without calibration. */
  readonly calibration: {
    readonly source: CalibrationSamples['source'];
    readonly samples: number;
    readonly samplesWanted: number;
    readonly length: number;
    readonly tokens: number;
    readonly samplesDropped: number;
  } | null;
  /** Null where the forms of the linears are chosen for a size, which only the run itself can do. */
  readonly linears: readonly DryRunLinear[] | null;
  /** Linears left dense by a rule. */
  readonly skipped: readonly string[];
  /** Decoder blocks that a journal beside the output holds already, and all. */
  readonly blocksDone: number;
  readonly blocks: number;
  readonly disk: {
    /** Of the weight files; at most so many where a size was asked for. */
    readonly outputBytes: number;
    /** Weight files x 8 / parameters. */
    readonly bitsPerWeight: number;
    /** Output and work beside it while both are there, at most. */
    readonly neededBytes: number;
    /** What the journal takes of that already. */
    readonly heldBytes: number;
    /** Undefined where the system does not say. */
    readonly freeBytes: number | undefined;
  };
  readonly memory: {
    /** Resident at once, at most, estimated: the sum of what follows. */
    readonly peakBytes: number;
    /** This process with the texts and tables of the run, and what JavaScript and the writer take on the way. */
    readonly processBytes: number;
    /** What the calibration keeps of its samples, and its activations. */
    readonly calibrationBytes: number;
    /** Weights of one block, and rows of the embedding; with a size asked for the model and the forms that are tried. */
    readonly weightBytes: number;
    /** The largest Hessians and the linear being solved; the solved ones of its block. */
    readonly solveBytes: number;
  };
  /** Estimated, for this machine as busy as it is now; of what is still to be done. */
  readonly seconds: {
    readonly load: number;
    readonly calibrate: number;
    readonly solve: number;
    readonly write: number;
    /** The sum; undefined where forms are chosen for a size, which takes longer than all others and is not known before. */
    readonly total: number | undefined;
  };
  readonly warnings: readonly string[];
}

/**
 * Says what quantize() would do with the same options, and writes nothing: settings and sizes of all linears, room on the disk, memory, time. All that
 * quantize() checks is checked, the weights for values that are not finite included. A model named `hf:owner/name` is fetched into the cache. Takes the
 * time of reading the model once and of a few steps on its first block.
 *
 * @example
 * const { disk, memory, seconds } = await dryRun({ model: 'path/to/model', output: 'model-4bit' });
 * @throws {LowbitError} as quantize() before any work, with all problems in details.problems; CANCELLED
 */
export async function dryRun(options: QuantizeOptions): Promise<DryRunReport> {
  const prepared = await prepare(options);
  try {
    return await estimate(prepared);
  } catch (reason) {
    throw reason instanceof Error ? reason : toLowbitError(reason);
  }
}

/** JavaScript's heap and code: 14 to 23 MB more at the end of a run of the story model (Node 20, Linux, November 2026). */
const growthBytes = 24e6;
/** Pieces of 16 MiB that were read and written and are not collected yet: about four (SmolLM2-135M by rounding, as above). */
const writerBytes = 4 * 2 ** 24;

async function estimate(prepared: Prepared): Promise<DryRunReport> {
  const { options, checkpoint, plan, selection, samples, format, dense, budget, parameters, journal } = prepared;
  const targets = [...selection.targets.values()];
  const calibrated = solvesCalibrated(prepared) ? samples : undefined;
  const done = await blocksDone(journal, calibrated !== undefined);
  const signal = options.signal ?? new AbortController().signal;
  throwIfAborted(signal);
  const rss = process.memoryUsage().rss;
  const measured = await measure(prepared, calibrated, done, signal);
  const outputBytes = budget?.targetBytes ?? (await weightBytes(prepared));
  const solve = Math.max(0, ...stopsOf(plan).map((stop) => solveBytes(selection.targets, stop.weights, stop.inputs, calibrated)));
  const solved = Math.max(0, ...plan.blocks.map((_, block) => blockBytes(prepared, block)));
  const forms = budget
    ? 4 * parameters + budget.items.flatMap(({ candidates }) => candidates).reduce((sum, { bytes }) => sum + bytes, 0)
    : 0;
  const memory = {
    processBytes: rss + growthBytes + Math.min(outputBytes, writerBytes),
    calibrationBytes: measured.calibrationBytes,
    weightBytes: Math.max(measured.weightBytes, forms),
    solveBytes: solve + solved,
  };
  const { load: loadSeconds, calibrate, solve: solveSeconds } = measured.seconds;
  // What is written is about what was read, and takes about as long (progress.ts).
  const seconds = { load: loadSeconds, calibrate, solve: solveSeconds, write: loadSeconds };
  return {
    model: {
      name: modelName(options.model),
      ...(prepared.pulled === undefined ? {} : { commit: prepared.pulled.commit }),
      kind: checkpoint.kind,
      architecture: plan.architecture,
      parameters,
      bytes: prepared.bytesBefore,
    },
    output: options.output,
    checkpointFormat: format.name,
    options: usedOptions(options),
    calibration: samples
      ? {
          source: samples.source,
          samples: samples.offsets.length - 1,
          samplesWanted: options.calibrationSamples,
          length: options.calibrationLength,
          tokens: samples.tokens.length,
          samplesDropped: samples.dropped,
        }
      : null,
    linears: budget ? null : targets.map((target) => linearOf(target, format)),
    skipped: selection.skipped,
    blocksDone: done,
    blocks: plan.blocks.length,
    disk: {
      outputBytes,
      bitsPerWeight: (8 * outputBytes) / parameters,
      neededBytes: prepared.needed,
      heldBytes: journal.bytes,
      freeBytes: await freeBytes(options.output),
    },
    memory: { peakBytes: Object.values(memory).reduce((sum, bytes) => sum + bytes, 0), ...memory },
    seconds: { ...seconds, total: budget ? undefined : Object.values(seconds).reduce((sum, each) => sum + each, 0) },
    warnings: prepared.warnings,
  };

  async function weightBytes(source: Prepared): Promise<number> {
    const tensors =
      targets.reduce((sum, target) => sum + source.format.solvedBytes(target), 0) + dense.reduce((sum, { bytes }) => sum + bytes, 0);
    return tensors + (await source.format.overheadBytes({ checkpoint, plan, options, targets: selection.targets, dense }, tensors));
  }
}

function linearOf(target: Target, format: OutputFormat): DryRunLinear {
  const { name, n, k, settings } = target;
  const groupSize = settings.groupSize === -1 ? k : settings.groupSize;
  return { name, n, k, bits: settings.bits, groupSize, sym: settings.sym, bytes: format.solvedBytes(target) };
}

/** The journal's copy of a block, as the engine gave it and as it is written. */
function blockBytes({ plan, selection, format }: Prepared, block: number): number {
  const weights = stopsOf(plan).flatMap((stop) => (stop.block === block ? stop.weights : []));
  return 2 * weights.flatMap((weight) => selection.targets.get(weight) ?? []).reduce((sum, target) => sum + format.solvedBytes(target), 0);
}

/**
 * Hessian, its factor and a copy of it (cpp/solve, cpp/quantize/damping.cc); the weight in f32, as it is solved and as its error is measured, with its codes
 * one to a byte and packed.
 */
function solveBytes(
  targets: ReadonlyMap<number, Target>,
  weights: readonly number[],
  inputs = 1,
  calibrated: CalibrationSamples | undefined,
): number {
  const linears = weights.flatMap((weight) => targets.get(weight) ?? []);
  const work = Math.max(0, ...linears.map(({ n, k }) => 10 * n * k + (calibrated ? 8 * k * k : 0)));
  return work + (calibrated && linears.length > 0 ? inputs * 4 * (linears[0] as Target).k ** 2 : 0);
}

interface Measured {
  readonly seconds: { readonly load: number; readonly calibrate: number; readonly solve: number };
  readonly calibrationBytes: number;
  readonly weightBytes: number;
}

/** Seconds that solving single linears for the estimate may take together, as far as it is known before. */
const solveBudget = 5;
/** Samples of the second pass: more than one, so that what a block takes by itself and what its tokens take can be told apart. */
const moreSamples = 4;

async function measure(prepared: Prepared, samples: CalibrationSamples | undefined, done: number, signal: AbortSignal): Promise<Measured> {
  const { plan } = prepared;
  const before = native().engineInfo().memory;
  const begin = performance.now();
  const model = await load(prepared, true, signal, () => undefined);
  try {
    const loadSeconds = (performance.now() - begin) / 1000;
    const solves = new SolveTimes(prepared, model, signal);
    if (samples === undefined) {
      for (const target of solves.shapes()) await solves.rounding(target);
      const { weights } = native().engineInfo().memory;
      const widest = Math.max(0, ...[...prepared.selection.targets.values()].map(({ n, k }) => 4 * n * k));
      return {
        seconds: { load: loadSeconds, calibrate: 0, solve: solves.total(done) },
        calibrationBytes: 0,
        weightBytes: weights - before.weights + widest,
      };
    }
    const run = { prepared, model, signal };
    // With all samples: how much memory is set aside for them. Nothing runs.
    const whole = await calibrationOf(run, samples, samples.offsets.length - 1);
    const held = native().engineInfo().memory;
    await native().disposeCalibration(whole);
    const first = await firstBlock(run, samples, 1, undefined);
    const second = await firstBlock(run, samples, moreSamples, solves);
    // Two passes over the block tell its own time (loading, ends of Hessians) from that of tokens; noise must not make either negative.
    const more = second.work - first.work;
    const perWork = Math.max(more > 0 ? (second.seconds - first.seconds) / more : 0, (0.5 * second.seconds) / second.work);
    const own = Math.max(0, second.seconds - perWork * second.work);
    const left = stopsOf(plan).filter(({ block }) => block >= done);
    const work = left.reduce((sum, stop) => sum + advanceStep(plan, prepared.selection.targets, stop, samples.tokens.length).work, 0);
    return {
      seconds: { load: loadSeconds, calibrate: own * (plan.blocks.length - done) + perWork * work, solve: solves.total(done) },
      calibrationBytes: held.scratch - before.scratch + held.kvCache - before.kvCache,
      weightBytes: held.weights - before.weights + second.blockBytes,
    };
  } finally {
    await native().disposeModel(model);
  }
}

interface MeasureRun {
  readonly prepared: Prepared;
  readonly model: ModelHandle;
  readonly signal: AbortSignal;
}

function calibrationOf({ prepared, model, signal }: MeasureRun, samples: CalibrationSamples, count: number) {
  const offsets = samples.offsets.slice(0, count + 1);
  const spec = { tokens: samples.tokens.slice(0, offsets.at(-1)), offsets, ...arithmeticOf(prepared.options), firstBlock: 0 };
  return runJob({ signal }, (control) => native().createCalibration(model, spec, control));
}

/** Runs the first samples through the first block; with `solves` it solves linears on the way. */
async function firstBlock(run: MeasureRun, samples: CalibrationSamples, most: number, solves: SolveTimes | undefined) {
  const { plan, selection } = run.prepared;
  const count = Math.min(most, samples.offsets.length - 1);
  const tokens = samples.offsets[count] as number;
  const before = native().engineInfo().memory.weights;
  const calibration = await calibrationOf(run, samples, count);
  let [seconds, work, blockBytes] = [0, 0, 0];
  try {
    for (const stop of stopsOf(plan).filter(({ block }) => block === 0)) {
      const hessian = stop.weights.some((weight) => selection.targets.has(weight));
      const begin = performance.now();
      await runJob({ signal: run.signal }, (control) => native().calibrationAdvance(calibration, { hessian }, control));
      seconds += (performance.now() - begin) / 1000;
      work += advanceStep(plan, selection.targets, stop, tokens).work;
      blockBytes = Math.max(blockBytes, native().engineInfo().memory.weights - before);
      if (!hessian || solves === undefined) continue;
      for (const target of solves.shapes(stop.weights))
        await solves.withData(target, (jobs, control) => native().calibrationSolve(calibration, jobs, control));
    }
  } finally {
    await native().disposeCalibration(calibration);
  }
  return { seconds, work, blockBytes };
}

/** How long linears take to solve: one of each shape and settings, as far as the time allows; the others by their work. */
class SolveTimes {
  private readonly seconds = new Map<string, number>();
  private readonly measured = { work: 0, seconds: 0 };

  constructor(
    private readonly prepared: Prepared,
    private readonly model: ModelHandle,
    private readonly signal: AbortSignal,
  ) {}

  /** A linear of each shape, the cheapest first; of the first block's stop with these weights, or of all. */
  shapes(weights?: readonly number[]): readonly Target[] {
    const targets = [...this.prepared.selection.targets.values()].filter(({ weight }) => weights === undefined || weights.includes(weight));
    const first = new Map(targets.reverse().map((target) => [keyOf(target), target]));
    return [...first.values()].sort((a, b) => this.workOf(a) - this.workOf(b));
  }

  async withData(
    target: Target,
    solve: (
      jobs: Parameters<ReturnType<typeof native>['calibrationSolve']>[1],
      control: Parameters<ReturnType<typeof native>['calibrationSolve']>[2],
    ) => ReturnType<ReturnType<typeof native>['calibrationSolve']>,
  ): Promise<void> {
    const { options, format } = this.prepared;
    // A few samples are no basis for good codes, but solving by them takes as long. An expert without any is rounded.
    const job = { weight: target.weight, options: { ...solveJob(target, { method: options.method, format }), minTokens: 1 } };
    await this.time(target, () => runJob({ signal: this.signal }, (control) => solve([job], control)));
  }

  async rounding(target: Target): Promise<void> {
    const { options, format } = this.prepared;
    const job = solveJob(target, { method: options.method, format });
    await this.time(target, () =>
      runJob({ signal: this.signal }, (control) => native().solveWeight(this.model, target.weight, job, control)),
    );
  }

  private async time(target: Target, solve: () => Promise<unknown>): Promise<void> {
    const { work, seconds } = this.measured;
    const expected = work > 0 ? (seconds / work) * this.workOf(target) : 0;
    if (this.seconds.has(keyOf(target)) || seconds + expected > solveBudget) return;
    const begin = performance.now();
    await solve();
    const took = (performance.now() - begin) / 1000;
    this.seconds.set(keyOf(target), took);
    this.measured.seconds += took;
    this.measured.work += this.workOf(target);
  }

  /** Of all linears of blocks from `done` on. */
  total(done: number): number {
    const { plan, selection } = this.prepared;
    const behind = new Set(stopsOf(plan).flatMap(({ block, weights }) => (block < done ? weights : [])));
    const rate = this.measured.work > 0 ? this.measured.seconds / this.measured.work : 0;
    return [...selection.targets.values()]
      .filter(({ weight }) => !behind.has(weight))
      .reduce((sum, target) => sum + (this.seconds.get(keyOf(target)) ?? rate * this.workOf(target)), 0);
  }

  private workOf({ n, k, settings }: Target): number {
    return solvesCalibrated(this.prepared) ? solveWork(n, k) : roundWork(n, k, settings.mse);
  }
}

function keyOf({ n, k, settings, outer }: Target): string {
  return JSON.stringify([n, k, settings, outer === true]);
}
