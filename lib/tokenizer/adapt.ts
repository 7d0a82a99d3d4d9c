/**
 * tokenizer: rewrites the components of a tokenizer.json so that the library underneath does exactly what the Rust original does.
 *
 * The library (0.2) takes shortcuts: JavaScript's own \s, \d and \w in some pre-tokenizers where the original means Unicode
 * properties, Metaspace without splitting, Split without the Merged and Contiguous behaviours. All of these can be said as Split
 * with an expression, which it translates faithfully. What cannot be said so is refused, not approximated.
 */
import { LowbitError } from '../errors';

type Json = Readonly<Record<string, unknown>>;

const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const PUNCTUATION = String.raw`[\p{P}!-/:-@\[-${'`'}{-~]`;
/** What \w means in this one component, which the original implements with another library than the rest. */
const WORD = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d`;
/** Ids index arrays; vocabularies have up to 262,144 tokens. */
const MAX_ID = 1 << 24;

/**
 * @returns a tokenizer.json for the library
 * @throws {LowbitError} CORRUPT_FILE for a broken vocabulary, UNSUPPORTED for components that would tokenise differently
 */
export function adaptTokenizerJson(json: Json, file: string): Json {
  const model = checkModel(json['model'], file);
  return {
    ...json,
    model,
    added_tokens: checkAddedTokens(json['added_tokens'] ?? [], file),
    normalizer: json['normalizer'] ?? null,
    pre_tokenizer: adaptPreTokenizer(json['pre_tokenizer'] ?? null, file),
    post_processor: json['post_processor'] ?? null,
    decoder: json['decoder'] ?? null,
  };
}

function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function corrupt(file: string, problem: string): LowbitError {
  return new LowbitError('CORRUPT_FILE', `${file}: ${problem}`, { file });
}

function unsupported(file: string, what: string): LowbitError {
  return new LowbitError('UNSUPPORTED', `${file} needs ${what}, which this version does not support`, { file });
}

function checkModel(model: unknown, file: string): Json {
  if (!isJson(model)) throw corrupt(file, 'has no model');
  const type = model['type'] ?? (Array.isArray(model['vocab']) ? 'Unigram' : 'merges' in model ? 'BPE' : undefined);
  if (type === 'BPE') return checkBpe({ ...model, type }, file);
  if (type !== 'Unigram') throw unsupported(file, `a tokenizer model of the type ${JSON.stringify(type)}`);
  if (model['byte_fallback'] === true) throw unsupported(file, 'a Unigram tokenizer with byte fallback');
  const { vocab } = model;
  const isPiece = (item: unknown): boolean => Array.isArray(item) && typeof item[0] === 'string' && typeof item[1] === 'number';
  if (!Array.isArray(vocab) || vocab.length === 0 || vocab.length > MAX_ID || !vocab.every(isPiece))
    throw corrupt(file, 'model.vocab is no list of pieces and scores');
  return { ...model, type };
}

function checkBpe(model: Json, file: string): Json {
  const vocab = checkVocabulary(model['vocab'], file);
  const merges = checkMerges(model['merges'], file);
  if (typeof model['dropout'] === 'number' && model['dropout'] > 0) throw unsupported(file, 'BPE dropout');
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix'] as const) {
    if (typeof model[key] === 'string' && model[key] !== '') throw unsupported(file, `a BPE ${key}`);
  }
  return { ...model, vocab, merges };
}

/** From token to id. This and the next function run over 50,000 to 260,000 entries at every load, hence the plain loops. */
function checkVocabulary(vocab: unknown, file: string): ReadonlyMap<string, number> {
  if (!isJson(vocab)) throw corrupt(file, 'model.vocab is no object');
  if (vocab instanceof Map) {
    for (const [token, id] of vocab as Map<string, unknown>) checkId(id, token, file);
    return vocab as ReadonlyMap<string, number>;
  }
  const ids = new Map<string, number>();
  for (const token of Object.keys(vocab)) {
    const id = vocab[token];
    checkId(id, token, file);
    ids.set(token, id);
  }
  return ids;
}

type MergePair = readonly [string, string];

function checkMerges(merges: unknown, file: string): readonly MergePair[] {
  if (!Array.isArray(merges)) throw corrupt(file, 'model.merges is no list of pairs');
  let pairs = true;
  for (const merge of merges as readonly unknown[]) {
    if (Array.isArray(merge) && merge.length === 2 && typeof merge[0] === 'string' && typeof merge[1] === 'string') continue;
    if (typeof merge !== 'string') throw corrupt(file, 'model.merges is no list of pairs');
    pairs = false;
  }
  if (pairs) return merges as readonly MergePair[];
  return merges.map((merge: string | MergePair) => (typeof merge === 'string' ? cutMerge(merge, file) : merge));
}

/** The old form of a merge is one text with a space between. */
function cutMerge(merge: string, file: string): MergePair {
  const space = merge.indexOf(' ', 1);
  if (space < 0 || space === merge.length - 1)
    throw corrupt(file, `model.merges holds ${JSON.stringify(merge.slice(0, 60))}, which is no pair`);
  return [merge.slice(0, space), merge.slice(space + 1)];
}

function checkId(id: unknown, token: string, file: string): asserts id is number {
  if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > MAX_ID)
    throw corrupt(file, `the token ${JSON.stringify(token.slice(0, 60))} has the id ${String(id)}`);
}

function checkAddedTokens(tokens: unknown, file: string): unknown {
  if (!Array.isArray(tokens)) throw corrupt(file, 'added_tokens is no list');
  for (const token of tokens as unknown[]) {
    if (!isJson(token) || typeof token['content'] !== 'string' || token['content'] === '')
      throw corrupt(file, 'added_tokens holds a token without content');
    checkId(token['id'], token['content'], file);
  }
  return tokens;
}

function split(regex: string, behavior: 'Isolated' | 'Removed' = 'Isolated', invert = false): Json {
  return { type: 'Split', pattern: { Regex: regex }, behavior, invert };
}

function sequence(...pretokenizers: readonly unknown[]): Json {
  return { type: 'Sequence', pretokenizers };
}

function adaptPreTokenizer(component: unknown, file: string): unknown {
  if (component === null) return null;
  if (!isJson(component)) throw corrupt(file, 'pre_tokenizer is no object');
  switch (component['type']) {
    case 'Sequence': {
      const parts = component['pretokenizers'];
      if (!Array.isArray(parts)) throw corrupt(file, 'a Sequence has no pretokenizers');
      return sequence(...parts.map((part: unknown) => adaptPreTokenizer(part, file)));
    }
    case 'ByteLevel':
      return adaptByteLevel(component);
    case 'Digits':
      return split(component['individual_digits'] === true ? String.raw`\p{N}` : String.raw`\p{N}+`);
    case 'Whitespace':
      return split(`[${WORD}]+|[^${WORD}\\s]+`, 'Removed', true);
    case 'WhitespaceSplit':
      return split(String.raw`\s+`, 'Removed');
    case 'Punctuation':
      return adaptSplit({ pattern: { Regex: PUNCTUATION }, behavior: component['behavior'] ?? 'Isolated', invert: false }, file);
    case 'Split':
      return adaptSplit(component, file);
    case 'Metaspace':
      return adaptMetaspace(component);
    default:
      throw unsupported(file, `the pre-tokenizer ${JSON.stringify(component['type'])}`);
  }
}

/** Prefix space, words, bytes: three steps. */
function adaptByteLevel(component: Json): Json {
  const prefix =
    component['add_prefix_space'] === true ? [{ type: 'Replace', pattern: { Regex: String.raw`\A[^ ]` }, content: ' $&' }] : [];
  const words = component['use_regex'] === false ? [] : [split(GPT2)];
  return sequence(...prefix, ...words, { ...component, add_prefix_space: false, use_regex: false });
}

/** Every space becomes the replacement, and a word starts at each of them. */
function adaptMetaspace(component: Json): Json {
  const mark = typeof component['replacement'] === 'string' ? component['replacement'] : '\u2581';
  if (component['split'] === false) return component;
  return sequence(component, split(mergedWithNext(escapeRegExp(mark))));
}

function adaptSplit(component: Json, file: string): Json {
  const pattern = isJson(component['pattern']) ? component['pattern'] : {};
  const literal = typeof pattern['String'] === 'string' ? escapeRegExp(pattern['String']) : undefined;
  const regex = literal ?? pattern['Regex'];
  if (typeof regex !== 'string') throw corrupt(file, 'a Split has no pattern');
  const invert = component['invert'] === true;
  switch (component['behavior']) {
    // Matches and what lies between them are all kept, so it does not matter which of the two is called the delimiter.
    case 'Isolated':
      return split(regex);
    case 'Removed':
      return split(regex, 'Removed', invert);
    case 'Contiguous':
      if (!invert) return split(`(?:${regex})+`);
      break;
    case 'MergedWithPrevious':
      if (!invert && isOneCharacter(pattern['String'])) return split(`[^${literal}]*${literal}|[^${literal}]+`);
      break;
    case 'MergedWithNext':
      if (!invert && isOneCharacter(pattern['String'])) return split(mergedWithNext(literal as string));
  }
  throw unsupported(
    file,
    `a Split pre-tokenizer with the behavior ${JSON.stringify(component['behavior'])}${invert ? ', inverted,' : ''} on ${JSON.stringify(pattern)}`,
  );
}

/** `mark` is one escaped character. */
function mergedWithNext(mark: string): string {
  return `${mark}[^${mark}]*|[^${mark}]+`;
}

function isOneCharacter(text: unknown): text is string {
  return typeof text === 'string' && Array.from(text).length === 1;
}

function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&');
}
