/**
 * tokenizer: text <-> token ids and chat templates, as the checkpoint's own tokenizer does them. No model is needed.
 */
import path from 'node:path';
import type { Checkpoint } from '../checkpoint/types';
import { LowbitError, invalidArgument } from '../errors';
import { adaptTokenizerJson } from './adapt';
import { type ChatMessage, ChatTemplate, checkMessages } from './chat_template';
import { Detokenizer, StreamDecoder, type StreamDecoderOptions } from './detokenizer';
import { segmenter } from './segments';
import { type HfTokenizer, createHfTokenizer } from './vendor';

export type { ChatMessage } from './chat_template';
export { StreamDecoder, type StreamDecoderOptions } from './detokenizer';

type Json = Readonly<Record<string, unknown>>;

export interface EncodeOptions {
  /** Add BOS and the like where the tokenizer does so by itself. Default true. */
  readonly addSpecialTokens?: boolean | undefined;
}

export interface DecodeOptions {
  /** Leave out special tokens such as BOS and the end of a turn. Default false. */
  readonly skipSpecialTokens?: boolean | undefined;
}

export interface ChatTemplateOptions {
  /** End with the header of the assistant's next message. Default true. */
  readonly addGenerationPrompt?: boolean | undefined;
}

interface TokenizerParts {
  readonly file: string;
  readonly json: Json;
  readonly config: Json;
  readonly modelConfig: Json;
  readonly generationConfig: Json;
  readonly chatTemplate: string | undefined;
}

/**
 * @example
 * const tokenizer = Tokenizer.fromCheckpoint(await openCheckpoint('smollm2'));
 * const ids = tokenizer.encode('Once upon a time');
 * tokenizer.decode(ids); // 'Once upon a time'
 */
export class Tokenizer {
  /** Number of ids, the largest plus one. Models may have rows for more. */
  readonly vocabSize: number;
  /** The token that begins a text, whether or not encode() adds it. */
  readonly bosId: number | undefined;
  /** Tokens that end a text or a turn. */
  readonly eosIds: readonly number[];
  /** What encode() puts before and after a text when special tokens are added. */
  readonly prefixIds: readonly number[];
  readonly suffixIds: readonly number[];

  private readonly library: HfTokenizer;
  private readonly detokenizer: Detokenizer;
  private readonly special: ReadonlySet<number>;
  private readonly baseVocabSize: number;
  private idLimit = Infinity;
  private template: ChatTemplate | undefined;

  /**
   * The tokenizer of a checkpoint.
   *
   * @throws {LowbitError} UNSUPPORTED when the checkpoint has none or one of a kind that is not supported, CORRUPT_FILE
   */
  static fromCheckpoint(checkpoint: Checkpoint): Tokenizer {
    const { tokenizerJson } = checkpoint;
    if (tokenizerJson === undefined) {
      const how =
        checkpoint.kind === 'hf' ? 'add its tokenizer.json to the directory' : 'use a file that was converted with its vocabulary';
      throw new LowbitError('UNSUPPORTED', `${checkpoint.path} has no tokenizer: ${how}, or work with token ids`, {
        file: checkpoint.path,
      });
    }
    return new Tokenizer({
      file: checkpoint.kind === 'hf' ? path.join(checkpoint.path, 'tokenizer.json') : checkpoint.path,
      json: tokenizerJson,
      config: checkpoint.tokenizerConfig,
      modelConfig: checkpoint.config,
      generationConfig: checkpoint.generationConfig,
      chatTemplate: checkpoint.chatTemplate,
    });
  }

  private constructor(private readonly parts: TokenizerParts) {
    const { file } = parts;
    const json = adaptTokenizerJson(parts.json, file);
    this.library = createLibrary(json, parts.config, file);
    const added = json['added_tokens'] as readonly { readonly id: number; readonly special?: boolean }[];
    const addedIds = new Set(added.map(({ id }) => id));
    this.baseVocabSize = highestBaseId(json['model'] as Json, addedIds) + 1;
    this.vocabSize = added.reduce((size, { id }) => Math.max(size, id + 1), this.baseVocabSize);
    this.detokenizer = new Detokenizer(
      json['decoder'],
      { token: (id) => this.library.id_to_token(id), isAdded: (id) => addedIds.has(id) },
      file,
    );
    this.bosId = this.configuredId('bos_token') ?? singleId(parts.modelConfig['bos_token_id']);
    this.eosIds = this.endIds();
    this.special = new Set([...added.filter(({ special }) => special === true).map(({ id }) => id), ...this.namedSpecialIds()]);
    [this.prefixIds, this.suffixIds] = this.surroundingIds();
  }

