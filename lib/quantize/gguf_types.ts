/**
 * lib/quantize: which GGUF block type each weight gets: single types and llama.cpp's mixtures (its llama-quant.cpp), with the same ways out for rows
 * that are no whole number of blocks. Decides types; computes nothing.
 */
import { DTYPES } from '../checkpoint/dtype';

/** Types that codes can be solved for (cpp/part/gguf_encode.h). */
export const blockTypes = ['Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q4_K', 'Q5_K', 'Q6_K'] as const;
export type BlockType = (typeof blockTypes)[number];

/** One type for all linears, or a mixture that gives the sensitive ones more. */
export const ggufTypes = [...blockTypes, 'Q4_K_S', 'Q4_K_M', 'Q5_K_S', 'Q5_K_M'] as const;
export type GgufType = (typeof ggufTypes)[number];

/** general.file_type: what most tensors are, in the numbers of llama.cpp's llama_ftype. */
export const fileTypes: Readonly<Record<GgufType | 'F32' | 'F16' | 'BF16', number>> = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q8_0: 7,
  Q5_0: 8,
  Q5_1: 9,
  Q4_K: 15,
  Q4_K_S: 14,
  Q4_K_M: 15,
  Q5_K: 17,
  Q5_K_S: 16,
  Q5_K_M: 17,
  Q6_K: 18,
  BF16: 32,
};

/** bits and columns per scale of a type, as reports name them. */
export function blockShape(type: BlockType): { readonly bits: number; readonly groupSize: number; readonly sym: boolean } {
  return { bits: Number(type[1]), groupSize: type === 'Q6_K' ? 16 : 32, sym: !['Q4_1', 'Q5_1', 'Q4_K', 'Q5_K'].includes(type) };
}

export interface TypeChoice {
  readonly type: BlockType;
  /** The type of choice, where rows of k columns do not fit it. */
  readonly insteadOf?: BlockType;
}

/** For rows that are no multiple of 256, as llama-quantize: the type with blocks of 32 that comes next. */
const FALLBACK: Partial<Record<BlockType, BlockType>> = { Q4_K: 'Q5_0', Q5_K: 'Q5_1', Q6_K: 'Q8_0' };

/** A type, or what takes its place for rows of k columns. */
export function fitted(type: BlockType, k: number): TypeChoice {
  const other = FALLBACK[type];
  return other === undefined || k % (DTYPES.get(type)?.values ?? 1) === 0 ? { type } : { type: other, insteadOf: type };
}

/** Of a decoder linear: `name` is its GGUF name without block, 'attn_v'. */
export function linearType(wanted: GgufType, name: string, layer: number, layers: number, k: number): TypeChoice {
  return fitted(mixed(wanted, name, layer, layers), k);
}

function mixed(wanted: GgufType, name: string, layer: number, layers: number): BlockType {
  const eighth = Math.floor(layers / 8);
  // The first and the last eighth, and every third layer between.
  const more = layer < eighth || layer >= Math.floor((7 * layers) / 8) || (layer - eighth) % 3 === 2;
  switch (wanted) {
    case 'Q4_K_S':
      return (name === 'attn_v' && layer < 4) || (name === 'ffn_down' && layer < eighth) ? 'Q5_K' : 'Q4_K';
    case 'Q4_K_M':
      if (name === 'attn_qkv') return 'Q5_K';
      return (name === 'attn_v' || name === 'ffn_down') && more ? 'Q6_K' : 'Q4_K';
    case 'Q5_K_S':
      return 'Q5_K';
    case 'Q5_K_M':
      if (name === 'attn_qkv') return 'Q6_K';
      return (name === 'attn_v' || name === 'ffn_down') && more ? 'Q6_K' : 'Q5_K';
    default:
      return wanted;
  }
}

/**
 * Of the embedding and the head. What makes logits gets 6 bits or more: the head, or the embedding when it is both. An embedding with a head beside
 * it has the type of most linears. Both are rounded without calibration, on ranges that were searched.
 */
export function outerType(wanted: GgufType, makesLogits: boolean, k: number): TypeChoice {
  if (makesLogits) return wanted === 'Q8_0' ? { type: 'Q8_0' } : fitted('Q6_K', k);
  return fitted(mixed(wanted, '', 0, 1), k);
}
