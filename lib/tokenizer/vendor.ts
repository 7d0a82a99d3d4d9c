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

export function createHfTokenizer(tokenizerJson: object, config: object): HfTokenizer {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { Tokenizer } = require('@huggingface/tokenizers') as { Tokenizer: new (json: object, config: object) => HfTokenizer };
  return new Tokenizer(tokenizerJson, config);
}

export function jinja(): Jinja {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  return require('@huggingface/jinja') as Jinja;
}
