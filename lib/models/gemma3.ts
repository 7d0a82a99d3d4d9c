/**
 * models: Gemma 3, text (arXiv 2503.19786). Gemma 2 with norms on q and k in place of softcaps, five sliding layers to one full, and
 * a rotary table for each of the two kinds.
 */
import { type Architecture, readWindows } from './decoder';
import { readGemma } from './gemma2';

export const gemma3: Architecture = {
  name: 'gemma3',
  // "gemma3" is also the multimodal wrapper; registry.ts refuses that by its vision_config.
  modelTypes: ['gemma3_text', 'gemma3'],
  traits: { headDim: 256, tied: true, normPlusOne: true },
  define(model) {
    const { attention, bias, finalSoftcap, activation } = readGemma(model);
    const every = { min: 1, max: 1024 };
    const pattern = model.config.integer('sliding_window_pattern', every, model.config.integer('_sliding_window_pattern', every, 6));
    const windows = readWindows(model, (index) => ((index + 1) % pattern === 0 ? 'full_attention' : 'sliding_attention'), 4096);
    const globalRope = model.rope({ layerType: 'full_attention', theta: 1e6 });
    const localRope = model.rope({ layerType: 'sliding_attention', oldThetaKey: 'rope_local_base_freq' });
    model.embed(Math.sqrt(model.shape.hiddenSize));
    model.layers((layer, index) => {
      const window = windows[index] ?? 0;
      const { q, k, v } = layer.qkv(layer.norm('input_layernorm'), bias);
      layer.headNorm('self_attn.q_norm', q);
      layer.headNorm('self_attn.k_norm', k);
      layer.rope(window > 0 ? localRope : globalRope, q, k);
      const attended = layer.attention({ q, k, v }, { ...attention, window });
      layer.addNormedProjection('self_attn.o_proj', 'post_attention_layernorm', attended, bias);
      const gated = layer.glu(layer.norm('pre_feedforward_layernorm'), activation);
      layer.addNormedProjection('mlp.down_proj', 'post_feedforward_layernorm', gated);
    });
    model.head(finalSoftcap);
  },
};
