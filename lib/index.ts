/**
 * Public surface of lowbit: compress large language models and run them natively from Node.js.
 *
 * @example
 * import { loadModel, quantize } from 'lowbit';
 * await quantize({ model: './llama', output: './llama-4bit', method: 'gptq', bits: 4, calibration: { file: 'text.txt' } });
 * await using model = await loadModel('./llama-4bit');
 * const context = await model.createContext();
 * for await (const piece of context.generate('Once upon a time', { maxTokens: 64 })) process.stdout.write(piece);
 */
export { ChatSession, type ChatMessage, type ChatPromptOptions, type ChatSessionOptions, type ChatStreamOptions } from './chat';
export type { EngineInfo } from './native';
export { LowbitError, type LowbitErrorCode } from './errors';
export {
  evaluate,
  type ChoiceNormalization,
  type ChoiceResult,
  type CompareOptions,
  type CompareProgress,
  type CompareResult,
  type LogitsOptions,
  type MultipleChoiceItem,
  type MultipleChoiceOptions,
  type MultipleChoiceProgress,
  type MultipleChoiceResult,
  type PerplexityOptions,
  type PerplexityProgress,
  type PerplexityProtocol,
  type PerplexityResult,
} from './evaluate';
export {
  Context,
  type ContextOptions,
  type FinishReason,
  type GenerateOptions,
  type GenerateTokensOptions,
  type GenerationResult,
  type GenerationStream,
  type GenerationTiming,
  type KvType,
  type PromptLookupOptions,
  type SamplingOptions,
} from './generate';
export { pull, type HubOptions, type HubProgress, type PullOptions, type PullResult } from './hub';
export {
  engineInfo,
  inspect,
  loadModel,
  Model,
  type InspectOptions,
  type InspectResult,
  type LoadedModelInfo,
  type LoadModelOptions,
  type TensorTypeSummary,
} from './model';
export { convert, dryRun, quantize } from './quantize';
export type * from './quantize';
export { renderReport, type RenderedReport } from './report';
export type { Tokenizer } from './tokenizer';
