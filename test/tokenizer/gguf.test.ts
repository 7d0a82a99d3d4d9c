/** Tokenizers rebuilt from GGUF metadata: SentencePiece against SentencePiece itself, byte-level BPE against the source it came from. */
import fs from 'node:fs';
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import { Tokenizer } from '../../lib/tokenizer';
import { FIXTURES, type GgufKey, errorOf, ggufFile, temporaryDirectory, tinyGguf } from '../checkpoint/support';

const directory = temporaryDirectory();
let files = 0;

async function fromKeys(tokenizer: readonly GgufKey[], architecture = 'llama'): Promise<Tokenizer> {
  const file = path.join(directory, `${files++}.gguf`);
  fs.writeFileSync(file, ggufFile(tinyGguf({ architecture, tokenizer })));
  return Tokenizer.fromCheckpoint(await openCheckpoint(file));
}

interface SentencePiece {
  readonly pieces: readonly string[];
  readonly scores: readonly number[];
  readonly types: readonly number[];
  readonly cases: readonly { readonly text: string; readonly ids: readonly number[] }[];
}
const spm = JSON.parse(fs.readFileSync(path.join(FIXTURES, 'tokenizer', 'spm.json'), 'utf8')) as SentencePiece;
const spmKeys: readonly GgufKey[] = [
  ['tokenizer.ggml.model', 'string', 'llama'],
  ['tokenizer.ggml.tokens', 'strings', spm.pieces],
  ['tokenizer.ggml.scores', 'f32s', spm.scores],
  ['tokenizer.ggml.token_type', 'i32s', spm.types],
  ['tokenizer.ggml.bos_token_id', 'u32', 1],
  ['tokenizer.ggml.eos_token_id', 'u32', 2],
];

describe('SentencePiece', () => {
  test('ids are those of SentencePiece, and text comes back', async () => {
    const tokenizer = await fromKeys(spmKeys);
    for (const { text, ids } of spm.cases) {
      expect([text, ...tokenizer.encode(text, { addSpecialTokens: false })]).toEqual([text, ...ids]);
      expect(tokenizer.decode(ids)).toBe(text);
    }
  });

  test('a long text in one piece gives the same as in lines', async () => {
    const tokenizer = await fromKeys([...spmKeys, ['tokenizer.ggml.add_space_prefix', 'bool', false]]);
    const text = fs.readFileSync(path.join(FIXTURES, 'tiny-stories', 'text.txt'), 'utf8');
    const encode = (part: string): number[] => [...tokenizer.encode(part, { addSpecialTokens: false })];
    // No piece of this vocabulary holds a newline, so merging never crosses a line.
    expect(encode(text)).toEqual(text.split(/(?<=\n)/).flatMap(encode));
  });

  test('BOS is added unless the file says otherwise', async () => {
    expect((await fromKeys(spmKeys)).prefixIds).toEqual([1]);
    expect((await fromKeys([...spmKeys, ['tokenizer.ggml.add_bos_token', 'bool', false]])).prefixIds).toEqual([]);
    expect((await fromKeys([...spmKeys, ['tokenizer.ggml.add_eos_token', 'bool', true]])).suffixIds).toEqual([2]);
  });

  test('control tokens are special, user-defined ones are text, and both are found whole', async () => {
    const tokenizer = await fromKeys(spmKeys);
    const [end, user] = [spm.pieces.indexOf('<|end|>'), spm.pieces.indexOf('<|user|>')];
    expect([...tokenizer.encode('<|user|><|end|>', { addSpecialTokens: false })]).toEqual([user, end]);
    expect([tokenizer.isSpecial(end), tokenizer.isSpecial(user), tokenizer.isSpecial(300)]).toEqual([true, false, false]);
    expect(tokenizer.eosIds).toEqual([2, end]); // <|end|> ends a turn
  });

  test('Phi-3 drops white space after control tokens', async () => {
    const ids = async (architecture: string, text: string): Promise<number[]> => [...(await fromKeys(spmKeys, architecture)).encode(text)];
    expect(await ids('phi3', '<|end|>\n Hi')).toEqual(await ids('phi3', '<|end|>Hi'));
    expect(await ids('llama', '<|end|>\n Hi')).not.toEqual(await ids('llama', '<|end|>Hi'));
    expect(await ids('phi3', '<s>\nHi')).toEqual(await ids('llama', '<s>\nHi'));
  });
});

