/**
 * lib/quantize: everything that can be known to fail is found before the first long step, and all of it is reported at once:
 * options, layers, tokenizer, calibration data, output directory, room on the disk. Reads headers and texts, no weights.
 */
import { readdir, realpath, statfs } from 'node:fs/promises';
import path from 'node:path';
import { openCheckpoint } from '../checkpoint';
import { type PullResult, isHubName, localModel } from '../hub';
import { isBlockType } from '../checkpoint/dtype';
import type { Checkpoint } from '../checkpoint/types';
import { LowbitError, invalidArgument } from '../errors';
import type { Plan } from '../graph/plan';
import { buildPlan, modelSummary, quantizableWeights } from '../models';
import { Tokenizer } from '../tokenizer';
import { budgetOf, itemOf, outerWeights, targetBytesOf, type Budget } from './allocation';
import { calibrationSamples, type CalibrationSamples, type CalibrationTokenizer } from './calibration';
import { fingerprintOf } from './fingerprint';
import { linearType } from './gguf_types';
import { findJournal, type Found } from './journal';
import { listed, selectTargets, shortGroups, type BlockTypeOf, type Selection } from './layout';
import { calibrates, checkMethodFits, methods } from './methods';
import { joinProblems, resolveOptions, type ResolvedOptions } from './options';
import { outputFormat, type OutputFormat } from './outputs';
import { ggufKeys } from './outputs/gguf';
import { architectureOf, placeOf } from './outputs/gguf_tensors';
import { findSideFiles, type SideFile } from './sidefiles';
import { packageVersion } from './version';
import type { DenseTensor } from './write';

/** A run that may start. */
export interface Prepared {
  readonly options: ResolvedOptions;
  readonly checkpoint: Checkpoint;
  /** Where the model came from, if a hub. */
  readonly pulled: PullResult | undefined;
  readonly plan: Plan;
  readonly selection: Selection;
  readonly format: OutputFormat;
  readonly dense: readonly DenseTensor[];
  readonly samples: CalibrationSamples | undefined;
  readonly sideFiles: readonly SideFile[];
  readonly parameters: number;
  readonly bytesBefore: number;
  readonly warnings: readonly string[];
  /** Where forms are to be chosen. */
  readonly budget: Budget | undefined;
  readonly journal: Found;
  /** Bytes that the output and the work beside it take on the disk, at most. */
  readonly needed: number;
}

/** @throws {LowbitError} one error with all problems (details.problems); CANCELLED */
export async function prepare(given: unknown): Promise<Prepared> {
  const problems: LowbitError[] = [];
  const options = resolveOptions(given, problems);
  const opened = await collect(problems, async () => openModel(given, options));
  if (options === undefined || opened === undefined) throw joinProblems(problems);
  const { checkpoint, pulled } = opened;
  const plan = await collect(problems, () => planOf(checkpoint));
  const sideFiles = await collect(problems, () => findSideFiles(checkpoint));
  if (plan === undefined || sideFiles === undefined) throw joinProblems(problems);
  const linears = quantizableWeights(plan).flatMap(({ weights }) => weights);
  const outer = options.allocation !== undefined && (options.format === 'lowbit' || options.format === 'gguf') ? outerWeights(plan) : [];
  const candidates = [...linears, ...outer];
  const blockTypeOf = await collect(problems, () => blockTypes(options, checkpoint, plan));
  const selection = selectTargets(plan, candidates, options.settings, options.dynamic, problems, blockTypeOf);
  if (methods[options.method].preset) checkGuard(selection, problems);
  // What can be read only once is left alone when the run cannot start anyway.
  const { calibration } = options;
  const lasting = typeof calibration !== 'object' || Array.isArray(calibration) || 'file' in calibration;
  const samples = lasting || problems.length === 0 ? await collect(problems, async () => samplesOf(options, checkpoint, plan)) : undefined;
  const targets = [...selection.targets.values()];
  checkMethodFits(options.method, options.format, targets, problems);
  const format = outputFormat(options, targets);
  const dense = (await collect(problems, () => format.dense(checkpoint, plan, selection.targets))) ?? [];
  if (options.format === 'gguf') await collect(problems, () => ggufKeys(checkpoint, plan, options.ggufType));
  const { parameters, storedBytes } = modelSummary(plan, checkpoint);
  const budget = await collect(problems, async () => budgetFor(options, checkpoint, plan, selection, format, dense, parameters));
  const solvedBytes = budget ? [budget.targetBytes] : targets.map((target) => format.solvedBytes(target));
  const journal = await collect(problems, async () =>
    findJournal(
      options.output,
      await fingerprintOf({ options, checkpoint, sideFiles, samples, format, version: packageVersion() }),
      options,
    ),
  );
  await collect(problems, () => checkOutput(options, checkpoint, journal?.installed === true));
  const needed = outputBytes(solvedBytes, dense, sideFiles) + journalBytes(solvedBytes, plan, samples);
  await collect(problems, () => checkSpace(options.output, Math.max(0, needed - (journal?.bytes ?? 0))));
  if (problems.length > 0 || journal === undefined) throw joinProblems(problems);
  return {
    options,
    checkpoint,
    pulled,
    plan,
    selection,
    format,
    dense,
    samples,
    sideFiles,
    parameters,
    bytesBefore: storedBytes,
    warnings: [...(pulled?.note === undefined ? [] : [pulled.note]), ...warningsFor(options, checkpoint, plan, selection, samples)],
    budget,
    journal,
    needed,
  };
}