  /**
   * Token ids of a text. Special tokens written in the text ("<|im_end|>") are recognised, as in transformers.
   *
   * @throws {LowbitError} INVALID_ARGUMENT when the text holds a token that the model has no row for (after checkVocabulary)
   */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    if (typeof text !== 'string') throw invalidArgument('text', 'string', text);
    const body = this.encodeBody(text);
    const whole = options.addSpecialTokens === false ? body : [...this.prefixIds, ...body, ...this.suffixIds];
    const outside = this.idLimit === Infinity ? undefined : whole.find((id) => id >= this.idLimit);
    if (outside !== undefined) {
      throw new LowbitError(
        'INVALID_ARGUMENT',
        `The text holds the token ${JSON.stringify(this.idToToken(outside))} (${outside}), but this model has only the ids below ${this.idLimit}`,
        {
          option: 'text',
          id: outside,
        },
      );
    }
    return Int32Array.from(whole);
  }

  /** Text of token ids; bytes that make no whole character come as U+FFFD, and ids without a token as nothing. */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const decoder = this.createStreamDecoder({ skipSpecialTokens: options.skipSpecialTokens ?? false, startsText: true });
    let text = '';
    for (const id of ids) text += decoder.push(id);
    return text + decoder.flush();
  }

  /** Decodes ids as they are generated, without special tokens unless asked for. */
  createStreamDecoder(options: StreamDecoderOptions = {}): StreamDecoder {
    const skip = options.skipSpecialTokens === false ? () => false : (id: number) => this.special.has(id);
    return new StreamDecoder(this.detokenizer, skip, options.startsText === true);
  }

  /** Whether applyChatTemplate() can work. */
  get hasChatTemplate(): boolean {
    return this.parts.chatTemplate !== undefined;
  }

  /**
   * Renders a conversation with the checkpoint's template.
   *
   * @throws {LowbitError} UNSUPPORTED when there is no template or it fails, INVALID_ARGUMENT for bad messages or such that it refuses
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    const checked = checkMessages(messages);
    const { chatTemplate, file } = this.parts;
    if (chatTemplate === undefined) {
      throw new LowbitError(
        'UNSUPPORTED',
        `${file} comes without a chat template: use the instruction-tuned version of the model, or generate from a plain prompt`,
        { file },
      );
    }
    this.template ??= new ChatTemplate(chatTemplate, file);
    const tokens = Object.fromEntries(
      ['bos_token', 'eos_token', 'unk_token', 'pad_token'].map((name) => [name, tokenText(this.parts.config[name]) ?? '']),
    );
    return this.template.render(checked, {
      ...tokens,
      add_generation_prompt: options.addGenerationPrompt ?? true,
      tools: null,
      documents: null,
    });
  }

  /** applyChatTemplate and encode; the template writes special tokens itself, so none are added. */
  encodeChat(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): Int32Array {
    return this.encode(this.applyChatTemplate(messages, options), { addSpecialTokens: false });
  }

  idToToken(id: number): string | undefined {
    return this.library.id_to_token(id);
  }

  tokenToId(token: string): number | undefined {
    return this.library.token_to_id(token);
  }

  /** Whether the id is a special token, which decoding may leave out. */
  isSpecial(id: number): boolean {
    return this.special.has(id);
  }

  /**
   * Checks that a model has a row for every token. Added tokens may lie beyond: some models have such that only their relatives
   * with more inputs use (Gemma 3's image token); encode() then refuses texts that hold them.
   *
   * @param modelVocabSize rows of the embedding
   * @throws {LowbitError} CORRUPT_FILE when tokenizer and model do not belong together
   */
  checkVocabulary(modelVocabSize: number): void {
    if (this.baseVocabSize > modelVocabSize) {
      throw new LowbitError(
        'CORRUPT_FILE',
        `${this.parts.file} has token ids up to ${this.baseVocabSize - 1}, but the model has ids 0 to ${modelVocabSize - 1}: tokenizer and model do not belong together`,
        { file: this.parts.file, vocabSize: this.baseVocabSize, modelVocabSize },
      );
    }
    this.idLimit = modelVocabSize;
  }

  private encodeBody(text: string): readonly number[] {
    if (text === '') return [];
    const { ids } = this.library.encode(text, { add_special_tokens: false });
    if (ids.includes(undefined))
      throw new LowbitError('CORRUPT_FILE', `${this.parts.file} yields tokens that are not in its vocabulary`, { file: this.parts.file });
    return ids as readonly number[];
  }

  /** The post-processor adds tokens around a text; add_bos_token and add_eos_token of the configuration overrule it, as in transformers. */
  private surroundingIds(): readonly [readonly number[], readonly number[]] {
    const probe = 'a';
    const bare = this.encodeBody(probe);
    const whole = this.library.encode(probe, { add_special_tokens: true }).ids as readonly number[];
    const extra = whole.length - bare.length;
    let prefix: readonly number[] = [];
    let suffix: readonly number[] = [];
    for (let length = 0; length <= extra; length++) {
      if (!bare.every((id, i) => whole[length + i] === id)) continue;
      prefix = whole.slice(0, length);
      suffix = whole.slice(length + bare.length);
      break;
    }
    const { config } = this.parts;
    const eosId = this.configuredId('eos_token');
    if (config['add_bos_token'] === false) prefix = prefix.filter((id) => id !== this.bosId);
    if (config['add_bos_token'] === true && this.bosId !== undefined && !prefix.includes(this.bosId)) prefix = [this.bosId, ...prefix];
    if (config['add_eos_token'] === false) suffix = suffix.filter((id) => id !== eosId);
    if (config['add_eos_token'] === true && eosId !== undefined && !suffix.includes(eosId)) suffix = [...suffix, eosId];
    return [prefix, suffix];
  }

  /** generation_config.json knows best; the tokenizer's own end token counts too. */
  private endIds(): readonly number[] {
    const { generationConfig, modelConfig } = this.parts;
    const given = generationConfig['eos_token_id'] ?? modelConfig['eos_token_id'] ?? [];
    const ids = (Array.isArray(given) ? (given as unknown[]) : [given]).filter((id): id is number => singleId(id) !== undefined);
    const own = this.configuredId('eos_token');
    return [...new Set(own === undefined ? ids : [...ids, own])];
  }

  private namedSpecialIds(): number[] {
    return ['bos_token', 'eos_token', 'unk_token', 'pad_token'].flatMap((name) => this.configuredId(name) ?? []);
  }

  private configuredId(name: string): number | undefined {
    const text = tokenText(this.parts.config[name]);
    return text === undefined ? undefined : this.library.token_to_id(text);
  }
}

