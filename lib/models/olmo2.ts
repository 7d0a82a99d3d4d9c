/** models: OLMo 2 (arXiv 2501.00656). Norms only after attention and feed-forward, and over the whole width of q and of k. */
import { type Architecture, readActivation } from './decoder';

export const olmo2: Architecture = {
  name: 'olmo2',
  modelTypes: ['olmo2'],
  traits: {},
  define(model) {
    const bias = { bias: model.config.boolean('attention_bias', false) };
    const activation = readActivation(model.config);
    const rope = model.rope();
    model.embed();
    model.layers((layer) => {
      const { q, k, v } = layer.qkv(layer.x, bias);
      layer.rope(rope, layer.norm('self_attn.q_norm', q, q), layer.norm('self_attn.k_norm', k, k));
      layer.addNormedProjection('self_attn.o_proj', 'post_attention_layernorm', layer.attention({ q, k, v }), bias);
      layer.addNormedProjection('mlp.down_proj', 'post_feedforward_layernorm', layer.glu(layer.x, activation));
    });
    model.head();
  },
};
