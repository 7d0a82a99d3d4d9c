/**
 * lib/quantize: what a run did, returned to the caller and stored beside the weights as lowbit_report.json, .csv and .html.
 * On disk keys are snake_case and paths are left out, because checkpoints get published. docs/formats.md describes the file.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { isHubName } from '../hub';
import type { SolveResult } from '../native';
import { renderReport, reportFiles } from '../report';
import type { Allocated, AllocationReport } from './allocation';
import type { SolvedBlock } from './journal';
import { snakeCase } from './dynamic';
import type { CalibrationSamples } from './calibration';
import type { Target } from './layout';
import { calibrates, settingsOf } from './methods';
import type { ReportFiles, ResolvedOptions } from './options';
import type { OutputFormat } from './outputs';

/** One quantised linear [n, k]. */
export interface LinearReport {
  readonly name: string;
  readonly n: number;
  readonly k: number;
  readonly bits: number;
  /** Columns per scale; the whole row resolved to k. */
  readonly groupSize: number;
  readonly sym: boolean;
  /** GPTQ: relative squared error of the layer's output on the calibration data; RTN: of the weights. */
  readonly error: number;
  /** What was finally added to the Hessian diagonal, as a fraction of its mean; undefined without a Hessian. */
  readonly dampPercent?: number;
  /** Input columns that were zero in all calibration tokens; their weights are stored as zero. Undefined without a Hessian. */
  readonly deadColumns?: number;
  /** Calibration tokens in its Hessian; of an expert, those routed to it. Undefined without a Hessian. */
  readonly tokens?: number;
  readonly seconds: number;
  /** Bits per weight with scales, zero points and column order. */
  readonly bitsPerWeight: number;
  /** The method that made it, where linears differ; otherwise that of the options. */
  readonly method?: string;
  /** Why it has these settings, in words, when they were chosen for it. */
  readonly reason?: string;
  /** What was done in place of what was asked, in words; normally empty. */
  readonly fallbacks: readonly string[];
}

/** A compression that was measured on the way to the one that was written. */
export interface SizePoint {
  /** Of all weight files. */
  readonly bytes: number;
  /** Mean Kullback-Leibler divergence of the predictions from those of the uncompressed model, in nats per token. */
  readonly klDivergence: number;
  /** What it is, in few words: "4 bit, groups of 64". */
  readonly label: string;
  /** The one that was written. */
  readonly chosen: boolean;
}

export interface QuantizeReport {
  readonly lowbit: {
    readonly version: string;
    readonly cpu: string;
    readonly isa: string;
    readonly bf16: boolean;
    readonly threads: number;
  };
  readonly model: {
    /** Last part of the path, or the name on a hub. */
    readonly name: string;
    /** Of a model from a hub. */
    readonly commit?: string;
    readonly kind: 'hf' | 'gguf';
    readonly architecture: string;
  };
  /** The directory written; absent in lowbit_report.json. */
  readonly output: string;
  readonly checkpointFormat: OutputFormat['name'];
  /** Options as used, with defaults. Those that only other methods read are absent. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Null without calibration. */
  readonly calibration: {
    readonly source: CalibrationSamples['source'];
    readonly sha256: string;
    readonly samples: number;
    readonly samplesWanted: number;
    readonly length: number;
    readonly tokens: number;
    /** Samples left out as too short. */
    readonly samplesDropped: number;
    /** Input rows with values that are not finite, left out of Hessians; summed over layers. */
    readonly rowsDropped: number;
  } | null;
  readonly linears: readonly LinearReport[];
  /** Linears left dense by a rule. */
  readonly skipped: readonly string[];
  readonly totals: {
    readonly parameters: number;
    readonly quantizedParameters: number;
    /** Of the quantised linears, with scales, zero points and column order. */
    readonly bitsPerWeight: number;
    /** Of the whole model: all weight files x 8 / parameters. */
    readonly bitsPerWeightModel: number;
    /** Tensor bytes of the source. */
    readonly bytesBefore: number;
    /** Bytes of the weight files written. */
    readonly bytesAfter: number;
    /** Mean of the linears' relative errors. */
    readonly error: number;
    readonly seconds: number;
  };
  readonly seconds: { readonly load: number; readonly calibrate: number; readonly solve: number; readonly write: number };
  /** All fallbacks with the linear's name in front. */
  readonly fallbacks: readonly string[];
  /** What a reader of the result should know: short groups, a source that was already quantised, less calibration data than wanted. */
  readonly warnings: readonly string[];
  /** Sizes against divergence, when compressions were measured; the page draws them. */
  readonly curve?: readonly SizePoint[];
  /** Of an automatic allocation. */
  readonly allocation?: AllocationReport;
}

/** Mutable record of a run; finish() makes the report. */
export class RunRecord {
  readonly linears: LinearReport[] = [];
  readonly seconds = { load: 0, calibrate: 0, solve: 0, write: 0 };
  rowsDropped = 0;
  private readonly started = performance.now();
  /** Seconds of earlier runs. */
  private earlier = 0;

  constructor(private readonly warnings: readonly string[]) {}

  /** Adds the time that `work` takes to a phase. */
  async timed<T>(phase: keyof RunRecord['seconds'], work: () => Promise<T>): Promise<T> {
    const begin = performance.now();
    try {
      return await work();
    } finally {
      this.seconds[phase] += (performance.now() - begin) / 1000;
    }
  }