describe('byte-level BPE', () => {
  const json = JSON.parse(fs.readFileSync(path.join(FIXTURES, 'tiny-stories', 'tokenizer.json'), 'utf8')) as {
    model: { vocab: Record<string, number>; merges: [string, string][] };
  };
  const tokens = Object.entries(json.model.vocab)
    .sort(([, a], [, b]) => a - b)
    .map(([token]) => token);
  const keys = (pre: string | undefined): GgufKey[] => [
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ...(pre === undefined ? [] : [['tokenizer.ggml.pre', 'string', pre] as const]),
    ['tokenizer.ggml.tokens', 'strings', tokens],
    ['tokenizer.ggml.token_type', 'i32s', tokens.map((_, id) => (id < 3 ? 3 : 1))],
    ['tokenizer.ggml.merges', 'strings', json.model.merges.map((pair) => pair.join(' '))],
    ['tokenizer.ggml.bos_token_id', 'u32', 1],
    ['tokenizer.ggml.eos_token_id', 'u32', 2],
  ];

  test('gpt-2 gives the ids of the tokenizer.json it came from', async () => {
    const original = Tokenizer.fromCheckpoint(await openCheckpoint(path.join(FIXTURES, 'tiny-stories')));
    const rebuilt = await fromKeys(keys('gpt-2'));
    const text = fs.readFileSync(path.join(FIXTURES, 'tiny-stories', 'text.txt'), 'utf8');
    expect([...rebuilt.encode(text)]).toEqual([...original.encode(text)]);
    expect([...rebuilt.encode('one</s>two  3 4')]).toEqual([...original.encode('one</s>two  3 4')]);
  });

  test('llama-bpe adds BOS by default, others do not', async () => {
    expect((await fromKeys(keys('llama-bpe'))).prefixIds).toEqual([1]);
    expect((await fromKeys(keys('qwen2'))).prefixIds).toEqual([]);
    expect((await fromKeys(keys(undefined))).prefixIds).toEqual([]);
  });

  test('qwen2 composes characters first, as its own tokenizer does', async () => {
    const tokenizer = await fromKeys(keys('qwen2'));
    expect([...tokenizer.encode('e\u0301')]).toEqual([...tokenizer.encode('\u00e9')]);
  });

  test.each<[string, GgufKey[], string, string]>([
    ['an unknown pre-tokenizer', keys('kimi-k2'), 'UNSUPPORTED', '"kimi-k2" (tokenizer.ggml.pre)'],
    ['another kind', [['tokenizer.ggml.model', 'string', 'rwkv']], 'UNSUPPORTED', 'kind "rwkv"'],
    ['no tokens', [['tokenizer.ggml.model', 'string', 'gpt2']], 'CORRUPT_FILE', 'tokenizer.ggml.tokens is missing'],
    ['no merges', keys('gpt-2').filter(([key]) => !key.endsWith('merges')), 'CORRUPT_FILE', 'tokenizer.ggml.merges is missing'],
    [
      'a broken merge',
      [...keys('gpt-2').filter(([key]) => !key.endsWith('merges')), ['tokenizer.ggml.merges', 'strings', ['ab']]],
      'CORRUPT_FILE',
      '"ab", which is no pair',
    ],
    [
      'a token twice',
      [...keys('gpt-2').filter(([key]) => !/tokens|type/.test(key)), ['tokenizer.ggml.tokens', 'strings', ['a', 'b', 'a']]],
      'CORRUPT_FILE',
      '"a" has the ids 0 and 2',
    ],
    [
      'too few types',
      [...keys('gpt-2').filter(([key]) => !/type/.test(key)), ['tokenizer.ggml.token_type', 'i32s', [1]]],
      'CORRUPT_FILE',
      'has 1 entries for 512 tokens',
    ],
    [
      'an id beyond the vocabulary',
      [...keys('gpt-2').filter(([key]) => !/bos/.test(key)), ['tokenizer.ggml.bos_token_id', 'u32', 512]],
      'CORRUPT_FILE',
      'bos_token_id is 512, but there are 512 tokens',
    ],
    [
      'tokens that are numbers',
      [
        ['tokenizer.ggml.model', 'string', 'gpt2'],
        ['tokenizer.ggml.tokens', 'i32s', [1, 2]],
      ],
      'CORRUPT_FILE',
      'array of texts',
    ],
    ['no scores', spmKeys.filter(([key]) => !key.endsWith('scores')), 'CORRUPT_FILE', 'tokenizer.ggml.scores is missing'],
    [
      'a score that is no number',
      [...spmKeys.filter(([key]) => !key.endsWith('scores')), ['tokenizer.ggml.scores', 'f32s', spm.scores.map(() => NaN)]],
      'CORRUPT_FILE',
      'finite number',
    ],
  ])('%s', async (_, bad, code, text) => {
    const error = await errorOf(() => fromKeys(bad));
    expect(error.code).toBe(code);
    expect(error.message).toContain(text);
  });

  test('a file without a vocabulary opens, and has no tokenizer', async () => {
    const error = await errorOf(() => fromKeys([]));
    expect(error.code).toBe('UNSUPPORTED');
    expect(error.message).toContain('use a file that was converted with its vocabulary');
  });
});
