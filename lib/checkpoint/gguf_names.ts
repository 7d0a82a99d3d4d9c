/**
 * checkpoint: names of tensors, Hugging Face -> GGUF, per architecture. Names only; what differs in the bytes (permuted rotary rows,
 * norms stored as 1 + w) is said by Checkpoint.conventions.
 */

/** Names outside the decoder blocks, the same everywhere. */
const GLOBAL: Readonly<Record<string, string>> = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  lm_head: 'output',
};

/** Inside a block: "model.layers.N." -> "blk.N.". */
const ATTENTION = {
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
};
const QK_NORM = { 'self_attn.q_norm': 'attn_q_norm', 'self_attn.k_norm': 'attn_k_norm' };
const FEED_FORWARD = { 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down' };
const PRE_NORM = { input_layernorm: 'attn_norm', post_attention_layernorm: 'ffn_norm' };
/** Gemma has norms before and after each half; what Llama calls post_attention_layernorm is pre_feedforward_layernorm there. */
const SANDWICH_NORM = {
  input_layernorm: 'attn_norm',
  post_attention_layernorm: 'post_attention_norm',
  pre_feedforward_layernorm: 'ffn_norm',
  post_feedforward_layernorm: 'post_ffw_norm',
};

const BLOCKS = {
  llama: { ...ATTENTION, ...FEED_FORWARD, ...PRE_NORM },
  qwen2: { ...ATTENTION, ...FEED_FORWARD, ...PRE_NORM },
  qwen3: { ...ATTENTION, ...QK_NORM, ...FEED_FORWARD, ...PRE_NORM },
  gemma2: { ...ATTENTION, ...FEED_FORWARD, ...SANDWICH_NORM },
  gemma3: { ...ATTENTION, ...QK_NORM, ...FEED_FORWARD, ...SANDWICH_NORM },
  // Both fused weights keep their Hugging Face row order: [q | k | v] and [gate | up].
  phi3: {
    'self_attn.qkv_proj': 'attn_qkv',
    'self_attn.o_proj': 'attn_output',
    'mlp.gate_up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down',
    ...PRE_NORM,
  },
  olmo2: {
    ...ATTENTION,
    ...QK_NORM,
    ...FEED_FORWARD,
    post_attention_layernorm: 'post_attention_norm',
    post_feedforward_layernorm: 'post_ffw_norm',
  },
} as const satisfies Record<string, Readonly<Record<string, string>>>;

export type GgufArchitecture = keyof typeof BLOCKS;

export const GGUF_ARCHITECTURES = Object.keys(BLOCKS) as readonly GgufArchitecture[];

export function isGgufArchitecture(name: string): name is GgufArchitecture {
  return Object.hasOwn(BLOCKS, name);
}

/**
 * The GGUF name of a Hugging Face tensor, or undefined when the architecture has no such tensor.
 *
 * @example ggufName('llama', 'model.layers.3.mlp.up_proj.weight') // 'blk.3.ffn_up.weight'
 */
export function ggufName(architecture: GgufArchitecture, hfName: string): string | undefined {
  const parts = /^(?:model\.layers\.(\d{1,6})\.)?(.+)\.(weight|bias)$/.exec(hfName);
  if (parts === null) return undefined;
  const [, block, module, kind] = parts as unknown as [string, string | undefined, string, string];
  const table: Readonly<Record<string, string>> = block === undefined ? GLOBAL : BLOCKS[architecture];
  const found = Object.hasOwn(table, module) ? table[module] : undefined;
  if (found === undefined) return undefined;
  return block === undefined ? `${found}.${kind}` : `blk.${Number(block)}.${found}.${kind}`;
}
