/**
 * The only door to the native engine: finds, loads and explains the binary, and states its interface.
 *
 * Every function of the binding checks again what memory safety needs; meaning is checked by the callers in lib/.
 * Handles are opaque. Long calls return promises, run on the engine's threads and never block the event loop.
 */
import path from 'node:path';
import { LowbitError, type LowbitErrorCode } from './errors';
import type { Plan } from './graph/plan';
import type { TensorEntry } from './checkpoint/types';

declare const brand: unique symbol;
/** Opaque native objects; freed by the dispose functions below, or by the garbage collector as a last resort. */
export type ModelHandle = { readonly [brand]: 'model' };
export type ContextHandle = { readonly [brand]: 'context' };
export type CalibrationHandle = { readonly [brand]: 'calibration' };
export type TrialsHandle = { readonly [brand]: 'trials' };
export type CancelHandle = { readonly [brand]: 'cancel' };
export type GenerationHandle = { readonly [brand]: 'generation' };

/** What every long call takes. */
export interface JobControl {
  readonly cancel?: CancelHandle;
  /** Called on the JS thread, at most about 20 times a second and once at the end. */
  readonly onProgress?: (done: number, total: number) => void;
}

export interface ModelSpec {
  readonly files: readonly string[];
  readonly tensors: readonly TensorEntry[];
  readonly plan: Plan;
  readonly precision: 'exact' | 'fast';
  /** Threads including the engine's own; 0 = usable physical cores. */
  readonly threads: number;
  /** Weights are checked, but stay in their files until something needs them: quantising block by block, converting. Default false. */
  readonly lazy?: boolean;
  /** Path of the packed-weight cache to read, or to write when it does not fit. Absent: none. */
  readonly packedCache?: string;
}

export interface ModelInfo {
  readonly weightBytes: number; // packed bytes in memory
  readonly storedBytes: number; // as a file stores them, embedding and norms included
  readonly parameters: number;
  readonly isa: string;
  readonly threads: number;
  readonly packedCache: PackedCacheState;
  /** Why, for 'stale' and 'failed'; else empty. */
  readonly packedCacheNote: string;
}

/**
 * 'hit': the weights came from the cache. 'written': there was none, now there is. 'stale': there was one that did not fit or was
 * damaged, and it was replaced. 'failed': it could not be written. 'off': not asked for.
 */
export type PackedCacheState = 'off' | 'hit' | 'written' | 'stale' | 'failed';

export interface ContextSpec {
  readonly contextSize: number; // tokens per sequence, >= 1
  readonly sequences: number; // >= 1
  readonly kvType: 'f16' | 'f32';
}

/** One native call per step. */
export interface StepSpec {
  readonly sequence: number;
  /** Appended to the sequence; at least 1. */
  readonly tokens: Int32Array;
  /** Sample the next token from the last row's logits. Absent: no sampling (result.token = -1). */
  readonly sample?: SampleSpec;
  /** Receives log p(targets[i] | ...) of row `from + i` of this step; length = number of rows from `from` on. */
  readonly score?: { readonly from: number; readonly targets: Int32Array; readonly out: Float64Array };
  /** Receives logits of rows [from, tokens.length), row-major [rows, vocabSize]. */
  readonly logits?: { readonly from: number; readonly out: Float32Array };
  /**
   * Compares rows [from, from + rows) with `reference`, logits of another model [rows, vocabSize]. Row i: out[2 i] receives the Kullback-Leibler
   * divergence from the reference in nats, out[2 i + 1] 1 where both find the same token likeliest, else 0.
   */
  readonly compare?: { readonly from: number; readonly rows: number; readonly reference: Float32Array; readonly out: Float64Array };
}

export interface SampleSpec {
  readonly temperature: number; // <= 0: greedy, lowest id on ties
  readonly topK: number; // 0 = off
  readonly topP: number; // 1 = off
  readonly minP: number; // 0 = off
  readonly repeatPenalty: number; // 1 = off
  readonly repeatLastN: number; // tokens of the sequence looked back at, -1 = all
  readonly seed: bigint; // counter-based: draws depend only on (seed, position)
}

export interface StepResult {
  readonly token: number;
}

