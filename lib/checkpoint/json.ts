/**
 * checkpoint: JSON from hostile files. Parses with the platform's parser, then checks what it lets pass: wrong UTF-8, values of
 * another kind than expected and, where asked, keys that stand twice in an object (two readers may then see two different contents).
 *
 * "__proto__" is an ordinary key: JSON.parse makes it an own property, and this project reads foreign objects through
 * Object.entries, Object.hasOwn and Maps only.
 */
import { TextDecoder } from 'node:util';
import { LowbitError, describe } from '../errors';
import { corruptFile, exists, readExactly, withFile } from './files';

export type JsonObject = Record<string, unknown>;

export interface JsonRules {
  /** Refuse keys that stand twice in one object. Off for configurations, which people edit by hand: the last one counts, as in Python. */
  readonly uniqueKeys: boolean;
}

/** CORRUPT_FILE for text that is no JSON, no UTF-8, or breaks the rules. `what` names the part in errors. */
export function parseJson(bytes: Uint8Array, file: string, what: string, rules: JsonRules): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new LowbitError('CORRUPT_FILE', `${file}: ${what} is no valid UTF-8`, { file }, { cause });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.slice(0, 120) : String(cause);
    throw new LowbitError('CORRUPT_FILE', `${file}: ${what} is no valid JSON (${reason})`, { file }, { cause });
  }
  const twice = rules.uniqueKeys ? duplicateKey(text) : undefined;
  if (twice !== undefined) throw corruptFile(file, `${what} has the key "${twice.slice(0, 200)}" twice in one object`, { key: twice });
  return value;
}

/** The first key that stands twice in an object of a valid JSON text. Linear, and without a regular expression that long strings could exhaust. */
export function duplicateKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = []; // undefined for arrays
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === OPEN_BRACE) open.push(new Set());
    else if (code === OPEN_BRACKET) open.push(undefined);
    else if (code === CLOSE_BRACE || code === CLOSE_BRACKET) open.pop();
    else if (code === QUOTE) {
      const start = i++;
      let escaped = false;
      for (; text.charCodeAt(i) !== QUOTE; i++) {
        if (text.charCodeAt(i) !== BACKSLASH) continue;
        escaped = true;
        i++;
      }
      const keys = open.at(-1);
      if (keys === undefined || !isKey(text, i + 1)) continue;
      // Escapes can spell one key in two ways.
      const key = escaped ? (JSON.parse(text.slice(start, i + 1)) as string) : text.slice(start + 1, i);
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

const [OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET, QUOTE, BACKSLASH, COLON] = [0x7b, 0x7d, 0x5b, 0x5d, 0x22, 0x5c, 0x3a];

/** Whether the string that ends before `position` is followed by a colon. */
function isKey(text: string, position: number): boolean {
  for (let i = position; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code > 0x20) return code === COLON;
  }
  return false;
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Own property of a foreign object; inherited ones ("constructor") read as undefined. */
export function own(object: Readonly<JsonObject>, key: string): unknown {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

/** A JSON file that holds an object, of at most `limit` bytes. */
export async function readJsonObject(file: string, limit: number, rules: JsonRules = { uniqueKeys: false }): Promise<JsonObject> {
  const bytes = await readWhole(file, limit);
  const value = parseJson(bytes, file, 'the file', rules);
  if (!isObject(value)) throw corruptFile(file, `expected a JSON object but found ${describe(value)}`);
  return value;
}

/** As readJsonObject; undefined when there is no such file. */
export async function readOptionalJsonObject(file: string, limit: number): Promise<JsonObject | undefined> {
  return (await exists(file)) ? readJsonObject(file, limit) : undefined;
}

export async function readWhole(file: string, limit: number): Promise<Buffer> {
  return withFile(file, async (handle, size) => {
    if (size > limit) throw corruptFile(file, `has ${size} bytes, more than the ${limit} that such a file may have`);
    return readExactly(handle, file, 0, size);
  });
}
