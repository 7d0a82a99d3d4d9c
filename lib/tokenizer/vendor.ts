/**
 * tokenizer: the only door to the two libraries underneath, with the types of what is used of them. Their own declarations are
 * those of ES modules, which the compiler refuses to CommonJS files although both packages ship CommonJS code.
 */

/** @huggingface/tokenizers: text to ids. */
export interface HfTokenizer {
  encode(text: string, options: { readonly add_special_tokens: boolean }): { readonly ids: readonly (number | undefined)[] };
  id_to_token(id: number): string | undefined;
  token_to_id(token: string): number | undefined;
  /** Called with a section of normalised text; null leaves a section whole. */
  pre_tokenizer: ((text: string, options: unknown) => string[]) | null;
}

/** What of the library's models is filled in here. Public fields, but an implementation's all the same: package.json names the version exactly. */
interface HfTokenizerModel {
  tokens_to_ids: Map<string, number>;
  readonly vocab: string[];
}

interface JinjaEnvironment {
  set(name: string, value: unknown): unknown;
}

/** @huggingface/jinja: chat templates. */
interface Jinja {
  readonly Environment: new () => JinjaEnvironment;
  readonly Interpreter: new (environment: JinjaEnvironment) => { run(program: unknown): { readonly value: unknown } };
  readonly tokenize: (source: string, options: { readonly lstrip_blocks: boolean; readonly trim_blocks: boolean }) => unknown;
  readonly parse: (tokens: unknown) => unknown;
}

/** What of an adapted tokenizer.json is read here. */
interface TokenizerJson {
  readonly model: { readonly vocab: unknown; readonly unk_token?: unknown };
  readonly added_tokens: readonly { readonly id: number; readonly content: string }[];
}

/** @param tokenizerJson model.vocab may be a Map from token to id */
export function createHfTokenizer(tokenizerJson: object, config: object): HfTokenizer {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { Tokenizer } = require('@huggingface/tokenizers') as {
    Tokenizer: new (json: object, config: object) => HfTokenizer & { readonly model: HfTokenizerModel };
  };
  const { model, added_tokens } = tokenizerJson as TokenizerJson;
  const { vocab, unk_token: unknown } = model;
  if (!(vocab instanceof Map)) return new Tokenizer(tokenizerJson, config);
  // The library wants an object, lists its entries and makes a Map of them: most of the time that it needs. So it gets the
  // unknown token, which its constructor looks up, and the Map when it is there.
  const ids = vocab as Map<string, number>;
  const known = typeof unknown === 'string' && ids.has(unknown) ? { [unknown]: ids.get(unknown) } : {};
  const library = new Tokenizer({ ...tokenizerJson, model: { ...model, vocab: known } }, config);
  const byId = library.model.vocab;
  for (const [token, id] of ids) byId[id] = token;
  for (const { content, id } of added_tokens) byId[id] = content;
  const extra = added_tokens.filter(({ content, id }) => ids.get(content) !== id);
  library.model.tokens_to_ids = extra.length === 0 ? ids : new Map([...ids, ...extra.map(({ content, id }) => [content, id] as const)]);
  return library;
}

export function jinja(): Jinja {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  return require('@huggingface/jinja') as Jinja;
}
