/** The library is given its vocabulary as a Map behind its constructor's back: it must become what its constructor makes of the object. */
import { type HfTokenizer, createHfTokenizer } from '../../lib/tokenizer/vendor';

const vocab = { '<unk>': 3, a: 0, b: 1, ab: 2, '1': 4, __proto__x: 5 };
const json = {
  model: { type: 'BPE', vocab, merges: [['a', 'b']], unk_token: '<unk>', fuse_unk: true },
  added_tokens: [
    { id: 3, content: '<unk>', special: true },
    { id: 4, content: '<renamed>', special: false }, // an id that the vocabulary gives to another text
    { id: 9, content: '<beyond>', special: true },
  ],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
};

function made(vocabulary: unknown): HfTokenizer {
  return createHfTokenizer({ ...json, model: { ...json.model, vocab: vocabulary } }, {});
}

test.each(['ab', 'aab<beyond>b', '1', 'zz?a', '<renamed>', '<unk>', ''])('%j has the ids of the library', (text) => {
  const [map, object] = [made(new Map(Object.entries(vocab))), made(vocab)];
  expect(map.encode(text, { add_special_tokens: false }).ids).toEqual(object.encode(text, { add_special_tokens: false }).ids);
});

test('tokens and ids are those of the library', () => {
  const [map, object] = [made(new Map(Object.entries(vocab))), made(vocab)];
  for (let id = 0; id < 12; id++) expect([id, map.id_to_token(id)]).toEqual([id, object.id_to_token(id)]);
  for (const token of [...Object.keys(vocab), '<renamed>', '<beyond>', 'absent']) {
    expect([token, map.token_to_id(token)]).toEqual([token, object.token_to_id(token)]);
  }
});

test('the Map of the caller stays as it is', () => {
  const ids = new Map(Object.entries(vocab));
  made(ids);
  expect(ids).toEqual(new Map(Object.entries(vocab)));
});