/** The forms that each target may get, and what they may take together; undefined when nothing is to be chosen. */
async function budgetFor(
  options: ResolvedOptions,
  checkpoint: Checkpoint,
  plan: Plan,
  { targets }: Selection,
  format: OutputFormat,
  dense: readonly DenseTensor[],
  parameters: number,
): Promise<Budget | undefined> {
  const { allocation } = options;
  if (allocation === undefined) return undefined;
  const stored = (weight: number): number => sourceEntry(checkpoint, plan, weight)?.bytes ?? 0;
  // A GGUF file has a block type for everything; a container may leave an embedding as it is.
  const items = [...targets.values()].map((target) =>
    itemOf(target, allocation, format, target.outer === true && format.name === 'lowbit' ? stored(target.weight) : undefined),
  );
  const targetBytes = targetBytesOf(allocation, parameters);
  const overhead = await format.overheadBytes({ checkpoint, plan, options, targets, dense }, targetBytes);
  const fixedBytes = overhead + dense.reduce((sum, { bytes }) => sum + bytes, 0);
  return budgetOf(items, allocation, { parameters, denseBytes: 4 * parameters, fixedBytes });
}

/** Of linears of a GGUF output. @throws {LowbitError} UNSUPPORTED for architectures without names in GGUF */
function blockTypes({ format, ggufType }: ResolvedOptions, checkpoint: Checkpoint, plan: Plan): BlockTypeOf | undefined {
  if (format !== 'gguf') return undefined;
  const architecture = architectureOf(checkpoint);
  return (name, k) => {
    const place = placeOf(architecture, name);
    return linearType(ggufType, place?.name ?? '', place?.layer ?? 0, plan.blocks.length, k);
  };
}

/** What `work` returns, or undefined after appending what it throws. An abort and bugs end everything at once. */
async function collect<T>(problems: LowbitError[], work: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (reason) {
    if (!(reason instanceof LowbitError) || reason.code === 'CANCELLED' || reason.code === 'INTERNAL') throw reason;
    problems.push(reason);
    return undefined;
  }
}

interface OpenedModel {
  readonly checkpoint: Checkpoint;
  readonly pulled: PullResult | undefined;
}

