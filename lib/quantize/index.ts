/**
 * lib/quantize: the pipeline. check everything -> load -> calibrate and solve, stop by stop -> write -> report.
 * Holds no numerics: the engine computes, lib/checkpoint writes files.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { withAtomicDirectory } from '../checkpoint';
import { LowbitError } from '../errors';
import { native, runJob, toLowbitError, type ModelHandle } from '../native';
import type { QuantizeOptions } from './options';
import type { Output } from './outputs';
import { prepare, type Prepared } from './preflight';
import { ProgressTracker } from './progress';
import { RunRecord, modelName, writeReport, type QuantizeReport } from './report';
import { solveCalibrated, solveUncalibrated, totalWork, type SolveRun } from './solve';
import { writeDense } from './write';

export type {
  CalibrationMessage,
  CalibrationPrecision,
  CalibrationSource,
  QuantizeFormat,
  QuantizeMethod,
  QuantizeOptions,
  QuantizeProgress,
  ReportFiles,
} from './options';
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
 *   the model; OUT_OF_MEMORY; CANCELLED. In every case no output is left behind
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
  const { options, checkpoint, plan, selection, samples, format, dense, sideFiles } = prepared;
  const record = new RunRecord(prepared.warnings);
  const work = totalWork(plan, selection.targets, samples?.tokens.length);
  const progress = new ProgressTracker(work, plan.blocks.length, onProgress, () => record.error);
  const version = packageVersion();

  const { targets } = selection;
  const solveAndWrite = async (model: ModelHandle, output: Output): Promise<number> => {
    const sink: SolveRun['sink'] = (target, tensors) => output.addSolved(target, tensors);
    const solveRun: SolveRun = { model, plan, targets, format, record, progress, signal, sink };
    await (samples
      ? solveCalibrated(solveRun, samples, { precision: options.calibrationPrecision, tokenWeights: options.tokenWeights })
      : solveUncalibrated(solveRun));
    return record.timed('write', async () => {
      const onBytes = (done: number, total: number): void => progress.write(total > 0 ? done / total : 1);
      await writeDense(dense, (tensor, pieces) => output.addDense(tensor, pieces), { checkpoint, model, signal, onProgress: onBytes });
      return output.finish();
    });
  };

  const write = async (directory: string): Promise<QuantizeReport> => {
    const model = await record.timed('load', () => load(prepared, signal, progress));
    let output: Output | undefined;
    try {
      output = await format.open(directory, { checkpoint, plan, options, targets, dense, sideFiles, version });
      const bytesAfter = await solveAndWrite(model, output);
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
      });
      await writeReport(directory, report, options.report);
      return report;
    } catch (reason) {
      await output?.abort();
      throw reason;
    } finally {
      await native().disposeModel(model);
    }
  };
  return withAtomicDirectory(options.output, write, { overwrite: options.overwrite, signal });
}

function load({ options, checkpoint, plan }: Prepared, signal: AbortSignal, progress: ProgressTracker): Promise<ModelHandle> {
  const { files, tensors } = checkpoint;
  const onProgress = (done: number, total: number): void => progress.load(total > 0 ? done / total : 1);
  return runJob({ signal, onProgress }, (control) =>
    native().loadModel({ files, tensors, plan, precision: 'exact', threads: options.threads, lazy: true }, control),
  );
}

/** Of the package this file belongs to; lib/ and dist/ lie equally deep. */
function packageVersion(): string {
  const file = path.join(__dirname, '..', '..', 'package.json');
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { readonly version?: unknown };
  if (typeof version !== 'string') throw new LowbitError('INTERNAL', `${file} has no version`);
  return version;
}
