/**
 * checkpoint: the vocabulary in a GGUF file as a tokenizer.json and a tokenizer_config.json of Hugging Face.
 *
 * Two kinds: "gpt2", byte-level BPE with a list of merges, and "llama", SentencePiece BPE, whose merges follow from the scores of its
 * pieces. Text is not tokenised here; see lib/tokenizer.
 */
import { LowbitError } from '../errors';
import { corruptFile } from './files';
import type { GgufMetadata } from './gguf_metadata';
import { PRE_TOKENIZER_NAMES, type PreTokenizer, preTokenizer } from './gguf_pretokenizers';
import type { JsonObject } from './json';

/** tokenizer.ggml.token_type */
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const NORMAL = 1;

const SPACE_SYMBOL = '\u2581';

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  readonly ids: ReadonlyMap<string, number>;
}

/** @throws {LowbitError} CORRUPT_FILE, or UNSUPPORTED for other kinds of vocabularies and unknown pre-tokenizers */
export function tokenizerFromGguf(metadata: GgufMetadata): {
  readonly tokenizerJson: JsonObject | undefined;
  readonly tokenizerConfig: JsonObject;
} {
  const kind = metadata.string('tokenizer.ggml.model');
  if (kind === undefined || kind === 'no_vocab') return { tokenizerJson: undefined, tokenizerConfig: {} };
  if (kind !== 'gpt2' && kind !== 'llama') {
    throw new LowbitError(
      'UNSUPPORTED',
      `${metadata.file} has a tokenizer of the kind "${kind}"; this version knows gpt2 (byte-level BPE) and llama (SentencePiece BPE)`,
      {
        file: metadata.file,
      },
    );
  }
  const vocabulary = readVocabulary(metadata);
  const pre = kind === 'gpt2' ? findPreTokenizer(metadata) : undefined;
  const tokenizerJson = pre ? byteLevelJson(metadata, vocabulary, pre) : sentencePieceJson(metadata, vocabulary);
  return { tokenizerJson, tokenizerConfig: tokenizerConfig(metadata, vocabulary, pre ? pre.addBos === true : true) };
}

function readVocabulary(metadata: GgufMetadata): Vocabulary {
  const key = 'tokenizer.ggml.tokens';
  const listed = metadata.required(key, metadata.strings(key));
  const types = metadata.numbers('tokenizer.ggml.token_type') ?? [];
  if (types.length !== 0 && types.length !== listed.length) {
    throw corruptFile(metadata.file, `tokenizer.ggml.token_type has ${types.length} entries for ${listed.length} tokens`);
  }
  const ids = new Map<string, number>();
  const tokens = listed.map((token, id) => (token === '' ? `[EMPTY_${id}]` : token));
  tokens.forEach((token, id) => {
    const earlier = ids.get(token);
    if (earlier !== undefined)
      throw corruptFile(metadata.file, `the token ${JSON.stringify(token.slice(0, 60))} has the ids ${earlier} and ${id}`);
    ids.set(token, id);
  });
  return { tokens, types, ids };
}

function findPreTokenizer(metadata: GgufMetadata): PreTokenizer {
  const name = metadata.string('tokenizer.ggml.pre') ?? 'default';
  const found = preTokenizer(name);
  if (found === undefined) {
    throw new LowbitError(
      'UNSUPPORTED',
      `${metadata.file} cuts text in the way "${name}" (tokenizer.ggml.pre), which this version does not know, so its tokens would be wrong; use the Hugging Face version of the model. Known: ${PRE_TOKENIZER_NAMES.join(', ')}`,
      { file: metadata.file, pre: name },
    );
  }
  return found;
}

function byteLevelJson(metadata: GgufMetadata, vocabulary: Vocabulary, pre: PreTokenizer): JsonObject {
  const key = 'tokenizer.ggml.merges';
  const merges = metadata.required(key, metadata.strings(key)).map((merge) => {
    const space = merge.indexOf(' ', 1); // a symbol is at least one character, and may be a space itself
    if (space < 0 || space === merge.length - 1)
      throw corruptFile(metadata.file, `${key} holds ${JSON.stringify(merge.slice(0, 60))}, which is no pair`);
    return [merge.slice(0, space), merge.slice(space + 1)];
  });
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  const splits = pre.patterns.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false }));
  return {
    version: '1.0',
    added_tokens: addedTokens(vocabulary, () => false),
    normalizer: pre.normalizer === undefined ? null : { type: pre.normalizer },
    pre_tokenizer: { type: 'Sequence', pretokenizers: [...splits, byteLevel] },
    post_processor: null,
    decoder: byteLevel,
    model: { ...bpeModel(vocabulary, merges), ignore_merges: pre.ignoreMerges === true },
  };
}

