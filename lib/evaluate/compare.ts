/**
 * How far a model's predictions are from those of another, usually its uncompressed original: Kullback-Leibler divergence and how often both
 * find the same token likeliest, at the positions that perplexity scores. Says more than perplexity, which a wrong prediction can lower.
 *
 * The reference's logits pass through one buffer of some rows from its context to the other; divergences are computed by the engine.
 */
import { LowbitError, invalidArgument } from '../errors';
import { StepRunner, defaultKvType } from '../generate';
import { type Model, type ModelState, modelState } from '../model';
import { throwIfAborted } from '../native';
import { abortSignal, callback, checkOptions, integer, maxInt32, string, tokenIds } from '../options';
import { type EvaluatedText, addedBos, chunksOf } from './chunks';
import { LossSum, firstScoredRow } from './loss_sum';

export interface CompareProgress {
  /** Chunks done and in all. */
  readonly done: number;
  readonly total: number;
  /** Mean divergence of the chunks done. */
  readonly klDivergence: number;
}

export interface CompareOptions extends EvaluatedText {
  /** Called after each chunk. */
  readonly onProgress?: (progress: CompareProgress) => void;
}

export interface CompareResult {
  /** Mean Kullback-Leibler divergence of the model from the reference over the scored positions, in nats. */
  readonly klDivergence: number;
  /** Its standard error: standard deviation / sqrt(positions). */
  readonly klStandardError: number;
  /** Divergence that half, 90 %, 99 %, 99.9 % of the positions do not exceed, and the largest. */
  readonly klMedian: number;
  readonly kl90: number;
  readonly kl99: number;
  readonly kl999: number;
  readonly klMaximum: number;
  /** Share of positions where both find the same token likeliest, 0 to 1. */
  readonly topAgreement: number;
  /** Mean and root mean square of the change of the probability of the token that follows in the text, -1 to 1; llama.cpp's "mean Δp" and "RMS Δp". */
  readonly deltaPMean: number;
  readonly deltaPRms: number;
  readonly perplexity: number;
  readonly referencePerplexity: number;
  /** Scored positions. */
  readonly tokens: number;
  readonly chunks: number;
  readonly contextSize: number;
  /** Whether the first token of every chunk was replaced by BOS. */
  readonly addBos: boolean;
  readonly seconds: number;
}

/** Rows that wait between the two models: 64 of a vocabulary of 128,000 are 33 MB. */
const BUFFERED_ROWS = 64;

/**
 * Compares a model with a reference on a text, in the chunks of perplexity(). Both stay loaded; the text is tokenised by the reference.
 *
 * @throws {LowbitError} INVALID_ARGUMENT for a bad option, a text of fewer than 2 * contextSize tokens or models of different vocabularies;
 *   CANCELLED; DISPOSED; OUT_OF_MEMORY; CORRUPT_FILE when a model yields NaN
 */
export async function compare(model: Model, reference: Model, options: CompareOptions): Promise<CompareResult> {
  const states = [modelState(reference), modelState(model)] as const;
  const [original, compared] = states;
  const contextLength = Math.min(original.contextLength, compared.contextLength);
  const checked = checkOptions('compare', options, {
    text: string,
    tokens: (option, value) => tokenIds(option, value, original.vocabSize),
    contextSize: integer(4, contextLength),
    chunks: integer(1, maxInt32),
    onProgress: callback<(progress: CompareProgress) => void>(),
    signal: abortSignal,
  });
  throwIfAborted(checked.signal);
  if (compared.vocabSize !== original.vocabSize) {
    throw invalidArgument('reference', `a model with the ${compared.vocabSize} tokens of ${compared.path}`, original.vocabSize);
  }
  const contextSize = checked.contextSize ?? Math.min(512, contextLength);
  const { tokens, total } = chunksOf('compare', original, { ...checked, contextSize });
  const bos = addedBos(original);
  const start = performance.now();
  const pair = await Pair.create(states, contextSize);
  const result = new Sums(total * (contextSize - 1 - firstScoredRow(contextSize)));
  try {
    for (let done = 0; done < total; done++) {
      const chunk = tokens.slice(done * contextSize, (done + 1) * contextSize);
      if (bos !== undefined) chunk[0] = bos;
      await pair.chunk(chunk, result, checked.signal);
      if (!result.finite) {
        const paths = states.map(({ path }) => path).join(' or ');
        throw new LowbitError('CORRUPT_FILE', `The model ${paths} yields logits that are no finite numbers in chunk ${done}`, {
          chunk: done,
        });
      }
      checked.onProgress?.({ done: done + 1, total, klDivergence: result.mean });
    }
  } finally {
    await pair.dispose();
  }
  return {
    ...result.figures(),
    tokens: result.count,
    chunks: total,
    contextSize,
    addBos: bos !== undefined,
    seconds: (performance.now() - start) / 1000,
  };
}

/** What was found so far. */
class Sums {
  readonly losses = [new LossSum(), new LossSum()] as const; // of the reference and of the model
  count = 0;
  private agreeing = 0;
  private sum = 0;
  private deltas = 0;
  private deltaSquares = 0;
  private readonly divergences: Float64Array;

