// plan/: the attention op. Blocked over keys with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022), f32.
//
// A work item is one kv head and up to kQueryRows rows = query tokens x the query heads that share it, so keys and values
// are read once for the whole group. Both products run on gemm_f32: scores = Q x key panels, output += P x value lines.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "plan/executor.h"
#include "plan/scratch.h"

namespace lowbit {

Status Executor::Attention(const Op& op, KvCache* cache) {
  if (cache == nullptr) return Error(Code::kInternal, "An attention op ran without a cache");
  const int head_dim = op.head_dim, group = op.n_heads / op.n_kv_heads;
  const AttentionLayout layout = AttentionScratch(op);

  struct Item {
    const Segment* segment;
    int first, tokens;  // query tokens of the segment
  };
  std::vector<Item> items;
  for (const Segment& s : batch_.segments)
    for (int t = 0; t < s.count; t += layout.tokens) items.push_back({&s, t, std::min(layout.tokens, s.count - t)});

  // Keys and values first: every item of a segment may read all of them.
  const auto store = [&](const Segment& s, int head, int begin, int end) {
    for (int t = begin; t < end; ++t)
      cache->Store(op.index, s.sequence, head, s.past + t, Row(op.in2, s.row + t) + head * head_dim,
                   Row(op.in3, s.row + t) + head * head_dim, kernels_);
  };
  const int n_items = static_cast<int>(items.size());
  if (n_items <= 2) {
    for (const Segment& s : batch_.segments)
      for (int h = 0; h < op.n_kv_heads; ++h) store(s, h, 0, s.count);
  } else {
    pool_.Run(n_items * op.n_kv_heads, [&](int chunk, int) {
      const Item& item = items[static_cast<size_t>(chunk / op.n_kv_heads)];
      store(*item.segment, chunk % op.n_kv_heads, item.first, item.first + item.tokens);
    });
  }

  pool_.Run(n_items * op.n_kv_heads, [&](int chunk, int worker) {
    const Item& item = items[static_cast<size_t>(chunk / op.n_kv_heads)];
    const int kv_head = chunk % op.n_kv_heads;
    const Segment& s = *item.segment;
    float* scratch = reinterpret_cast<float*>(scratch_.data() + static_cast<size_t>(worker) * thread_scratch_);
    float *query = scratch + layout.query, *scores = scratch + layout.scores, *packed = scratch + layout.packed,
          *output = scratch + layout.output;
    float *maximum = scratch + layout.state, *sum = maximum + layout.rows;
    const int m = item.tokens * group;
    const size_t dim = static_cast<size_t>(layout.dim);

    // Row t*group + h, scaled: the scale goes into q once instead of into every score.
    for (int t = 0; t < item.tokens; ++t)
      for (int h = 0; h < group; ++h) {
        float* to = scores + static_cast<size_t>(t * group + h) * static_cast<size_t>(head_dim);
        std::memcpy(to, Row(op.in, s.row + item.first + t) + (kv_head * group + h) * head_dim,
                    static_cast<size_t>(head_dim) * sizeof(float));
        kernels_.scale(to, static_cast<size_t>(head_dim), op.factor);
      }
    kernels_.pack_rows(scores, static_cast<size_t>(head_dim), m, head_dim, query);
    for (int r = 0; r < m; ++r) {
      maximum[r] = -std::numeric_limits<float>::infinity();
      sum[r] = 0;
    }
    std::memset(output, 0, static_cast<size_t>(m) * dim * sizeof(float));

    const int first = s.past + item.first, last = first + item.tokens - 1;  // query positions
    const int lowest = op.window > 0 ? std::max(0, first - op.window + 1) : 0;
    for (int begin = lowest / 16 * 16; begin <= last; begin += kKeyBlock) {
      const int end = std::min(begin + kKeyBlock, last + 1), keys = end - begin;
      const float* key = cache->Keys(op.index, s.sequence, kv_head, begin, end, scratch + layout.keys, kernels_);
      const float* value = cache->Values(op.index, s.sequence, kv_head, begin, end, scratch + layout.values, kernels_);
      kernels_.gemm_f32(query, static_cast<size_t>(head_dim) * kRowTile, kRowTile, key, static_cast<size_t>(head_dim) * 16, 16, m, keys,
                        head_dim, scores, kKeyBlock, false);
      for (int r = 0; r < m; ++r) {
        float* row = scores + static_cast<size_t>(r) * kKeyBlock;
        const int position = first + r / group;
        const int from = op.window > 0 ? std::max(begin, position - op.window + 1) : begin;
        const int to = std::min(end, position + 1);
        for (int j = begin; j < std::min(from, end); ++j) row[j - begin] = -std::numeric_limits<float>::infinity();
        for (int j = std::max(to, begin); j < end; ++j) row[j - begin] = -std::numeric_limits<float>::infinity();
        if (to <= from) {  // nothing visible in this block
          std::memset(row, 0, static_cast<size_t>(keys) * sizeof(float));
          continue;
        }
        if (op.softcap > 0) kernels_.softcap(row + (from - begin), static_cast<size_t>(to - from), op.softcap);
        const float peak = std::max(maximum[r], kernels_.max(row + (from - begin), static_cast<size_t>(to - from)));
        if (peak > maximum[r]) {
          if (sum[r] > 0) {
            const float factor = std::exp(maximum[r] - peak);
            sum[r] *= factor;
            kernels_.scale(output + static_cast<size_t>(r) * dim, dim, factor);
          }
          maximum[r] = peak;
        }
        sum[r] += kernels_.exp_sum(row, static_cast<size_t>(keys), maximum[r]);
      }
      kernels_.pack_rows(scores, kKeyBlock, m, keys, packed);
      kernels_.gemm_f32(packed, static_cast<size_t>(keys) * kRowTile, kRowTile, value, 16, dim, m, head_dim, keys, output, dim, true);
    }
    for (int t = 0; t < item.tokens; ++t)
      for (int h = 0; h < group; ++h) {
        const int r = t * group + h;
        float* to = Row(op.out, s.row + item.first + t) + (kv_head * group + h) * head_dim;
        std::memcpy(to, output + static_cast<size_t>(r) * dim, static_cast<size_t>(head_dim) * sizeof(float));
        kernels_.scale(to, static_cast<size_t>(head_dim), 1.0f / sum[r]);
      }
  });
  return Status::Ok();
}

}  // namespace lowbit
