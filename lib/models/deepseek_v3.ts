/**
 * models: DeepSeek-V3 and R1 (arXiv 2412.19437). Multi-head latent attention: queries, and keys with values, pass through a narrow
 * latent each; one rotated key part is shared by all heads. Behind the first layers, shared and routed experts with sigmoid scores.
 *
 * Keys and values are expanded per head before they are cached, values padded with zeros to the width of keys: the ordinary attention
 * runs on them, at the price of a cache many times as large as the latent would be. The layers that predict further tokens are left out.
 */
import { columns } from '../graph/builder';
import type { View } from '../graph/plan';
import { LIMITS } from './config';
import { type Architecture, type Decoder, type Layer, readActivation } from './decoder';
import { yarnTemperature } from './rope';

/** Of the norms inside attention, whatever the configuration says about the others, as in transformers. */
const LATENT_EPS = 1e-6;

export const deepseekV3: Architecture = {
  name: 'deepseek-v3',
  modelTypes: ['deepseek_v3'],
  traits: { experts: true, furtherLayers: true },
  define(model) {
    const { config } = model;
    const attend = latentAttention(model);
    const activation = readActivation(config);
    const count = config.integer('n_routed_experts', LIMITS.experts, 256);
    const width = config.integer('moe_intermediate_size', LIMITS.intermediateSize, 2048);
    const shared = config.integer('n_shared_experts', { min: 0, max: LIMITS.experts.max }, 1);
    const firstSparse = config.integer('first_k_dense_replace', { min: 0, max: LIMITS.layers.max }, 3);
    if (config.integer('moe_layer_freq', LIMITS.layers, 1) !== 1)
      throw config.unsupported('moe_layer_freq', 'every layer must have experts');
    const groups = config.integer('n_group', { min: 1, max: count }, 1);
    if (count % groups !== 0) throw config.expected(`divisor of n_routed_experts (${count})`, 'n_group', groups);
    const topGroups = config.integer('topk_group', { min: 1, max: groups }, groups);
    const experts = {
      count,
      width,
      matrices: { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' },
      activation,
      scoring: 'sigmoid',
      topK: config.integer('num_experts_per_tok', { min: 1, max: topGroups * (count / groups) }, 8),
      normalise: config.boolean('norm_topk_prob', true),
      scale: config.number('routed_scaling_factor', { min: 0, max: 1e6 }, 2.5),
      groups,
      topGroups,
      bias: true,
    } as const;
    model.embed();
    model.layers((layer, index) => {
      attend(layer);
      const hidden = layer.norm('post_attention_layernorm');
      if (index < firstSparse) {
        layer.addProjection('mlp.down_proj', layer.glu(hidden, activation));
        return;
      }
      if (shared > 0) {
        layer.addProjection('mlp.shared_experts.down_proj', layer.sharedGlu('mlp.shared_experts', shared * width, hidden, activation));
      }
      layer.addExperts('mlp', hidden, experts);
    });
    model.head();
  },
};

/** x += attention(norm(x)), as one function of a layer. */
function latentAttention(model: Decoder): (layer: Layer) => void {
  const { config, builder, shape } = model;
  const { nHeads } = shape;
  const part = (key: string, fallback: number): number => config.integer(key, LIMITS.headDim, fallback);
  const [nope, rotated, value] = [part('qk_nope_head_dim', 128), part('qk_rope_head_dim', 64), part('v_head_dim', 128)];
  const headDim = nope + rotated;
  if (value > headDim) throw config.unsupported('v_head_dim', `values must not be wider than keys (${headDim} columns)`);
  if (rotated % 2 !== 0) throw config.expected('even integer, as rotary positions turn pairs,', 'qk_rope_head_dim', rotated);
  if (shape.nKvHeads !== nHeads) throw config.unsupported('num_key_value_heads', 'every head has keys of its own');
  const qRank = config.has('q_lora_rank') ? config.integer('q_lora_rank', LIMITS.hiddenSize) : undefined;
  const kvRank = config.integer('kv_lora_rank', LIMITS.hiddenSize, 512);
  const bias = { bias: config.boolean('attention_bias', false) };
  const interleaved = config.boolean('rope_interleave', true);
  const scale = yarnTemperature(config) / Math.sqrt(headDim);
  const rope = model.rope({ headDim: rotated });

  const kvA = builder.buffer('kv_latent', kvRank + rotated);
  const latent = columns(kvA, 0, kvRank);
  const sharedKey = columns(kvA, kvRank, rotated);
  const kv = builder.buffer('kv', nHeads * (nope + value));
  const heads = (name: string, width: number): View => builder.buffer(name, nHeads * width);
  const [q, k, v, out] = [heads('q', headDim), heads('k', headDim), heads('v', headDim), heads('attention', headDim)];
  const compact = value === headDim ? out : heads('attended', value);

  return (layer) => {
    const input = layer.norm('input_layernorm');
    if (qRank === undefined) {
      layer.project(input, [
        ['self_attn.q_proj', q, { bias: false }],
        ['self_attn.kv_a_proj_with_mqa', kvA, bias],
      ]);
    } else {
      const qA = builder.buffer('q_latent', qRank);
      layer.project(input, [
        ['self_attn.q_a_proj', qA, bias],
        ['self_attn.kv_a_proj_with_mqa', kvA, bias],
      ]);
      layer.project(layer.norm('self_attn.q_a_layernorm', qA, qA, LATENT_EPS), [['self_attn.q_b_proj', q, { bias: false }]]);
    }
    layer.project(layer.norm('self_attn.kv_a_layernorm', latent, latent, LATENT_EPS), [['self_attn.kv_b_proj', kv, { bias: false }]]);
    builder.rotate(q, headDim, rope, { offset: nope, interleaved });
    builder.rotate(sharedKey, rotated, rope, { interleaved });
    // The heads of a view, from column `from` of each head on.
    const span = (view: View, from: number, stride: number, width: number): View => columns(view, from, (nHeads - 1) * stride + width);
    const stride = nope + value;
    const copy = { nHeads, zeros: 0 };
    builder.copy({
      ...copy,
      in: span(kv, 0, stride, nope),
      out: span(k, 0, headDim, nope),
      width: nope,
      inStride: stride,
      outStride: headDim,
    });
    builder.copy({ ...copy, in: sharedKey, out: span(k, nope, headDim, rotated), width: rotated, inStride: 0, outStride: headDim });
    builder.copy({
      in: span(kv, nope, stride, value),
      out: v,
      nHeads,
      width: value,
      zeros: headDim - value,
      inStride: stride,
      outStride: headDim,
    });
    builder.attention({ q, k, v, out, nHeads, nKvHeads: nHeads, headDim, scale, softcap: 0, window: 0 });
    if (compact !== out) {
      builder.copy({ ...copy, in: span(out, 0, headDim, value), out: compact, width: value, inStride: headDim, outStride: value });
    }
    layer.addProjection('self_attn.o_proj', compact, bias);
  };
}
