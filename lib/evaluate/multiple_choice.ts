/**
 * Multiple-choice questions: which of several continuations of a context the model finds likeliest, in the manner of lm-evaluation-harness.
 *
 * A choice scores the sum of its tokens' log-probabilities behind the context. What the choices of a question share runs once, and what it
 * shares with the question before (the examples of a few-shot prompt) not at all. The engine returns log-probabilities; no logits reach JavaScript.
 */
import { LowbitError, invalidArgument } from '../errors';
import { StepRunner, batches, defaultKvType, prefillBatch } from '../generate';
import { type Model, type ModelState, modelState } from '../model';
import { throwIfAborted } from '../native';
import { abortSignal, boolean, callback, checkOptions, integer, maxInt32, oneOf, pathString, string, type Rule } from '../options';
import { addedBos } from './chunks';
import { type MultipleChoiceItem, type Question, questionsOf, readQuestions } from './items';

export type ChoiceNormalization = 'characters' | 'bytes' | 'tokens';

export interface MultipleChoiceProgress {
  /** Questions done and in all. */
  readonly done: number;
  readonly total: number;
  /** Of the questions done. */
  readonly accuracy: number;
  readonly normalizedAccuracy: number;
}

export interface MultipleChoiceOptions {
  /** File of questions, one JSON object a line (MultipleChoiceItem). Either this or `items`. */
  readonly file?: string;
  readonly items?: readonly MultipleChoiceItem[];
  /** What the normalised score divides by: the choice's length in characters (code points), UTF-8 bytes or tokens. Default 'characters'. */
  readonly normalization?: ChoiceNormalization;
  /** Between context and choice. Default " ". */
  readonly delimiter?: string;
  /** Put BOS before the context. Default: whether the tokenizer does by itself; lm-evaluation-harness by default does not. */
  readonly addBos?: boolean;
  /** Questions to evaluate, from the first, 1 to 2^31 - 1. Default: all, at most a million. */
  readonly limit?: number;
  /** Called after each question. */
  readonly onProgress?: (progress: MultipleChoiceProgress) => void;
  readonly signal?: AbortSignal;
}

/** What the model made of one question. */
export interface ChoiceResult {
  /** Index of the right choice, of the likeliest one, and of the likeliest for its length; the first among equals. */
  readonly answer: number;
  readonly chosen: number;
  readonly chosenNormalized: number;
  /** Sum of the log-probabilities of each choice's tokens. */
  readonly logProbabilities: readonly number[];
  /** Tokens of each choice. */
  readonly tokens: readonly number[];
}

export interface MultipleChoiceResult {
  readonly items: number;
  /** Share of questions whose likeliest choice is right, and its standard error, sqrt(p (1 - p) / (items - 1)). */
  readonly accuracy: number;
  readonly standardError: number;
  /** The same for the likeliest choice per character, byte or token. */
  readonly normalizedAccuracy: number;
  readonly normalizedStandardError: number;
  readonly normalization: ChoiceNormalization;
  readonly delimiter: string;
  readonly addBos: boolean;
  /** Choices that did not fit the model's context with their context, whose beginning was left out. */
  readonly truncated: number;
  readonly seconds: number;
  /** In the order of the questions. */
  readonly results: readonly ChoiceResult[];
}

const itemList: Rule<readonly unknown[]> = (option, value) => {
  if (Array.isArray(value)) return value as unknown[];
  throw invalidArgument(option, 'array of { context or question, choices, answer }', value);
};

/**
 * Accuracy on multiple-choice questions.
 *
 * Context and choice are tokenised as lm-evaluation-harness does it: spaces at the end of the context move to the choice, and the tokens of
 * the choice are those of the whole text behind as many as the context alone has.
 *
 * @example
 * const { accuracy, normalizedAccuracy } = await evaluate.multipleChoice(model, { file: 'arc_easy.jsonl' });
 * @throws {LowbitError} INVALID_ARGUMENT for a bad option, or a question (with file and line); IO for the file; UNSUPPORTED when the model has no
 *   tokenizer; CANCELLED; DISPOSED; OUT_OF_MEMORY; CORRUPT_FILE when the model yields NaN
 */
