/**
 * lib/quantize: what quantize() takes, checked and completed with defaults.
 * This file knows options only; what depends on the model is checked in preflight.ts.
 */
import path from 'node:path';
import { LowbitError, invalidArgument } from '../errors';
import { type HubOptions, hubOption } from '../hub';
import { abortSignal, boolean, callback, integer, number, oneOf, pathString, type Rule } from '../options';
import { rawSample } from './calibration_source';
import { allocationOption, resolveAllocation, targetSize, type AllocationOptions, type ResolvedAllocation } from './allocation/options';
import { DynamicTable, type DynamicRules } from './dynamic';
import { ggufTypes, type GgufType } from './gguf_types';
import { methodNames, methods, type QuantizeMethod } from './methods';
import { presets, type QuantizePreset, type TokenWeights } from './presets';
import { checkEach, defaultSettings, settingRules, type SolveSettings } from './settings';

export type CalibrationPrecision = 'fast' | 'exact';

export type QuantizeFormat = 'gptq' | 'gptq_v2' | 'gguf' | 'lowbit';

export type ReportFiles = 'full' | 'json' | 'none';

/** One message of a conversation, for calibration with chats. */
export interface CalibrationMessage {
  readonly role: string;
  readonly content: string;
}

/** A sample in an object, as data sets have them. Further keys are left alone. */
export type CalibrationRecord =
  | { readonly text: string }
  | { readonly messages: readonly CalibrationMessage[] }
  | { readonly prompt: string; readonly completion: string }
  | { readonly prompt: readonly CalibrationMessage[]; readonly completion: readonly CalibrationMessage[] }
  | { readonly tokens: readonly number[] };

/** A text, token ids, a conversation, or one of these in an object. */
export type CalibrationSample = string | readonly number[] | Int32Array | readonly CalibrationMessage[] | CalibrationRecord;

/**
 * Calibration data:
 * - a text, or `{ file }` with one in UTF-8: tokenised as a whole and cut from its start into windows of calibrationLength tokens;
 * - `{ file }` that ends in .jsonl or .ndjson: one sample per line, a string, an array or an object as in CalibrationRecord;
 * - samples in an array or anything else that can be iterated, asynchronously, too; read only as far as they are needed.
 *
 * A sample is cut to calibrationLength. Conversations go through the model's chat template; a prompt and its completion are joined.
 */
export type CalibrationSource = string | { readonly file: string } | Iterable<CalibrationSample> | AsyncIterable<CalibrationSample>;

export interface QuantizeProgress {
  /** 'allocate': forms are measured and chosen, for targetSize and bitsPerWeight. */
  readonly phase: 'load' | 'allocate' | 'calibrate' | 'solve' | 'write';
  /** Decoder block being worked on, from 0; -1 outside the blocks. */
  readonly block: number;
  readonly blocks: number;
  /** Linears being solved, or just solved; empty in other phases. */
  readonly weights: readonly string[];
  /** The one of them that is being solved, or was last; undefined in other phases. */
  readonly linear: string | undefined;
  /** Of the whole run, 0 to 1, never falling. */
  readonly fraction: number;
  /** Mean relative error of the linears solved so far; undefined before the first. */
  readonly error: number | undefined;
  /** Since the run began to load the model. */
  readonly secondsElapsed: number;
  /** Estimate from the speed so far; undefined until there is one. */
  readonly secondsLeft: number | undefined;
}

