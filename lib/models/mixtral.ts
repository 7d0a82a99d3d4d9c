/** models: Mixtral (arXiv 2401.04088). Mistral with experts: softmax over all, the best few renormalised. */
import { LIMITS } from './config';
import { type Architecture, readActivation, readWindows } from './decoder';

export const mixtral: Architecture = {
  name: 'mixtral',
  modelTypes: ['mixtral'],
  traits: { ropeTheta: 1e6, experts: true },
  define(model) {
    const { config, shape } = model;
    const windows = readWindows(model, () => (config.has('sliding_window') ? 'sliding_attention' : 'full_attention'));
    const count = config.integer('num_local_experts', LIMITS.experts, 8);
    const topK = config.integer('num_experts_per_tok', { min: 1, max: count }, Math.min(2, count));
    const activation = readActivation(config);
    const rope = model.rope();
    model.embed();
    model.layers((layer, index) => {
      const { q, k, v } = layer.qkv(layer.norm('input_layernorm'));
      layer.rope(rope, q, k);
      layer.addProjection('self_attn.o_proj', layer.attention({ q, k, v }, { window: windows[index] ?? 0 }));
      layer.addExperts('block_sparse_moe', layer.norm('post_attention_layernorm'), {
        count,
        width: shape.intermediateSize,
        matrices: { gate: 'w1', up: 'w3', down: 'w2' },
        activation,
        scoring: 'softmax',
        topK,
        normalise: true,
        scale: 1,
        groups: 1,
        topGroups: 1,
      });
    });
    model.head();
  },
};
