/** The configuration that GGUF metadata stands for, architecture by architecture. */
import fs from 'node:fs';
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import type { Checkpoint } from '../../lib/checkpoint/types';
import { type GgufKey, type GgufTensor, type TinyModel, errorOf, f32, ggufFile, temporaryDirectory, tinyGguf } from './support';

const directory = temporaryDirectory();
let files = 0;

function open(model: TinyModel): Promise<Checkpoint> {
  const file = path.join(directory, `${files++}.gguf`);
  fs.writeFileSync(file, ggufFile(tinyGguf(model)));
  return openCheckpoint(file);
}

async function config(
  architecture: string,
  keys: readonly GgufKey[] = [],
  tensors: readonly GgufTensor[] = [],
): Promise<Record<string, unknown>> {
  return (
    await open({
      architecture,
      keys: keys.map(([key, ...rest]) => [`${architecture}.${key}`, ...rest] as unknown as GgufKey),
      tensors,
    })
  ).config;
}

const small = (name: string, values: readonly number[]): GgufTensor => ({
  name,
  dims: [values.length],
  type: 0,
  data: f32(values),
});

test('llama', async () => {
  const checkpoint = await open({});
  expect(checkpoint.config).toEqual({
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: 4,
    hidden_size: 8,
    intermediate_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 4,
    max_position_embeddings: 128,
    rms_norm_eps: 2 ** -20,
    tie_word_embeddings: true,
    hidden_act: 'silu',
    attention_bias: false,
    mlp_bias: false,
    rope_parameters: { rope_theta: 10000, rope_type: 'default' },
  });
  expect(checkpoint.conventions).toEqual({ ropePermuted: true, normPlusOneStored: false });
});

test('a head of its own, biases and explicit head size', async () => {
  const head = { name: 'output.weight', dims: [8, 4], type: 0, data: Buffer.alloc(128) };
  const found = await config(
    'llama',
    [
      ['attention.key_length', 'u32', 16],
      ['attention.value_length', 'u32', 16],
    ],
    [head, small('blk.0.attn_q.bias', [1]), small('blk.0.ffn_down.bias', [1])],
  );
  expect(found).toMatchObject({ tie_word_embeddings: false, head_dim: 16, attention_bias: true, mlp_bias: true });
});

test('llama with a window is mistral', async () => {
  expect(await config('llama', [['attention.sliding_window', 'u32', 4096]])).toMatchObject({
    model_type: 'mistral',
    architectures: ['MistralForCausalLM'],
    sliding_window: 4096,
  });
});

test.each([
  ['qwen2', 'Qwen2ForCausalLM', 'qwen2'],
  ['qwen3', 'Qwen3ForCausalLM', 'qwen3'],
  ['phi3', 'Phi3ForCausalLM', 'phi3'],
  ['olmo2', 'Olmo2ForCausalLM', 'olmo2'],
])('%s', async (architecture, className, modelType) => {
  const checkpoint = await open({ architecture });
  expect(checkpoint.config).toMatchObject({ architectures: [className], model_type: modelType, hidden_act: 'silu' });
  expect(checkpoint.conventions).toEqual({ ropePermuted: false, normPlusOneStored: false });
});

test('qwen2 biases are part of the architecture, not a setting', async () => {
  expect(await config('qwen2', [], [small('blk.0.attn_q.bias', [1])])).not.toHaveProperty('attention_bias');
});

test('gemma2', async () => {
  const found = await config('gemma2', [
    ['attention.sliding_window', 'u32', 4096],
    ['attn_logit_softcapping', 'f32', 50],
    ['final_logit_softcapping', 'f32', 30],
    ['attention.key_length', 'u32', 256],
    ['attention.value_length', 'u32', 256],
  ]);
  expect(found).toMatchObject({
    model_type: 'gemma2',
    hidden_activation: 'gelu_pytorch_tanh',
    sliding_window: 4096,
    layer_types: ['sliding_attention', 'full_attention'],
    attn_logit_softcapping: 50,
    final_logit_softcapping: 30,
    query_pre_attn_scalar: 256,
    rope_parameters: { rope_theta: 10000, rope_type: 'default' },
  });
  expect((await open({ architecture: 'gemma2', keys: [['gemma2.attention.sliding_window', 'u32', 8]] })).conventions).toEqual({
    ropePermuted: false,
    normPlusOneStored: true,
  });
});