export interface QuantizeOptions extends Partial<SolveSettings> {
  /** A Hugging Face directory, a .gguf file, or the name of one on a hub, `hf:owner/name` (see pull()). */
  readonly model: string;
  /** How a model named `hf:owner/name` is found and fetched. */
  readonly hub?: HubOptions;
  /** Directory to create. Nothing appears there unless the run succeeds. */
  readonly output: string;
  /** One of the methods of QuantizeMethod; 'gptq', 'awq', 'spqr' and 'mixllm' are calibrated. Default 'gptq'. */
  readonly method?: QuantizeMethod;
  /** Settings of 'gptq' and 'mixllm' by name; settings given beside it win. Default 'quality'. */
  readonly preset?: QuantizePreset;
  /**
   * Layout of the output. 'gptq': Hugging Face GPTQ checkpoint, version 1 for symmetric grids and version 2 otherwise; 'gptq_v2': version 2, whose
   * zero points are stored as they are; 'gguf': a directory with model.gguf for llama.cpp, tokenizer included, its codes solved on the grids of
   * ggufType; 'lowbit': lowbit's own container, which holds what the others have no place for. Default 'gptq', with targetSize or bitsPerWeight 'lowbit'.
   */
  readonly format?: QuantizeFormat;
  /**
   * What all weight files may take together, in bytes or as a text such as '60MB' or '57.2MiB': width, group and rank are then chosen for each linear, embedding
   * and head among them where the format holds them ('lowbit', 'gguf'), so that predictions move least. Needs the model in memory for the choice. Format
   * 'lowbit' unless another is given. In place of bits, groupSize, eoraRank and ggufType; for methods 'gptq' and 'rtn'.
   */
  readonly targetSize?: number | string;
  /** The same as bits of all weight files per parameter of the model, 1 to 16. */
  readonly bitsPerWeight?: number;
  /** What the choice for targetSize or bitsPerWeight is among, and how much work it may be. */
  readonly allocation?: AllocationOptions;
  /**
   * With format 'gguf': the block type of all linears, or a mixture of llama.cpp ('Q4_K_S' to 'Q5_K_M'). It takes the place of bits, groupSize and sym; mse
   * is 0 or 2 there. Default 'Q4_K_M'.
   */
  readonly ggufType?: GgufType;
  /**
   * For 'gptq', 'awq', 'spqr' and 'mixllm'; the others use it for eoraRank and smoothAlpha alone. Default: a small built-in text, with a warning in the
   * report; text like what the model will see is better.
   */
  readonly calibration?: CalibrationSource;
  /** Samples to use at most, 1 to 1,000,000. Default 128. */
  readonly calibrationSamples?: number;
  /** Tokens per sample, 16 to 32,768 and at most the context length of the model. Default 512. */
  readonly calibrationLength?: number;
  /**
   * Arithmetic of the calibration. 'fast': its forward passes run like the fast path of the model being made (int8 activations), everything else
   * in bf16 where the processor multiplies that; 'exact': f32 throughout, about three times as long. Both find codes of the same quality.
   * Default 'fast'.
   */
  readonly calibrationPrecision?: CalibrationPrecision;
  /**
   * What a token counts for in the Hessians. 'magnitude', as published: the square of its input, which lets the first token of models with
   * attention sinks outweigh all others; 'equal': all the same. Default: that of the preset ('equal' for 'quality'), 'equal' for methods without one.
   */
  readonly tokenWeights?: TokenWeights;
  /**
   * What the calibration may keep of its samples in memory: bytes, or a text such as '4GB'; 1 MiB or more. With less than it would like, some products
   * run twice; no result depends on it. Default: a quarter of the memory that is free when the run begins, 64 MiB to 1 GiB.
   */
  readonly calibrationMemory?: number | string;
  /** Settings for single linears by regular expression, or false to leave them dense. */
  readonly dynamic?: DynamicRules;
  /** The output head stays dense; true is UNSUPPORTED. */
  readonly lmHead?: false;
  /** Threads including the engine's own, 1 to 256. Default: the physical cores this process may use. */
  readonly threads?: number;
  /** Replace an existing output directory. Default false. */
  readonly overwrite?: boolean;
  /**
   * Go on with a run of the same options, model and data that did not end, from the directory `<output>.lowbit-work` beside the output; the result is the
   * same byte for byte. Without such a directory the run begins anew. Default false: such a directory is then an error, or discarded with `overwrite`.
   */
  readonly resume?: boolean;
  /** Largest size of one .safetensors file in bytes, 65,536 or more. Default 4 GiB. A larger tensor has a file of its own. */
  readonly maxShardBytes?: number;
  /**
   * Report files beside the weights: 'full', lowbit_report.json, .csv and .html; 'json', the first alone; 'none'. The report that is returned is the
   * same in any case. Default 'full'.
   */
  readonly report?: ReportFiles;
  /** Called on every step and while long steps run. */
  readonly onProgress?: (event: QuantizeProgress) => void;
  /** Ends the run: the promise rejects with CANCELLED; solved blocks are kept for `resume`. */
  readonly signal?: AbortSignal;
}

