/** Conversations. */
export { ChatSession, type ChatMessage, type ChatPromptOptions, type ChatSessionOptions, type ChatStreamOptions } from './session';
