/** models: Mistral (arXiv 2310.06825). Llama with a sliding window in every layer when the configuration gives one. */
import { type Architecture, readActivation, readWindows } from './decoder';

export const mistral: Architecture = {
  name: 'mistral',
  modelTypes: ['mistral'],
  traits: {},
  define(model) {
    const sliding = model.config.has('sliding_window');
    const windows = readWindows(model, () => (sliding ? 'sliding_attention' : 'full_attention'));
    const activation = readActivation(model.config);
    const rope = model.rope();
    model.embed();
    model.layers((layer, index) => {
      const { q, k, v } = layer.qkv(layer.norm('input_layernorm'));
      layer.rope(rope, q, k);
      layer.addProjection('self_attn.o_proj', layer.attention({ q, k, v }, { window: windows[index] ?? 0 }));
      layer.addProjection('mlp.down_proj', layer.glu(layer.norm('post_attention_layernorm'), activation));
    });
    model.head();
  },
};
