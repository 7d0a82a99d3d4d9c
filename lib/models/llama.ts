/** models: Llama 1 to 3, SmolLM2 and other LlamaForCausalLM (arXiv 2302.13971, 2407.21783). Norms before attention and before SwiGLU. */
import { type Architecture, readActivation } from './decoder';

export const llama: Architecture = {
  name: 'llama',
  modelTypes: ['llama'],
  traits: {},
  define(model) {
    const attentionBias = { bias: model.config.boolean('attention_bias', false) };
    const mlpBias = { bias: model.config.boolean('mlp_bias', false) };
    const activation = readActivation(model.config);
    const rope = model.rope();
    model.embed();
    model.layers((layer) => {
      const { q, k, v } = layer.qkv(layer.norm('input_layernorm'), attentionBias);
      layer.rope(rope, q, k);
      layer.addProjection('self_attn.o_proj', layer.attention({ q, k, v }), attentionBias);
      layer.addProjection('mlp.down_proj', layer.glu(layer.norm('post_attention_layernorm'), activation, mlpBias), mlpBias);
    });
    model.head();
  },
};
