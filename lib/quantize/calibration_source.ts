/**
 * lib/quantize: where calibration samples come from: lines of a JSONL file, or anything that can be iterated. One at a time and no more than are
 * asked for, closed whatever happens. This file knows no tokenizer.
 */
import { createReadStream } from 'node:fs';
import path from 'node:path';
import { LowbitError } from '../errors';
import { throwIfAborted } from '../native';
import type { CalibrationMessage } from './options';

/** A sample before it is tokenised. */
export type RawSample =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tokens'; readonly tokens: unknown }
  | { readonly kind: 'chat'; readonly messages: readonly CalibrationMessage[] };

export interface PlacedSample {
  readonly sample: RawSample;
  /** "calibration[3]", or file and line. */
  readonly where: string;
}

/** A line of JSON longer than this is no sample; 16 MiB is some 4 million tokens. */
const maxLineBytes = 16 * 2 ** 20;
/** After so many samples other tasks of the event loop get their turn: a source of a million short texts must not block an abort. */
const turn = 64;

export const isJsonLines = (file: string): boolean => /\.(jsonl|ndjson)$/i.test(file);

/** What a sample can be, in words. */
export const sampleForms = 'a text, token ids, messages, or an object with text, messages, prompt and completion, or tokens';

/** Undefined for what is no sample. Further keys of an object are left alone, but it must say what it is in one way only. */
export function rawSample(value: unknown): RawSample | undefined {
  if (typeof value === 'string') return { kind: 'text', text: value };
  if (isTokens(value)) return { kind: 'tokens', tokens: value };
  if (isChat(value)) return { kind: 'chat', messages: value };
  if (typeof value !== 'object' || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) return undefined;
  const { text, messages, prompt, completion, tokens } = value as Readonly<Record<string, unknown>>;
  if ([text, messages, prompt, tokens].filter((form) => form !== undefined).length !== 1) return undefined;
  if (typeof text === 'string') return { kind: 'text', text };
  if (isTokens(tokens)) return { kind: 'tokens', tokens };
  if (isChat(messages)) return { kind: 'chat', messages };
  if (typeof prompt === 'string' && typeof completion === 'string') return { kind: 'text', text: prompt + completion };
  if (isChat(prompt) && isChat(completion)) return { kind: 'chat', messages: [...prompt, ...completion] };
  return undefined;
}

function isTokens(value: unknown): boolean {
  return value instanceof Int32Array || (Array.isArray(value) && value.every((token) => typeof token === 'number'));
}

function isChat(value: unknown): value is readonly CalibrationMessage[] {
  const isMessage = (message: unknown): boolean => {
    const { role, content } = (message ?? {}) as Partial<CalibrationMessage>;
    return typeof role === 'string' && typeof content === 'string';
  };
  return Array.isArray(value) && value.length > 0 && value.every(isMessage);
}

/** The samples of an iterable. @throws {LowbitError} INVALID_ARGUMENT for an entry that is no sample; CANCELLED; what the iterable throws */
export async function* samplesOf(source: Iterable<unknown> | AsyncIterable<unknown>, signal?: AbortSignal): AsyncGenerator<PlacedSample> {
  let index = 0;
  for await (const value of taken(source, signal)) {
    const where = `calibration[${index++}]`;
    const sample = rawSample(value);
    if (sample === undefined) throw new LowbitError('INVALID_ARGUMENT', `Expected ${sampleForms} for ${where}`, { option: 'calibration' });
    yield { sample, where };
  }
}

/** The samples of a JSONL file: one JSON value per line, empty lines left out. @throws {LowbitError} CORRUPT_FILE naming file and line; IO; CANCELLED */
export async function* samplesOfJsonLines(file: string, signal?: AbortSignal): AsyncGenerator<PlacedSample> {
  const name = path.resolve(file);
  for await (const { text, line } of taken(lines(name), signal)) {
    if (text.trim() === '') continue;
    const where = `${name}, line ${line}`;
    const corrupt = (reason: string, cause?: unknown): LowbitError =>
      new LowbitError('CORRUPT_FILE', `${where}: ${reason}`, { file: name, line, option: 'calibration' }, { cause });
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      throw corrupt(`not JSON: ${(cause as Error).message}`, cause);
    }
    const sample = rawSample(value);
    if (sample === undefined) throw corrupt(`expected ${sampleForms}`);
    yield { sample, where };
  }
}

/** Lines of a UTF-8 file with their numbers from 1, without line ends and byte order mark. */
async function* lines(name: string): AsyncGenerator<{ readonly text: string; readonly line: number }> {
  const decode = (bytes: Buffer, line: number): { text: string; line: number } => {
    try {
      return { text: new TextDecoder('utf-8', { fatal: true }).decode(bytes), line };
    } catch (cause) {
      throw new LowbitError('CORRUPT_FILE', `${name}, line ${line}: not UTF-8`, { file: name, line, option: 'calibration' }, { cause });
    }
  };
  const stream = createReadStream(name);
  let line = 1;
  let parts: Buffer[] = [];
  let held = 0;
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      let begin = 0;
      for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, begin)) {
        yield decode(Buffer.concat([...parts, chunk.subarray(begin, end)]), line++);
        [parts, held, begin] = [[], 0, end + 1];
      }
      if (begin < chunk.length) parts.push(chunk.subarray(begin));
      held += chunk.length - begin;
      if (held > maxLineBytes) {
        const message = `${name}, line ${line}: longer than ${maxLineBytes} bytes; expected one JSON value per line`;
        throw new LowbitError('CORRUPT_FILE', message, { file: name, line, option: 'calibration' });
      }
    }
  } catch (cause) {
    if (cause instanceof LowbitError) throw cause;
    throw new LowbitError(
      'IO',
      `Cannot read the calibration file ${name}: ${(cause as Error).message}`,
      { file: name, option: 'calibration' },
      { cause },
    );
  } finally {
    stream.destroy();
  }
  if (held > 0) yield decode(Buffer.concat(parts), line);
}

/**
 * The values of an iterable, the next one only when it is asked for. An abort is heard while the source makes its reader wait; the source is closed
 * (return) when its reader stops, on abort and on errors of others, but not after it ended or failed by itself.
 */
async function* taken<T>(source: Iterable<T> | AsyncIterable<T>, signal: AbortSignal | undefined): AsyncGenerator<T> {
  const iterator: Iterator<T> | AsyncIterator<T> =
    Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  let open = true;
  let waiting = false;
  try {
    for (let count = 1; ; count++) {
      if (count % turn === 0) await new Promise((resolve) => setImmediate(resolve));
      throwIfAborted(signal);
      waiting = true;
      const next = await unlessAborted(
        (async () => {
          try {
            return await iterator.next();
          } catch (reason) {
            open = false;
            throw reason;
          }
        })(),
        signal,
      );
      waiting = false;
      if (next.done === true) {
        open = false;
        return;
      }
      yield next.value;
    }
  } finally {
    if (open) {
      const closed = Promise.resolve(iterator.return?.()).catch(() => undefined); // why it could not be closed is nobody's concern any more
      // A source that is in the middle of something closes when it is through with that; an abort does not wait for it.
      if (!waiting) await closed;
    }
  }
}

async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  let onAbort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new LowbitError('CANCELLED', 'The operation was aborted', {}, { cause: signal.reason }));
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    work.catch(() => undefined); // after an abort nobody waits for it
  }
}
