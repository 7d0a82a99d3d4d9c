/** Headers of safetensors files: right ones, and every way to be wrong that the format knows. */
import fs from 'node:fs';
import path from 'node:path';
import { DTYPES, tensorBytes } from '../../lib/checkpoint/dtype';
import { duplicateKey } from '../../lib/checkpoint/json';
import { parseSafetensorsHeader, readSafetensorsHeader } from '../../lib/checkpoint/safetensors';
import { FIXTURES, errorOf, safetensorsFile, temporaryDirectory } from './support';

const directory = temporaryDirectory();

const f32 = (shape: readonly unknown[], begin: number, end: number): object => ({ dtype: 'F32', shape, data_offsets: [begin, end] });

function parse(header: unknown, dataBytes: number): ReturnType<typeof parseSafetensorsHeader> {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  return parseSafetensorsHeader(json, 8 + json.length + dataBytes, 'x.safetensors');
}

test('a header', () => {
  const { tensors, metadata } = parse(
    { __metadata__: { format: 'pt' }, b: f32([2, 3], 4, 28), a: f32([], 0, 4), empty: f32([0, 5], 4, 4) },
    28,
  );
  const start = tensors[1]?.offset as number;
  expect(tensors).toEqual([
    { name: 'b', file: 0, dtype: 'F32', shape: [2, 3], offset: start + 4, bytes: 24 },
    { name: 'a', file: 0, dtype: 'F32', shape: [], offset: start, bytes: 4 },
    { name: 'empty', file: 0, dtype: 'F32', shape: [0, 5], offset: start + 4, bytes: 0 },
  ]);
  expect(metadata.get('format')).toBe('pt');
});

test('padding with spaces, and a file without tensors', () => {
  expect(parse('{}      ', 0).tensors).toEqual([]);
});

test('a real file', async () => {
  const { tensors } = await readSafetensorsHeader(path.join(FIXTURES, 'tiny-stories', 'model.safetensors'));
  expect(tensors.reduce((sum, { bytes }) => sum + bytes, 0)).toBeGreaterThan(1_600_000);
});

