"""De-quantises a llama-architecture GGUF file into bf16 safetensors with Hugging Face tensor names.

usage: gguf_to_hf.py MODEL.gguf MODEL.safetensors

An implementation of its own kind (numpy and the gguf package), so that what lowbit reads from a GGUF file can be compared with
it. GGUF stores the rows of attn_q and attn_k permuted (adjacent-pair rotary order); this puts them back.
"""

import json
import sys

import gguf
import numpy as np

LAYER_NAMES = {
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
OTHER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def hf_name(name: str) -> str:
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{LAYER_NAMES[rest]}"


def unpermute(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """[n_heads * head_dim, in], adjacent-pair rotary order -> half-split rotary order."""
    rows, columns = weight.shape
    half = rows // n_heads // 2
    return weight.reshape(n_heads, half, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 bit pattern (round to nearest even) as uint16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def main(source: str, target: str) -> None:
    reader = gguf.GGUFReader(source)
    heads = {
        "attn_q.weight": int(reader.fields["llama.attention.head_count"].contents()),
        "attn_k.weight": int(reader.fields["llama.attention.head_count_kv"].contents()),
    }
    tensors = {}
    for tensor in reader.tensors:
        shape = [int(size) for size in tensor.shape[::-1]]
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        for suffix, n_heads in heads.items():
            if tensor.name.endswith(suffix):
                weight = unpermute(weight, n_heads)
        tensors[hf_name(tensor.name)] = to_bf16(weight)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        end = offset + tensors[name].nbytes
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            file.write(tensors[name].astype("<u2").tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