function sentencePieceJson(metadata: GgufMetadata, vocabulary: Vocabulary): JsonObject {
  const prefix = metadata.boolean('tokenizer.ggml.add_space_prefix') ?? true;
  const replace = (from: string, to: string): JsonObject => ({ type: 'Replace', pattern: { String: from }, content: to });
  const unknown = metadata.integer('tokenizer.ggml.unknown_token_id') ?? 0;
  // Phi-3 drops white space after its control tokens; GGUF has no key for that, so the three exceptions stand here.
  const dropsSpace = (token: string): boolean =>
    metadata.string('general.architecture') === 'phi3' && !['<unk>', '<s>', '<|endoftext|>'].includes(token);
  return {
    version: '1.0',
    added_tokens: addedTokens(vocabulary, dropsSpace),
    normalizer: {
      type: 'Sequence',
      normalizers: [...(prefix ? [{ type: 'Prepend', prepend: SPACE_SYMBOL }] : []), replace(' ', SPACE_SYMBOL)],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        replace(SPACE_SYMBOL, ' '),
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      ...bpeModel(vocabulary, mergesFromScores(metadata, vocabulary)),
      unk_token: vocabulary.tokens[unknown] ?? null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
    },
  };
}

function bpeModel(vocabulary: Vocabulary, merges: readonly (readonly string[])[]): JsonObject {
  return {
    type: 'BPE',
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    vocab: vocabulary.ids,
    merges,
  };
}

/**
 * SentencePiece joins the neighbours whose joined piece has the best score. As ranked merges: every way to cut a piece in two known
 * pieces, best score first; among the cuts of one score the longer left part first (the order of Hugging Face's conversion).
 */
function mergesFromScores(metadata: GgufMetadata, { tokens, types, ids }: Vocabulary): readonly (readonly string[])[] {
  const key = 'tokenizer.ggml.scores';
  const scores = metadata.required(key, metadata.numbers(key));
  if (scores.length !== tokens.length || !scores.every(Number.isFinite)) {
    throw corruptFile(metadata.file, `${key} does not hold one finite number for each of ${tokens.length} tokens`);
  }
  const isPiece = (id: number | undefined): boolean => id !== undefined && (types[id] ?? NORMAL) === NORMAL;
  const found: Merge[] = [];
  tokens.forEach((token, id) => {
    if (!isPiece(id)) return;
    const symbols = Array.from(token);
    for (let cut = 1, at = 0; cut < symbols.length; cut++) {
      at += (symbols[cut - 1] as string).length;
      const pair = [token.slice(0, at), token.slice(at)] as const;
      if (isPiece(ids.get(pair[0])) && isPiece(ids.get(pair[1])))
        found.push({ pair, score: scores[id] as number, left: cut, right: symbols.length - cut });
    }
  });
  found.sort((a, b) => b.score - a.score || b.left - a.left || b.right - a.right);
  return found.map(({ pair }) => pair);
}

/** A way to cut a piece; lengths in characters. */
interface Merge {
  readonly pair: readonly [string, string];
  readonly score: number;
  readonly left: number;
  readonly right: number;
}

/** Tokens that are found in text before anything else. Control tokens are special: decoding may leave them out. */
function addedTokens({ tokens, types }: Vocabulary, rstrip: (token: string) => boolean): JsonObject[] {
  return tokens.flatMap((content, id) => {
    const special = types[id] === CONTROL || types[id] === UNKNOWN;
    if (!special && types[id] !== USER_DEFINED) return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: special && rstrip(content), normalized: false, special }];
  });
}

function tokenizerConfig(metadata: GgufMetadata, { tokens }: Vocabulary, addBos: boolean): JsonObject {
  const config: JsonObject = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    clean_up_tokenization_spaces: false,
    add_bos_token: metadata.boolean('tokenizer.ggml.add_bos_token') ?? addBos,
    add_eos_token: metadata.boolean('tokenizer.ggml.add_eos_token') ?? false,
  };
  for (const [name, key] of [
    ['bos_token', 'bos_token_id'],
    ['eos_token', 'eos_token_id'],
    ['unk_token', 'unknown_token_id'],
    ['pad_token', 'padding_token_id'],
  ] as const) {
    const id = metadata.integer(`tokenizer.ggml.${key}`);
    if (id === undefined) continue;
    const token = tokens[id];
    if (token === undefined) throw corruptFile(metadata.file, `tokenizer.ggml.${key} is ${id}, but there are ${tokens.length} tokens`);
    config[name] = token;
  }
  return config;
}
