/** Evaluation: how well a model predicts. Public as the object `evaluate`. */
import { logits } from './logits';
import { perplexity } from './perplexity';

export type { LogitsOptions } from './logits';
export type { PerplexityOptions, PerplexityProgress, PerplexityResult } from './perplexity';

export const evaluate = { perplexity, logits } as const;
