/**
 * models: a typed reader of a Hugging Face configuration. Every error names the key and the file.
 *
 * It knows types and ranges, not models: which keys matter and what they default to is said where an architecture is defined.
 * A configuration is hostile input, so every number has an upper bound. `null` and a missing key mean the same, as they do
 * in transformers.
 */
import path from 'node:path';
import type { Checkpoint } from '../checkpoint/types';
import { LowbitError, describe } from '../errors';

export interface NumberRange {
  readonly min: number;
  readonly max: number;
}

/**
 * Largest sizes accepted, several times above any published dense model (hidden 18432, feed-forward 65536, 126 layers,
 * vocabulary 262144, context 10485760), and small enough that products of two of them are exact in a double.
 */
export const LIMITS = {
  hiddenSize: { min: 1, max: 1 << 18 },
  intermediateSize: { min: 1, max: 1 << 20 },
  layers: { min: 1, max: 1024 },
  heads: { min: 1, max: 4096 },
  headDim: { min: 2, max: 4096 },
  vocabSize: { min: 1, max: 1 << 22 },
  context: { min: 1, max: 1 << 27 },
  /** As many as the engine can route to (cpp/plan/plan.h). */
  experts: { min: 1, max: 1024 },
} as const satisfies Record<string, NumberRange>;

export class ConfigReader {
  private readonly read = new Set<string>();

  /** `prefix` is put before key names in errors: "rope_parameters." for a nested object. */
  constructor(
    private readonly values: Readonly<Record<string, unknown>>,
    readonly file: string,
    private readonly prefix = '',
    private readonly aliases: Readonly<Record<string, string>> = {},
  ) {}

  static of(checkpoint: Checkpoint): ConfigReader {
    return new ConfigReader(checkpoint.config, checkpoint.kind === 'hf' ? path.join(checkpoint.path, 'config.json') : checkpoint.path);
  }

  /** The same configuration, in which keys have other names: hidden_size is n_embd. Errors name the key of the file. */
  withAliases(aliases: Readonly<Record<string, string>>): ConfigReader {
    return new ConfigReader(this.values, this.file, this.prefix, aliases);
  }

  private name(key: string): string {
    return Object.hasOwn(this.aliases, key) ? (this.aliases[key] as string) : key;
  }

  /** The key as it stands; null reads as undefined. */
  raw(key: string): unknown {
    this.read.add(key);
    const name = this.name(key);
    return (Object.hasOwn(this.values, name) ? this.values[name] : undefined) ?? undefined;
  }

  has(key: string): boolean {
    return this.raw(key) !== undefined;
  }

  /** Whether some code asked for the key: see refuseUnreadFeatures in registry.ts. */
  wasRead(key: string): boolean {
    return this.read.has(key);
  }

  /** Without `fallback` the key is required. */
  integer(key: string, range: NumberRange, fallback?: number): number {
    const value = this.raw(key);
    if (value === undefined && fallback !== undefined) return fallback;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < range.min || value > range.max) {
      throw this.expected(`integer between ${range.min} and ${range.max}`, key, value);
    }
    return value;
  }

  number(key: string, range: NumberRange, fallback?: number): number {
    const value = this.raw(key);
    if (value === undefined && fallback !== undefined) return fallback;
    if (typeof value !== 'number' || !(value >= range.min && value <= range.max)) {
      throw this.expected(`number between ${range.min} and ${range.max}`, key, value);
    }
    return value;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.raw(key);
    if (value === undefined) return fallback;
    if (typeof value !== 'boolean') throw this.expected('true or false', key, value);
    return value;
  }

  string(key: string, fallback?: string): string {
    const value = this.raw(key);
    if (value === undefined && fallback !== undefined) return fallback;
    if (typeof value !== 'string') throw this.expected('string', key, value);
    return value;
  }

  /** A nested object, or undefined when the key is absent. */
  object(key: string): ConfigReader | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    if (typeof value !== 'object' || Array.isArray(value)) throw this.expected('object', key, value);
    return new ConfigReader(value as Record<string, unknown>, this.file, `${this.prefix}${key}.`);
  }

  /** Exactly `length` numbers in the range, or undefined when the key is absent. */
  numbers(key: string, length: number, range: NumberRange): readonly number[] | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    const fits = (item: unknown): boolean => typeof item === 'number' && item >= range.min && item <= range.max;
    if (!Array.isArray(value) || value.length !== length || !value.every(fits)) {
      throw this.expected(`array of ${length} numbers between ${range.min} and ${range.max}`, key, value);
    }
    return value as readonly number[];
  }

  /** Exactly `length` strings, each one of `allowed`, or undefined when the key is absent. */
  choices<T extends string>(key: string, length: number, allowed: readonly T[]): readonly T[] | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || value.length !== length || !value.every((item) => allowed.includes(item as T))) {
      throw this.expected(`array of ${length} of ${allowed.map((name) => `"${name}"`).join(' or ')}`, key, value);
    }
    return value as readonly T[];
  }

  /** CORRUPT_FILE: "Expected <what> for <key> in <file> but received <value>". */
  expected(what: string, key: string, value: unknown): LowbitError {
    return this.corrupt(key, `Expected ${what} for ${this.prefix}${this.name(key)} in ${this.file} but received ${describe(value)}`);
  }

  /** CORRUPT_FILE with a free message, for keys that contradict each other. */
  corrupt(key: string, message: string): LowbitError {
    return new LowbitError('CORRUPT_FILE', message, { file: this.file, key: this.prefix + this.name(key) });
  }

  /** UNSUPPORTED: "<key> = <value> in <file> is not supported: <why>". */
  unsupported(key: string, why: string): LowbitError {
    const value = describe(this.raw(key)).replace(/ of type \w+$/, '');
    return new LowbitError('UNSUPPORTED', `${this.prefix}${this.name(key)} = ${value} in ${this.file} is not supported: ${why}`, {
      file: this.file,
      key: this.prefix + this.name(key),
    });
  }
}
