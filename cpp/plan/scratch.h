// plan/scratch: sizes of the per-thread scratch that ops use; shared by executor.cc (reserves) and ops_*.cc (use).
#pragma once

#include <algorithm>
#include <cstddef>

#include "kernel/kernel.h"
#include "plan/plan.h"

namespace lowbit {

// Exact linear: panels unpacked at a time (gemm_f32 works on 3 panels) and columns per pass; 3*512*16*4 = 96 KiB stays in L2.
constexpr size_t kExactPanels = 3;
constexpr size_t kExactColumns = 512;

// Linear: floats of a chunk's result where a thread keeps it for itself until it may publish it; stays in the second-level cache.
constexpr size_t kPrivateFloats = size_t(32) << 10;

// Attention: keys per online-softmax block, and query rows (tokens x heads of a group) per work item.
constexpr int kKeyBlock = 256;
constexpr int kQueryRows = 96;

// Segments of at most this many tokens are attended token by token (attend_few.cc); such a token has at most kFewBlocks blocks of
// keys, and kFewItems tokens run in one region.
constexpr int kFewTokens = kSmallRows;
constexpr int kFewBlocks = 16;
constexpr int kFewItems = 32;
size_t FewPartialFloats(const Op& op);  // of one block and kv head
size_t FewScratchFloats(const Op& op);  // of one thread

struct AttentionLayout {
  int tokens = 0;                                             // query tokens per work item
  int rows = 0;                                               // tokens * heads per kv head, rounded up to 16
  int dim = 0;                                                // head_dim rounded up to 16
  size_t query, scores, packed, output, keys, values, state;  // float offsets
  size_t bytes = 0;
};

inline AttentionLayout AttentionScratch(const Op& op) {
  AttentionLayout a;
  const int group = op.n_heads / op.n_kv_heads;
  a.tokens = std::max(1, kQueryRows / group);
  a.rows = (a.tokens * group + 15) / 16 * 16;
  a.dim = (op.head_dim + 15) / 16 * 16;
  const size_t rows = static_cast<size_t>(a.rows), dim = static_cast<size_t>(a.dim), block = kKeyBlock;
  size_t at = 0;
  const auto take = [&](size_t floats) {
    const size_t here = at;
    at += (floats + 31) / 16 * 16;
    return here;
  };
  a.query = take(rows * dim);
  a.scores = take(rows * std::max(block, dim));  // holds the unpacked query rows first
  a.packed = take(rows * std::max(block, dim));
  a.output = take(rows * dim);
  a.keys = take(block * dim);
  a.values = take(block * dim);
  a.state = take(2 * rows);
  a.bytes = at * sizeof(float);
  return a;
}

}  // namespace lowbit
