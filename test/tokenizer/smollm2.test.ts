/**
 * SmolLM2 as published, both as a Hugging Face directory and as GGUF, against ids recorded from transformers. Looks for
 * smollm2-135m-hf and SmolLM2-135M-Instruct.Q4_1.gguf in the directory LOWBIT_MODELS or .models of the repository.
 */
import fs from 'node:fs';
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import { Tokenizer } from '../../lib/tokenizer';
import { FIXTURES } from '../checkpoint/support';

const models = process.env['LOWBIT_MODELS'] ?? path.join(__dirname, '..', '..', '.models');
const expected = JSON.parse(fs.readFileSync(path.join(FIXTURES, 'smollm2-expected.json'), 'utf8')) as {
  tokenize: { text: string; ids: number[] }[];
  chat: { messages: { role: string; content: string }[]; rendered: string; ids: number[] };
  decode: { ids: number[]; text: string }[];
};

describe.each(['smollm2-135m-hf', 'SmolLM2-135M-Instruct.Q4_1.gguf'])('%s', (name) => {
  const file = path.join(models, name);
  const present = fs.existsSync(file);
  const check = present ? test : test.skip;
  const why = present ? '' : ` (skipped: no ${name} in LOWBIT_MODELS or .models)`;

  check(`ids, texts and chat are those of transformers${why}`, async () => {
    const checkpoint = await openCheckpoint(file);
    const tokenizer = Tokenizer.fromCheckpoint(checkpoint);
    tokenizer.checkVocabulary(checkpoint.config['vocab_size'] as number);
    expect(tokenizer).toMatchObject({ vocabSize: 49152, bosId: 1, eosIds: [2], prefixIds: [], suffixIds: [] });
    for (const { text, ids } of expected.tokenize) {
      expect([text, ...tokenizer.encode(text)]).toEqual([text, ...ids]);
      expect(tokenizer.decode(ids)).toBe(text);
    }
    for (const { ids, text } of expected.decode) expect(tokenizer.decode(ids)).toBe(text);
    expect(tokenizer.applyChatTemplate(expected.chat.messages)).toBe(expected.chat.rendered);
    expect([...tokenizer.encodeChat(expected.chat.messages)]).toEqual(expected.chat.ids);
  });

  check(`tensors are found by their Hugging Face names${why}`, async () => {
    const checkpoint = await openCheckpoint(file);
    expect(checkpoint.tensors).toHaveLength(272);
    const shape = (tensor: string): readonly number[] | undefined => checkpoint.tensors[checkpoint.find(tensor) ?? -1]?.shape;
    expect(shape('model.embed_tokens.weight')).toEqual([49152, 576]);
    expect(shape('model.layers.29.self_attn.k_proj.weight')).toEqual([192, 576]);
    expect(shape('model.layers.0.mlp.down_proj.weight')).toEqual([576, 1536]);
    expect(shape('lm_head.weight')).toBeUndefined();
    expect(checkpoint.config).toMatchObject({
      model_type: 'llama',
      hidden_size: 576,
      num_hidden_layers: 30,
      num_attention_heads: 9,
      num_key_value_heads: 3,
      head_dim: 64,
      intermediate_size: 1536,
      max_position_embeddings: 8192,
      tie_word_embeddings: true,
      vocab_size: 49152,
      rope_parameters: { rope_theta: 100000, rope_type: 'default' },
    });
  });
});
