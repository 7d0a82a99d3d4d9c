/**
 * lib/quantize/allocation: widths, groups and ranks for each weight so that the whole fits a size and the predictions move least: probe -> closed form ->
 * integer programme -> search by trial, if asked for. Puts the steps together; the engine computes (cpp/allocate, cpp/engine/trials).
 */
import { native, runJob, type Budgeted, type BudgetedChoice, type TrialsHandle } from '../../native';
import type { TargetSettings } from '../layout';
import type { SizePoint } from '../report';
import type { Budget } from './budget';
import type { AllocationItem } from './candidates';
import type { ResolvedAllocation } from './options';
import { bind, openTrials, probe, type Probed, type ProbeRun } from './probe';
import { reasonOf } from './reasons';

export { budgetOf, targetBytesOf, type Budget } from './budget';
export { chosenOptions, chosenTargets } from './choices';
export { itemOf, type AllocationItem, type Candidate } from './candidates';
export { allocationOption, resolveAllocation, targetSize, type AllocationOptions, type ResolvedAllocation } from './options';
export { outerWeights } from './probe';

/** What a journal keeps of an allocation, and all that a run needs of it. Plain JSON. */
export interface Allocated {
  /** By weight; null: stays as it is. */
  readonly choices: readonly { readonly weight: number; readonly settings: TargetSettings | null; readonly reason: string }[];
  readonly curve: readonly SizePoint[];
  readonly report: AllocationReport;
}

export interface AllocationReport {
  /** What all weight files may take. */
  readonly targetBytes: number;
  /** Samples whose predictions were compared. */
  readonly probeSamples: number;
  /** Divergence that the choice was estimated to cost, nats per token. */
  readonly estimatedDivergence: number;
  /** The same measured on the probe samples, with the forms of the probe in place. */
  readonly measuredDivergence: number;
  /** Before the search by trial, when there was one. */
  readonly divergenceBeforeSearch?: number;
  /** How often the search found something better. */
  readonly improvements?: number;
  readonly seconds: number;
}

export interface AllocationRun extends Omit<ProbeRun, 'items' | 'bitsPerWeight' | 'errorSamples' | 'probeSamples'>, Budget {
  readonly allocation: ResolvedAllocation;
}

/** @throws {LowbitError} INVALID_ARGUMENT when the target is too small, CANCELLED, what the engine reports */
export async function allocate(run: AllocationRun): Promise<Allocated> {
  const begin = performance.now();
  const { items, allocation, targetBytes, fixedBytes, signal } = run;
  const budget = targetBytes - fixedBytes;
  const parameters = items.map(({ target: { n, k } }) => n * k);
  const bitsPerWeight = (8 * budget) / parameters.reduce((sum, count) => sum + count, 0);
  const share = allocation.generations > 0 ? 0.6 : 0.95; // of the time, for the probe
  const probeRun: ProbeRun = {
    ...run,
    bitsPerWeight,
    errorSamples: allocation.errorSamples,
    probeSamples: allocation.probeSamples,
    onProgress: (fraction) => run.onProgress(share * fraction),
  };
  const trials = await openTrials(probeRun);
  try {
    const probed = await probe(probeRun, trials);
    const of = ({ target }: AllocationItem): Probed => probed.get(target.weight) as Probed;
    const wishes = closedForm(items, of, parameters, bitsPerWeight);
    const budgeted: Budgeted = {
      counts: Int32Array.from(items, ({ candidates }) => candidates.length),
      bytes: Float64Array.from(items.flatMap(({ candidates }) => candidates.map(({ bytes }) => bytes))),
      losses: Float64Array.from(items.flatMap((item) => of(item).losses)),
      budget,
    };
    const chosen = await runJob({ signal }, (control) => native().trialsChoose(trials, budgeted, control));
    const estimated = chosen.loss;
    const search = await evolve(run, trials, items, of, budgeted, chosen, (fraction) => run.onProgress(share + (0.95 - share) * fraction));
    const candidates = search?.candidates ?? chosen.candidates;
    const curve = await measureCurve(run, trials, items, of, candidates);
    run.onProgress(1);
    return {
      choices: items.map((item, i) => {
        const candidate = candidates[i] as number;
        const { settings } = item.candidates[candidate] as AllocationItem['candidates'][number];
        const moved = candidate === chosen.candidates[i] ? '' : '; chosen by trial';
        return { weight: item.target.weight, settings: settings ?? null, reason: reasonOf(item, of(item), candidate, wishes[i]) + moved };
      }),
      curve,
      report: {
        targetBytes,
        probeSamples: allocation.probeSamples,
        estimatedDivergence: estimated,
        measuredDivergence: curve.find((point) => point.chosen)?.klDivergence ?? NaN,
        ...(search && { divergenceBeforeSearch: search.before, improvements: search.improvements }),
        seconds: (performance.now() - begin) / 1000,
      },
    };
  } finally {
    await native().disposeTrials(trials);
  }
}

