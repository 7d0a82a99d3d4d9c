/**
 * lib/quantize: calibration data in any of its forms -> samples of token ids.
 * Tokenises, cuts and counts. It never shuffles: the same data gives the same tokens, whose SHA-256 is in the report.
 */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { LowbitError, invalidArgument } from '../errors';
import { tokenIds } from '../options';
import { isJsonLines, samplesOf, samplesOfJsonLines, type PlacedSample, type RawSample } from './calibration_source';
import type { CalibrationMessage, CalibrationSource } from './options';

/** What this file needs of a tokenizer. */
export interface CalibrationTokenizer {
  /** Ids of a text without any special token put around it. */
  encode(text: string): ArrayLike<number>;
  /** What belongs before every text, usually BOS or nothing. */
  readonly prefix: readonly number[];
  /** Ids of a conversation through the chat template, which writes its special tokens itself. */
  encodeChat(messages: readonly CalibrationMessage[]): ArrayLike<number>;
}

export interface CalibrationSamples {
  /** Samples back to back; sample s is tokens[offsets[s] .. offsets[s + 1]). */
  readonly tokens: Int32Array;
  readonly offsets: Int32Array;
  /** 'mixed': an iterable of several forms. */
  readonly source: 'built-in' | 'text' | 'file' | 'jsonl' | 'texts' | 'tokens' | 'chats' | 'mixed';
  /** Samples left out because they were shorter than `minSampleTokens`. */
  readonly dropped: number;
  /** SHA-256 of `tokens` as little-endian 32-bit integers, in hexadecimal. */
  readonly sha256: string;
}

export interface CalibrationLimits {
  readonly samples: number;
  readonly length: number;
  readonly vocabSize: number;
}

/** Shorter samples say little about a layer's inputs; 10 is what GPTQModel drops below, too. */
export const minSampleTokens = 10;
/** Below this many tokens in all a Hessian is mostly damping and GPTQ is no better than rounding. */
export const minTotalTokens = 256;
/** A calibration file is read as one string; more would not be used anyway. */
const maxFileBytes = 256 * 2 ** 20;

/** The text that is used when none is given. It lies in lib/ beside this file's source; lib/ and dist/ lie equally deep in the package. */
const builtInFile = path.join(__dirname, '..', '..', 'lib', 'quantize', 'calibration_text.txt');
/** A source that never yields a sample of use would be read for ever. */
const maxDropped = 1_000_000;

/**
 * @param source undefined: the built-in text
 * @throws {LowbitError} INVALID_ARGUMENT when there are too few tokens (details: tokens, needed, wanted), an entry is no sample or an id is outside
 *   the vocabulary; IO and CORRUPT_FILE for a file that cannot be read, is not UTF-8 or has a line that is no sample; CANCELLED; what an
 *   iterable throws
 */
export async function calibrationSamples(
  source: CalibrationSource | undefined,
  tokenizer: CalibrationTokenizer,
  limits: CalibrationLimits,
  signal?: AbortSignal,
): Promise<CalibrationSamples> {
  if (source === undefined) return fromText(await readText(builtInFile), 'built-in', tokenizer, limits);
  if (typeof source === 'string') return fromText(source, 'text', tokenizer, limits);
  if ('file' in source) {
    if (!isJsonLines(source.file)) return fromText(await readText(source.file), 'file', tokenizer, limits);
    return fromSamples(samplesOfJsonLines(source.file, signal), 'jsonl', tokenizer, limits);
  }
  return fromSamples(samplesOf(source, signal), undefined, tokenizer, limits);
}

/** One sample each, in order, cut to `length`; stops reading with the last one that is needed. */
async function fromSamples(
  placed: AsyncIterable<PlacedSample>,
  source: 'jsonl' | undefined,
  tokenizer: CalibrationTokenizer,
  limits: CalibrationLimits,
): Promise<CalibrationSamples> {
  const samples: ArrayLike<number>[] = [];
  const kinds = new Set<RawSample['kind']>();
  let dropped = 0;
  for await (const { sample, where } of placed) {
    kinds.add(sample.kind);
    const ids = encoded(sample, where, tokenizer, limits);
    if (ids.length < minSampleTokens) dropped++;
    else samples.push(Array.prototype.slice.call(ids, 0, limits.length) as number[]);
    if (samples.length === limits.samples || dropped === maxDropped) break;
  }
  const [kind, ...others] = kinds;
  const found = others.length > 0 ? 'mixed' : kind === 'text' ? 'texts' : kind === 'chat' ? 'chats' : 'tokens';
  return pack(samples, source ?? found, dropped, limits, `${samples.length + dropped} ${found === 'mixed' ? 'samples' : found}`);
}

