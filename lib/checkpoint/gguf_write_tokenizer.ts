/**
 * checkpoint: tokenizer.json and tokenizer_config.json as the tokenizer.ggml.* keys of a GGUF file; the inverse of gguf_tokenizer.ts.
 *
 * Byte-level BPE ("gpt2") names its way of cutting text, which is recognised by its expressions. SentencePiece BPE ("llama") has scores in place of
 * merges; tokenizer.json does not hold them, and any falling sequence in the order of the merges gives the same text pieces: a piece gets minus the
 * rank of the first merge that makes it.
 */
import { LowbitError } from '../errors';
import { ggufKey, type GgufKey } from './gguf_keys';
import { BYTE_LEVEL_PATTERN, PRE_TOKENIZER_NAMES, preTokenizerName } from './gguf_pretokenizers';
import { type JsonObject, isObject, own } from './json';
import type { Checkpoint } from './types';

/** tokenizer.ggml.token_type */
const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;
const BYTE = 6;

/** The score of tokens that no merge makes. */
const NO_SCORE = -1e6;

/**
 * @param vocabSize rows of the embedding; ids without token become unused ones
 * @throws {LowbitError} UNSUPPORTED for tokenizers that GGUF cannot name
 */
export function tokenizerKeys(checkpoint: Checkpoint, vocabSize: number): readonly GgufKey[] {
  const json = checkpoint.tokenizerJson;
  const template = checkpoint.chatTemplate === undefined ? [] : [ggufKey.string('tokenizer.chat_template', checkpoint.chatTemplate)];
  if (json === undefined) return [ggufKey.string('tokenizer.ggml.model', 'no_vocab'), ...template];
  const refuse = (why: string): LowbitError =>
    new LowbitError('UNSUPPORTED', `The tokenizer of ${checkpoint.path} cannot be stored in GGUF: ${why}`, { file: checkpoint.path });
  const model = own(json, 'model');
  if (!isObject(model) || own(model, 'type') !== 'BPE') throw refuse('only BPE models can be');
  const vocabulary = vocabularyOf(json, model, vocabSize, refuse);
  const byteLevel = own(model, 'byte_fallback') !== true;
  const merges = mergesOf(model, refuse);
  const kind: readonly GgufKey[] = byteLevel
    ? [
        ggufKey.string('tokenizer.ggml.model', 'gpt2'),
        ggufKey.string('tokenizer.ggml.pre', preOf(json, model, refuse)),
        ggufKey.strings(
          'tokenizer.ggml.merges',
          merges.map(([left, right]) => `${left} ${right}`),
        ),
      ]
    : [
        ggufKey.string('tokenizer.ggml.model', 'llama'),
        ggufKey.string('tokenizer.ggml.pre', 'default'),
        ggufKey.f32s('tokenizer.ggml.scores', scoresOf(vocabulary, merges)),
        ggufKey.bool('tokenizer.ggml.add_space_prefix', hasSpacePrefix(json)),
      ];
  const { tokens, types } = vocabulary;
  return [
    ...kind,
    ggufKey.strings('tokenizer.ggml.tokens', tokens),
    ggufKey.i32s('tokenizer.ggml.token_type', types),
    ...specialKeys(checkpoint, json, vocabulary, byteLevel),
    ...template,
  ];
}

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  readonly ids: ReadonlyMap<string, number>;
}

type Refuse = (why: string) => LowbitError;

function vocabularyOf(json: JsonObject, model: JsonObject, vocabSize: number, refuse: Refuse): Vocabulary {
  const vocab = own(model, 'vocab');
  const entries: Iterable<readonly [string, unknown]> =
    vocab instanceof Map ? (vocab as Map<string, unknown>) : isObject(vocab) ? Object.entries(vocab) : [];
  const tokens = Array.from({ length: vocabSize }, (_, id) => `[PAD${id}]`);
  const types = Array.from({ length: vocabSize }, () => UNUSED);
  const byteFallback = own(model, 'byte_fallback') === true;
  const ids = new Map<string, number>();
  const place = (token: string, id: unknown, type: number): void => {
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= vocabSize)
      throw refuse(
        `the token ${JSON.stringify(token.slice(0, 60))} has the id ${String(id)}, beyond the ${vocabSize} rows of the embedding`,
      );
    tokens[id] = token;
    types[id] = type;
    ids.set(token, id);
  };
  for (const [token, id] of entries) place(token, id, byteFallback && /^<0x[0-9A-F]{2}>$/.test(token) ? BYTE : NORMAL);
  const unknown = own(model, 'unk_token');
  const added = own(json, 'added_tokens');
  for (const entry of Array.isArray(added) ? added.filter(isObject) : []) {
    const content = own(entry, 'content');
    if (typeof content !== 'string') continue;
    place(content, own(entry, 'id'), content === unknown ? UNKNOWN : own(entry, 'special') === true ? CONTROL : USER_DEFINED);
  }
  return { tokens, types, ids };
}

/** Pairs, which are stored as such or as one text with a space. */
function mergesOf(model: JsonObject, refuse: Refuse): readonly (readonly [string, string])[] {
  const merges = own(model, 'merges');
  if (!Array.isArray(merges)) throw refuse('it has no merges');
  return merges.map((merge: unknown) => {
    if (Array.isArray(merge) && merge.length === 2 && merge.every((part) => typeof part === 'string')) return merge as [string, string];
    const space = typeof merge === 'string' ? merge.indexOf(' ', 1) : -1;
    if (typeof merge !== 'string' || space < 0) throw refuse(`${JSON.stringify(merge).slice(0, 60)} is no merge`);
    return [merge.slice(0, space), merge.slice(space + 1)];
  });
}

