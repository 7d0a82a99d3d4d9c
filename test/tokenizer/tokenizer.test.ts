/** Tokenizer on the tiny-stories checkpoint and on small vocabularies made here. */
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import type { Checkpoint } from '../../lib/checkpoint/types';
import { Tokenizer } from '../../lib/tokenizer';
import { FIXTURES, errorOf } from '../checkpoint/support';

let tiny: Checkpoint;
beforeAll(async () => {
  tiny = await openCheckpoint(path.join(FIXTURES, 'tiny-stories'));
});

/** tiny-stories with other parts. */
function withParts(parts: Partial<Checkpoint>): Tokenizer {
  return Tokenizer.fromCheckpoint({ ...tiny, ...parts });
}

/** Byte-level BPE over single bytes: the 256 byte tokens and what is added. */
function byteTokenizerJson(
  added: readonly { id: number; content: string; special: boolean }[],
  rest: object = {},
): Record<string, unknown> {
  const characters = Array.from({ length: 256 }, (_, byte) => ((byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad) ? byte : -1));
  let next = 0x100;
  const vocab = Object.fromEntries(characters.map((code, byte) => [String.fromCharCode(code < 0 ? next++ : code), byte]));
  return {
    added_tokens: added,
    model: { type: 'BPE', vocab, merges: [] },
    pre_tokenizer: { type: 'ByteLevel' },
    decoder: { type: 'ByteLevel' },
    ...rest,
  };
}

describe('tiny-stories', () => {
  test('round trip of any text, as one text and as a stream', () => {
    const tokenizer = Tokenizer.fromCheckpoint(tiny);
    for (const text of [
      'Once upon a time, there was a dog.',
      '',
      ' a  b\n\tc ',
      '\ufeffna\u00efve \u65e5\u672c \ud83d\ude80',
      'a</s>b<unk>',
    ]) {
      const ids = tokenizer.encode(text);
      expect(tokenizer.decode(ids)).toBe(text);
      const stream = tokenizer.createStreamDecoder({ skipSpecialTokens: false });
      expect([...ids].map((id) => stream.push(id)).join('') + stream.flush()).toBe(text);
    }
    expect(tokenizer).toMatchObject({ bosId: 1, eosIds: [2], vocabSize: 512, prefixIds: [], suffixIds: [] });
  });

  test('special tokens in a text are recognised, and left out of decoding where asked', () => {
    const tokenizer = Tokenizer.fromCheckpoint(tiny);
    const ids = tokenizer.encode('one</s>two');
    expect([...ids]).toContain(2);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('onetwo');
    expect([tokenizer.isSpecial(2), tokenizer.isSpecial(100)]).toEqual([true, false]);
  });

  test('arguments', async () => {
    const tokenizer = Tokenizer.fromCheckpoint(tiny);
    expect((await errorOf(() => tokenizer.encode(5 as never))).message).toBe('Expected string for text but received 5 of type number');
    for (const id of [-1, 1.5, NaN]) expect((await errorOf(() => tokenizer.decode([id]))).code).toBe('INVALID_ARGUMENT');
    expect(tokenizer.decode([511, 512, 1 << 20])).toBe(tokenizer.decode([511])); // models have rows beyond their vocabulary
  });
});

describe('special tokens around a text', () => {
  const template = {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
    special_tokens: { '<s>': { id: '<s>', ids: [256], tokens: ['<s>'] } },
  };
  const added = [
    { id: 256, content: '<s>', special: true },
    { id: 257, content: '</s>', special: true },
  ];
  const named = { bos_token: '<s>', eos_token: { content: '</s>' } };
  const build = (post_processor: unknown, config: object): Tokenizer =>
    withParts({ tokenizerJson: byteTokenizerJson(added, { post_processor }), tokenizerConfig: { ...named, ...config } });

  test.each([
    ['a template', template, {}, [256, 97]],
    ['add_bos_token without a template', null, { add_bos_token: true }, [256, 97]],
    ['both', template, { add_bos_token: true }, [256, 97]],
    ['a template, overruled', template, { add_bos_token: false }, [97]],
    ['add_eos_token', template, { add_eos_token: true }, [256, 97, 257]],
    ['none', null, {}, [97]],
  ])('%s', (_, post, config, expected) => {
    const tokenizer = build(post, config);
    expect([...tokenizer.encode('a')]).toEqual(expected);
    expect([...tokenizer.encode('a', { addSpecialTokens: false })]).toEqual([97]);
    expect([...tokenizer.encode('')]).toEqual(expected.filter((id) => id !== 97));
  });

  test('a BOS written in the text comes on top of the added one, as in transformers', () => {
    expect([...build(template, {}).encode('<s>a')]).toEqual([256, 256, 97]);
  });
});