function encoded(sample: RawSample, where: string, tokenizer: CalibrationTokenizer, limits: CalibrationLimits): ArrayLike<number> {
  switch (sample.kind) {
    case 'text':
      return [
        ...tokenizer.prefix,
        ...(Array.prototype.slice.call(encodeStart(sample.text, tokenizer, limits.length), 0, limits.length) as number[]),
      ];
    case 'chat':
      return tokenizer.encodeChat(sample.messages);
    case 'tokens':
      return tokenIds(where, sample.tokens, limits.vocabSize);
  }
}

/**
 * Windows of `length` tokens, one after the other from the start of the text, the rest dropped. Where the tokenizer puts BOS before every
 * text, a window is BOS and length - 1 tokens: such models behave differently without it, and so would their Hessians.
 */
function fromText(
  text: string,
  source: 'built-in' | 'text' | 'file',
  tokenizer: CalibrationTokenizer,
  limits: CalibrationLimits,
): CalibrationSamples {
  const { prefix } = tokenizer;
  const step = limits.length - prefix.length;
  const ids = encodeStart(text, tokenizer, limits.samples * step);
  const samples: number[][] = [];
  for (let begin = 0; begin + step <= ids.length && samples.length < limits.samples; begin += step) {
    samples.push([...prefix, ...(Array.prototype.slice.call(ids, begin, begin + step) as number[])]);
  }
  if (samples.length === 0) throw tooFew(ids.length, Math.max(step, minTotalTokens), limits, `the calibration ${source}`);
  return pack(samples, source, 0, limits, `the calibration ${source}`);
}

/**
 * At least `wanted` ids of the text's start, or all. A long text is not tokenised to its end: a piece of it gives the same ids except
 * near its own end, and those are beyond the wanted ones.
 */
function encodeStart(text: string, tokenizer: CalibrationTokenizer, wanted: number): ArrayLike<number> {
  const margin = 256; // tokens; the longest word or whitespace run that could be split differently
  for (let length = 8 * (wanted + margin); length < text.length; length *= 2) {
    const ids = tokenizer.encode(text.slice(0, length));
    if (ids.length >= wanted + margin) return ids;
  }
  return tokenizer.encode(text);
}

function pack(
  samples: readonly ArrayLike<number>[],
  source: CalibrationSamples['source'],
  dropped: number,
  limits: CalibrationLimits,
  what: string,
): CalibrationSamples {
  const total = samples.reduce((sum, sample) => sum + sample.length, 0);
  if (total < minTotalTokens) throw tooFew(total, minTotalTokens, limits, what, dropped);
  if (total > 2 ** 31 - 1) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `Expected at most ${2 ** 31 - 1} calibration tokens but received ${total}; use fewer calibrationSamples`,
      { option: 'calibrationSamples' },
    );
  }
  const tokens = new Int32Array(total);
  const offsets = new Int32Array(samples.length + 1);
  samples.forEach((sample, s) => {
    tokens.set(sample, offsets[s]);
    offsets[s + 1] = (offsets[s] as number) + sample.length;
  });
  const outside = tokens.findIndex((id) => id < 0 || id >= limits.vocabSize);
  if (outside >= 0) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `The tokenizer yields id ${tokens[outside]}, but the model has ids 0 to ${limits.vocabSize - 1}: tokenizer and model do not belong together`,
      { option: 'calibration' },
    );
  }
  return { tokens, offsets, source, dropped, sha256: createHash('sha256').update(littleEndian(tokens)).digest('hex') };
}

function littleEndian(tokens: Int32Array): Buffer {
  const bytes = Buffer.alloc(tokens.length * 4);
  tokens.forEach((id, i) => bytes.writeInt32LE(id, i * 4));
  return bytes;
}

function tooFew(tokens: number, needed: number, limits: CalibrationLimits, what: string, dropped = 0): LowbitError {
  const wanted = limits.samples * limits.length;
  const left = dropped > 0 ? ` (${dropped} samples under ${minSampleTokens} tokens left out)` : '';
  return new LowbitError(
    'INVALID_ARGUMENT',
    `Expected at least ${needed} tokens for calibration but received ${tokens} from ${what}${left}; ${wanted} are wanted for ${limits.samples} samples of ${limits.length}. Give more data or a smaller calibrationLength`,
    { option: 'calibration', tokens, needed, wanted },
  );
}

async function readText(file: string): Promise<string> {
  let bytes: Buffer;
  try {
    const { size } = await stat(file);
    if (size > maxFileBytes) throw invalidArgument('calibration.file', `a file of at most ${maxFileBytes} bytes`, size);
    bytes = await readFile(file);
  } catch (cause) {
    if (cause instanceof LowbitError) throw cause;
    throw new LowbitError(
      'IO',
      `Cannot read the calibration file ${path.resolve(file)}: ${(cause as Error).message}`,
      { file: path.resolve(file), option: 'calibration' },
      { cause },
    );
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new LowbitError(
      'CORRUPT_FILE',
      `The calibration file ${path.resolve(file)} is not UTF-8 text`,
      { file: path.resolve(file), option: 'calibration' },
      { cause },
    );
  }
}
