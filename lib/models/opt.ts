/**
 * models: OPT (arXiv 2205.01068). Learned positions behind two unused rows, layer norms with biases before (or, in one size, behind) both
 * halves, a feed-forward without a gate. Embeddings narrower than the model (the 350M size) are not supported.
 */
import { type Architecture, readPlainActivation } from './decoder';

export const opt: Architecture = {
  name: 'opt',
  modelTypes: ['opt'],
  traits: { keys: { intermediate_size: 'ffn_dim' }, tied: true, layerNorm: true, normEps: 1e-5 },
  names(checkpoint) {
    const prefix = checkpoint.find('decoder.embed_tokens.weight') !== undefined ? 'decoder.' : 'model.decoder.';
    return {
      embedding: `${prefix}embed_tokens`,
      positions: `${prefix}embed_positions`,
      layers: `${prefix}layers.`,
      norm: `${prefix}final_layer_norm`,
    };
  },
  define(model) {
    const { config, shape } = model;
    const { hiddenSize } = shape;
    if (config.integer('word_embed_proj_dim', { min: 1, max: 1 << 18 }, hiddenSize) !== hiddenSize) {
      throw config.unsupported('word_embed_proj_dim', `embeddings must be as wide as the model (hidden_size = ${hiddenSize})`);
    }
    if (!config.boolean('layer_norm_elementwise_affine', true)) {
      throw config.unsupported('layer_norm_elementwise_affine', 'layer norms must have weights');
    }
    const before = config.boolean('do_layer_norm_before', true);
    const activation = readPlainActivation(config, 'activation_function', 'relu');
    const bias = { bias: config.boolean('enable_bias', true) };
    model.embed(1, { shift: 2 });
    model.layers((layer) => {
      const attended = layer.attention(layer.qkv(before ? layer.norm('self_attn_layer_norm') : layer.x, bias));
      layer.addProjection('self_attn.out_proj', attended, bias);
      if (!before) layer.norm('self_attn_layer_norm', layer.x, layer.x);
      const hidden = layer.ffn('fc1', before ? layer.norm('final_layer_norm') : layer.x, activation, bias);
      layer.addProjection('fc2', hidden, bias);
      if (!before) layer.norm('final_layer_norm', layer.x, layer.x);
    });
    model.head(0, before && !config.boolean('_remove_final_layer_norm', false));
  },
};
