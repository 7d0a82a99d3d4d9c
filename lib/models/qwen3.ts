/** models: Qwen 3, dense (arXiv 2505.09388). As Qwen 2, but q and k are normalised per head before rotation and need no biases. */
import { type Architecture, readActivation } from './decoder';
import { readQwenWindows } from './qwen2';

export const qwen3: Architecture = {
  name: 'qwen3',
  modelTypes: ['qwen3'],
  traits: { headDim: 128 },
  define(model) {
    const bias = { bias: model.config.boolean('attention_bias', false) };
    const windows = readQwenWindows(model);
    const activation = readActivation(model.config);
    const rope = model.rope();
    model.embed();
    model.layers((layer, index) => {
      const { q, k, v } = layer.qkv(layer.norm('input_layernorm'), bias);
      layer.rope(rope, layer.headNorm('self_attn.q_norm', q), layer.headNorm('self_attn.k_norm', k));
      layer.addProjection('self_attn.o_proj', layer.attention({ q, k, v }, { window: windows[index] ?? 0 }), bias);
      layer.addProjection('mlp.down_proj', layer.glu(layer.norm('post_attention_layernorm'), activation));
    });
    model.head();
  },
};
