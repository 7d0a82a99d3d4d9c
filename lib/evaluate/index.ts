/** Evaluation: how well a model predicts. Public as the object `evaluate`. */
import { compare } from './compare';
import { logits } from './logits';
import { multipleChoice } from './multiple_choice';
import { perplexity } from './perplexity';

export type { CompareOptions, CompareProgress, CompareResult } from './compare';
export type { LogitsOptions } from './logits';
export type { MultipleChoiceItem } from './items';
export type {
  ChoiceNormalization,
  ChoiceResult,
  MultipleChoiceOptions,
  MultipleChoiceProgress,
  MultipleChoiceResult,
} from './multiple_choice';
export type { PerplexityOptions, PerplexityProgress, PerplexityProtocol, PerplexityResult } from './perplexity';

export const evaluate = { perplexity, compare, multipleChoice, logits } as const;
