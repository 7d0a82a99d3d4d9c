/**
 * Model: a checkpoint loaded into the engine. Brings together the rooms that know files (checkpoint), text (tokenizer),
 * architectures (models) and steps (generate); holds no numerics.
 */
import { LowbitError, invalidArgument } from '../errors';
import { openCheckpoint } from '../checkpoint';
import { type Context, type ContextOptions, type ContextOwner, createContext, type StepRunner } from '../generate';
import type { Plan } from '../graph/plan';
import { type HubOptions, type PullResult, hubOption, localModel } from '../hub';
import { type HeadBits, buildPlan, chooseHead, modelSummary } from '../models';
import { type ModelHandle, type ModelSpec, type PackedCacheState, native, runJob, throwIfAborted, toLowbitError } from '../native';
import { abortSignal, booleanOrPath, callback, checkOptions, integer, oneOf, oneOfNumbers, pathString } from '../options';
import { Tokenizer } from '../tokenizer';
import { packedCachePath } from './packed_cache';

export interface LoadModelOptions {
  /** Threads including the engine's own, 1 to 256. Default: the physical cores this process may use. */
  readonly threads?: number;
  /**
   * 'fast': int8 activations and integer dot products where the weights allow it. 'exact': f32 activations, the reference
   * for evaluation. Default 'fast'.
   */
  readonly precision?: 'fast' | 'exact';
  /**
   * Bits per weight of the head (lm_head), rounded to nearest while loading, in groups of 32: 4, 5, 6, 8, or 16 = as stored. A head that is
   * stored in no more bits stays as it is. Default: as stored, except that on the fast path a 16- or 32-bit head behind quantised
   * linears is held in 8 bits. A tied embedding keeps its own precision as a matrix of its own.
   */
  readonly lmHeadBits?: HeadBits;
  /**
   * Keeps the packed weights in a file, so that the next load maps them instead of packing. true: beside the weights
   * (`<file>.gguf.lowbit-packed`, `<directory>/model.lowbit-packed`); a string: in that folder. The file is as large as weightBytes. It
   * may be deleted or replaced at any time, but not changed in place while a model uses it; one that does not fit the model's files or is
   * damaged is replaced. `info.packedCache` says what happened. Default false.
   */
  readonly packedCache?: boolean | string;
  /** How a model named `hf:owner/name` is found and fetched. */
  readonly hub?: HubOptions;
  /** Called with the fraction that is loaded, 0 to 1, never falling. */
  readonly onLoadProgress?: (fraction: number) => void;
  /** Abort: the promise rejects with CANCELLED and nothing stays in memory. What was fetched stays in the cache. */
  readonly signal?: AbortSignal;
}

/** What is known of a loaded model. */
export interface LoadedModelInfo {
  /** On this machine, also for a model from a hub. */
  readonly path: string;
  /** Where it came from, if it was named `hf:owner/name`. */
  readonly hub?: PullResult;
  readonly architecture: string;
  readonly parameters: number;
  /** Bytes as the file stores them, embedding and norms included. */
  readonly storedBytes: number;
  /** Bytes of the packed weights in memory. */
  readonly weightBytes: number;
  /** storedBytes * 8 / parameters. */
  readonly bitsPerWeight: number;
  readonly precision: 'fast' | 'exact';
  /** Instruction set that runs, e.g. "avx512". */
  readonly isa: string;
  readonly threads: number;
  /** Bits that the head was rounded to while loading; 16: as stored. */
  readonly lmHeadBits: HeadBits;
  /** 'hit': the packed weights came from the cache. 'written', 'stale' (replaced), 'failed' (not written), 'off'. */
  readonly packedCache: PackedCacheState;
  /** Why the cache was stale or could not be written. */
  readonly packedCacheNote?: string;
}

/** The side of a model that the other rooms work with. */
export interface ModelState extends ContextOwner {
  readonly path: string;
  readonly plan: Plan;
  /** Sizes as lib/models counts them, and what the engine chose. */
  readonly info: LoadedModelInfo;
}