  /** `bytes` of the linear in the output. */
  add(target: Target, result: SolveResult, hessian: boolean, bytes: number): LinearReport {
    const linear: LinearReport = {
      name: target.name,
      n: result.n,
      k: result.k,
      bits: result.bits,
      groupSize: result.groupSize,
      sym: result.sym,
      error: result.error,
      ...(hessian && { dampPercent: result.dampPercent, deadColumns: result.deadColumns, tokens: result.tokens }),
      seconds: result.seconds,
      bitsPerWeight: (bytes * 8) / (target.n * target.k),
      ...(target.outer === true && { method: 'rtn' }),
      ...(target.reason !== undefined && { reason: target.reason }),
      fallbacks: [...result.fallbacks],
    };
    this.linears.push(linear);
    return linear;
  }

  /** A block that an earlier run of the same work solved. */
  restore({ linears, rowsDropped, seconds }: SolvedBlock): void {
    this.linears.push(...linears.map(({ report }) => report));
    this.rowsDropped += rowsDropped;
    for (const phase of ['calibrate', 'solve', 'write'] as const) {
      this.seconds[phase] += seconds[phase];
      this.earlier += seconds[phase];
    }
  }

  /** Mean relative error so far. */
  get error(): number | undefined {
    return this.linears.length === 0 ? undefined : this.linears.reduce((sum, { error }) => sum + error, 0) / this.linears.length;
  }

  finish(rest: {
    readonly lowbit: QuantizeReport['lowbit'];
    readonly model: QuantizeReport['model'];
    readonly options: ResolvedOptions;
    readonly checkpointFormat: OutputFormat['name'];
    readonly samples: CalibrationSamples | undefined;
    readonly skipped: readonly string[];
    readonly parameters: number;
    readonly bytesBefore: number;
    readonly bytesAfter: number;
    readonly allocated: Allocated | undefined;
  }): QuantizeReport {
    const { options, samples, parameters, bytesAfter } = rest;
    const quantizedParameters = this.linears.reduce((sum, { n, k }) => sum + n * k, 0);
    const quantizedBits = this.linears.reduce((sum, { n, k, bitsPerWeight }) => sum + n * k * bitsPerWeight, 0);
    return {
      lowbit: rest.lowbit,
      model: rest.model,
      output: options.output,
      checkpointFormat: rest.checkpointFormat,
      options: usedOptions(options),
      calibration: samples
        ? {
            source: samples.source,
            sha256: samples.sha256,
            samples: samples.offsets.length - 1,
            samplesWanted: options.calibrationSamples,
            length: options.calibrationLength,
            tokens: samples.tokens.length,
            samplesDropped: samples.dropped,
            rowsDropped: this.rowsDropped,
          }
        : null,
      linears: this.linears,
      skipped: rest.skipped,
      totals: {
        parameters,
        quantizedParameters,
        bitsPerWeight: quantizedBits / quantizedParameters,
        bitsPerWeightModel: (bytesAfter * 8) / parameters,
        bytesBefore: rest.bytesBefore,
        bytesAfter,
        error: this.error ?? 0,
        seconds: this.earlier + (performance.now() - this.started) / 1000,
      },
      seconds: { ...this.seconds },
      fallbacks: this.linears.flatMap(({ name, fallbacks }) => fallbacks.map((fallback) => `${name}: ${fallback}`)),
      warnings: [...this.warnings],
      ...(rest.allocated && { curve: rest.allocated.curve, allocation: rest.allocated.report }),
    };
  }
}

export function usedOptions(options: ResolvedOptions): Record<string, unknown> {
  const {
    method,
    preset,
    format,
    ggufType,
    settings,
    calibrationSamples,
    calibrationLength,
    calibrationPrecision,
    tokenWeights,
    dynamic,
    allocation,
    threads,
    maxShardBytes,
  } = options;
  const { bits, groupSize, sym, eoraRank, ...rest } = settingsOf(method, settings);
  const fixed = format === 'gguf' ? { ggufType, eoraRank } : { bits, groupSize, sym, eoraRank };
  const grid = allocation === undefined ? fixed : { allocation, ...(format === 'gguf' ? {} : { sym }) };
  const shared = { method, format, ...grid, ...rest, dynamic: dynamic.toConfig() ?? {}, threads, maxShardBytes };
  const choice = preset === undefined ? {} : { preset };
  if (allocation === undefined && !calibrates(method, settings, options.calibration !== undefined)) return { ...shared, ...choice };
  return { ...shared, ...choice, calibrationSamples, calibrationLength, calibrationPrecision, tokenWeights };
}

/** Writes the report files into `directory`; lib/report makes table and page. */
export async function writeReport(directory: string, report: QuantizeReport, files: ReportFiles): Promise<void> {
  if (files === 'none') return;
  const { output: _output, ...stored } = report;
  const write = (name: string, text: string): Promise<void> => writeFile(path.join(directory, name), text);
  await write(reportFiles.json, `${JSON.stringify(toSnakeCase(stored), null, 2)}\n`);
  if (files === 'json') return;
  const { csv, html } = renderReport(stored);
  await write(reportFiles.csv, csv);
  await write(reportFiles.html, html);
}

/** The last part of a path, without a trailing separator; a name on a hub as it is. */
export function modelName(model: string): string {
  if (isHubName(model)) return model;
  return path.basename(path.resolve(model));
}

/** Keys to snake_case, except those of `dynamic`, which are the user's expressions. */
function toSnakeCase(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(toSnakeCase);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [snakeCase(key), key === 'dynamic' ? item : toSnakeCase(item)]));
}