/** Also with other options wrong, so that one error names a mistyped path as well; but nothing is fetched for a run that cannot start. */
async function openModel(given: unknown, options: ResolvedOptions | undefined): Promise<OpenedModel | undefined> {
  const model = options?.model ?? (typeof given === 'object' && given !== null ? (given as { model?: unknown }).model : undefined);
  if (typeof model !== 'string' || model === '' || model.includes('\0')) return undefined;
  if (options === undefined && isHubName(model)) return undefined;
  const { path, pulled } = await localModel(model, options?.hub, options?.signal);
  const checkpoint = await openCheckpoint(path, { signal: options?.signal });
  const quantization = checkpoint.config['quantization_config'];
  if (checkpoint.kind === 'hf' && quantization !== undefined && quantization !== null) {
    throw new LowbitError(
      'UNSUPPORTED',
      `${checkpoint.path} is quantised already (config.json has quantization_config): start from the original model`,
      { file: checkpoint.path, option: 'model' },
    );
  }
  return { checkpoint, pulled };
}

function planOf(checkpoint: Checkpoint): Plan {
  const plan = buildPlan(checkpoint);
  if (plan.weights.some(({ source }) => source.kind !== 'tensor')) {
    throw new LowbitError('UNSUPPORTED', `${checkpoint.path} holds linears that are quantised already: start from the original model`, {
      file: checkpoint.path,
      option: 'model',
    });
  }
  return plan;
}

async function samplesOf(options: ResolvedOptions, checkpoint: Checkpoint, plan: Plan): Promise<CalibrationSamples | undefined> {
  if (options.allocation === undefined && !calibrates(options.method, options.settings, true)) return undefined;
  const length = options.calibrationLength;
  if (length > plan.maxSeqLen)
    throw invalidArgument('calibrationLength', `at most ${plan.maxSeqLen} (the context length of the model)`, length);
  const limits = { samples: options.calibrationSamples, length, vocabSize: plan.vocabSize };
  return calibrationSamples(options.calibration, lazyTokenizer(checkpoint, plan), limits, options.signal);
}

/** Token ids need no tokenizer, so it is made at first use. */
function lazyTokenizer(checkpoint: Checkpoint, plan: Plan): CalibrationTokenizer {
  let made: Tokenizer | undefined;
  const tokenizer = (): Tokenizer => {
    if (made !== undefined) return made;
    made = Tokenizer.fromCheckpoint(checkpoint);
    made.checkVocabulary(plan.vocabSize);
    return made;
  };
  return {
    encode: (text) => tokenizer().encode(text, { addSpecialTokens: false }),
    encodeChat: (messages) => tokenizer().encodeChat(messages, { addGenerationPrompt: false }),
    get prefix() {
      return tokenizer().prefixIds;
    },
  };
}

/** installed: what is there is the finished output of the same run. @throws {LowbitError} INVALID_ARGUMENT, IO */
export async function checkOutput(
  { output, overwrite }: { readonly output: string; readonly overwrite: boolean },
  checkpoint: Checkpoint,
  installed: boolean,
): Promise<void> {
  let names: string[];
  try {
    names = await readdir(output);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return;
    if (code === 'ENOTDIR')
      throw new LowbitError('INVALID_ARGUMENT', `The output ${output} is a file or lies below one: choose a directory`, {
        option: 'output',
        file: output,
      });
    throw new LowbitError('IO', `Cannot read the output ${output}: ${message}`, { option: 'output', file: output }, { cause });
  }
  const [target, source] = await Promise.all([realpath(output), realpath(checkpoint.path)]);
  const relative = path.relative(target, source);
  if (relative === '' || (relative !== '..' && !relative.startsWith(`..${path.sep}`) && !path.isAbsolute(relative))) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `The output ${output} holds the model itself, which would be lost: choose another directory`,
      { option: 'output', file: output },
    );
  }
  if (names.length > 0 && !overwrite && !installed) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `The output ${output} exists and is not empty: choose another directory, or set overwrite to true to replace it`,
      { option: 'output', file: output },
    );
  }
}

/** Header room and the one shard that the writer may copy at the end are on top of the tensors. */
function outputBytes(packed: readonly number[], dense: readonly DenseTensor[], sideFiles: readonly SideFile[]): number {
  const tensors = [...packed, ...dense.map(({ bytes }) => bytes)].reduce((sum, bytes) => sum + bytes, 0);
  const mebibyte = 2 ** 20;
  return tensors + Math.min(tensors, 64 * mebibyte) + sideFiles.reduce((sum, { bytes }) => sum + bytes, mebibyte);
}

