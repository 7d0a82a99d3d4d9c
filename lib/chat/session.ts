/**
 * ChatSession: a conversation over a context. Turns messages into a prompt with the model's chat template; the context
 * reuses what it holds of it, so that a turn costs its new tokens only.
 */
import { LowbitError, invalidArgument } from '../errors';
import {
  Context,
  type GenerateOptions,
  Generation,
  type GenerationResult,
  type GenerationStream,
  generateSpec,
  sequenceRule,
} from '../generate';
import { callback, checkOptions, string, type Rule } from '../options';

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface ChatSessionOptions {
  /** First message, of role system. Default: none; some templates then insert their own. */
  readonly systemPrompt?: string;
  /** Earlier messages, user and assistant in turn. A system message may come first unless systemPrompt is given. Default []. */
  readonly history?: readonly ChatMessage[];
  /**
   * The context's sequence that belongs to this conversation, from 0; or 'any', for more conversations than sequences: each turn takes a
   * free sequence, the one that still holds this conversation if there is one, or waits for one. Default 0.
   */
  readonly sequence?: number | 'any';
}

/** Sampling and limits of one answer. */
export type ChatStreamOptions = Omit<GenerateOptions, 'sequence'>;

export interface ChatPromptOptions extends ChatStreamOptions {
  /** Called with each piece of the answer as it comes. */
  readonly onText?: (piece: string) => void;
}

/**
 * @example
 * const chat = new ChatSession(context, { systemPrompt: 'Answer in one sentence.' });
 * console.log(await chat.prompt('Why is the sky blue?', { maxTokens: 100 }));
 */
export class ChatSession {
  private readonly sequence: number | 'any';
  private readonly initial: readonly ChatMessage[];
  private messages: readonly ChatMessage[];
  private last: GenerationResult | undefined;

  /** @throws {LowbitError} INVALID_ARGUMENT for a bad option, UNSUPPORTED when the model has no chat template */
  constructor(
    readonly context: Context,
    options?: ChatSessionOptions,
  ) {
    if (!(context instanceof Context)) throw invalidArgument('context', 'Context from model.createContext()', context);
    const checked = checkOptions('ChatSession', options, {
      systemPrompt: string,
      history: messageList,
      sequence: sequenceRule(context.sequences),
    });
    if (!context.tokenizer.hasChatTemplate) {
      throw new LowbitError(
        'UNSUPPORTED',
        'This model has no chat template, so it was not made for conversations: use context.generate() (or lowbit generate) with a plain prompt, or put a chat_template.jinja beside the model',
      );
    }
    const { systemPrompt, history = [] } = checked;
    if (systemPrompt !== undefined && history[0]?.role === 'system') {
      throw invalidArgument('history', 'no system message because systemPrompt is given', history[0].content);
    }
    this.sequence = checked.sequence ?? 0;
    this.initial = systemPrompt === undefined ? [] : [{ role: 'system', content: systemPrompt }];
    this.messages = [...this.initial, ...history];
  }

  /** All messages so far, the system message included. */
  get history(): readonly ChatMessage[] {
    return this.messages;
  }

  /** Result of the last complete answer: finish reason, tokens, seed, timing. */
  get lastResult(): GenerationResult | undefined {
    return this.last;
  }

  /** Forgets all messages but the system prompt of the constructor. */
  reset(): void {
    this.messages = this.initial;
    this.last = undefined;
  }

  /**
   * Asks, and returns the whole answer. An aborted or failed turn leaves the history as it was.
   *
   * @throws {LowbitError} INVALID_ARGUMENT for a bad option or a conversation longer than the context, CANCELLED, DISPOSED
   */
  async prompt(text: string, options?: ChatPromptOptions): Promise<string> {
    const { onText, ...rest } = checkOptions('prompt', options, { ...this.spec(), onText: callback<(piece: string) => void>() });
    let answer = '';
    for await (const piece of this.stream(text, rest)) {
      answer += piece;
      onText?.(piece);
    }
    return answer;
  }

  /**
   * Asks, and yields the answer as it comes. The turn enters the history when the answer is complete; leaving the loop early, an
   * abort or a failure leaves the history as it was.
   *
   * @throws {LowbitError} at once: INVALID_ARGUMENT for a bad option. From the iterator: as prompt()
   */
  stream(text: string, options?: ChatStreamOptions): GenerationStream<string> {
    if (typeof text !== 'string') throw invalidArgument('text', 'string', text);
    checkOptions('stream', options, this.spec());
    return new Generation(this.answer({ role: 'user', content: text }, options));
  }

  /** Runs when the stream is first read, so that it continues the history as it is then. */
  private async *answer(question: ChatMessage, options: ChatStreamOptions | undefined): AsyncGenerator<string, GenerationResult, void> {
    const asked = [...this.messages, question];
    const prompt = this.context.tokenizer.encodeChat(asked, { addGenerationPrompt: true });
    const answer = this.context.generate(prompt, { ...options, sequence: this.sequence });
    let content = '';
    try {
      for (;;) {
        const next = await answer.next();
        if (next.done) {
          this.messages = [...asked, { role: 'assistant', content }];
          this.last = next.value;
          return next.value;
        }
        content += next.value;
        yield next.value;
      }
    } finally {
      await answer.return(undefined as never); // stops the work when the consumer leaves early
    }
  }

  private spec() {
    const { sequence: _fixed, ...rest } = generateSpec(this.context.sequences);
    return rest;
  }
}

const messageList: Rule<readonly ChatMessage[]> = (option, value) => {
  if (!Array.isArray(value)) throw invalidArgument(option, 'array of messages', value);
  return value.map((message: unknown, i): ChatMessage => {
    const { role, content } = (message ?? {}) as Partial<ChatMessage>;
    if (role !== 'user' && role !== 'assistant' && !(role === 'system' && i === 0)) {
      throw invalidArgument(`${option}[${i}].role`, i === 0 ? '"system", "user" or "assistant"' : '"user" or "assistant"', role);
    }
    if (typeof content !== 'string') throw invalidArgument(`${option}[${i}].content`, 'string', content);
    return { role, content };
  });
};
