/** Generation: contexts, sampling options and streams. */
export { Context, createContext, defaultKvType, type ContextOptions, type ContextOwner, type KvType } from './context';
export {
  generateSpec,
  sequenceRule,
  type GenerateOptions,
  type GenerateTokensOptions,
  type PromptLookupOptions,
  type SamplingOptions,
} from './options';
export { batches } from './prefix';
export { StepRunner, prefillBatch } from './runner';
export { Generation, type FinishReason, type GenerationResult, type GenerationStream, type GenerationTiming } from './stream';