/** Options after checks, with defaults. */
export interface ResolvedOptions {
  readonly model: string;
  readonly hub: HubOptions | undefined;
  readonly output: string; // absolute
  readonly method: QuantizeMethod;
  readonly preset: QuantizePreset | undefined; // of 'gptq' and 'mixllm'
  readonly format: QuantizeFormat;
  readonly ggufType: GgufType; // of 'gguf'
  readonly settings: SolveSettings;
  readonly allocation: ResolvedAllocation | undefined;
  readonly calibration: CalibrationSource | undefined;
  readonly calibrationSamples: number;
  readonly calibrationLength: number;
  readonly calibrationPrecision: CalibrationPrecision;
  readonly tokenWeights: TokenWeights;
  readonly calibrationMemory: number | undefined; // bytes
  readonly dynamic: DynamicTable;
  readonly threads: number; // 0 = all usable physical cores
  readonly overwrite: boolean;
  readonly resume: boolean;
  readonly maxShardBytes: number;
  readonly report: ReportFiles;
  readonly onProgress: ((event: QuantizeProgress) => void) | undefined;
  readonly signal: AbortSignal | undefined;
}

const calibration: Rule<CalibrationSource> = (option, value) => {
  if (isCalibrationSource(value)) return value as CalibrationSource;
  throw invalidArgument(option, 'a text, { file }, or an iterable of texts, token ids, conversations or records of them', value);
};

const lmHead: Rule<false> = (option, value) => {
  const wanted = boolean(option, value);
  if (!wanted) return wanted;
  throw new LowbitError(
    'UNSUPPORTED',
    'lmHead: true is not supported: the output head stays dense, because only decoder blocks are calibrated',
    { option },
  );
};

/** Every option of quantize() except `dynamic`, whose rules are many problems at once (dynamic.ts). */
const spec = {
  model: pathString,
  hub: hubOption,
  output: pathString,
  method: oneOf(...methodNames),
  preset: oneOf('quality', 'fast', 'compat'),
  format: oneOf('gptq', 'gptq_v2', 'gguf', 'lowbit'),
  ggufType: oneOf(...ggufTypes),
  ...settingRules,
  targetSize,
  bitsPerWeight: number(1, 16),
  allocation: allocationOption,
  calibration,
  calibrationSamples: integer(1, 1_000_000),
  calibrationLength: integer(16, 32_768),
  calibrationPrecision: oneOf('fast', 'exact'),
  tokenWeights: oneOf('magnitude', 'equal'),
  calibrationMemory: ((option, value) => {
    const bytes = targetSize(option, value);
    if (bytes < 2 ** 20) throw invalidArgument(option, 'at least 1 MiB', value);
    return bytes;
  }) as Rule<number>,
  dynamic: ((_option, value) => value) as Rule<unknown>,
  lmHead,
  threads: integer(1, 256),
  overwrite: boolean,
  resume: boolean,
  maxShardBytes: integer(65_536, 2 ** 50),
  report: oneOf('full', 'json', 'none'),
  onProgress: callback<(event: QuantizeProgress) => void>(),
  signal: abortSignal,
};

