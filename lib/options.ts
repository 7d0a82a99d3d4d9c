/**
 * Checks options objects: every public function states what it accepts as a table of rules, and everything else is an
 * INVALID_ARGUMENT error in the project's wording. Unknown names are errors too, so that a typing mistake never runs
 * silently with a default. Meaning that depends on more than one option is checked by the caller.
 */
import { LowbitError, invalidArgument } from './errors';

/** Accepts a value or throws; returns the value the caller works with. */
export interface Rule<T> {
  (option: string, value: unknown): T;
}

/** Option name -> rule. */
export type OptionSpec = Readonly<Record<string, Rule<unknown>>>;

/** What checkOptions returns for a spec: every option may be absent. */
export type Checked<S extends OptionSpec> = { [K in keyof S]?: S[K] extends Rule<infer T> ? T : never };

/**
 * Checks `value` against `spec` and returns a new object with the options that are present. `undefined` counts as absent,
 * `null` does not.
 *
 * @param name the function the options belong to, for messages: "loadModel"
 * @throws {LowbitError} INVALID_ARGUMENT for a value that is no object, an unknown name (with the nearest known one) or a bad value
 */
export function checkOptions<S extends OptionSpec>(name: string, value: unknown, spec: S): Checked<S> {
  if (value === undefined) return {};
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalidArgument(`the options of ${name}`, 'object', value);
  const known = Object.keys(spec);
  for (const key of Object.keys(value)) if (!known.includes(key)) throw unknownOption(name, key, known);
  const checked: Record<string, unknown> = {};
  for (const key of known) {
    const given = (value as Record<string, unknown>)[key];
    if (given !== undefined) checked[key] = (spec[key] as Rule<unknown>)(key, given);
  }
  return checked as Checked<S>;
}

function unknownOption(name: string, key: string, known: readonly string[]): LowbitError {
  const near = nearest(key, known);
  const hint = near === undefined ? '' : ` Did you mean "${near}"?`;
  return new LowbitError('INVALID_ARGUMENT', `Unknown option "${key}" for ${name}.${hint} Known options: ${known.join(', ')}`, {
    option: key,
    known,
  });
}

/** The known name that differs least in letters, if it is close enough to be a typing mistake. */
function nearest(key: string, known: readonly string[]): string | undefined {
  const plain = (name: string): string => name.toLowerCase().replace(/[-_]/g, '');
  let best: string | undefined;
  let bestDistance = 3; // two letters wrong is still a typing mistake, three is another word
  for (const name of known) {
    const distance = editDistance(plain(key).slice(0, 64), plain(name));
    if (distance < bestDistance) [best, bestDistance] = [name, distance];
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replace = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replace, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[b.length] as number;
}

/** Largest value of options that the engine holds in 32 bits. */
export const maxInt32 = 2 ** 31 - 1;

export function integer(min: number, max: number): Rule<number> {
  return (option, value) => {
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
    throw invalidArgument(option, `integer between ${min} and ${max}`, value);
  };
}

/** A finite number in [min, max]. */
export function number(min: number, max: number): Rule<number> {
  return (option, value) => {
    if (typeof value === 'number' && value >= min && value <= max) return value;
    throw invalidArgument(option, `number between ${min} and ${max}`, value);
  };
}

export const string: Rule<string> = (option, value) => {
  if (typeof value === 'string') return value;
  throw invalidArgument(option, 'string', value);
};

export const boolean: Rule<boolean> = (option, value) => {
  if (typeof value === 'boolean') return value;
  throw invalidArgument(option, 'boolean', value);
};

/** One of a few words. */
export function oneOf<const T extends string>(...words: readonly T[]): Rule<T> {
  return (option, value) => {
    if (words.includes(value as T)) return value as T;
    throw invalidArgument(option, `one of ${words.map((word) => `"${word}"`).join(', ')}`, value);
  };
}

/** One of a few numbers. */
export function oneOfNumbers<const T extends number>(...numbers: readonly T[]): Rule<T> {
  return (option, value) => {
    if (numbers.includes(value as T)) return value as T;
    throw invalidArgument(option, `one of ${numbers.join(', ')}`, value);
  };
}

/** A callback; its own arguments are typed by the caller. */
export function callback<T extends (...args: never[]) => unknown>(): Rule<T> {
  return (option, value) => {
    if (typeof value === 'function') return value as T;
    throw invalidArgument(option, 'function', value);
  };
}

/** Any object with the AbortSignal interface, so that signals of another realm or a polyfill work. */
export const abortSignal: Rule<AbortSignal> = (option, value) => {
  const signal = value as AbortSignal | null;
  if (typeof signal === 'object' && signal !== null && typeof signal.aborted === 'boolean' && typeof signal.addEventListener === 'function')
    return signal;
  throw invalidArgument(option, 'AbortSignal', value);
};

/** An options object inside another one; unknown names are errors there, too. */
export function nested<S extends OptionSpec>(spec: S): Rule<Checked<S>> {
  return (option, value) => {
    if (typeof value !== 'object' || value === null) throw invalidArgument(option, 'object', value);
    return checkOptions(option, value, spec);
  };
}

/** A file system path: a non-empty string without a NUL byte. */
export const pathString: Rule<string> = (option, value) => {
  if (typeof value === 'string' && value.length > 0 && !value.includes('\0')) return value;
  throw invalidArgument(option, 'non-empty path', value);
};

/** true, false, or a file system path. */
export const booleanOrPath: Rule<boolean | string> = (option, value) => {
  if (typeof value === 'boolean' || (typeof value === 'string' && value.length > 0 && !value.includes('\0'))) return value;
  throw invalidArgument(option, 'boolean or non-empty path', value);
};

/** Stop strings: one non-empty string or an array of up to 64. */
export const stopStrings: Rule<readonly string[]> = (option, value) => {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  if (list.length > 64) throw invalidArgument(option, 'at most 64 strings', value);
  for (const item of list)
    if (typeof item !== 'string' || item.length === 0)
      throw invalidArgument(option, 'non-empty string or array of non-empty strings', item);
  return list as string[];
};

/**
 * Token ids as Int32Array. Accepts an Int32Array (not copied) or an array of integers in [0, vocabSize).
 *
 * @throws {LowbitError} INVALID_ARGUMENT naming the first bad id
 */
export function tokenIds(option: string, value: unknown, vocabSize: number): Int32Array {
  if (!(value instanceof Int32Array) && !Array.isArray(value)) throw invalidArgument(option, 'Int32Array or array of token ids', value);
  for (let i = 0; i < value.length; i++) {
    const id: unknown = value[i];
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw invalidArgument(`${option}[${i}]`, `token id between 0 and ${vocabSize - 1}`, id);
    }
  }
  return value instanceof Int32Array ? value : Int32Array.from(value as number[]);
}
