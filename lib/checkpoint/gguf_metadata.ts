/**
 * checkpoint: typed access to the metadata of a GGUF file. Every error names the key and the file.
 */
import { LowbitError } from '../errors';
import { corruptFile } from './files';
import type { GgufValue } from './gguf_header';

export class GgufMetadata {
  constructor(
    private readonly values: ReadonlyMap<string, GgufValue>,
    readonly file: string,
  ) {}

  has(key: string): boolean {
    return this.values.has(key);
  }

  string(key: string): string | undefined {
    const value = this.values.get(key);
    if (value !== undefined && typeof value !== 'string') throw this.expected('text', key);
    return value;
  }

  boolean(key: string): boolean | undefined {
    const value = this.values.get(key);
    if (value !== undefined && typeof value !== 'boolean') throw this.expected('true or false', key);
    return value;
  }

  number(key: string): number | undefined {
    const value = this.values.get(key);
    if (value !== undefined && (typeof value !== 'number' || !Number.isFinite(value))) throw this.expected('number', key);
    return value;
  }

  integer(key: string): number | undefined {
    const value = this.number(key);
    if (value !== undefined && (!Number.isSafeInteger(value) || value < 0)) throw this.expected('integer of at least 0', key);
    return value;
  }

  /** Writers give an array when layers differ; models here have one value for all layers. */
  uniformInteger(key: string): number | undefined {
    const value = this.values.get(key);
    if (!Array.isArray(value)) return this.integer(key);
    const first: unknown = value[0];
    if (typeof first !== 'number' || !Number.isSafeInteger(first) || first < 0) throw this.expected('integer of at least 0', key);
    if (!value.every((item) => item === first)) {
      throw new LowbitError('UNSUPPORTED', `${key} differs from layer to layer in ${this.file}, which this version does not support`, {
        file: this.file,
        key,
      });
    }
    return first;
  }

  required<T>(key: string, value: T | undefined): T {
    if (value === undefined) throw corruptFile(this.file, `the key ${key} is missing`, { key });
    return value;
  }

  /** Arrays are of one element type by format, so the first element tells. */
  array(key: string): readonly GgufValue[] | undefined {
    const value = this.values.get(key);
    if (value !== undefined && !Array.isArray(value)) throw this.expected('array', key);
    return value as readonly GgufValue[] | undefined;
  }

  strings(key: string): readonly string[] | undefined {
    const value = this.array(key);
    if (value !== undefined && value.length > 0 && typeof value[0] !== 'string') throw this.expected('array of texts', key);
    return value as readonly string[] | undefined;
  }

  numbers(key: string): readonly number[] | undefined {
    const value = this.array(key);
    if (value !== undefined && !value.every((item) => typeof item === 'number')) throw this.expected('array of numbers', key);
    return value;
  }

  expected(what: string, key: string): LowbitError {
    const value = this.values.get(key);
    const found = Array.isArray(value) ? `an array of ${value.length}` : `${String(value).slice(0, 60)} of type ${typeof value}`;
    return corruptFile(this.file, `expected ${what} for ${key} but found ${found}`, { key });
  }
}