/** A generation that the engine runs by itself, in common steps with the context's other ones. */
export interface GenerationSpec {
  readonly sequence: number;
  /** Tokens of the sequence to keep, at most what it holds; the others are dropped at once. */
  readonly keep: number;
  /** Appended behind them; at least 1, and all must fit the context. */
  readonly prompt: Int32Array;
  readonly sample: SampleSpec;
  readonly maxTokens: number; // 1 to 2^31 - 1
  /** Tokens that end the text; not reported. */
  readonly stopTokens: Int32Array;
  /** Guess up to maxTokens tokens a step (the engine takes at most 7) behind the last occurrence of at most ngram tokens. */
  readonly promptLookup?: { readonly ngram: number; readonly maxTokens: number };
}

/**
 * New tokens, in order, and how the generation ended behind them: undefined = it goes on; an object = {code, message}, what failed.
 * Called on the JS thread.
 */
export type GenerationNews = (tokens: Int32Array, finish: 'eos' | 'length' | object | undefined) => void;

export interface GenerationEnd {
  /** Tokens that the sequence holds now. */
  readonly length: number;
  /** From the first run that read a part of the prompt to the first token; 0 when none came. */
  readonly promptSeconds: number;
  /** From then on, without the time it waited for its reader. */
  readonly decodeSeconds: number;
  /** Tokens sampled in decodeSeconds, also those nobody read. */
  readonly decoded: number;
  /** By prompt lookup. */
  readonly guessed: number;
  readonly accepted: number;
}

export interface CalibrationSpec {
  /** Samples back to back; sample s is tokens[offsets[s] .. offsets[s+1]). */
  readonly tokens: Int32Array;
  readonly offsets: Int32Array;
  /** Of the forward passes and Hessians: see QuantizeOptions.calibrationPrecision. */
  readonly precision: 'exact' | 'fast';
  /** What a token counts for in a Hessian: see QuantizeOptions.tokenWeights. */
  readonly tokenWeights: 'magnitude' | 'equal';
  /** What the states of all samples may take; wider ones are not kept but computed again. No result depends on it. */
  readonly stateBytes: number;
  /** 0, or the block to go on at: setCalibrationState must then be called for every sample before the first calibrationAdvance. */
  readonly firstBlock: number;
}

/** State before one linear op of the current block, or before some experts, with their Hessians accumulated. */
export interface CalibrationStop {
  readonly block: number;
  /** Weights of the plan that read this stop's inputs, as LinearGroup.weights; empty at the end of a block. */
  readonly weights: readonly number[];
  /** Rows in its Hessian, or in those of all its experts together. */
  readonly tokens: number;
  readonly droppedRows: number;
  /** True at the end of the last block: nothing is left to run. */
  readonly finished: boolean;
}

export interface SolveOptions {
  readonly method: string; // a name of cpp/quantize/methods.def
  readonly bits: number;
  readonly groupSize: number; // -1 = whole row
  readonly sym: boolean;
  readonly descAct: boolean;
  readonly staticGroups: boolean;
  readonly actGroupAware: boolean;
  readonly mse: number;
  readonly hessianMse: boolean;
  readonly refitScales: boolean;
  readonly sweeps: number;
  readonly rowGuard: boolean;
  readonly classic: boolean;
  readonly dampPercent: number;
  readonly dampAutoIncrement: number;
  readonly blockSize: number;
  readonly minTokens: number;
  // Of single methods and of the parts around any of them: cpp/quantize/quantize_parts.h.
  readonly awqGrid: number;
  readonly awqClip: boolean;
  readonly hqqLpNorm: number;
  readonly hqqBeta: number;
  readonly hqqIterations: number;
  readonly spqrOutlierThreshold: number;
  readonly spqrMaxOutliers: number;
  readonly spqrOrder: 'act_order' | 'group_aware' | 'identity';
  readonly mixllmFraction: number;
  readonly finequantAlpha: number;
  readonly smoothAlpha: number;
  readonly eoraRank: number;
  /** What the stored zero points are less by: 1 writes v1 words ("gptq"), 0 writes v2 words ("gptq_v2"). */
  readonly zeroOffset: 0 | 1;
  /** The result as tensors of a lowbit container. */
  readonly container?: boolean;
  /** Codes on the grid of this GGUF block type, which decides bits, group size and symmetry. Absent: a grid of those three. */
  readonly ggufType?: string;
}

