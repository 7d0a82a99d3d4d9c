/** Configurations and tensor tables that must be refused: the code and the text of each error. */
import { DTYPES, isBlockType } from '../../lib/checkpoint/dtype';
import { LowbitError } from '../../lib/errors';
import { PlanBuilder, columns } from '../../lib/graph/builder';
import { buildPlan } from '../../lib/models/registry';
import { type MutableConfig, type TestCheckpoint, fixture, readFixture, withTensors } from './fixtures';

function errorOf(call: () => unknown): LowbitError {
  try {
    call();
  } catch (error) {
    if (error instanceof LowbitError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

const golden = (name: string, changes: MutableConfig = {}): TestCheckpoint =>
  readFixture(fixture('arch', name), (config) => {
    for (const [key, value] of Object.entries(changes)) {
      if (value === undefined) Reflect.deleteProperty(config, key);
      else config[key] = value;
    }
  });

const FILE = /\/test\/fixtures\/arch\/\w[\w-]*\/config\.json/;

describe('configuration', () => {
  const corrupt: readonly (readonly [string, MutableConfig, string])[] = [
    ['no model_type', { model_type: undefined }, 'Expected string for model_type in '],
    ['no hidden_size', { hidden_size: undefined }, 'Expected integer between 1 and 262144 for hidden_size in '],
    ['null is missing', { hidden_size: null }, 'but received undefined'],
    ['a huge hidden_size', { hidden_size: 2 ** 40 }, 'but received 1099511627776 of type number'],
    ['a fraction', { hidden_size: 64.5 }, 'but received 64.5 of type number'],
    ['a string', { hidden_size: '64' }, 'but received "64" of type string'],
    ['a negative count', { num_hidden_layers: -1 }, 'Expected integer between 1 and 1024 for num_hidden_layers'],
    ['no layers', { num_hidden_layers: 0 }, 'for num_hidden_layers'],
    ['2^32 layers', { num_hidden_layers: 2 ** 32 }, 'for num_hidden_layers'],
    ['a huge vocabulary', { vocab_size: 2 ** 31 }, 'Expected integer between 1 and 4194304 for vocab_size'],
    ['a huge feed-forward', { intermediate_size: 2 ** 31 }, 'for intermediate_size'],
    ['no context', { max_position_embeddings: undefined }, 'for max_position_embeddings'],
    [
      'heads that kv heads do not divide',
      { num_key_value_heads: 3 },
      'Expected divisor of num_attention_heads (4) for num_key_value_heads',
    ],
    [
      'heads that do not divide the width',
      { num_attention_heads: 6, head_dim: undefined },
      'Expected divisor of hidden_size (64), as there is no head_dim, for num_attention_heads',
    ],
    ['an odd head', { head_dim: 15 }, 'Expected even integer, as rotary positions turn pairs, for head_dim'],
    ['no eps', { rms_norm_eps: undefined }, 'for rms_norm_eps'],
    ['a zero eps', { rms_norm_eps: 0 }, 'for rms_norm_eps'],
    ['NaN in place of eps', { rms_norm_eps: NaN }, 'but received NaN of type number'],
    ['a word for a flag', { attention_bias: 'yes' }, 'Expected true or false for attention_bias'],
    ['a number for a flag', { tie_word_embeddings: 1 }, 'Expected true or false for tie_word_embeddings'],
  ];
  test.each(corrupt)('%s', (_, changes, text) => {
    const error = errorOf(() => buildPlan(golden('llama', changes)));
    expect(error).toMatchObject({ code: 'CORRUPT_FILE', message: expect.stringContaining(text) });
    expect(error.message).toMatch(FILE);
    expect(error.details).toMatchObject({ file: expect.stringMatching(FILE), key: expect.any(String) });
  });

  const others: readonly (readonly [string, string, MutableConfig, string])[] = [
    [
      'too few layer types',
      'gemma2',
      { layer_types: ['full_attention'] },
      'Expected array of 3 of "full_attention" or "sliding_attention" for layer_types',
    ],
    ['an unknown layer type', 'gemma2', { layer_types: Array(3).fill('chunked_attention') }, 'for layer_types'],
    [
      'a sliding layer without a window',
      'qwen2',
      { layer_types: Array(3).fill('sliding_attention') },
      'Expected integer between 1 and 134217728 for sliding_window',
    ],
    ['a zero window', 'mistral-swa', { sliding_window: 0 }, 'for sliding_window'],
    ['a zero softcap', 'gemma2', { final_logit_softcapping: 0 }, 'for final_logit_softcapping'],
    ['a negative attention scale', 'gemma3', { query_pre_attn_scalar: -1 }, 'for query_pre_attn_scalar'],
  ];
  test.each(others)('%s (%s)', (_, name, changes, text) => {
    expect(errorOf(() => buildPlan(golden(name, changes)))).toMatchObject({ code: 'CORRUPT_FILE', message: expect.stringContaining(text) });
  });

  test('a GGUF file is named itself', () => {
    const file = '/models/tiny.gguf';
    const checkpoint: TestCheckpoint = { ...golden('llama', { hidden_size: undefined }), kind: 'gguf', path: file };
    expect(errorOf(() => buildPlan(checkpoint)).message).toContain(`for hidden_size in ${file} but received undefined`);
  });
});

describe('what this version cannot do', () => {
  const unsupported: readonly (readonly [string, string, MutableConfig, string])[] = [
    ['an unknown architecture', 'llama', { model_type: 'mamba2' }, 'model_type = "mamba2"'],
    [
      'another name from Object.prototype',
      'llama',
      { model_type: 'constructor' },
      'llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3, olmo2',
    ],
    ['an unknown activation', 'llama', { hidden_act: 'relu' }, 'hidden_act = "relu"'],
    ['an unknown gemma activation', 'gemma2', { hidden_activation: 'gelu' }, 'this version knows silu and gelu_pytorch_tanh'],
    [
      'embeddings narrower than the model',
      'opt',
      { word_embed_proj_dim: 32 },
      'embeddings must be as wide as the model (hidden_size = 64)',
    ],
    ['norms without weights', 'opt', { layer_norm_elementwise_affine: false }, 'layer norms must have weights'],
    ['an unknown activation', 'opt', { activation_function: 'tanh' }, 'this version knows relu, silu, swish, gelu'],
    ['cross attention', 'gpt2', { add_cross_attention: true }, 'only decoders can be run'],
    ['experts', 'llama', { num_local_experts: 8 }, 'num_local_experts = 8'],
    ['wide values', 'deepseek-v3', { v_head_dim: 40 }, 'values must not be wider than keys (32 columns)'],
    ['shared keys', 'deepseek-v3', { num_key_value_heads: 2 }, 'every head has keys of its own'],
    ['layers without experts between', 'deepseek-v3', { moe_layer_freq: 2 }, 'every layer must have experts'],
    ['experts of another kind', 'qwen3', { num_experts: 128 }, 'qwen3 models here are dense, without experts'],
    ['a vision tower', 'gemma3', { model_type: 'gemma3', vision_config: {} }, 'multimodal checkpoints cannot be run'],
    ['biases a family does not have', 'mistral-swa', { attention_bias: true }, 'attention_bias = true'],
    ['biases in the feed-forward', 'qwen3', { mlp_bias: true }, 'qwen3 models here do not have it'],
    ['softcaps a family does not have', 'llama', { attn_logit_softcapping: 30 }, 'attn_logit_softcapping = 30'],
    ['windows a family does not have', 'llama', { layer_types: Array(3).fill('sliding_attention') }, 'layer_types = an instance of Array'],
    ['attention to both sides', 'gemma3', { use_bidirectional_attention: true }, 'use_bidirectional_attention = true'],
    ['an unknown rotary type', 'llama', { rope_parameters: { rope_type: 'spiral' } }, 'rope_parameters.rope_type = "spiral"'],
  ];
  test.each(unsupported)('%s', (_, name, changes, text) => {
    expect(errorOf(() => buildPlan(golden(name, changes)))).toMatchObject({ code: 'UNSUPPORTED', message: expect.stringContaining(text) });
  });

  test('the supported architectures are listed', () => {
    expect(errorOf(() => buildPlan(golden('llama', { model_type: 'mamba2' }))).message).toMatch(
      /^model_type = "mamba2" in .*config\.json is not supported: this version knows llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3, olmo2, gpt2, opt, mixtral, qwen3-moe, deepseek-v3$/,
    );
  });

  test('neutral values of the same keys are fine', () => {
    const neutral = {
      attention_bias: false,
      mlp_bias: false,
      attn_logit_softcapping: null,
      use_sliding_window: false,
      layer_types: Array(3).fill('full_attention'),
    };
    expect(buildPlan(golden('mistral-swa', { ...neutral, layer_types: undefined })).blocks).toHaveLength(3);
    expect(buildPlan(golden('llama', neutral)).blocks).toHaveLength(3);
  });

  test('a context beyond the model', () => {
    expect(errorOf(() => buildPlan(golden('llama'), { contextSize: 513 }))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: 'Expected integer between 1 and 512 for contextSize but received 513 of type number',
    });
  });
});

describe('tensors', () => {
  test('everything that is wrong stands in one error', () => {
    const checkpoint = withTensors(golden('llama'), {
      drop: ['model.layers.1.mlp.up_proj.weight', 'model.norm.weight'],
      add: [{ name: 'model.layers.3.input_layernorm.weight', shape: [64] }],
      alter: {
        'model.layers.0.self_attn.k_proj.weight': { shape: [64, 64] },
        'model.layers.2.input_layernorm.weight': { dtype: 'Q8_0' },
        'model.layers.2.mlp.down_proj.weight': { dtype: 'I8' },
      },
    });
    const error = errorOf(() => buildPlan(checkpoint));
    expect(error.code).toBe('CORRUPT_FILE');
    expect(error.details).toEqual({
      file: checkpoint.path,
      problems: [
        'model.layers.0.self_attn.k_proj.weight has shape [64, 64], expected [32, 64]',
        'model.layers.1.mlp.up_proj.weight is missing',
        'model.layers.2.input_layernorm.weight has dtype Q8_0, expected F32, F16, BF16',
        'model.layers.2.mlp.down_proj.weight has dtype I8, expected F32, F16, BF16 or a GGUF block type',
        'model.norm.weight is missing',
        'model.layers.3.input_layernorm.weight is not part of a llama model with this configuration',
      ],
    });
    expect(error.message).toContain('does not hold the llama model its configuration describes: model.layers.0');
    for (const problem of error.details['problems'] as string[]) expect(error.message).toContain(problem);
  });

  test('a long list is cut in the message, not in the details', () => {
    const error = errorOf(() => buildPlan(withTensors(golden('llama'), { drop: golden('llama').tensors.map(({ name }) => name) })));
    expect(error.details['problems']).toHaveLength(30);
    expect(error.message).toContain('; and 18 more. Check that all files were downloaded');
  });

  test('a vocabulary that is not the embedding’s', () => {
    expect(errorOf(() => buildPlan(golden('llama', { vocab_size: 321 }))).details['problems']).toEqual([
      'model.embed_tokens.weight has shape [320, 64], expected [321, 64]',
      'lm_head.weight has shape [320, 64], expected [321, 64]',
    ]);
  });

  test('fewer layers than the files hold', () => {
    const error = errorOf(() => buildPlan(golden('llama', { num_hidden_layers: 2 })));
    expect(error.details['problems']).toHaveLength(9);
    expect(error.message).toContain('model.layers.2.input_layernorm.weight is not part of');
  });

  test('an untied model without a head', () => {
    expect(errorOf(() => buildPlan(withTensors(golden('llama'), { drop: ['lm_head.weight'] }))).details['problems']).toEqual([
      'lm_head.weight is missing',
    ]);
  });

  test('what old exporters left behind is ignored', () => {
    const leftovers = [
      'model.layers.0.self_attn.rotary_emb.inv_freq',
      'model.layers.0.self_attn.masked_bias',
      'rope_freqs.weight',
      'lm_head.weight',
    ];
    const tied = withTensors(golden('qwen2'), { add: leftovers.map((name) => ({ name })) });
    expect(buildPlan(tied)).toEqual(buildPlan(golden('qwen2')));
  });

  test.each([...DTYPES.keys()].filter(isBlockType))('GGUF blocks of %s are weights, not vectors', (dtype) => {
    const alter = { 'model.layers.0.mlp.up_proj.weight': { dtype }, 'model.embed_tokens.weight': { dtype } };
    expect(buildPlan(withTensors(golden('llama'), { alter })).blocks).toHaveLength(3);
    const vector = { 'model.norm.weight': { dtype } };
    expect(errorOf(() => buildPlan(withTensors(golden('llama'), { alter: vector }))).message).toContain(
      `model.norm.weight has dtype ${dtype}`,
    );
  });
});

describe('the builder refuses what could never run', () => {
  test('columns outside a view', () => {
    const view = new PlanBuilder().buffer('a', 8);
    expect(columns(columns(view, 2, 6), 1, 2)).toEqual({ buffer: 0, offset: 3, width: 2 });
    for (const [offset, width] of [
      [-1, 2],
      [7, 2],
      [0, 0],
      [NaN, 1],
    ] as const) {
      expect(errorOf(() => columns(view, offset, width)).code).toBe('INTERNAL');
    }
  });

  test.each<[string, (builder: PlanBuilder) => void, string]>([
    ['one name, two widths', (b) => [b.buffer('a', 8), b.buffer('a', 9)], 'buffer a is 8 wide, not 9'],
    ['a view of no buffer', (b) => b.softcap({ buffer: 3, offset: 0, width: 1 }, 1), 'outside buffer 3'],
    ['a view past its buffer', (b) => b.softcap({ ...b.buffer('a', 8), width: 9 }, 1), 'outside buffer 0 of width 8'],
    ['widths that differ', (b) => b.add(b.buffer('a', 8), b.buffer('a', 8), b.buffer('b', 7)), 'differ in width'],
    ['a weight that does not exist', (b) => b.embed(0, b.buffer('a', 8), 1), 'there is no weight 0'],
    [
      'heads that do not fit',
      (b) => b.rotate(b.buffer('a', 8), 3, b.rope({ inverseFrequencies: Float64Array.of(1), scale: 1 })),
      'do not fit width 8',
    ],
    ['a block before the prologue', (b) => b.endBlock(), 'a block ended before the prologue'],
    [
      'two prologues',
      (b) => {
        b.endPrologue();
        b.endPrologue();
      },
      'the prologue ended twice',
    ],
    [
      'an epilogue that reads a block’s buffer',
      (b) => {
        const [x, scratch] = [b.buffer('x', 8), b.buffer('scratch', 8)];
        b.endPrologue();
        b.add(x, x, scratch);
        b.endBlock();
        b.add(x, scratch, b.buffer('out', 8));
        b.finish({ architecture: 'test', vocabSize: 8, hiddenSize: 8, maxSeqLen: 1 }, x, x);
      },
      'the epilogue reads buffer scratch, which it did not write',
    ],
    [
      'an epilogue that writes the residual',
      (b) => {
        const x = b.buffer('x', 8);
        b.endPrologue();
        b.endBlock();
        b.add(x, x, x);
        b.finish({ architecture: 'test', vocabSize: 8, hiddenSize: 8, maxSeqLen: 1 }, x, x);
      },
      'the epilogue writes the residual',
    ],
  ])('%s', (_, build, text) => {
    expect(errorOf(() => build(new PlanBuilder()))).toMatchObject({ code: 'INTERNAL', message: expect.stringContaining(text) });
  });
});
