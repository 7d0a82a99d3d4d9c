/** StreamDecoder: characters that several tokens make up, wrong bytes, and the space SentencePiece puts first. */
import { Detokenizer, StreamDecoder } from '../../lib/tokenizer/detokenizer';
import { errorOf } from '../checkpoint/support';

/** Ids 0 to 255 are bytes; further ones as given. */
const BYTE_DECODER = {
  type: 'Sequence',
  decoders: [
    { type: 'Replace', pattern: { String: '\u2581' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    { type: 'Strip', content: ' ', start: 1, stop: 0 },
  ],
};

function detokenizer(tokens: readonly string[] = [], decoder: unknown = BYTE_DECODER, added: ReadonlySet<number> = new Set()): Detokenizer {
  const token = (id: number): string | undefined => (id < 256 ? `<0x${id.toString(16).toUpperCase().padStart(2, '0')}>` : tokens[id - 256]);
  return new Detokenizer(decoder, { token, isAdded: (id) => added.has(id) }, 'tokenizer.json');
}

test.each(['\u00e9', '\u65e5\u672c', '\ud83d\ude80x', '\ud83d\udc69\u200d\ud83d\udcbb', '\ufeffbom'])(
  '%j byte by byte: only whole characters come out',
  (text) => {
    const decoder = new StreamDecoder(detokenizer(), () => false, false);
    const pieces = [...Buffer.from(text)].map((byte) => decoder.push(byte));
    expect(pieces.join('') + decoder.flush()).toBe(text);
    expect(pieces.filter((piece) => piece !== '')).toEqual(Array.from(text));
  },
);

test('bytes that make no character come as U+FFFD, and flush makes the decoder new', () => {
  const decoder = new StreamDecoder(detokenizer(), () => false, false);
  expect(decoder.push(0xe2) + decoder.push(0x41)).toBe('\ufffdA');
  expect(decoder.push(0xf0) + decoder.push(0x9f)).toBe('');
  expect(decoder.flush()).toBe('\ufffd');
  expect(decoder.flush()).toBe('');
  expect(decoder.push(0x42)).toBe('B');
});

test('the first space is dropped at the start of a text, not where it goes on', () => {
  const tokens = ['\u2581Hello', '\u2581', 'x'];
  const run = (startsText: boolean, ids: readonly number[]): string => {
    const decoder = new StreamDecoder(detokenizer(tokens), () => false, startsText);
    return ids.map((id) => decoder.push(id)).join('') + decoder.flush();
  };
  expect(run(true, [256, 256])).toBe('Hello Hello');
  expect(run(false, [256, 256])).toBe(' Hello Hello');
  expect(run(true, [257, 257, 258])).toBe(' x'); // one space only
  expect(run(true, [258, 256])).toBe('x Hello');
});

test('skipped tokens vanish, also in the middle of a character', () => {
  const decoder = new StreamDecoder(detokenizer(['<end>']), (id) => id === 256, false);
  expect([0xc3, 256, 0xa9].map((id) => decoder.push(id)).join('')).toBe('\u00e9');
});

test('byte-level tokens: mapped characters are bytes, added tokens and tokens with other characters are text', () => {
  const tokens = ['\u0120caf\u00c3\u00a9', '\u00e9', 'a b', '\u65e5'];
  const byteLevel = detokenizer(tokens, { type: 'ByteLevel' }, new Set([257]));
  const text = (id: number): string => Buffer.from(byteLevel.bytes(id)).toString();
  expect([256, 257, 258, 259].map(text)).toEqual([' caf\u00e9', '\u00e9', 'a b', '\u65e5']);
});

test('all 256 bytes have a byte-level character of their own', () => {
  const characters = Array.from({ length: 0x200 }, (_, code) => String.fromCharCode(code));
  const byteLevel = detokenizer(characters, { type: 'ByteLevel' });
  const single = characters
    .map((_, i) => byteLevel.bytes(256 + i))
    .filter((bytes, code) => bytes.length === 1 && (code > 0x20 || bytes[0] === code));
  expect(new Set(single.map((bytes) => bytes[0])).size).toBe(256);
});

test.each([
  null,
  { type: 'CTC' },
  { type: 'Strip', content: ' ', start: 0, stop: 1 },
  { type: 'Sequence' },
  { type: 'Replace', pattern: { Regex: 'x' }, content: '' },
])('the decoder %j is refused', async (decoder) => {
  expect((await errorOf(() => detokenizer([], decoder))).code).toBe('UNSUPPORTED');
});