export interface SolveResult {
  readonly weight: number;
  readonly n: number;
  readonly k: number;
  readonly bits: number;
  readonly groupSize: number; // resolved
  readonly sym: boolean;
  readonly error: number; // relative, see cpp/quantize/method.h
  readonly dampPercent: number;
  readonly deadColumns: number;
  /** Rows in its Hessian: calibration tokens, of an expert those routed to it; 0 without one. */
  readonly tokens: number;
  readonly seconds: number;
  readonly fallbacks: readonly string[];
  /** GPTQ tensors ready to write: qweight I32 [k*bits/32, n], qzeros I32 [groups, n*bits/32], scales F16 [groups, n], gIdx I32 [k]. */
  readonly qweight: Int32Array;
  readonly qzeros: Int32Array;
  readonly scales: Uint16Array;
  readonly gIdx: Int32Array;
  /** In their place with SolveOptions.ggufType: the blocks, in the row order of Hugging Face. */
  readonly blocks?: Uint8Array;
  /** In their place with SolveOptions.container: cpp/quantize/container_tensors.h. */
  readonly tensors?: readonly StoredTensor[];
}

/** A solved form of a weight that trials keep beside the uncompressed one. */
export interface TriedVariant {
  readonly weight: number;
  /** Its number among the variants of the weight, from 0; -1 is the uncompressed weight. */
  readonly variant: number;
  /** Relative error as SolveResult.error. */
  readonly error: number;
  readonly seconds: number;
  readonly fallbacks: readonly string[];
}

/** Variants to put in place of weights, of the same length. */
export interface Swaps {
  readonly weights: Int32Array;
  readonly variants: Int32Array;
}

/** Weights with their candidates back to back, and what the choice may take: cpp/allocate/item.h. */
export interface Budgeted {
  /** Candidates of each weight, 1 to 255. */
  readonly counts: Int32Array;
  /** Of all candidates: bytes, and what they cost the model in any unit that adds up. */
  readonly bytes: Float64Array;
  readonly losses: Float64Array;
  /** Bytes. */
  readonly budget: number;
}

export interface BudgetedChoice {
  /** Per weight, counted within its own candidates. */
  readonly candidates: Int32Array;
  readonly bytes: number;
  readonly loss: number;
}

export interface EvolveSpec extends Budgeted {
  readonly weights: Int32Array;
  /** The variant that each candidate is. */
  readonly variants: Int32Array;
  /** The choice to begin with. */
  readonly start: Int32Array;
  readonly generations: number; // 0 to 10,000
  readonly offspring: number; // 1 to 1,024
  readonly survivors: number; // 1 to offspring
  readonly seed: number;
}

/** One tensor of a linear in a file: its name within the linear, and its bytes. */
export interface StoredTensor {
  readonly part: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

export interface EncodedRows {
  readonly bytes: Uint8Array;
  /** Sum of the squared differences from the weight as the engine holds it. */
  readonly error: number;
  /** Sum of its squares. */
  readonly norm: number;
}

export type CarriedWeight =
  | { /** What the format has no exact place for, behind "has". */ readonly misfit: string }
  | {
      readonly misfit?: undefined;
      // Of its first part:
      readonly bits: number;
      readonly groupSize: number; // k for the whole row
      readonly symmetric: boolean; // all zero points are 2^(bits-1)
      readonly ordered: boolean; // columns are not in the order of their groups
      readonly leastZero: number;
      readonly largestZero: number;
      readonly tensors: readonly StoredTensor[];
    };

export interface NativeBinding {
  /** {isa candidates with reasons, cpu name, usable cores, memory in use by class} */
  engineInfo(): EngineInfo;
  createCancel(): CancelHandle;
  cancel(handle: CancelHandle): void;

  loadModel(spec: ModelSpec, control: JobControl): Promise<ModelHandle>;
  modelInfo(model: ModelHandle): ModelInfo;
  /** Waits for running jobs, then frees. Idempotent. Contexts of the model must be disposed first (INVALID_ARGUMENT otherwise). */
  disposeModel(model: ModelHandle): Promise<void>;

  createContext(model: ModelHandle, spec: ContextSpec): Promise<ContextHandle>;
  disposeContext(context: ContextHandle): Promise<void>;
  /** Tokens now in the sequence. */
  sequenceLength(context: ContextHandle, sequence: number): number;
  /** Drops tokens from position `length` on. */
  truncate(context: ContextHandle, sequence: number, length: number): void;
  /** Not while a sequence of the context generates. */
  step(context: ContextHandle, spec: StepSpec, control: JobControl): Promise<StepResult>;