  constructor(positions: number) {
    this.divergences = new Float64Array(positions);
  }

  /** Pairs of a divergence and whether the likeliest tokens agree. */
  add(pairs: Float64Array): void {
    for (let i = 0; i + 1 < pairs.length; i += 2) {
      const divergence = pairs[i] as number;
      this.divergences[this.count++] = divergence;
      this.sum += divergence;
      this.agreeing += pairs[i + 1] as number;
    }
  }

  /** Log-probabilities of the same targets, by the reference and by the model. */
  addTargets(theirs: Float64Array, ours: Float64Array): void {
    this.losses[0].add(theirs);
    this.losses[1].add(ours);
    for (const [i, value] of ours.entries()) {
      const delta = Math.exp(value) - Math.exp(theirs[i] as number);
      this.deltas += delta;
      this.deltaSquares += delta * delta;
    }
  }

  get mean(): number {
    return this.sum / this.count;
  }

  get finite(): boolean {
    return Number.isFinite(this.sum) && this.losses.every(({ perplexity }) => Number.isFinite(perplexity));
  }

  figures(): Pick<
    CompareResult,
    | 'klDivergence'
    | 'klStandardError'
    | 'klMedian'
    | 'kl90'
    | 'kl99'
    | 'kl999'
    | 'klMaximum'
    | 'topAgreement'
    | 'deltaPMean'
    | 'deltaPRms'
    | 'perplexity'
    | 'referencePerplexity'
  > {
    const sorted = this.divergences.subarray(0, this.count).sort();
    const at = (share: number): number => sorted[Math.min(this.count - 1, Math.floor(share * this.count))] as number;
    const variance = sorted.reduce((sum, value) => sum + (value - this.mean) ** 2, 0) / Math.max(1, this.count - 1);
    return {
      klDivergence: this.mean,
      klStandardError: Math.sqrt(variance / this.count),
      klMedian: at(0.5),
      kl90: at(0.9),
      kl99: at(0.99),
      kl999: at(0.999),
      klMaximum: at(1),
      topAgreement: this.agreeing / this.count,
      deltaPMean: this.deltas / this.count,
      deltaPRms: Math.sqrt(this.deltaSquares / this.count),
      perplexity: this.losses[1].perplexity,
      referencePerplexity: this.losses[0].perplexity,
    };
  }
}

/** The two contexts and the buffer between them. */
class Pair {
  private readonly reference: Float32Array;

  private constructor(
    private readonly runners: readonly [StepRunner, StepRunner],
    private readonly vocabSize: number,
    rows: number,
  ) {
    this.reference = new Float32Array(rows * vocabSize);
  }

  static async create([original, compared]: readonly [ModelState, ModelState], contextSize: number): Promise<Pair> {
    const open = (state: ModelState): Promise<StepRunner> =>
      StepRunner.create(state, { contextSize, sequences: 1, kvType: defaultKvType(state.precision) });
    const first = await open(original);
    try {
      const second = await open(compared);
      try {
        return new Pair([first, second], original.vocabSize, Math.min(BUFFERED_ROWS, contextSize));
      } catch (cause) {
        await second.dispose();
        throw new LowbitError('OUT_OF_MEMORY', `No memory for ${BUFFERED_ROWS} rows of ${original.vocabSize} logits`, {}, { cause });
      }
    } catch (reason) {
      await first.dispose();
      throw reason;
    }
  }

  async chunk(chunk: Int32Array, sums: Sums, signal: AbortSignal | undefined): Promise<void> {
    const first = firstScoredRow(chunk.length);
    const rows = chunk.length - 1; // the last token is only a target
    for (const runner of this.runners) {
      await runner.truncate(0, 0);
      if (first > 0) await runner.step({ sequence: 0, tokens: chunk.slice(0, first) }, signal);
    }
    for (let begin = first; begin < rows; begin += BUFFERED_ROWS) {
      const end = Math.min(rows, begin + BUFFERED_ROWS);
      const tokens = chunk.slice(begin, end);
      const targets = chunk.slice(begin + 1, end + 1);
      const score = (): { readonly from: number; readonly targets: Int32Array; readonly out: Float64Array } => ({
        from: 0,
        targets,
        out: new Float64Array(end - begin),
      });
      const [ours, theirs] = [score(), score()];
      const reference = this.reference.subarray(0, (end - begin) * this.vocabSize);
      const out = new Float64Array(2 * (end - begin));
      await this.runners[0].step({ sequence: 0, tokens, score: theirs, logits: { from: 0, out: reference } }, signal);
      await this.runners[1].step({ sequence: 0, tokens, score: ours, compare: { from: 0, rows: end - begin, reference, out } }, signal);
      sums.addTargets(theirs.out, ours.out);
      sums.add(out);
    }
  }

  async dispose(): Promise<void> {
    for (const runner of this.runners) await runner.dispose();
  }
}