test.each<[string, unknown, number, string]>([
  ['an overlap', { a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12, '"b" overlaps'],
  ['a hole', { a: f32([2], 0, 8), b: f32([2], 12, 20) }, 20, '"b" leaves a hole of 4 bytes'],
  ['a hole at the start', { a: f32([2], 4, 12) }, 12, 'hole of 4 bytes'],
  ['the same bytes twice', { a: f32([2], 0, 8), b: f32([2], 0, 8) }, 8, 'overlaps'],
  ['bytes left over', { a: f32([2], 0, 8) }, 9, 'end at byte'],
  ['a truncated file', { a: f32([2], 0, 8) }, 7, 'it is truncated'],
  ['offsets beyond the file', { a: f32([2], 2 ** 50, 2 ** 50 + 8) }, 8, 'truncated'],
  ['an end before the begin', { a: f32([2], 8, 0) }, 8, 'data_offsets [8, 0]'],
  ['negative offsets', { a: f32([2], -8, 0) }, 8, 'data_offsets [-8, 0]'],
  ['offsets that are fractions', { a: f32([2], 0.5, 8.5) }, 8, 'data_offsets [0.5, 8.5]'],
  ['offsets that are texts', { a: { dtype: 'F32', shape: [2], data_offsets: ['0', '8'] } }, 8, 'data_offsets'],
  ['three offsets', { a: { dtype: 'F32', shape: [2], data_offsets: [0, 4, 8] } }, 8, 'no data_offsets'],
  ['no offsets', { a: { dtype: 'F32', shape: [2] } }, 8, 'no data_offsets'],
  ['too few bytes for the shape', { a: f32([3], 0, 8) }, 8, 'has 8 bytes, but F32 [3] takes 12'],
  ['an unknown dtype', { a: { dtype: 'Q9', shape: [2], data_offsets: [0, 8] } }, 8, 'unknown dtype "Q9"'],
  ['a GGUF dtype', { a: { dtype: 'Q4_0', shape: [32], data_offsets: [0, 18] } }, 18, 'unknown dtype "Q4_0"'],
  ['no dtype', { a: { shape: [2], data_offsets: [0, 8] } }, 8, 'no dtype'],
  ['a dtype of the prototype', { a: { dtype: 'constructor', shape: [2], data_offsets: [0, 8] } }, 8, 'unknown dtype'],
  ['a negative dimension', { a: f32([-2], 0, 8) }, 8, 'dimension -2'],
  ['a fractional dimension', { a: f32([0.5], 0, 8) }, 8, 'dimension 0.5'],
  ['a null dimension', { a: f32([null], 0, 8) }, 8, 'dimension null'],
  ['a product that overflows', { a: f32([2 ** 31, 2 ** 31], 0, 8) }, 8, 'size overflows'],
  ['an overflow hidden by a zero', { a: f32([2 ** 52, 2 ** 52, 0], 0, 0) }, 0, 'size overflows'],
  ['too many dimensions', { a: f32(Array<number>(9).fill(1), 0, 4) }, 4, 'more than 8'],
  ['a shape that is no list', { a: { dtype: 'F32', shape: 2, data_offsets: [0, 8] } }, 8, 'no shape'],
  ['a tensor that is no object', { a: [1] }, 0, 'no JSON object'],
  ['metadata that is no text', { __metadata__: { a: 1 } }, 0, 'no string for "a"'],
  ['metadata that is a list', { __metadata__: [] }, 0, 'no JSON object'],
  ['a list as header', '[]', 0, 'does not start with "{"'],
  ['an empty header', '', 0, 'does not start with "{"'],
  ['broken JSON', '{"a"', 0, 'no valid JSON'],
  ['a name twice', `{"a":${JSON.stringify(f32([2], 0, 8))},"a":${JSON.stringify(f32([2], 0, 8))}}`, 8, 'key "a" twice'],
  [
    'a name twice, once with an escape',
    `{"a":${JSON.stringify(f32([2], 0, 8))},"\\u0061":${JSON.stringify(f32([2], 0, 8))}}`,
    8,
    'key "a" twice',
  ],
  ['a key twice inside', '{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, 'key "dtype" twice'],
])('%s', async (_, header, dataBytes, text) => {
  const error = await errorOf(() => parse(header, dataBytes));
  expect(error.code).toBe('CORRUPT_FILE');
  expect(error.message).toContain(text);
  expect(error.message).toContain('x.safetensors');
});

test('an element type of the format that the engine has not is UNSUPPORTED', async () => {
  const error = await errorOf(() => parse({ a: { dtype: 'F8_E4M3', shape: [4], data_offsets: [0, 4] } }, 4));
  expect(error.code).toBe('UNSUPPORTED');
  expect(error.message).toContain('"a" holds F8_E4M3 elements');
});

test('wrong UTF-8', async () => {
  const error = await errorOf(() => parseSafetensorsHeader(Buffer.from([0x7b, 0xff, 0x7d]), 11, 'x'));
  expect(error.message).toContain('no valid UTF-8');
});

test('names of the object prototype are names like any other', () => {
  const { tensors } = parse(`{"__proto__":${JSON.stringify(f32([1], 0, 4))},"constructor":${JSON.stringify(f32([1], 4, 8))}}`, 8);
  expect(tensors.map(({ name }) => name)).toEqual(['__proto__', 'constructor']);
  expect(({} as Record<string, unknown>)['dtype']).toBeUndefined();
});

test.each<[string, Buffer, string]>([
  ['an empty file', Buffer.alloc(0), 'has 0 bytes'],
  ['half a length', Buffer.alloc(5), 'has 5 bytes'],
  ['a header of 2^60 bytes', safetensorsFile('{}', Buffer.alloc(0), 2n ** 60n), `header of ${2n ** 60n} bytes`],
  ['a header of 2^64 - 1 bytes', safetensorsFile('{}', Buffer.alloc(0), 2n ** 64n - 1n), 'more than the 100000000'],
  ['a header longer than the file', safetensorsFile('{}', Buffer.alloc(0), 3n), 'has only 2 after the length'],
  ['another format', Buffer.from('PK\x03\x04 some zip file'), 'no safetensors file'],
])('%s', async (name, bytes, text) => {
  const file = path.join(directory, `${name.replace(/\W/g, '')}.safetensors`);
  fs.writeFileSync(file, bytes);
  const error = await errorOf(() => readSafetensorsHeader(file));
  expect(error.code).toBe('CORRUPT_FILE');
  expect(error.message).toContain(text);
  expect(error.message).toContain(file);
});

test('deep nesting and long strings are no problem for the search of duplicate keys', () => {
  expect(duplicateKey('['.repeat(1e5) + ']'.repeat(1e5))).toBeUndefined();
  expect(duplicateKey(`{"a":"${'x\\"'.repeat(1e6)}","b":[{"a":1},{"a":2}],"c":{"b":1}}`)).toBeUndefined();
  expect(duplicateKey('{"a":[{"b":1,"c":{"x":1} , "b" : 2}]}')).toBe('b');
  expect(duplicateKey('{"a":"a","b":"a"}')).toBeUndefined();
});

test('element types are those of the engine', () => {
  const list = fs.readFileSync(path.join(__dirname, '..', '..', 'cpp', 'base', 'dtype.def'), 'utf8');
  const engine = [...list.matchAll(/^LOWBIT_DTYPE\((\w+), (\d+), (\d+)\)/gm)].map(([, name, values, bytes]) => [
    name,
    { values: Number(values), bytes: Number(bytes) },
  ]);
  expect(engine.length).toBeGreaterThan(10);
  expect([...DTYPES]).toEqual(engine);
});

test('blocks run along the last dimension', async () => {
  const q4 = { values: 32, bytes: 18 };
  expect(tensorBytes(q4, [3, 64], 'x')).toBe(3 * 2 * 18);
  expect((await errorOf(() => tensorBytes(q4, [64, 3], 'x'))).message).toContain('rows of 3 values');
  expect((await errorOf(() => tensorBytes(q4, [], 'x'))).message).toContain('rows of 1 values');
});