const states = new WeakMap<object, ModelState>();

/** The inner side of a Model. @throws {LowbitError} INVALID_ARGUMENT when `model` is none, DISPOSED */
export function modelState(model: unknown): ModelState {
  const state = typeof model === 'object' && model !== null ? states.get(model) : undefined;
  if (state === undefined) throw invalidArgument('model', 'Model from loadModel()', model);
  state.assertUsable();
  return state;
}

/**
 * Loads a Hugging Face directory or a GGUF file, by its path or by its name on a hub (see pull()).
 *
 * @example
 * await using model = await loadModel('path/to/model');
 * await using other = await loadModel('hf:HuggingFaceTB/SmolLM2-135M-Instruct');
 * @throws {LowbitError} INVALID_ARGUMENT for a bad option; IO, CORRUPT_FILE, UNSUPPORTED for the checkpoint; OUT_OF_MEMORY; CANCELLED;
 *   NO_BINARY when the engine does not exist for this platform
 */
export async function loadModel(model: string, options?: LoadModelOptions): Promise<Model> {
  pathString('path', model);
  const checked = checkOptions('loadModel', options, {
    threads: integer(1, 256),
    precision: oneOf('fast', 'exact'),
    lmHeadBits: oneOfNumbers(4, 5, 6, 8, 16),
    packedCache: booleanOrPath,
    hub: hubOption,
    onLoadProgress: callback<(fraction: number) => void>(),
    signal: abortSignal,
  });
  throwIfAborted(checked.signal);
  const { path, pulled } = await localModel(model, checked.hub, checked.signal);
  const checkpoint = await openCheckpoint(path, { signal: checked.signal });
  const built = buildPlan(checkpoint);
  const precision = checked.precision ?? 'fast';
  const { plan, lmHeadBits } = chooseHead(built, checkpoint, precision, checked.lmHeadBits);
  const packedCache = await packedCachePath(path, checkpoint.kind, checked.packedCache, lmHeadBits);
  const spec: ModelSpec = {
    files: checkpoint.files,
    tensors: checkpoint.tensors,
    plan,
    precision,
    threads: checked.threads ?? 0,
    ...(packedCache === undefined ? {} : { packedCache }),
  };
  const loading = startNative(spec, checked.onLoadProgress, checked.signal);
  // The tokenizer is made while the engine's threads pack.
  let tokenizer: Tokenizer | undefined;
  try {
    tokenizer = checkpoint.tokenizerJson === undefined ? undefined : Tokenizer.fromCheckpoint(checkpoint);
    tokenizer?.checkVocabulary(plan.vocabSize);
  } catch (failure) {
    loading.abort();
    await loading.handle.then(
      (handle) => native().disposeModel(handle),
      () => undefined,
    );
    throw failure;
  }
  const handle = await loading.handle;
  const loaded = native().modelInfo(handle);
  const { parameters, storedBytes, bitsPerWeight } = modelSummary(built, checkpoint);
  return new Model(
    new LoadedState(handle, plan, tokenizer, {
      path,
      ...(pulled === undefined ? {} : { hub: pulled }),
      architecture: plan.architecture,
      parameters,
      storedBytes,
      weightBytes: loaded.weightBytes,
      bitsPerWeight,
      precision,
      isa: loaded.isa,
      threads: loaded.threads,
      lmHeadBits,
      packedCache: loaded.packedCache,
      ...(loaded.packedCacheNote === '' ? {} : { packedCacheNote: loaded.packedCacheNote }),
    }),
  );
}

/**
 * The native part of loading, on the engine's threads. The engine reports progress from a queue where nobody could catch: a callback
 * that throws ends the load, and what it threw rejects the promise.
 */
