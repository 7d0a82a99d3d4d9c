/**
 * checkpoint: typed access to the JSON settings of a quantised checkpoint (config.quantization_config), and the regular expressions in
 * them. What the keys mean is said by the reader of each method.
 */
import { LowbitError, describe } from '../errors';
import { type JsonObject, own } from './json';

/** Regular expressions from a file are bounded in number and length. */
export const MAX_RULES = 4096;
const MAX_RULE_LENGTH = 1024;

/** No row is longer. */
export const MAX_GROUP = 1 << 24;

export class SettingsReader {
  /** @param where the object's path for messages, without the dot before a key */
  constructor(
    private readonly values: JsonObject,
    readonly file: string,
    readonly where = 'quantization_config',
  ) {}

  /** The first of the synonyms that is given; null counts as not given. */
  raw(keys: readonly string[]): unknown {
    for (const key of keys) {
      const value = own(this.values, key) ?? undefined;
      if (value !== undefined) return value;
    }
    return undefined;
  }

  string(keys: readonly string[]): string | undefined {
    const value = this.raw(keys);
    if (value !== undefined && typeof value !== 'string') throw this.bad(keys[0] as string, 'string', value);
    return value;
  }

  boolean(keys: readonly string[], fallback: boolean): boolean {
    const value = this.raw(keys) ?? fallback;
    if (typeof value !== 'boolean') throw this.bad(keys[0] as string, 'true or false', value);
    return value;
  }

  /** Columns per scale, -1 for the whole row. */
  groupSize(keys: readonly string[], fallback: number): number {
    const value = this.raw(keys) ?? fallback;
    if (typeof value !== 'number' || !Number.isInteger(value) || value === 0 || value < -1 || value > MAX_GROUP)
      throw this.bad(keys[0] as string, `-1 or integer between 1 and ${MAX_GROUP}`, value);
    return value;
  }

  /** [] when absent. */
  strings(key: string): readonly string[] {
    const value = this.raw([key]) ?? [];
    if (!Array.isArray(value) || value.length > MAX_RULES || !value.every((text): text is string => typeof text === 'string'))
      throw this.bad(key, `an array of at most ${MAX_RULES} strings`, value);
    return value;
  }

  /** A regular expression that matches from the start of a name. `key` names the setting it stands in, `what` the kind of rule. */
  startPattern(source: string, key: string, what: string): RegExp {
    if (source.length > MAX_RULE_LENGTH) throw this.bad(key, `rules of at most ${MAX_RULE_LENGTH} characters`, source.length);
    try {
      return new RegExp(`^(?:${source})`);
    } catch (cause) {
      throw new LowbitError(
        'UNSUPPORTED',
        `${this.file} has the ${what} ${JSON.stringify(source.slice(0, 100))}, which is no regular expression here`,
        { file: this.file },
        { cause },
      );
    }
  }

  bad(key: string, expected: string, value: unknown): LowbitError {
    return badSetting(this.file, `${this.where}.${key}`, expected, value);
  }

  /** `what`: the noun that "holds" takes; `instead`: what to do about it. */
  unsupported(what: string, instead = READABLE): LowbitError {
    return new LowbitError('UNSUPPORTED', `${this.file} holds ${what}, which this version does not read; ${instead}`, { file: this.file });
  }
}

export function badSetting(file: string, key: string, expected: string, value: unknown): LowbitError {
  return new LowbitError('CORRUPT_FILE', `Expected ${expected} for ${key} in ${file} but received ${describe(value)}`, { file, key });
}

/** The end of a message about something that is not read. */
const READABLE =
  'use a GPTQ (format gptq or gptq_v2), AWQ (version gemm), compressed-tensors (pack-quantized), GGUF or the unquantised version of the model';