export async function multipleChoice(model: Model, options: MultipleChoiceOptions): Promise<MultipleChoiceResult> {
  const state = modelState(model);
  const checked = checkOptions('multipleChoice', options, {
    file: pathString,
    items: itemList,
    normalization: oneOf('characters', 'bytes', 'tokens'),
    delimiter: string,
    addBos: boolean,
    limit: integer(1, maxInt32),
    onProgress: callback<(progress: MultipleChoiceProgress) => void>(),
    signal: abortSignal,
  });
  const { file, items, normalization = 'characters', delimiter = ' ', limit = Infinity, signal } = checked;
  throwIfAborted(signal);
  if ((file === undefined) === (items === undefined)) {
    throw invalidArgument('file', 'exactly one of the options file and items', file === undefined ? undefined : 'both');
  }
  const encoder = new PairEncoder(state, delimiter, checked.addBos ?? addedBos(state) !== undefined);
  const questions = file === undefined ? questionsOf(items as readonly unknown[], limit) : await readQuestions(file, limit);
  const start = performance.now();
  const results: ChoiceResult[] = [];
  let right = 0;
  let rightNormalized = 0;
  const scorer = await Scorer.create(state);
  try {
    for (const question of questions) {
      const pairs = question.choices.map((choice) => encoder.encode(question, choice));
      const logProbabilities = await scorer.score(pairs, question, signal);
      const tokens = pairs.map(({ choice }) => choice.length);
      const lengths = normalization === 'tokens' ? tokens : question.choices.map((text) => lengthOf(text, normalization));
      const chosen = likeliest(logProbabilities);
      const chosenNormalized = likeliest(logProbabilities.map((sum, i) => sum / (lengths[i] as number)));
      results.push({ answer: question.answer, chosen, chosenNormalized, logProbabilities, tokens });
      right += chosen === question.answer ? 1 : 0;
      rightNormalized += chosenNormalized === question.answer ? 1 : 0;
      const done = results.length;
      checked.onProgress?.({ done, total: questions.length, accuracy: right / done, normalizedAccuracy: rightNormalized / done });
    }
  } finally {
    await scorer.dispose();
  }
  const count = results.length;
  const share = (found: number): readonly [number, number] => {
    const p = found / count;
    return [p, count < 2 ? 0 : Math.sqrt((p * (1 - p)) / (count - 1))];
  };
  const [accuracy, standardError] = share(right);
  const [normalizedAccuracy, normalizedStandardError] = share(rightNormalized);
  return {
    items: count,
    accuracy,
    standardError,
    normalizedAccuracy,
    normalizedStandardError,
    normalization,
    delimiter,
    addBos: encoder.addBos,
    truncated: scorer.truncated,
    seconds: (performance.now() - start) / 1000,
    results,
  };
}

const lengthOf = (text: string, unit: 'characters' | 'bytes'): number =>
  unit === 'bytes' ? Buffer.byteLength(text) : Array.from(text).length;

/** Index of the largest, the first among equals. */
const likeliest = (scores: readonly number[]): number =>
  scores.reduce((best, score, i) => (score > (scores[best] as number) ? i : best), 0);

/** Tokens of a context and of a choice behind it; neither is empty. */
interface Pair {
  readonly context: Int32Array;
  readonly choice: Int32Array;
}

class PairEncoder {
  private readonly prefix: readonly number[];

  constructor(
    private readonly state: ModelState,
    private readonly delimiter: string,
    readonly addBos: boolean,
  ) {
    const { bosId } = state.tokenizer;
    if (addBos && bosId === undefined)
      throw new LowbitError('UNSUPPORTED', `The tokenizer of ${state.path} has no BOS token: use addBos: false`, { option: 'addBos' });
    this.prefix = addBos ? [bosId as number] : [];
  }

  encode(question: Question, choiceText: string): Pair {
    const context = question.context.trimEnd();
    const whole = this.tokens(question.context + this.delimiter + choiceText);
    const before = this.tokens(context);
    const choice = whole.slice(before.length);
    if (choice.length === 0) {
      throw new LowbitError(
        'INVALID_ARGUMENT',
        `${question.label}: the choice ${JSON.stringify(choiceText.slice(0, 60))} adds no token to its context`,
        {
          at: question.label,
        },
      );
    }
    return { context: before.length > 0 ? before : this.start(question), choice };
  }

