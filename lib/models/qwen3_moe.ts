/**
 * models: Qwen 3 with experts (arXiv 2505.09388). As Qwen 3, but for layers whose feed-forward is many small experts; which ones these are
 * say decoder_sparse_step and mlp_only_layers.
 */
import { LIMITS } from './config';
import { type Architecture, readActivation } from './decoder';
import { readQwenWindows } from './qwen2';

export const qwen3Moe: Architecture = {
  name: 'qwen3-moe',
  modelTypes: ['qwen3_moe'],
  traits: { headDim: 128, experts: true },
  define(model) {
    const { config } = model;
    const bias = { bias: config.boolean('attention_bias', false) };
    const windows = readQwenWindows(model);
    const activation = readActivation(config);
    // The number of experts has two names.
    const count = config.integer(config.has('num_experts') ? 'num_experts' : 'num_local_experts', LIMITS.experts);
    const topK = config.integer('num_experts_per_tok', { min: 1, max: count }, Math.min(8, count));
    const width = config.integer('moe_intermediate_size', LIMITS.intermediateSize);
    const normalise = config.boolean('norm_topk_prob', false);
    const isSparse = sparseLayers(config.integer('decoder_sparse_step', LIMITS.layers, 1), config.raw('mlp_only_layers') ?? []);
    if (isSparse === undefined) throw config.expected('array of layer numbers', 'mlp_only_layers', config.raw('mlp_only_layers'));
    const rope = model.rope();
    model.embed();
    model.layers((layer, index) => {
      const { q, k, v } = layer.qkv(layer.norm('input_layernorm'), bias);
      layer.rope(rope, layer.headNorm('self_attn.q_norm', q), layer.headNorm('self_attn.k_norm', k));
      layer.addProjection('self_attn.o_proj', layer.attention({ q, k, v }, { window: windows[index] ?? 0 }), bias);
      const hidden = layer.norm('post_attention_layernorm');
      if (!isSparse(index)) {
        layer.addProjection('mlp.down_proj', layer.glu(hidden, activation));
        return;
      }
      layer.addExperts('mlp', hidden, {
        count,
        width,
        matrices: { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' },
        activation,
        scoring: 'softmax',
        topK,
        normalise,
        scale: 1,
        groups: 1,
        topGroups: 1,
      });
    });
    model.head();
  },
};

/** Undefined when the list is none of layer numbers. */
function sparseLayers(step: number, dense: unknown): ((index: number) => boolean) | undefined {
  if (!Array.isArray(dense) || !dense.every((layer) => Number.isSafeInteger(layer))) return undefined;
  return (index) => !dense.includes(index) && (index + 1) % step === 0;
}