describe('end tokens', () => {
  const eos = (parts: Partial<Checkpoint>): readonly number[] => withParts({ config: {}, generationConfig: {}, ...parts }).eosIds;
  test.each([
    ['a list in generation_config', { generationConfig: { eos_token_id: [7, 2, 9] } }, [7, 2, 9]],
    ['one number there and another token of the tokenizer', { generationConfig: { eos_token_id: 7 } }, [7, 2]],
    ['config.json when generation_config is silent', { config: { eos_token_id: 5 } }, [5, 2]],
    ['only the tokenizer', {}, [2]],
    ['nonsense', { generationConfig: { eos_token_id: ['x', -1, 2.5, null] } }, [2]],
  ])('%s', (_, parts, expected) => {
    expect(eos(parts)).toEqual(expected);
  });
});

describe('vocabulary and model', () => {
  test('a tokenizer with more ids than the model has rows is refused', async () => {
    const tokenizer = Tokenizer.fromCheckpoint(tiny);
    expect(() => tokenizer.checkVocabulary(512)).not.toThrow();
    const error = await errorOf(() => tokenizer.checkVocabulary(511));
    expect(error.code).toBe('CORRUPT_FILE');
    expect(error.message).toContain('token ids up to 511, but the model has ids 0 to 510');
  });

  test('an added token beyond the rows is an error only in a text that holds it', async () => {
    const tokenizer = withParts({ tokenizerJson: byteTokenizerJson([{ id: 256, content: '<image>', special: true }]) });
    tokenizer.checkVocabulary(256);
    expect([...tokenizer.encode('a')]).toEqual([97]);
    const error = await errorOf(() => tokenizer.encode('a<image>'));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain('"<image>" (256)');
  });
});

describe('tokenizers that cannot be used', () => {
  const base = byteTokenizerJson([]);
  const model = base['model'] as object;
  test.each([
    ['no tokenizer', undefined, 'UNSUPPORTED', 'has no tokenizer: add its tokenizer.json'],
    ['no model', { ...base, model: 3 }, 'CORRUPT_FILE', 'has no model'],
    ['WordPiece', { ...base, model: { type: 'WordPiece', vocab: {} } }, 'UNSUPPORTED', '"WordPiece"'],
    ['a text as id', { ...base, model: { ...model, vocab: { a: '1' } } }, 'CORRUPT_FILE', 'the token "a" has the id 1'],
    ['a negative id', { ...base, model: { ...model, vocab: { a: -1 } } }, 'CORRUPT_FILE', 'has the id -1'],
    ['a huge id', { ...base, model: { ...model, vocab: { a: 2 ** 31 } } }, 'CORRUPT_FILE', 'has the id 2147483648'],
    ['a vocabulary that is a list', { ...base, model: { type: 'BPE', vocab: [], merges: [] } }, 'CORRUPT_FILE', 'model.vocab'],
    ['a broken merge', { ...base, model: { ...model, merges: ['ab'] } }, 'CORRUPT_FILE', '"ab", which is no pair'],
    ['merges of three', { ...base, model: { ...model, merges: [['a', 'b', 'c']] } }, 'CORRUPT_FILE', 'model.merges'],
    ['an added token without content', { ...base, added_tokens: [{ id: 3 }] }, 'CORRUPT_FILE', 'without content'],
    ['another normalizer', { ...base, normalizer: { type: 'Nmt' } }, 'UNSUPPORTED', 'Nmt'],
    ['another decoder', { ...base, decoder: { type: 'WordPiece' } }, 'UNSUPPORTED', 'WordPiece'],
    [
      'a broken expression',
      { ...base, pre_tokenizer: { type: 'Split', pattern: { Regex: '[a' }, behavior: 'Isolated' } },
      'UNSUPPORTED',
      'cannot build',
    ],
  ])('%s', async (_, tokenizerJson, code, text) => {
    const error = await errorOf(() => withParts({ tokenizerJson: tokenizerJson }));
    expect(error.code).toBe(code);
    expect(error.message).toContain(text);
  });

  test('names of the object prototype are tokens like any other', () => {
    const vocab = JSON.parse('{"__proto__": 0, "constructor": 1, "a": 2}') as object;
    const tokenizer = withParts({ tokenizerJson: { model: { type: 'BPE', vocab, merges: [] }, decoder: { type: 'ByteLevel' } } });
    expect(tokenizer.tokenToId('__proto__')).toBe(0);
    expect(tokenizer.tokenToId('toString')).toBeUndefined();
  });
});