/** Tokens of tokenizer_config.json are texts or objects with a content. */
function tokenText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  const content: unknown = typeof value === 'object' && value !== null ? (value as Json)['content'] : undefined;
  return typeof content === 'string' ? content : undefined;
}

function singleId(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 ? value : undefined;
}

function createLibrary(json: Json, config: Json, file: string): HfTokenizer {
  let library: HfTokenizer;
  try {
    // Of the configuration the library would use keys that transformers ignores for such tokenizers.
    library = createHfTokenizer(json, { eos_token: tokenText(config['eos_token']) });
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LowbitError('UNSUPPORTED', `${file} holds a tokenizer that this version cannot build: ${reason}`, { file }, { cause });
  }
  const model = json['model'] as Json;
  if (model['type'] === 'BPE' && model['ignore_merges'] !== true) cutLongPieces(library, model['merges'] as readonly (readonly string[])[]);
  return library;
}

/** Puts the segmenter behind the pre-tokenizer. */
function cutLongPieces(library: HfTokenizer, merges: readonly (readonly string[])[]): void {
  const cut = segmenter(merges);
  const inner = library.pre_tokenizer;
  library.pre_tokenizer = (text, options) => (inner === null ? [text] : inner(text, options)).flatMap(cut);
}

/** The highest id that is no added token: those may lie beyond the model's rows. */
function highestBaseId(model: Json, addedIds: ReadonlySet<number>): number {
  const { vocab } = model;
  if (Array.isArray(vocab)) return vocab.length - 1;
  let highest = -1;
  for (const id of (vocab as ReadonlyMap<string, number>).values()) if (id > highest && !addedIds.has(id)) highest = id;
  return highest;
}