function startNative(
  spec: ModelSpec,
  onLoadProgress: ((fraction: number) => void) | undefined,
  signal: AbortSignal | undefined,
): { readonly handle: Promise<ModelHandle>; readonly abort: () => void } {
  const controller = new AbortController();
  const forward = (): void => controller.abort(signal?.reason);
  if (signal?.aborted) forward();
  signal?.addEventListener('abort', forward, { once: true });
  let failure: { readonly thrown: unknown } | undefined;
  let last = 0;
  const onProgress = (done: number, total: number): void => {
    if (controller.signal.aborted || onLoadProgress === undefined) return;
    last = Math.max(last, total > 0 ? Math.min(1, done / total) : 1);
    try {
      onLoadProgress(last);
    } catch (thrown) {
      failure = { thrown };
      controller.abort(thrown);
    }
  };
  const load = async (): Promise<ModelHandle> => {
    try {
      const handle = await runJob({ signal: controller.signal, ...(onLoadProgress ? { onProgress } : {}) }, (control) =>
        native().loadModel(spec, control),
      );
      if (failure === undefined) return handle;
      await native().disposeModel(handle);
      throw failure.thrown;
    } catch (reason) {
      throw failure === undefined ? reason : failure.thrown;
    } finally {
      signal?.removeEventListener('abort', forward);
    }
  };
  return { handle: load(), abort: () => controller.abort() };
}

class LoadedState implements ModelState {
  readonly runners = new Set<StepRunner>();
  readonly precision: 'fast' | 'exact';
  private disposal: Promise<void> | undefined;

  constructor(
    readonly handle: ModelHandle,
    readonly plan: Plan,
    readonly optionalTokenizer: Tokenizer | undefined,
    readonly info: LoadedModelInfo,
  ) {
    this.precision = info.precision;
  }

  get path(): string {
    return this.info.path;
  }

  get vocabSize(): number {
    return this.plan.vocabSize;
  }

  get contextLength(): number {
    return this.plan.maxSeqLen;
  }

  get disposed(): boolean {
    return this.disposal !== undefined;
  }

  get tokenizer(): Tokenizer {
    if (this.optionalTokenizer === undefined) {
      throw new LowbitError(
        'UNSUPPORTED',
        `${this.path} has no tokenizer.json, so text cannot be used with it: pass token ids, or add the file`,
        { file: this.path },
      );
    }
    return this.optionalTokenizer;
  }

  assertUsable(): void {
    if (this.disposed) throw new LowbitError('DISPOSED', 'The model was disposed; load it again with loadModel()');
  }

  dispose(): Promise<void> {
    this.disposal ??= this.free();
    return this.disposal;
  }

  private async free(): Promise<void> {
    await Promise.all([...this.runners].map((runner) => runner.dispose()));
    await native()
      .disposeModel(this.handle)
      .catch((reason: unknown) => Promise.reject(toLowbitError(reason)));
  }
}

/** A loaded model, from loadModel(). Holds memory until dispose(). */
export class Model {
  readonly #state: LoadedState;

  /** Made by loadModel(). */
  constructor(state: LoadedState) {
    this.#state = state;
    states.set(this, state);
  }

  /** "llama", "qwen3", "gemma2", ... */
  get architecture(): string {
    return this.#state.plan.architecture;
  }

  get vocabSize(): number {
    return this.#state.vocabSize;
  }

  /** Tokens the model was made for: the largest contextSize. */
  get contextLength(): number {
    return this.#state.contextLength;
  }

  /** @throws {LowbitError} UNSUPPORTED when the checkpoint has none */
  get tokenizer(): Tokenizer {
    return this.#state.tokenizer;
  }

  get info(): LoadedModelInfo {
    return this.#state.info;
  }

  get disposed(): boolean {
    return this.#state.disposed;
  }

  /**
   * Allocates the key/value store of one or more sequences.
   *
   * @throws {LowbitError} INVALID_ARGUMENT for a bad option, UNSUPPORTED for different key and value types, OUT_OF_MEMORY, DISPOSED
   */
  async createContext(options?: ContextOptions): Promise<Context> {
    this.#state.assertUsable();
    return createContext(this.#state, options);
  }

  /** Disposes the model's contexts, waits for running steps, and frees the weights. Idempotent. */
  dispose(): Promise<void> {
    return this.#state.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