test('the scale of the 27B models is that of hidden / heads', async () => {
  const scale = async (architecture: string, layers: number): Promise<unknown> =>
    (
      await config(architecture, [
        ['attention.sliding_window', 'u32', 8],
        ['block_count', 'u32', layers],
        ['attention.key_length', 'u32', 128],
        ['attention.value_length', 'u32', 128],
      ])
    )['query_pre_attn_scalar'];
  expect([await scale('gemma2', 46), await scale('gemma2', 42), await scale('gemma3', 62), await scale('gemma3', 26)]).toEqual([
    4, 128, 4, 128,
  ]);
});

test('gemma3', async () => {
  const found = await config('gemma3', [
    ['attention.sliding_window', 'u32', 512],
    ['block_count', 'u32', 7],
    ['rope.freq_base', 'f32', 1e6],
    ['rope.scaling.type', 'string', 'linear'],
    ['rope.scaling.factor', 'f32', 8],
  ]);
  expect(found).toMatchObject({
    model_type: 'gemma3_text',
    sliding_window: 512,
    layer_types: [...Array<string>(5).fill('sliding_attention'), 'full_attention', 'sliding_attention'],
    attn_logit_softcapping: null,
    final_logit_softcapping: null,
    rope_parameters: {
      full_attention: { rope_theta: 1e6, rope_type: 'linear', factor: 8 },
      sliding_attention: { rope_theta: 10000, rope_type: 'default' },
    },
  });
});

test('Llama 3 divisors come from their tensor', async () => {
  const found = await config('llama', [['rope.freq_base', 'f32', 500000]], [small('rope_freqs.weight', [1, 8])]);
  expect(found['rope_parameters']).toEqual({ rope_theta: 500000, rope_type: 'lowbit_divisors', divisors: [1, 8] });
});

test('Phi-3 longrope factors come from their tensors', async () => {
  const tensors = [small('rope_factors_short.weight', [1, 1.5]), small('rope_factors_long.weight', [1, 64])];
  const found = await config(
    'phi3',
    [
      ['rope.scaling.original_context_length', 'u32', 32],
      ['rope.scaling.attn_factor', 'f32', 1.25],
    ],
    tensors,
  );
  expect(found['rope_parameters']).toEqual({
    rope_theta: 10000,
    rope_type: 'longrope',
    short_factor: [1, 1.5],
    long_factor: [1, 64],
    attention_factor: 1.25,
  });
  expect(found['original_max_position_embeddings']).toBe(32);
});

test('partial rotation, linear and yarn', async () => {
  expect(await config('phi3', [['rope.dimension_count', 'u32', 2]])).toMatchObject({ partial_rotary_factor: 0.5 });
  expect(
    (
      await config('llama', [
        ['rope.scale_linear', 'f32', 4],
        ['rope.scaling.type', 'string', 'linear'],
      ])
    )['rope_parameters'],
  ).toEqual({ rope_theta: 10000, rope_type: 'linear', factor: 4 });
  const yarn = await config('qwen2', [
    ['rope.scaling.type', 'string', 'yarn'],
    ['rope.scaling.factor', 'f32', 4],
    ['rope.scaling.original_context_length', 'u32', 32],
  ]);
  expect(yarn['rope_parameters']).toEqual({ rope_theta: 10000, rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 });
  expect((await config('llama', [['rope.scaling.type', 'string', 'none']]))['rope_parameters']).toEqual({
    rope_theta: 10000,
    rope_type: 'default',
  });
});

test('values per layer that agree count as one', async () => {
  expect((await config('llama', [['attention.head_count_kv', 'u32s', [1, 1]]]))['num_key_value_heads']).toBe(1);
  const error = await errorOf(() => config('llama', [['attention.head_count_kv', 'u32s', [1, 2]]]));
  expect(error.code).toBe('UNSUPPORTED');
  expect(error.message).toContain('llama.attention.head_count_kv differs from layer to layer');
});

