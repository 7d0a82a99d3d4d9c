/**
 * models: Gemma 2 (arXiv 2408.00118). Norms before and after both halves of a layer, GeGLU, softcapped attention and logits, every
 * other layer sliding.
 */
import { type Architecture, type Decoder, readActivation, readWindows } from './decoder';

export const gemma2: Architecture = {
  name: 'gemma2',
  modelTypes: ['gemma2'],
  traits: { headDim: 256, tied: true, normPlusOne: true },
  define(model) {
    const { attention, bias, finalSoftcap, activation } = readGemma(model);
    const windows = readWindows(model, (index) => (index % 2 === 0 ? 'sliding_attention' : 'full_attention'), 4096);
    const rope = model.rope();
    model.embed(Math.sqrt(model.shape.hiddenSize));
    model.layers((layer, index) => {
      const { q, k, v } = layer.qkv(layer.norm('input_layernorm'), bias);
      layer.rope(rope, q, k);
      const attended = layer.attention({ q, k, v }, { ...attention, window: windows[index] ?? 0 });
      layer.addNormedProjection('self_attn.o_proj', 'post_attention_layernorm', attended, bias);
      const gated = layer.glu(layer.norm('pre_feedforward_layernorm'), activation);
      layer.addNormedProjection('mlp.down_proj', 'post_feedforward_layernorm', gated);
    });
    model.head(finalSoftcap);
  },
};

/** What Gemma 2 and 3 share. The embedding is scaled by the exact f32 root of hidden_size; transformers rounds it only when it computes in bf16. */
export function readGemma({ config }: Decoder) {
  const cap = { min: 1e-3, max: 1e6 };
  return {
    attention: {
      scale: config.number('query_pre_attn_scalar', { min: 1e-6, max: 1e6 }, 256) ** -0.5,
      softcap: config.has('attn_logit_softcapping') ? config.number('attn_logit_softcapping', cap) : 0,
    },
    bias: { bias: config.boolean('attention_bias', false) },
    finalSoftcap: config.has('final_logit_softcapping') ? config.number('final_logit_softcapping', cap) : 0,
    activation: readActivation(config, 'hidden_activation', 'gelu_pytorch_tanh'),
  };
}
