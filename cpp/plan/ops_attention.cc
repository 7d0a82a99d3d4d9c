// plan/: the attention op: stores the new keys and values, then attends. Two ways, both blocked over keys with an online softmax
// (Milakov and Gimelshein 2018; Dao et al. 2022), in f32:
//   attend_few.cc   steps of a few tokens per sequence over an f16 cache (decode, verification): bound by reading the cache
//   attend_many.cc  everything else (prefill, f32 caches): matrix products over blocks of keys
#include <algorithm>

#include "plan/executor.h"
#include "plan/scratch.h"

namespace lowbit {

Status Executor::Attention(const Op& op, KvCache* cache) {
  if (cache == nullptr) return Error(Code::kInternal, "An attention op ran without a cache");
  // Keys and values first: every row of a segment may read those of the rows before it.
  const auto store = [&](const Segment& s, int begin, int end) {
    for (int h = 0; h < op.n_kv_heads; ++h)
      cache->Store(op.index, s.sequence, h, s.past + begin, end - begin, Row(op.in2, s.row + begin) + h * op.head_dim, Stride(op.in2),
                   Row(op.in3, s.row + begin) + h * op.head_dim, Stride(op.in3), kernels_);
  };
  for (const Segment& s : batch_.segments) {
    if (s.count <= kFewTokens) {
      store(s, 0, s.count);
      continue;
    }
    // Whole panels of 16 tokens, whatever position the segment begins at.
    const int lead = (16 - s.past % 16) % 16, panels = (std::max(0, s.count - lead) + 15) / 16;
    pool_.Run(panels + 1, [&](int c, int) {
      const int begin = c == 0 ? 0 : lead + (c - 1) * 16;
      store(s, std::min(begin, s.count), std::min(c == 0 ? lead : begin + 16, s.count));
    });
  }

  // A row of a short segment gives the same bits however many rows share its step: verification of proposed tokens and batched
  // decoding rely on it. So short segments are cut into single tokens on both ways.
  const bool streams = fast_ && cache->f16();
  std::vector<AttendItem> few, many;
  const int tokens = AttentionScratch(op).tokens;
  for (const Segment& s : batch_.segments) {
    const bool is_short = s.count <= kFewTokens;
    const int step = is_short ? 1 : tokens;
    for (int t = 0; t < s.count; t += step)
      (is_short && streams ? few : many).push_back({s.sequence, s.row + t, s.past + t, std::min(step, s.count - t)});
  }
  std::reverse(many.begin(), many.end());  // the rows that see most keys first: the last chunks of a region should be short
  if (!few.empty()) AttendFew(op, *cache, few);
  if (!many.empty()) AttendMany(op, *cache, many);
  return Status::Ok();
}

}  // namespace lowbit
