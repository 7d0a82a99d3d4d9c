/**
 * lib/quantize: the pipeline. check everything -> calibrate and solve into a journal, block by block -> put the output together -> report.
 * Holds no numerics: the engine computes, lib/checkpoint writes files.
 */
import { withAtomicDirectory } from '../checkpoint';
import { LowbitError } from '../errors';
import { native, throwIfAborted, toLowbitError, type ModelHandle } from '../native';
import { arithmeticOf, choose, solvesCalibrated, type Chosen } from './chosen';
import { Journal } from './journal';
import { load } from './load';
import type { Target } from './layout';
import type { QuantizeOptions } from './options';
import { megabytes, prepare, type Prepared } from './preflight';
import { ProgressTracker } from './progress';
import { RunRecord, modelName, writeReport, type QuantizeReport } from './report';
import { journalBlocks, solveCalibrated, solveOuter, solveUncalibrated, totalWork, type SolveRun } from './solve';
import { packageVersion } from './version';
import { writeDense } from './write';

export type {
  CalibrationMessage,
  CalibrationPrecision,
  CalibrationRecord,
  CalibrationSample,
  CalibrationSource,
  QuantizeFormat,
  QuantizeOptions,
  QuantizeProgress,
  ReportFiles,
} from './options';
export type { QuantizeMethod } from './methods';
export { convert, type ConvertedTensor, type ConvertOptions, type ConvertReport, type ConvertType } from './convert';
export { dryRun, type DryRunLinear, type DryRunReport } from './estimate';
export type { BlockType, GgufType } from './gguf_types';
export type { AllocationOptions, AllocationReport } from './allocation';
export type { DynamicOverrides, DynamicRules } from './dynamic';
export type { SolveSettings } from './settings';
export type { LinearReport, QuantizeReport, SizePoint } from './report';

/**
 * Quantises the decoder linears of a model and writes a Hugging Face GPTQ checkpoint, the layout that GPTQModel, transformers and vLLM read.
 *
 * @example
 * const report = await quantize({ model: 'path/to/model', output: 'model-4bit', calibration: { file: 'text.txt' } });
 * console.log(report.totals.bitsPerWeight, report.fallbacks);
 * @throws {LowbitError} INVALID_ARGUMENT and others before any work, with all problems in details.problems; UNSUPPORTED, CORRUPT_FILE, IO for
 *   the model; OUT_OF_MEMORY; CANCELLED. In every case no output is left
 *   behind. Once a block is solved, its work is: details.work names the directory, and the same call with `resume: true` goes on from there
 */
export async function quantize(options: QuantizeOptions): Promise<QuantizeReport> {
  const prepared = await prepare(options);
  const abort = new AbortController();
  const { signal } = prepared.options;
  const forward = (): void => abort.abort(signal?.reason);
  if (signal?.aborted) forward();
  signal?.addEventListener('abort', forward, { once: true });
  let failure: { readonly thrown: unknown } | undefined;
  /** The engine calls back from its own threads' queue, where nobody could catch: the first failure ends the run and is thrown below. */
  const report = (event: Parameters<NonNullable<QuantizeOptions['onProgress']>>[0]): void => {
    if (abort.signal.aborted) return;
    try {
      prepared.options.onProgress?.(event);
    } catch (thrown) {
      failure = { thrown };
      abort.abort(thrown);
    }
  };
  try {
    return await run(prepared, abort.signal, report);
  } catch (reason) {
    if (failure !== undefined) throw failure.thrown;
    throw reason instanceof Error ? reason : toLowbitError(reason);
  } finally {
    signal?.removeEventListener('abort', forward);
  }
}

