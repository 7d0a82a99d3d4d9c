/**
 * lib/quantize/allocation: what each form of each weight costs the model, measured. Drives the engine; decides nothing.
 *
 * Two figures make the loss of a linear's form: its error on calibration data, from solving every form of every linear once on the inputs of the model at 8 bits;
 * and how far the predictions move per error, from running the model with one form of one linear in place at a time ("sensitivity"). All else is at 8 bits
 * meanwhile, which costs next to nothing and is several times faster than floats. Of embedding and head every form is tried.
 */
import { LowbitError } from '../../errors';
import { quantizableWeights } from '../../models';
import type { Plan } from '../../graph/plan';
import { native, runJob, type ModelHandle, type SolveOptions, type TriedVariant, type TrialsHandle } from '../../native';
import type { CalibrationSamples } from '../calibration';
import { stopsOf, type Arithmetic } from '../solve';
import type { AllocationItem } from './candidates';

export interface ProbeRun {
  readonly model: ModelHandle; // exact, in memory
  readonly plan: Plan;
  readonly items: readonly AllocationItem[];
  readonly samples: CalibrationSamples;
  readonly errorSamples: number;
  readonly probeSamples: number;
  /** Undefined: solved without data. */
  readonly arithmetic: Arithmetic | undefined;
  /** A form as the engine takes it. */
  readonly jobOf: (item: AllocationItem, candidate: number) => SolveOptions;
  /** The form at 8 bits that others have while one is tried. */
  readonly baseJob: (item: AllocationItem) => SolveOptions;
  /** Bits per weight near which forms will be chosen: a form of that size is tried. */
  readonly bitsPerWeight: number;
  readonly signal: AbortSignal | undefined;
  /** Part of the probe that is done, 0 to 1. */
  readonly onProgress: (fraction: number) => void;
}

/** What was measured of one weight. */
export interface Probed {
  /** The variant of each candidate; -1: the uncompressed weight. */
  readonly variants: readonly number[];
  /** Relative error of each candidate on its data. */
  readonly errors: readonly number[];
  /** Divergence that each candidate is estimated to cost, nats per token. */
  readonly losses: readonly number[];
  /** Candidate that was put in place, and the divergence that it cost. */
  readonly tried: number;
  readonly divergence: number;
}

/** Samples shorter than this say too little of predictions with context. */
const minTokens = 64;

/** Of the time of a probe: the uncompressed model's pass and all solutions; the rest are trials. */
const shares = { reference: 0.05, solve: 0.5 };

/** Below what a trial can tell from nothing. */
const leastDivergence = 1e-9;

/** Samples back to back, the first `count` of at least minTokens tokens. */
function firstSamples({ tokens, offsets }: CalibrationSamples, count: number, least: number): { tokens: Int32Array; offsets: Int32Array } {
  const chosen: Int32Array[] = [];
  for (let s = 0; s + 1 < offsets.length && chosen.length < count; s++) {
    const sample = tokens.subarray(offsets[s], offsets[s + 1]);
    if (sample.length >= least) chosen.push(sample);
  }
  const lengths = chosen.map(({ length }) => length);
  const joined = new Int32Array(lengths.reduce((sum, length) => sum + length, 0));
  const starts = Int32Array.from({ length: chosen.length + 1 }, (_, s) => lengths.slice(0, s).reduce((sum, length) => sum + length, 0));
  chosen.forEach((sample, s) => joined.set(sample, starts[s]));
  return { tokens: joined, offsets: starts };
}

/** Trials with the model at 8 bits. The caller disposes of them. @throws {LowbitError} INVALID_ARGUMENT without a long sample; CANCELLED */
export async function openTrials(run: ProbeRun): Promise<TrialsHandle> {
  const { model, samples, probeSamples, signal, items } = run;
  const probes = firstSamples(samples, probeSamples, minTokens);
  if (probes.offsets.length < 2) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `An allocation compares predictions, which needs samples of at least ${minTokens} tokens: give longer texts as calibration`,
      { option: 'calibration' },
    );
  }
  const onProgress = (done: number, total: number): void => run.onProgress((shares.reference * done) / Math.max(1, total));
  const trials = await runJob({ signal, onProgress }, (control) => native().createTrials(model, probes, control));
  try {
    const jobs = items.map((item) => ({ weight: item.target.weight, options: run.baseJob(item) }));
    const base = await runJob({ signal }, (control) => native().trialsAdd(trials, jobs, control));
    await bind(trials, base, signal);
  } catch (reason) {
    await native().disposeTrials(trials);
    throw reason;
  }
  return trials;
}

/** Puts variants in place. */
export function bind(
  trials: TrialsHandle,
  swaps: readonly { readonly weight: number; readonly variant: number }[],
  signal: AbortSignal | undefined,
): Promise<void> {
  return runJob({ signal }, (control) => native().trialsBind(trials, swapsOf(swaps), control));
}

function swapsOf(swaps: readonly { readonly weight: number; readonly variant: number }[]): { weights: Int32Array; variants: Int32Array } {
  return { weights: Int32Array.from(swaps, ({ weight }) => weight), variants: Int32Array.from(swaps, ({ variant }) => variant) };
}

