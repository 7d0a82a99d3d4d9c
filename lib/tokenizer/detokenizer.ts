/**
 * tokenizer: token ids to bytes to text, whole or as a stream. Each token stands for fixed bytes, whatever its neighbours, except that
 * SentencePiece drops one space at the very start; so a text can be decoded piece by piece without looking back.
 */
import { TextDecoder } from 'node:util';
import { LowbitError, invalidArgument } from '../errors';

type Json = Readonly<Record<string, unknown>>;

const NO_BYTES: Uint8Array = new Uint8Array(0);
const SPACE = 0x20;

/** What the detokenizer needs of a vocabulary. */
export interface TokenSource {
  /** Undefined for ids that have no token. */
  token(id: number): string | undefined;
  isAdded(id: number): boolean;
}

export class Detokenizer {
  private readonly cache: (Uint8Array | undefined)[] = [];
  private readonly replacements: (readonly [string, string])[] = [];
  private byteLevel = false;
  private byteFallback = false;
  /** Whether one space at the start of a text is dropped. */
  stripsLeadingSpace = false;

  /**
   * @param decoder the decoder of tokenizer.json: ByteLevel, Metaspace, or a Sequence of Replace, ByteFallback, Fuse and Strip
   * @throws {LowbitError} UNSUPPORTED for others
   */
  constructor(
    decoder: unknown,
    private readonly source: TokenSource,
    private readonly file: string,
  ) {
    this.readDecoder(decoder);
  }

  /** The bytes of a token; none for ids without a token (models have rows for more ids than their vocabulary). */
  bytes(id: number): Uint8Array {
    if (!Number.isInteger(id) || id < 0) throw invalidArgument('id', 'token id', id);
    return (this.cache[id] ??= this.compute(id));
  }

  private compute(id: number): Uint8Array {
    const token = this.source.token(id);
    if (token === undefined) return NO_BYTES;
    if (this.byteLevel) return (this.source.isAdded(id) ? undefined : byteLevelBytes(token)) ?? Buffer.from(token, 'utf8');
    if (this.byteFallback && /^<0x[0-9A-Fa-f]{2}>$/.test(token)) return Uint8Array.of(Number.parseInt(token.slice(3, 5), 16));
    return Buffer.from(
      this.replacements.reduce((text, [from, to]) => text.replaceAll(from, to), token),
      'utf8',
    );
  }

  private readDecoder(decoder: unknown): void {
    const part = (typeof decoder === 'object' && decoder !== null ? decoder : {}) as Json;
    switch (part['type']) {
      case 'ByteLevel':
        this.byteLevel = true;
        return;
      case 'Metaspace':
        this.replacements.push([typeof part['replacement'] === 'string' ? part['replacement'] : '\u2581', ' ']);
        this.stripsLeadingSpace = part['prepend_scheme'] !== 'never' && part['add_prefix_space'] !== false;
        return;
      case 'ByteFallback':
        this.byteFallback = true;
        return;
      case 'Fuse':
        return;
      case 'Strip':
        if (part['content'] !== ' ' || part['start'] !== 1 || part['stop'] !== 0) break;
        this.stripsLeadingSpace = true;
        return;
      case 'Replace': {
        const pattern = (part['pattern'] ?? {}) as Json;
        if (typeof pattern['String'] !== 'string' || pattern['String'] === '' || typeof part['content'] !== 'string') break;
        this.replacements.push([pattern['String'], part['content']]);
        return;
      }
      case 'Sequence':
        if (!Array.isArray(part['decoders'])) break;
        for (const inner of part['decoders'] as unknown[]) this.readDecoder(inner);
        return;
    }
    throw new LowbitError(
      'UNSUPPORTED',
      `${this.file} needs the decoder ${JSON.stringify(decoder).slice(0, 200)}, which this version does not support`,
      { file: this.file },
    );
  }
}

export interface StreamDecoderOptions {
  /** Leave out special tokens such as the end of a turn. Default true. */
  readonly skipSpecialTokens?: boolean | undefined;
  /** The ids begin a text instead of continuing one, so that the space SentencePiece puts before the first word is dropped. Default false. */
  readonly startsText?: boolean | undefined;
}

/**
 * Token ids to text as they come. A piece never ends inside a character: bytes wait until the character is whole.
 *
 * @example
 * const decoder = tokenizer.createStreamDecoder();
 * for (const id of ids) process.stdout.write(decoder.push(id));
 * process.stdout.write(decoder.flush());
 */
export class StreamDecoder {
  private utf8 = newDecoder();
  private atStart: boolean;

  /** Made by Tokenizer.createStreamDecoder(). */
  constructor(
    private readonly detokenizer: Detokenizer,
    private readonly skip: (id: number) => boolean,
    private readonly startsText: boolean,
  ) {
    this.atStart = startsText && detokenizer.stripsLeadingSpace;
  }

  /** The text that this token completes, "" when it ends inside a character. */
  push(id: number): string {
    let bytes = this.detokenizer.bytes(id);
    if (bytes.length === 0 || this.skip(id)) return '';
    if (this.atStart && bytes[0] === SPACE) bytes = bytes.subarray(1);
    this.atStart = false;
    return this.utf8.decode(bytes, { stream: true });
  }

  /** The end of the text: bytes that make no whole character come as U+FFFD. The decoder can then be used for another text. */
  flush(): string {
    const rest = this.utf8.decode();
    this.utf8 = newDecoder();
    this.atStart = this.startsText && this.detokenizer.stripsLeadingSpace;
    return rest;
  }
}

/** A byte order mark is text like any other. */
function newDecoder(): TextDecoder {
  return new TextDecoder('utf-8', { ignoreBOM: true });
}

/** GPT-2's map of bytes to printable characters, inverted: 188 bytes stand for themselves, the others follow from U+0100 on. */
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(String.fromCharCode(printable ? byte : next++), byte);
  }
  return map;
})();

/** Undefined when the token has a character outside the map: it is then text as it stands. */
function byteLevelBytes(token: string): Uint8Array | undefined {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = BYTE_OF_CHARACTER.get(token[i] as string);
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}
