/** models: Phi-3, Phi-3.5-mini and Phi-4 (arXiv 2404.14219). Llama with q|k|v and gate|up fused, longrope and a partly rotated head. */
import { type Architecture, readActivation, readWindows } from './decoder';

export const phi3: Architecture = {
  name: 'phi3',
  modelTypes: ['phi3'],
  traits: {},
  define(model) {
    const sliding = model.config.has('sliding_window');
    const windows = readWindows(model, () => (sliding ? 'sliding_attention' : 'full_attention'));
    const activation = readActivation(model.config);
    const rope = model.rope();
    model.embed();
    model.layers((layer, index) => {
      const { q, k, v } = layer.fusedQkv('self_attn.qkv_proj', layer.norm('input_layernorm'));
      layer.rope(rope, q, k);
      layer.addProjection('self_attn.o_proj', layer.attention({ q, k, v }, { window: windows[index] ?? 0 }));
      const gated = layer.fusedGlu('mlp.gate_up_proj', layer.norm('post_attention_layernorm'), activation);
      layer.addProjection('mlp.down_proj', gated);
    });
    model.head();
  },
};
