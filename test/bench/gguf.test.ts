/** Headers of the synthetic models, read back by the project's own reader. */
import { parseGgufHeader } from '../../lib/checkpoint/gguf_header';
import { pure } from './load';

const { byteVocabulary, ggufHeader } = pure('gguf');

test('what is written is what is read: every kind of value, shapes, offsets and size', () => {
  const tensors = [
    { name: 'a.weight', dtype: 'F16', shape: [3, 5] },
    { name: 'b.weight', dtype: 'F32', shape: [7] },
  ];
  const metadata = {
    'general.architecture': { string: 'llama' },
    'x.count': { u32: 4 },
    'x.scale': { f32: 0.5 },
    'x.on': { bool: true },
    'x.words': { strings: ['one', 'zwö'] },
    'x.types': { i32s: [1, 3] },
  };
  const { header, offsets, size } = ggufHeader(metadata, tensors);
  const read = parseGgufHeader(header, size, size, 'model.gguf');
  if (read instanceof Error) throw read;
  expect(Object.fromEntries(read.metadata)).toEqual({
    'general.architecture': 'llama',
    'x.count': 4,
    'x.scale': 0.5,
    'x.on': true,
    'x.words': ['one', 'zwö'],
    'x.types': [1, 3],
  });
  expect(read.tensors.map(({ name, dtype, shape, offset, bytes }) => ({ name, dtype, shape, offset, bytes }))).toEqual([
    { ...tensors[0], offset: offsets[0], bytes: 30 },
    { ...tensors[1], offset: offsets[1], bytes: 28 },
  ]);
});

test('the vocabulary has distinct tokens, all bytes, and a merge of known tokens', () => {
  const { tokens, types, merges, end } = byteVocabulary(1024);
  expect(new Set(tokens).size).toBe(1024);
  expect(types).toHaveLength(1024);
  expect(tokens.slice(0, 256).every((token: string) => token.length === 1)).toBe(true);
  expect(tokens[65]).toBe('A');
  expect(tokens[32]).toBe('\u0120');
  expect(tokens).toContain(merges[0].replace(' ', ''));
  expect(types[end]).toBe(3);
});