test('end tokens: those named, and control tokens that end a turn', async () => {
  const tokenizer: readonly GgufKey[] = [
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ['tokenizer.ggml.pre', 'string', 'gpt-2'],
    ['tokenizer.ggml.tokens', 'strings', ['a', '<end>', '<|im_end|>', '<|end|>']],
    ['tokenizer.ggml.token_type', 'i32s', [1, 3, 3, 1]],
    ['tokenizer.ggml.merges', 'strings', []],
    ['tokenizer.ggml.bos_token_id', 'u32', 0],
    ['tokenizer.ggml.eos_token_id', 'u32', 1],
  ];
  expect((await open({ tokenizer })).generationConfig).toEqual({ bos_token_id: 0, eos_token_id: [1, 2] });
  expect((await open({ tokenizer: [...tokenizer, ['tokenizer.ggml.eot_token_id', 'u32', 3]] })).generationConfig['eos_token_id']).toEqual([
    1, 3, 2,
  ]);
  expect((await open({ tokenizer: [] })).generationConfig).toEqual({});
});

test.each<[string, string, readonly GgufKey[], readonly GgufTensor[], string, string]>([
  ['a mixture of experts', 'llama', [['expert_count', 'u32', 8]], [], 'UNSUPPORTED', 'llama.expert_count is 8: mixtures of experts'],
  [
    'another scaling',
    'llama',
    [
      ['rope.scaling.type', 'string', 'wave'],
      ['rope.scaling.factor', 'f32', 2],
    ],
    [],
    'UNSUPPORTED',
    '"wave"',
  ],
  [
    'a size that is a text',
    'llama',
    [['block_count', 'string', '2']],
    [],
    'CORRUPT_FILE',
    'expected number for llama.block_count but found 2 of type string',
  ],
  ['a negative size', 'llama', [['block_count', 'i32', -2]], [], 'CORRUPT_FILE', 'expected integer of at least 0 for llama.block_count'],
  ['no heads', 'llama', [['attention.head_count', 'u32', 0]], [], 'CORRUPT_FILE', 'no multiple of 0 heads'],
  [
    'different sizes of keys and values',
    'llama',
    [
      ['attention.key_length', 'u32', 8],
      ['attention.value_length', 'u32', 4],
    ],
    [],
    'UNSUPPORTED',
    'value_length is 4',
  ],
  [
    'an epsilon that is not a number',
    'llama',
    [['attention.layer_norm_rms_epsilon', 'f32', NaN]],
    [],
    'CORRUPT_FILE',
    'layer_norm_rms_epsilon',
  ],
  ['a divisor of zero', 'llama', [], [small('rope_freqs.weight', [1, 0])], 'CORRUPT_FILE', 'rotary factor that is not above 0'],
  ['a divisor that is not a number', 'llama', [], [small('rope_freqs.weight', [NaN])], 'CORRUPT_FILE', 'rotary factor that is not above 0'],
  [
    'half a pair of factors',
    'phi3',
    [],
    [small('rope_factors_long.weight', [1])],
    'CORRUPT_FILE',
    '"rope_factors_short.weight" is missing',
  ],
  ['too many factors', 'llama', [], [small('rope_freqs.weight', Array<number>(5000).fill(1))], 'CORRUPT_FILE', 'at most 2048 F32 values'],
  ['gemma without a window', 'gemma2', [], [], 'CORRUPT_FILE', 'gemma2.attention.sliding_window is missing'],
])('%s', async (_, architecture, keys, tensors, code, text) => {
  const error = await errorOf(() => config(architecture, keys, tensors));
  expect(error.code).toBe(code);
  expect(error.message).toContain(text);
});

test('no embedding', async () => {
  const file = path.join(directory, 'none.gguf');
  fs.writeFileSync(file, ggufFile({ ...tinyGguf(), tensors: [] }));
  expect((await errorOf(() => openCheckpoint(file))).message).toContain('"token_embd.weight" is missing');
});
