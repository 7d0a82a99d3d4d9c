/**
 * lib/quantize: what a run makes of which weight: as its options say, or, for a size, as an allocation chooses. The choice is kept in the journal.
 */
import { native } from '../native';
import { allocate, chosenOptions, chosenTargets, type Allocated, type Budget, type ResolvedAllocation } from './allocation';
import type { CalibrationSamples } from './calibration';
import type { Journal } from './journal';
import type { Target } from './layout';
import { load } from './load';
import { calibrates } from './methods';
import type { ResolvedOptions } from './options';
import { outputFormat, type OutputFormat } from './outputs';
import { lowbitFormat } from './outputs/lowbit';
import type { Prepared } from './preflight';
import { stateBytesFor } from './memory';
import type { ProgressTracker } from './progress';
import { solveJob, type Arithmetic } from './solve';
import type { DenseTensor } from './write';

export function arithmeticOf({ calibrationPrecision, tokenWeights, calibrationMemory }: ResolvedOptions): Arithmetic {
  return { precision: calibrationPrecision, tokenWeights, stateBytes: stateBytesFor(calibrationMemory) };
}

/** Whether linears are solved with data. */
export function solvesCalibrated({ options: { method, settings, allocation }, samples }: Prepared): boolean {
  const eoraRank = Math.max(settings.eoraRank, ...(allocation?.ranks ?? []));
  return samples !== undefined && calibrates(method, { ...settings, eoraRank }, true);
}

/** What is to be made: as asked for, or as chosen for a size. */
export interface Chosen {
  readonly options: ResolvedOptions;
  readonly targets: ReadonlyMap<number, Target>;
  readonly format: OutputFormat;
  readonly dense: readonly DenseTensor[];
  readonly allocated: Allocated | undefined;
}

/** Chooses the forms of weights, or takes the choice that an earlier run of the same work made. */
export async function choose(prepared: Prepared, journal: Journal, progress: ProgressTracker, signal: AbortSignal): Promise<Chosen> {
  const { options, checkpoint, plan, selection, format, dense, samples, budget } = prepared;
  const { allocation } = options;
  if (allocation === undefined || budget === undefined || samples === undefined)
    return { options, targets: selection.targets, format, dense, allocated: undefined };
  const before = journal.resumed ? ((await journal.readAllocation()) as Allocated | undefined) : undefined;
  const allocated = before ?? (await allocateNow());
  const targets = chosenTargets(selection.targets, allocated, plan);
  const chosen = chosenOptions(options, targets);
  const output = outputFormat(chosen, [...targets.values()]);
  return { options: chosen, targets, format: output, dense: output.dense(checkpoint, plan, targets), allocated };

  async function allocateNow(): Promise<Allocated> {
    const model = await load(prepared, false, signal, () => progress.allocate(0));
    try {
      const made = await allocate({
        ...(budget as Budget),
        allocation: allocation as ResolvedAllocation,
        model,
        plan,
        samples: samples as CalibrationSamples,
        arithmetic: solvesCalibrated(prepared) ? { ...arithmeticOf(options), precision: 'fast' } : undefined,
        jobOf: ({ target, candidates }, candidate) =>
          // Coordinate descent improves all forms alike and takes most of the time.
          solveJob(
            { ...target, settings: { ...(candidates[candidate]?.settings ?? target.settings), sweeps: 0 } },
            { method: options.method, format },
          ),
        baseJob: ({ target }) => {
          const { ggufType: _type, ...settings } = target.settings;
          const base = { ...target, outer: true, settings: { ...settings, bits: 8, groupSize: 32, sym: true } };
          return solveJob(base, { method: 'rtn', format: lowbitFormat });
        },
        signal,
        onProgress: (fraction) => progress.allocate(fraction),
      });
      await journal.writeAllocation(made);
      return made;
    } finally {
      await native().disposeModel(model);
    }
  }
}
