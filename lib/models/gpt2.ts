/**
 * models: GPT-2 (Radford et al. 2019). Learned positions, layer norms before both halves, one fused matrix for q, k and v, biases
 * everywhere, a feed-forward without a gate. Linears are stored transposed (Conv1D).
 */
import { type Architecture, readPlainActivation } from './decoder';

export const gpt2: Architecture = {
  name: 'gpt2',
  modelTypes: ['gpt2'],
  traits: {
    keys: {
      hidden_size: 'n_embd',
      num_attention_heads: 'n_head',
      num_hidden_layers: 'n_layer',
      intermediate_size: 'n_inner',
      max_position_embeddings: 'n_positions',
      rms_norm_eps: 'layer_norm_epsilon',
    },
    tied: true,
    layerNorm: true,
    normEps: 1e-5,
    intermediateFactor: 4,
    transposedLinears: true,
  },
  names(checkpoint) {
    // The first published checkpoints have the bare model, without the prefix of the language model around it.
    const prefix = checkpoint.find('wte.weight') !== undefined ? '' : 'transformer.';
    return { embedding: `${prefix}wte`, positions: `${prefix}wpe`, layers: `${prefix}h.`, norm: `${prefix}ln_f` };
  },
  define(model) {
    const { config, shape } = model;
    if (config.boolean('add_cross_attention', false)) throw config.unsupported('add_cross_attention', 'only decoders can be run');
    const activation = readPlainActivation(config, 'activation_function', 'gelu_new');
    const scale = config.boolean('scale_attn_weights', true) ? 1 / Math.sqrt(shape.headDim) : 1;
    const byLayer = config.boolean('scale_attn_by_inverse_layer_idx', false);
    const bias = { bias: true };
    model.embed(1, { shift: 0 });
    model.layers((layer, index) => {
      const qkv = layer.fusedQkv('attn.c_attn', layer.norm('ln_1'), bias);
      layer.addProjection('attn.c_proj', layer.attention(qkv, { scale: byLayer ? scale / (index + 1) : scale }), bias);
      layer.addProjection('mlp.c_proj', layer.ffn('mlp.c_fc', layer.norm('ln_2'), activation, bias), bias);
    });
    model.head();
  },
};