async function run(
  prepared: Prepared,
  signal: AbortSignal,
  onProgress: NonNullable<QuantizeOptions['onProgress']>,
): Promise<QuantizeReport> {
  const { options, checkpoint, plan, selection, samples, sideFiles } = prepared;
  const record = new RunRecord(prepared.warnings);
  const calibrated = solvesCalibrated(prepared) ? samples : undefined;
  const work = { ...totalWork(plan, selection.targets, calibrated?.tokens.length), allocates: prepared.budget !== undefined };
  const progress = new ProgressTracker(work, plan.blocks.length, onProgress, () => record.error);
  const version = packageVersion();
  const chained = calibrated !== undefined;

  const solve = async (model: ModelHandle, journal: Journal, { targets, format }: Chosen): Promise<void> => {
    for (let block = 0; block < journal.firstBlock; block++) record.restore(await journal.readBlock(block));
    const solveRun: SolveRun = { model, plan, targets, method: options.method, format, record, progress, signal, journal };
    await (calibrated ? solveCalibrated(solveRun, calibrated, arithmeticOf(options)) : solveUncalibrated(solveRun));
    await solveOuter(solveRun);
  };

  /** Puts the output together from what the journal holds. */
  const assemble = async (model: ModelHandle, journal: Journal, directory: string, chosen: Chosen): Promise<QuantizeReport> => {
    const { targets, format, dense, allocated } = chosen;
    const output = await format.open(directory, { checkpoint, plan, options: chosen.options, targets, dense, sideFiles, version });
    try {
      const bytesAfter = await record.timed('write', async () => {
        for (let block = 0; block < journalBlocks(plan, targets); block++) {
          throwIfAborted(signal);
          for (const { weight, tensors } of (await journal.readBlock(block)).linears) {
            await output.addSolved(targets.get(weight) as Target, tensors);
          }
        }
        const onBytes = (done: number, total: number): void => progress.write(total > 0 ? done / total : 1);
        await writeDense(dense, (tensor, pieces) => output.addDense(tensor, pieces), { checkpoint, model, signal, onProgress: onBytes });
        return output.finish();
      });
      if (prepared.budget !== undefined && bytesAfter > prepared.budget.targetBytes)
        throw new LowbitError(
          'INTERNAL',
          `The weight files take ${bytesAfter} bytes, more than the ${prepared.budget.targetBytes} asked for`,
        );
      const { isa, threads } = native().modelInfo(model);
      const { cpu, bf16 } = native().engineInfo();
      const report = record.finish({
        lowbit: { version, cpu, isa, bf16, threads },
        model: {
          name: modelName(options.model),
          ...(prepared.pulled === undefined ? {} : { commit: prepared.pulled.commit }),
          kind: checkpoint.kind,
          architecture: plan.architecture,
        },
        options,
        checkpointFormat: format.name,
        samples,
        skipped: selection.skipped,
        parameters: prepared.parameters,
        bytesBefore: prepared.bytesBefore,
        bytesAfter,
        allocated,
      });
      await writeReport(directory, report, options.report);
      await journal.complete(directory);
      return report;
    } catch (reason) {
      await output.abort();
      throw reason;
    }
  };

  const journal = await Journal.open(prepared.journal, options.output, chained);
  try {
    const chosen = await choose(prepared, journal, progress, signal);
    const model = await record.timed('load', () => load(prepared, true, signal, (fraction) => progress.load(fraction)));
    let report: QuantizeReport;
    try {
      await solve(model, journal, chosen);
      report = await withAtomicDirectory(options.output, (directory) => assemble(model, journal, directory, chosen), {
        overwrite: options.overwrite || prepared.journal.installed,
        temporary: journal.outputDirectory,
        signal,
      });
    } finally {
      await native().disposeModel(model);
    }
    await journal.remove();
    return report;
  } catch (reason) {
    throw await explained(reason, journal, chained, prepared);
  } finally {
    await journal.release();
  }
}

/** Of a full disk: how much room a whole run takes. */
function withRoom(error: Error, needed: number): Error {
  if (!(error instanceof LowbitError) || !['ENOSPC', 'EDQUOT'].includes(String(error.details['errno']))) return error;
  return new LowbitError(
    error.code,
    `${error.message}; the output and the work beside it need about ${megabytes(needed)} in all`,
    { ...error.details, needed },
    { cause: error.cause },
  );
}

/** Says what is kept of a failed run and how to go on; a run that has nothing to keep leaves nothing behind. */
async function explained(reason: unknown, journal: Journal, chained: boolean, { plan, needed }: Prepared): Promise<unknown> {
  const error = withRoom(reason instanceof Error ? reason : toLowbitError(reason), needed);
  const blocks = plan.blocks.length;
  const solved = await journal.solvedBlocks(chained);
  const allocated = await journal.hasAllocation();
  if (solved === 0 && !allocated) {
    await journal.remove().catch(() => undefined);
    return error;
  }
  if (!(error instanceof LowbitError)) return error;
  return new LowbitError(
    error.code,
    `${error.message}. ${solved > 0 ? `${solved} of ${blocks} blocks are` : 'The choice of forms is'} done and kept in ${journal.directory}: call again with resume: true (--resume) to go on, or delete that directory`,
    { ...error.details, work: journal.directory, blocksDone: solved, blocks },
    { cause: error.cause ?? error },
  );
}
