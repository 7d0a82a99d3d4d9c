/** Command-line words to values. Ranges are the library's to check, so that its messages are the same everywhere. */
import { readFile } from 'node:fs/promises';
import { InvalidArgumentError } from 'commander';
import { LowbitError } from '../index';

/** A number as JavaScript writes it; "4k", "" and "0x10" are refused. */
export function parseNumber(word: string): number {
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(word)) throw new InvalidArgumentError(`Expected a number but received "${word}".`);
  return Number(word);
}

/** A JSON object. */
export function parseJsonObject(word: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(word);
  } catch (error) {
    throw new InvalidArgumentError(`Expected a JSON object: ${(error as Error).message}.`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new InvalidArgumentError('Expected a JSON object.');
  return value as Record<string, unknown>;
}

/** Repeated options collect into a list. */
export const collect = (word: string, list: readonly string[] = []): readonly string[] => [...list, word];

/** Drops undefined values, which would count as given under exactOptionalPropertyTypes. */
export function defined<T extends Record<string, unknown>>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

/**
 * A text file byte for byte: no newline translation, a byte order mark stays.
 *
 * @throws {LowbitError} IO when it cannot be read, INVALID_ARGUMENT when it is not UTF-8
 */
export async function readText(file: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new LowbitError(
      'IO',
      `Cannot read ${file}: ${code === 'ENOENT' ? 'there is no such file' : (code ?? String(cause))}`,
      { file },
      { cause },
    );
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new LowbitError('INVALID_ARGUMENT', `${file} is not valid UTF-8: convert it first`, { file }, { cause });
  }
}

/** groupSize -> group_size, through objects and arrays. Keys of `verbatim` objects are the user's own and stay. */
export function toSnakeCase(value: unknown, verbatim: readonly string[] = []): unknown {
  if (Array.isArray(value)) return value.map((item) => toSnakeCase(item, verbatim));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      verbatim.includes(key) ? item : toSnakeCase(item, verbatim),
    ]),
  );
}

/** GPTQModel's rules for single linears: overrides in snake_case, as its files hold them, to the library's camelCase. */
export function camelCaseRules(rules: Record<string, unknown>): Record<string, unknown> {
  const camelCase = (key: string): string => key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
  const convert = (value: unknown): unknown =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).map(([key, item]) => [camelCase(key), item]))
      : value;
  return Object.fromEntries(Object.entries(rules).map(([pattern, overrides]) => [pattern, convert(overrides)]));
}