/** tokenizer.ggml.pre, recognised by the expressions. */
function preOf(json: JsonObject, model: JsonObject, refuse: Refuse): string {
  const steps = sequence(own(json, 'pre_tokenizer'), 'pretokenizers');
  const patterns = steps.flatMap((step): readonly string[] => {
    const type = own(step, 'type');
    if (type === 'ByteLevel') return own(step, 'use_regex') === false ? [] : [BYTE_LEVEL_PATTERN];
    if (type === 'Digits' && own(step, 'individual_digits') === true) return [String.raw`\p{N}`];
    const pattern = own(step, 'pattern');
    const regex = isObject(pattern) ? own(pattern, 'Regex') : undefined;
    if (type === 'Split' && typeof regex === 'string' && own(step, 'invert') !== true) return [regex];
    throw refuse(`its pre-tokenizer has a step of the kind ${String(type)}`);
  });
  const normalizers = sequence(own(json, 'normalizer'), 'normalizers').map((step) => own(step, 'type'));
  const name =
    normalizers.length > 1 || (normalizers.length === 1 && normalizers[0] !== 'NFC')
      ? undefined
      : preTokenizerName({
          patterns,
          ignoreMerges: own(model, 'ignore_merges') === true,
          ...(normalizers.length === 1 && { normalizer: 'NFC' as const }),
        });
  if (name === undefined) {
    throw refuse(
      `it cuts text in a way that has no name in GGUF (${patterns.join(' then ').slice(0, 200)}); known: ${PRE_TOKENIZER_NAMES.join(', ')}`,
    );
  }
  return name;
}

/** The steps of a Sequence, or the one step there is. */
function sequence(value: unknown, key: string): readonly JsonObject[] {
  if (!isObject(value)) return [];
  if (own(value, 'type') !== 'Sequence') return [value];
  const steps = own(value, key);
  return Array.isArray(steps) ? steps.filter(isObject) : [];
}

function scoresOf({ tokens, ids }: Vocabulary, merges: readonly (readonly [string, string])[]): readonly number[] {
  const scores = tokens.map(() => NO_SCORE);
  merges.forEach(([left, right], rank) => {
    const id = ids.get(left + right);
    if (id !== undefined && scores[id] === NO_SCORE) scores[id] = -rank;
  });
  return scores;
}

/** Whether a space is put in front of a text: by a normaliser, or by Metaspace as newer files have it. */
function hasSpacePrefix(json: JsonObject): boolean {
  if (sequence(own(json, 'normalizer'), 'normalizers').some((step) => own(step, 'type') === 'Prepend')) return true;
  return sequence(own(json, 'pre_tokenizer'), 'pretokenizers').some((step) => {
    const scheme = own(step, 'prepend_scheme');
    return own(step, 'type') === 'Metaspace' && (scheme === undefined ? own(step, 'add_prefix_space') !== false : scheme !== 'never');
  });
}

/** Ids of special tokens, and whether a text begins with BOS. */
function specialKeys(checkpoint: Checkpoint, json: JsonObject, { ids }: Vocabulary, byteLevel: boolean): readonly GgufKey[] {
  const { tokenizerConfig, generationConfig, config } = checkpoint;
  const named = (key: string): number | undefined => {
    const value = own(tokenizerConfig, key);
    const content = isObject(value) ? own(value, 'content') : value;
    return typeof content === 'string' ? ids.get(content) : undefined;
  };
  const numbered = (key: string): readonly number[] =>
    [own(generationConfig, key), own(config, key)]
      .flat()
      .filter((id): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0);
  const bos = named('bos_token') ?? numbered('bos_token_id')[0];
  const ends = numbered('eos_token_id');
  const eos = named('eos_token') ?? ends[0];
  const eot = ends.find((id) => id !== eos);
  const unknown = named('unk_token');
  const padding = named('pad_token') ?? numbered('pad_token_id')[0];
  const addBos = own(tokenizerConfig, 'add_bos_token');
  const addEos = own(tokenizerConfig, 'add_eos_token');
  return [
    ...(bos === undefined ? [] : [ggufKey.u32('tokenizer.ggml.bos_token_id', bos)]),
    ...(eos === undefined ? [] : [ggufKey.u32('tokenizer.ggml.eos_token_id', eos)]),
    ...(eot === undefined ? [] : [ggufKey.u32('tokenizer.ggml.eot_token_id', eot)]),
    ...(unknown === undefined ? [] : [ggufKey.u32('tokenizer.ggml.unknown_token_id', unknown)]),
    ...(padding === undefined ? [] : [ggufKey.u32('tokenizer.ggml.padding_token_id', padding)]),
    // Said in any case: readers' defaults depend on the kind of vocabulary.
    ggufKey.bool('tokenizer.ggml.add_bos_token', typeof addBos === 'boolean' ? addBos : beginsWithToken(json, !byteLevel)),
    ggufKey.bool('tokenizer.ggml.add_eos_token', addEos === true),
  ];
}

/** Whether the template of the post-processor begins with a special token. */
function beginsWithToken(json: JsonObject, fallback: boolean): boolean {
  const template = sequence(own(json, 'post_processor'), 'processors').find((step) => own(step, 'type') === 'TemplateProcessing');
  const single = template && own(template, 'single');
  if (!Array.isArray(single)) return fallback;
  return isObject(single[0]) && own(single[0], 'SpecialToken') !== undefined;
}
