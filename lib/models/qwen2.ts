/** models: Qwen 2 and 2.5, dense (arXiv 2407.10671). Llama with biases on q, k and v, and optionally a window in the upper layers. */
import { type Architecture, type Decoder, readActivation, readWindows } from './decoder';

export const qwen2: Architecture = {
  name: 'qwen2',
  modelTypes: ['qwen2'],
  traits: {},
  define(model) {
    const windows = readQwenWindows(model);
    const activation = readActivation(model.config);
    const rope = model.rope();
    model.embed();
    model.layers((layer, index) => {
      const { q, k, v } = layer.qkv(layer.norm('input_layernorm'), { bias: true });
      layer.rope(rope, q, k);
      layer.addProjection('self_attn.o_proj', layer.attention({ q, k, v }, { window: windows[index] ?? 0 }));
      layer.addProjection('mlp.down_proj', layer.glu(layer.norm('post_attention_layernorm'), activation));
    });
    model.head();
  },
};

/** Layers from max_window_layers on slide, if use_sliding_window says so at all. */
export function readQwenWindows(model: Decoder): readonly number[] {
  const { config } = model;
  const sliding = config.boolean('use_sliding_window', false);
  const firstSliding = config.integer('max_window_layers', { min: 0, max: 1 << 20 }, 28);
  return readWindows(model, (index) => (sliding && index >= firstSliding ? 'sliding_attention' : 'full_attention'));
}