/** The solved blocks, and two states of the calibration: the new one is complete before the old one goes. */
function journalBytes(solved: readonly number[], plan: Plan, samples: CalibrationSamples | undefined): number {
  const state = samples === undefined ? 0 : samples.tokens.length * plan.hiddenSize * 4;
  return solved.reduce((sum, bytes) => sum + bytes, 0) + 2 * state;
}

/** @throws {LowbitError} IO when the file system of the output has less room */
export async function checkSpace(output: string, needed: number): Promise<void> {
  const free = await freeBytes(output);
  if (free !== undefined && free < needed) {
    throw new LowbitError(
      'IO',
      `Not enough room for the output ${output} and the work beside it: about ${megabytes(needed)} are needed and ${megabytes(free)} are free. Free space or choose another disk`,
      {
        option: 'output',
        file: output,
        needed,
        free,
      },
    );
  }
}

/** Of the file system that the output will be on; undefined where the system does not say. */
export async function freeBytes(directory: string): Promise<number | undefined> {
  try {
    const { bavail, bsize } = await statfs(directory);
    return bavail * bsize;
  } catch (cause) {
    const parent = path.dirname(directory);
    return (cause as NodeJS.ErrnoException).code === 'ENOENT' && parent !== directory ? freeBytes(parent) : undefined;
  }
}

export function megabytes(bytes: number): string {
  return `${Math.ceil(bytes / 1e6)} MB`;
}

/** The guard takes rows of codes whose groups are those of the file. */
function checkGuard({ targets }: Selection, problems: LowbitError[]): void {
  const wrong = [...targets.values()].filter(({ settings }) => settings.rowGuard && settings.descAct && !settings.staticGroups);
  if (wrong.length === 0) return;
  problems.push(
    new LowbitError(
      'INVALID_ARGUMENT',
      `rowGuard needs groups in the order of the columns, but descAct scatters them (${listed(
        wrong.map(({ name }) => name),
        3,
      )}): set staticGroups to true or rowGuard to false`,
      { option: 'rowGuard' },
    ),
  );
}

function warningsFor(
  options: ResolvedOptions,
  checkpoint: Checkpoint,
  plan: Plan,
  { targets, notes }: Selection,
  samples: CalibrationSamples | undefined,
): string[] {
  const warnings: string[] = [...notes];
  const short = shortGroups(targets.values());
  if (short.length > 0) {
    warnings.push(
      `The last group of ${short.length} linears is short, because their input columns are not a multiple of the group size (${listed(short, 3)}). lowbit and GPTQModel read this; some servers, vLLM among them, do not`,
    );
  }
  const stored = new Set([...targets.keys()].map((weight) => dtypeOf(checkpoint, plan, weight)).filter(isBlockType));
  if (stored.size > 0)
    warnings.push(
      `The source is quantised already (${[...stored].join(', ')}): its error is part of the result and not of the errors reported here`,
    );
  if (samples?.source === 'built-in') {
    warnings.push(
      'Calibration used the small built-in text, because no calibration was given: text like what the model will see gives better codes',
    );
  }
  if (samples !== undefined && samples.offsets.length - 1 < options.calibrationSamples) {
    warnings.push(
      `Calibration used ${samples.offsets.length - 1} samples (${samples.tokens.length} tokens) of the ${options.calibrationSamples} asked for, all there are`,
    );
  }
  return warnings;
}

function sourceEntry(checkpoint: Checkpoint, plan: Plan, weight: number): Checkpoint['tensors'][number] | undefined {
  const source = plan.weights[weight]?.source;
  return source?.kind === 'tensor' ? checkpoint.tensors[source.tensor] : undefined;
}

function dtypeOf(checkpoint: Checkpoint, plan: Plan, weight: number): string {
  return sourceEntry(checkpoint, plan, weight)?.dtype ?? '';
}