  private tokens(text: string): Int32Array {
    return Int32Array.from([...this.prefix, ...this.state.tokenizer.encode(text, { addSpecialTokens: false })]);
  }

  /** Behind an empty context a choice needs something to follow. */
  private start(question: Question): Int32Array {
    const { bosId, eosIds } = this.state.tokenizer;
    const id = bosId ?? eosIds[0];
    if (id === undefined) {
      throw new LowbitError(
        'INVALID_ARGUMENT',
        `${question.label}: the context is empty and the tokenizer has no token that begins or ends a text`,
        {
          at: question.label,
        },
      );
    }
    return Int32Array.of(id);
  }
}

/** One sequence that the choices of all questions pass through. */
class Scorer {
  truncated = 0;

  private constructor(
    private readonly state: ModelState,
    private readonly runner: StepRunner,
  ) {}

  static async create(state: ModelState): Promise<Scorer> {
    // The last token of a choice is only a target, so what runs is one token shorter than the context and the choice.
    const spec = { contextSize: Math.min(state.contextLength, maxContext), sequences: 1, kvType: defaultKvType(state.precision) };
    return new Scorer(state, await StepRunner.create(state, spec));
  }

  dispose(): Promise<void> {
    return this.runner.dispose();
  }

  async score(pairs: readonly Pair[], { label }: Question, signal: AbortSignal | undefined): Promise<number[]> {
    const runs = pairs.map((pair) => this.fit(pair, label));
    const [first, ...others] = runs as [Run, ...Run[]];
    let shared = Math.min(...runs.map(({ firstRow }) => firstRow));
    for (const { tokens } of others) shared = commonLength(first.tokens, tokens, shared);
    await this.hold(first.tokens.subarray(0, shared), signal);
    const sums: number[] = [];
    for (const { tokens, firstRow } of runs) {
      await this.runner.truncate(0, shared);
      const rows = tokens.length - 1;
      let sum = 0;
      for (const [begin, end] of batches(shared, rows, prefillBatch)) {
        const from = Math.max(firstRow, begin);
        const out = new Float64Array(Math.max(0, end - from));
        const score = out.length > 0 ? { score: { from: from - begin, targets: tokens.slice(from + 1, end + 1), out } } : {};
        await this.runner.step({ sequence: 0, tokens: tokens.slice(begin, end), ...score }, signal);
        sum = out.reduce((total, value) => total + value, sum);
      }
      if (!Number.isFinite(sum)) {
        throw new LowbitError(
          'CORRUPT_FILE',
          `The model ${this.state.path} yields log-probabilities that are no finite numbers at ${label}: its weights are damaged or out of range`,
          { file: this.state.path, at: label },
        );
      }
      sums.push(sum);
    }
    return sums;
  }

  /** Cut at its beginning to what fits. */
  private fit({ context, choice }: Pair, label: string): Run {
    const most = this.runner.spec.contextSize + 1;
    const tokens = Int32Array.from([...context, ...choice]);
    const cut = Math.max(0, tokens.length - most);
    if (cut >= context.length) {
      throw new LowbitError('INVALID_ARGUMENT', `${label}: a choice has ${choice.length} tokens, but the model's context has ${most - 1}`, {
        at: label,
      });
    }
    if (cut > 0) this.truncated++;
    return { tokens: tokens.subarray(cut), firstRow: context.length - cut - 1 };
  }

  /** Makes the sequence hold exactly these tokens. */
  private async hold(tokens: Int32Array, signal: AbortSignal | undefined): Promise<void> {
    const kept = commonLength(this.runner.tokens(0), tokens, tokens.length);
    await this.runner.truncate(0, kept);
    for (const [begin, end] of batches(kept, tokens.length, prefillBatch)) {
      await this.runner.step({ sequence: 0, tokens: tokens.slice(begin, end) }, signal);
    }
  }
}

/** Of models with very long contexts no more memory than this is taken; questions that are longer count as truncated. */
const maxContext = 32_768;

/** Tokens to run, and the row that predicts the first token of the choice. */
interface Run {
  readonly tokens: Int32Array;
  readonly firstRow: number;
}

function commonLength(a: ArrayLike<number>, b: ArrayLike<number>, most: number): number {
  let length = 0;
  while (length < most && length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