/** Bits that BAQ's closed form gives each weight: what it would like, for the report; the programme chooses. */
function closedForm(
  items: readonly AllocationItem[],
  of: (item: AllocationItem) => Probed,
  parameters: readonly number[],
  mean: number,
): readonly (number | undefined)[] {
  const [least, most] = [1, 16];
  if (mean < least || mean > most) return items.map(() => undefined);
  const losses = items.map((item) => {
    const { tried, divergence } = of(item);
    const { bytes } = item.candidates[tried] as AllocationItem['candidates'][number];
    return divergence * 4 ** ((8 * bytes) / (item.target.n * item.target.k));
  });
  return [
    ...native().closedFormBits({
      losses: Float64Array.from(losses),
      parameters: Float64Array.from(parameters),
      meanBits: mean,
      least,
      most,
    }),
  ];
}

async function evolve(
  { allocation: { generations }, signal }: AllocationRun,
  trials: TrialsHandle,
  items: readonly AllocationItem[],
  of: (item: AllocationItem) => Probed,
  budgeted: Budgeted,
  chosen: BudgetedChoice,
  onProgress: (fraction: number) => void,
): Promise<Awaited<ReturnType<ReturnType<typeof native>['trialsEvolve']>> | undefined> {
  if (generations === 0) return undefined;
  const spec = {
    ...budgeted,
    weights: Int32Array.from(items, ({ target }) => target.weight),
    variants: Int32Array.from(items.flatMap((item) => of(item).variants)),
    start: chosen.candidates,
    generations,
    offspring: 16,
    survivors: 3,
    seed: 0,
  };
  return runJob({ signal, onProgress: (done, total) => onProgress(done / Math.max(1, total)) }, (control) =>
    native().trialsEvolve(trials, spec, control),
  );
}

/** Sizes and divergences of the uniform choices that there are, and of the one that was made. */
async function measureCurve(
  { fixedBytes, signal }: AllocationRun,
  trials: TrialsHandle,
  items: readonly AllocationItem[],
  of: (item: AllocationItem) => Probed,
  chosen: Int32Array,
): Promise<SizePoint[]> {
  const labels = [
    ...new Set(items.filter(({ target }) => target.outer !== true).flatMap(({ candidates }) => candidates.map(({ label }) => label))),
  ];
  const uniform = labels.flatMap((label) => {
    const found = items.map(({ candidates }) => candidates.findIndex((candidate) => candidate.label === label));
    return found.includes(-1) ? [] : [{ label, candidates: found, chosen: false }];
  });
  const curve: SizePoint[] = [];
  for (const { label, candidates, chosen: own } of [...uniform, { label: 'chosen', candidates: [...chosen], chosen: true }]) {
    await bind(
      trials,
      items.map((item, i) => ({ weight: item.target.weight, variant: of(item).variants[candidates[i] as number] as number })),
      signal,
    );
    const klDivergence = await runJob({ signal }, (control) => native().trialsDivergence(trials, control));
    const bytes = items.reduce((sum, item, i) => sum + (item.candidates[candidates[i] as number]?.bytes ?? 0), fixedBytes);
    curve.push({ bytes, klDivergence, label, chosen: own });
  }
  return curve.sort((a, b) => a.bytes - b.bytes);
}
