/**
 * checkpoint: how the byte-level BPE vocabularies of GGUF files cut text into words before merging. The file only names the way
 * (tokenizer.ggml.pre); the expressions are those of the models' own tokenizer.json, which llama.cpp follows as well.
 *
 * Each expression cuts every piece that the one before it left: a match is a piece, and so is what lies between matches.
 */

export interface PreTokenizer {
  readonly patterns: readonly string[];
  /** A word that is a token is taken whole, without merging. */
  readonly ignoreMerges?: boolean;
  /** BOS is added unless the file says otherwise. */
  readonly addBos?: boolean;
  readonly normalizer?: 'NFC';
}

const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const CONTRACTIONS = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`;
const REST = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const WORD = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`;
const LLAMA3 = String.raw`${CONTRACTIONS}|${WORD}|\p{N}{1,3}|${REST}`;
const QWEN2 = String.raw`${CONTRACTIONS}|${WORD}|\p{N}|${REST}`;
const SEED = String.raw`${CONTRACTIONS}|${WORD}|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`;
/** Words that start in upper case and words that end in lower case are separate pieces. */
const UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const CASED_REST = String.raw` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const TEKKEN = String.raw`[^\r\n\p{L}\p{N}]?${UPPER}*${LOWER}+|[^\r\n\p{L}\p{N}]?${UPPER}+${LOWER}*|\p{N}|${CASED_REST}`;
const GPT4O = String.raw`[^\r\n\p{L}\p{N}]?${UPPER}*${LOWER}+${CONTRACTIONS}?|[^\r\n\p{L}\p{N}]?${UPPER}+${LOWER}*${CONTRACTIONS}?|\p{N}{1,3}|${CASED_REST}`;
const DEEPSEEK3 = String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_${'`'}{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

const llama3: PreTokenizer = { patterns: [LLAMA3], ignoreMerges: true, addBos: true };
const gpt2: PreTokenizer = { patterns: [GPT2] };
const digitsAlone: PreTokenizer = { patterns: [String.raw`\p{N}`, GPT2] };
const qwen2: PreTokenizer = { patterns: [QWEN2] };

const BY_NAME: ReadonlyMap<string, PreTokenizer> = new Map<string, PreTokenizer>([
  // What llama.cpp does with files that do not say, from before the key existed.
  ['default', { patterns: [String.raw`[\p{P}\$\+<=>\^~\|]+`, GPT2, String.raw`\p{N}+`, '[0-9][0-9][0-9]'] }],
  ...['gpt-2', 'gpt2', 'phi-2', 'olmo', 'mellum', 'a.x-4.0', 'exaone4', 'trillion', 'modern-bert'].map((name) => [name, gpt2] as const),
  ...['llama3', 'llama-v3', 'llama-bpe', 'falcon3', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2'].map((name) => [name, llama3] as const),
  ...['dbrx', 'smaug-bpe', 'glm4', 'chatglm-bpe'].map((name) => [name, { patterns: [LLAMA3] }] as const),
  ...['starcoder', 'refact', 'command-r', 'smollm', 'codeshell', 'exaone', 'minerva-7b'].map((name) => [name, digitsAlone] as const),
  ['qwen2', { ...qwen2, normalizer: 'NFC' }],
  ...['deepseek-r1-qwen', 'stablelm2', 'megrez', 'hunyuan'].map((name) => [name, qwen2] as const),
  [
    'deepseek-coder',
    {
      patterns: [
        String.raw`[\r\n]`,
        String.raw`\s?\p{L}+`,
        String.raw`\s?\p{P}+`,
        '[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+',
        String.raw`\p{N}`,
      ],
    },
  ],
  ['deepseek-v3', { patterns: [String.raw`\p{N}{1,3}`, '[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+', DEEPSEEK3] }],
  ['seed-coder', { patterns: [SEED] }],
  ['tekken', { patterns: [TEKKEN], ignoreMerges: true, addBos: true }],
  ...['gpt-4o', 'llama4'].map((name) => [name, { patterns: [GPT4O] }] as const),
]);

/** Of names with one meaning, those that readers of all ages know. */
const PREFERRED = ['gpt-2', 'llama-bpe', 'smollm', 'dbrx', 'qwen2', 'deepseek-r1-qwen'];

/** The expression of a ByteLevel pre-tokenizer with use_regex. */
export const BYTE_LEVEL_PATTERN = GPT2;

export const PRE_TOKENIZER_NAMES: readonly string[] = [...BY_NAME.keys()];

/** The name whose expressions, normaliser and way of merging these are; among equals the first, which llama.cpp knows longest. */
export function preTokenizerName(wanted: PreTokenizer): string | undefined {
  const same = ({ patterns, ignoreMerges = false, normalizer }: PreTokenizer): boolean =>
    patterns.join('\0') === wanted.patterns.join('\0') &&
    ignoreMerges === (wanted.ignoreMerges ?? false) &&
    normalizer === wanted.normalizer;
  return PREFERRED.find((name) => same(BY_NAME.get(name) as PreTokenizer)) ?? [...BY_NAME].find(([, entry]) => same(entry))?.[0];
}

export function preTokenizer(name: string): PreTokenizer | undefined {
  return BY_NAME.get(name);
}