/** Solves every form, tries some, and estimates all. */
export async function probe(run: ProbeRun, trials: TrialsHandle): Promise<ReadonlyMap<number, Probed>> {
  const { items, signal, onProgress } = run;
  const base = await runJob({ signal }, (control) => native().trialsDivergence(trials, control));
  const { reference, solve } = shares;
  const tried = await solveAll(run, trials, (fraction) => onProgress(reference + solve * fraction));
  const chosen = items.map((item) => candidateNear(item, run.bitsPerWeight));
  const swaps = items.flatMap(({ target, candidates }, i) => {
    const variants = tried.get(target.weight) ?? [];
    const which = target.outer === true ? candidates.keys() : [chosen[i] as number];
    return [...which].map((candidate) => ({ weight: target.weight, variant: variants[candidate]?.variant ?? -1, candidate }));
  });
  const divergences = await runJob(
    { signal, onProgress: (done, total) => onProgress(reference + solve + ((1 - reference - solve) * done) / Math.max(1, total)) },
    (control) => native().trialsDivergenceOfEach(trials, swapsOf(swaps), control),
  );
  const costs = swaps.map((swap, i) => ({ ...swap, cost: Math.max(leastDivergence, (divergences[i] as number) - base) }));
  return new Map(
    items.map((item, i) => [item.target.weight, estimate(item, chosen[i] as number, tried.get(item.target.weight) ?? [], costs)]),
  );
}

function estimate(
  { target, candidates }: AllocationItem,
  chosen: number,
  solved: readonly TriedVariant[],
  costs: readonly { readonly weight: number; readonly candidate: number; readonly cost: number }[],
): Probed {
  const variants = candidates.map((_, c) => solved[c]?.variant ?? -1);
  const errors = candidates.map((_, c) => solved[c]?.error ?? 0);
  const own = costs.filter(({ weight }) => weight === target.weight);
  const cost = (candidate: number): number => own.find((each) => each.candidate === candidate)?.cost ?? leastDivergence;
  const sensitivity = cost(chosen) / Math.max(errors[chosen] as number, 1e-12);
  const losses = candidates.map(({ settings }, c) => {
    if (settings === undefined) return 0;
    return target.outer === true ? cost(c) : sensitivity * (errors[c] as number);
  });
  return { variants, errors, losses, tried: chosen, divergence: cost(chosen) };
}

/** The candidate whose bits per weight come nearest. */
function candidateNear({ target: { n, k }, candidates }: AllocationItem, bitsPerWeight: number): number {
  const distance = candidates.map(({ bytes, settings }) =>
    settings === undefined ? Infinity : Math.abs((8 * bytes) / (n * k) - bitsPerWeight),
  );
  return Math.max(0, distance.indexOf(Math.min(...distance)));
}

/** Variants by weight, in the order of the candidates. */
async function solveAll(
  run: ProbeRun,
  trials: TrialsHandle,
  onProgress: (fraction: number) => void,
): Promise<ReadonlyMap<number, readonly TriedVariant[]>> {
  const { model, plan, items, samples, arithmetic, signal } = run;
  const byWeight = new Map(items.map((item) => [item.target.weight, item]));
  const found = new Map<number, readonly TriedVariant[]>();
  const jobsOf = (item: AllocationItem): { weight: number; options: SolveOptions }[] =>
    item.candidates.flatMap(({ settings }, c) =>
      settings === undefined ? [] : [{ weight: item.target.weight, options: run.jobOf(item, c) }],
    );
  const keep = (tried: readonly TriedVariant[]): void => {
    for (const one of tried) found.set(one.weight, [...(found.get(one.weight) ?? []), one]);
    onProgress(found.size / items.length);
  };
  const alone = items.filter(({ target }) => arithmetic === undefined || target.outer === true);
  for (const item of alone) keep(await runJob({ signal }, (control) => native().trialsAdd(trials, jobsOf(item), control)));
  if (arithmetic === undefined) return found;
  const { tokens, offsets } = firstSamples(samples, run.errorSamples, 1);
  const calibration = await runJob({ signal }, (control) =>
    native().createCalibration(model, { tokens, offsets, ...arithmetic, firstBlock: 0 }, control),
  );
  try {
    for (const stop of stopsOf(plan)) {
      const wanted = stop.weights.flatMap((weight) => byWeight.get(weight) ?? []);
      await runJob({ signal }, (control) => native().calibrationAdvance(calibration, { hessian: wanted.length > 0 }, control));
      const jobs = wanted.flatMap(jobsOf);
      if (jobs.length > 0) keep(await runJob({ signal }, (control) => native().calibrationTry(calibration, trials, jobs, control)));
    }
  } finally {
    await native().disposeCalibration(calibration);
  }
  return found;
}

/** Weights of the plan that an allocation may compress beside the decoder linears: what turns tokens into vectors and vectors into logits. */
export function outerWeights(plan: Plan): readonly number[] {
  const inner = new Set(quantizableWeights(plan).flatMap(({ weights }) => weights));
  return plan.weights.flatMap(({ role, n, k }, weight) =>
    !inner.has(weight) && (role === 'head' || role === 'embedding') && n === plan.vocabSize && k % 32 === 0 ? [weight] : [],
  );
}
