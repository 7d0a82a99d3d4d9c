/** Evaluation: how well a model predicts. Public as the object `evaluate`. */
import { compare } from './compare';
import { logits } from './logits';
import { perplexity } from './perplexity';

export type { CompareOptions, CompareProgress, CompareResult } from './compare';
export type { LogitsOptions } from './logits';
export type { PerplexityOptions, PerplexityProgress, PerplexityResult } from './perplexity';

export const evaluate = { perplexity, compare, logits } as const;