  /**
   * Starts a generation; throws INVALID_ARGUMENT for a bad spec, a sequence that is generating, or while a step runs. It goes on by
   * itself, at most 16 tokens ahead of what readGeneration confirmed. Must be ended by endGeneration, also after it came to its end,
   * or by disposing the context.
   */
  startGeneration(context: ContextHandle, spec: GenerationSpec, onNews: GenerationNews): GenerationHandle;
  /** The reader has the first `count` tokens and waits for more: until the next news the event loop stays alive. */
  readGeneration(generation: GenerationHandle, count: number): void;
  /**
   * The reader wants no token behind the first `count`, the token that ended the text included; no news comes after this call. Stops the
   * work and cuts the sequence to the prompt (as far as it was read) and the first `count - 1` tokens.
   */
  endGeneration(generation: GenerationHandle, count: number): Promise<GenerationEnd>;

  /**
   * Calibration of an exact-precision model, block by block, true-sequential: each linear's Hessian is accumulated from inputs that
   * already passed through the quantised linears before it.
   */
  createCalibration(model: ModelHandle, spec: CalibrationSpec, control: JobControl): Promise<CalibrationHandle>;
  /** Runs all samples up to the next linear op (or the end of the block) and accumulates its Hessian; skipHessian for methods without. */
  calibrationAdvance(calibration: CalibrationHandle, options: { readonly hessian: boolean }, control: JobControl): Promise<CalibrationStop>;
  /** Quantises weights of the current stop (all cores), replaces them in the model by their quantised form. */
  calibrationSolve(
    calibration: CalibrationHandle,
    jobs: readonly { readonly weight: number; readonly options: SolveOptions }[],
    control: JobControl,
  ): Promise<readonly SolveResult[]>;
  /** At the end of a block that is not the last: what the next block reads of a sample. Only setCalibrationState knows its order. */
  calibrationState(calibration: CalibrationHandle, sample: number, control: JobControl): Promise<Float32Array>;
  /** What calibrationState gave at the end of the block before firstBlock, in a calibration of the same tokens and settings. */
  setCalibrationState(
    calibration: CalibrationHandle,
    state: { readonly sample: number; readonly values: Float32Array },
    control: JobControl,
  ): Promise<void>;
  disposeCalibration(calibration: CalibrationHandle): Promise<void>;

  /**
   * Other forms of the weights of an exact-precision model in memory, put in place of them for a while: cpp/engine/trials.h. Runs the samples, each of more
   * than 32 tokens, through the model as it is, for the reference. Nothing else may replace weights until disposeTrials, which puts all of them back.
   */
  createTrials(
    model: ModelHandle,
    spec: { readonly tokens: Int32Array; readonly offsets: Int32Array },
    control: JobControl,
  ): Promise<TrialsHandle>;
  /** Solves uncompressed weights without data and keeps the results as variants. */
  trialsAdd(
    trials: TrialsHandle,
    jobs: readonly { readonly weight: number; readonly options: SolveOptions }[],
    control: JobControl,
  ): Promise<readonly TriedVariant[]>;
  /** The same at a calibration's stop with its Hessians, for weights of that stop; the model stays as it is. */
  calibrationTry(
    calibration: CalibrationHandle,
    trials: TrialsHandle,
    jobs: readonly { readonly weight: number; readonly options: SolveOptions }[],
    control: JobControl,
  ): Promise<readonly TriedVariant[]>;
  trialsBind(trials: TrialsHandle, swaps: Swaps, control: JobControl): Promise<void>;
  /** Mean divergence of the model as bound from the reference, nats per token. */
  trialsDivergence(trials: TrialsHandle, control: JobControl): Promise<number>;
  /** The same with each swap alone beside what is bound. */
  trialsDivergenceOfEach(trials: TrialsHandle, swaps: Swaps, control: JobControl): Promise<Float64Array>;
  /** The least sum of losses within the budget: cpp/allocate/choose.h. INVALID_ARGUMENT when the smallest candidates take more. */
  trialsChoose(trials: TrialsHandle, spec: Budgeted, control: JobControl): Promise<BudgetedChoice>;
  /** A better choice by trial: cpp/allocate/evolve.h. loss is the divergence, before that of the choice it began with. */
  trialsEvolve(
    trials: TrialsHandle,
    spec: EvolveSpec,
    control: JobControl,
  ): Promise<BudgetedChoice & { readonly before: number; readonly improvements: number }>;
  disposeTrials(trials: TrialsHandle): Promise<void>;
  /** Widths that share out a mean width best: cpp/allocate/closed_form.h. */
  closedFormBits(spec: {
    readonly losses: Float64Array;
    readonly parameters: Float64Array;
    readonly meanBits: number;
    readonly least: number;
    readonly most: number;
  }): Float64Array;