/** Checks every option and appends a problem for each bad one. Undefined when there is any. */
export function resolveOptions(options: unknown, problems: LowbitError[]): ResolvedOptions | undefined {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    problems.push(invalidArgument('the options of quantize', 'object', options));
    return undefined;
  }
  const before = problems.length;
  const checked = checkEach('quantize', options, spec, problems);
  const given = options as Partial<QuantizeOptions>;
  for (const name of ['model', 'output'] as const) {
    if (given[name] === undefined) problems.push(invalidArgument(name, 'non-empty path', undefined));
  }
  const method = checked.method ?? 'gptq';
  if (!methods[method].preset && given.preset !== undefined) {
    problems.push(
      new LowbitError('INVALID_ARGUMENT', `preset is a choice of settings of 'gptq' and 'mixllm': leave it out for '${method}'`, {
        option: 'preset',
      }),
    );
  }
  const allocation = resolveAllocation(checked, options as Record<string, unknown>, problems);
  checkGguf(checked.format, given, problems);
  const preset = methods[method].preset ? (checked.preset ?? 'quality') : undefined;
  const dynamic = DynamicTable.parse(checked.dynamic, problems);
  if (problems.length !== before) return undefined;
  const settings = Object.fromEntries(
    Object.entries({ ...defaultSettings, ...(preset && presets[preset].settings) }).map(([name, fallback]) => [
      name,
      checked[name as keyof SolveSettings] ?? fallback,
    ]),
  );
  return {
    model: checked.model as string,
    hub: checked.hub,
    output: path.resolve(checked.output as string),
    method,
    preset,
    format: checked.format ?? (allocation === undefined ? 'gptq' : 'lowbit'),
    ggufType: checked.ggufType ?? 'Q4_K_M',
    settings: settings as unknown as SolveSettings,
    allocation,
    calibration: checked.calibration,
    calibrationSamples: checked.calibrationSamples ?? 128,
    calibrationLength: checked.calibrationLength ?? 512,
    calibrationPrecision: checked.calibrationPrecision ?? 'fast',
    tokenWeights: checked.tokenWeights ?? (preset === undefined ? 'equal' : presets[preset].tokenWeights),
    calibrationMemory: checked.calibrationMemory,
    dynamic,
    threads: checked.threads ?? 0,
    overwrite: checked.overwrite ?? false,
    resume: checked.resume ?? false,
    maxShardBytes: checked.maxShardBytes ?? 4 * 2 ** 30,
    report: checked.report ?? 'full',
    onProgress: checked.onProgress,
    signal: checked.signal,
  };
}

/** A block type decides what these say, and its ranges are searched by squared error. */
function checkGguf(format: QuantizeFormat | undefined, given: Partial<QuantizeOptions>, problems: LowbitError[]): void {
  const wrong = (option: string, message: string): void => void problems.push(new LowbitError('INVALID_ARGUMENT', message, { option }));
  if (format !== 'gguf') {
    if (given.ggufType !== undefined) wrong('ggufType', "ggufType is a choice of format 'gguf': leave it out, or set format to 'gguf'");
    return;
  }
  for (const option of ['bits', 'groupSize', 'sym'] as const)
    if (given[option] !== undefined) wrong(option, `${option} follows from ggufType with format 'gguf': leave it out`);
  if (given.mse !== undefined && given.mse !== 0 && given.mse !== 2)
    wrong('mse', `Expected 0 or 2 for mse with format 'gguf' but received ${String(given.mse)}`);
  if (given.classic === true) wrong('classic', "classic is the published algorithm on its own grids, which format 'gguf' does not have");
}

/** Of arrays all entries, of others the form only: they are read when they are needed. An empty array has a form and fails later by its token count. */
function isCalibrationSource(value: unknown): boolean {
  if (typeof value === 'string') return true;
  if (Array.isArray(value)) return value.every((sample) => rawSample(sample) !== undefined);
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return false;
  if (Symbol.iterator in value || Symbol.asyncIterator in value) return true;
  return Object.keys(value).length === 1 && typeof (value as { file?: unknown }).file === 'string';
}

/** One error for all problems (at least one): the problem itself when it is alone, otherwise a list, with the common code or INVALID_ARGUMENT. */
export function joinProblems(problems: readonly LowbitError[]): LowbitError {
  const [first, ...more] = problems as readonly [LowbitError, ...LowbitError[]];
  if (more.length === 0) return first;
  const code = more.every((problem) => problem.code === first.code) ? first.code : 'INVALID_ARGUMENT';
  const list = problems.map((problem) => `- ${problem.message}`).join('\n');
  return new LowbitError(code, `quantize cannot start, ${problems.length} problems:\n${list}`, {
    problems: problems.map(({ code, message, details }) => ({ code, message, ...details })),
  });
}