  /** Rows [begin, end) of a weight as bf16 [end - begin, k] in Hugging Face row order, for writers whose source is not a dense file. */
  exportWeight(
    model: ModelHandle,
    weight: number,
    rows: { readonly begin: number; readonly end: number },
    control: JobControl,
  ): Promise<Uint16Array>;
  /**
   * Rows [begin, end) of a weight as a GGUF file stores them, in Hugging Face row order: F32, F16, BF16, or a block type, rounded on grids whose ranges are
   * searched. begin is a multiple of 16; of a weight in parts (lowbit container) all rows are asked for at once.
   */
  encodeWeight(
    model: ModelHandle,
    weight: number,
    as: { readonly dtype: string; readonly begin: number; readonly end: number },
    control: JobControl,
  ): Promise<EncodedRows>;
  /** The codes of a quantised weight as tensors of another format, bit for bit. */
  carryWeight(
    model: ModelHandle,
    weight: number,
    as: {
      readonly format: 'gptq' | 'lowbit';
      readonly zeroOffset: 0 | 1;
      /** Else only what is said of them. */ readonly tensors: boolean;
    },
    control: JobControl,
  ): Promise<CarriedWeight>;
  /** A vector as the engine holds it: f32 [length], addend included. */
  exportVector(model: ModelHandle, vector: number): Float32Array;

  /** Solves one weight without calibration data (method "rtn"). */
  solveWeight(model: ModelHandle, weight: number, options: SolveOptions, control: JobControl): Promise<SolveResult>;
}

export interface EngineInfo {
  readonly version: string;
  readonly cpu: string;
  readonly usableCores: number;
  /** Fastest first; the first usable one runs unless LOWBIT_ISA forces another. */
  readonly isa: readonly { readonly name: string; readonly usable: boolean; readonly reason: string }[];
  readonly chosenIsa: string;
  /** The kernels that run have bf16 matrix products. */
  readonly bf16: boolean;
  readonly memory: { readonly weights: number; readonly kvCache: number; readonly scratch: number };
}

let loaded: NativeBinding | undefined;

/** Loads the engine on first use. Throws NO_BINARY with what to do when no binary fits this platform. */
export function native(): NativeBinding {
  if (loaded === undefined) {
    try {
      // eslint-disable-next-line @typescript-eslint/no-require-imports
      const load = require('node-gyp-build') as (root: string) => NativeBinding;
      loaded = load(path.join(__dirname, '..'));
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message.split('\n')[0] : String(cause);
      throw new LowbitError(
        'NO_BINARY',
        `No native lowbit binary for ${process.platform}-${process.arch} (${reason}). Install a release that ships one for this platform, or build from source: clone the repository and run npm install with a C++ compiler and cmake present.`,
        { platform: process.platform, arch: process.arch },
        { cause },
      );
    }
  }
  return loaded;
}

/** Native failures arrive as plain objects {code, message}; this makes them LowbitErrors. */
export function toLowbitError(reason: unknown): LowbitError {
  if (reason instanceof LowbitError) return reason;
  if (typeof reason === 'object' && reason !== null && 'code' in reason && 'message' in reason) {
    return new LowbitError(String(reason.code) as LowbitErrorCode, String(reason.message));
  }
  return new LowbitError('INTERNAL', `Unexpected failure: ${String(reason)}`, {}, { cause: reason });
}

/** Runs a native call under an AbortSignal: abort cancels the job, and the promise rejects with CANCELLED. */
export async function runJob<T>(
  options: { readonly signal?: AbortSignal | undefined; readonly onProgress?: ((done: number, total: number) => void) | undefined },
  call: (control: JobControl) => Promise<T>,
): Promise<T> {
  const { signal, onProgress } = options;
  throwIfAborted(signal);
  const binding = native();
  const cancel = signal ? binding.createCancel() : undefined;
  const onAbort = cancel ? () => binding.cancel(cancel) : undefined;
  if (onAbort) signal?.addEventListener('abort', onAbort, { once: true });
  try {
    return await call({ ...(cancel ? { cancel } : {}), ...(onProgress ? { onProgress } : {}) });
  } catch (reason) {
    throw toLowbitError(reason);
  } finally {
    if (onAbort) signal?.removeEventListener('abort', onAbort);
  }
}

/** CANCELLED with the signal's reason as cause. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new LowbitError('CANCELLED', 'The operation was aborted', {}, { cause: signal.reason });
}
