// plan/: attention of blocks of query tokens. A work item is one kv head and up to kQueryRows rows = query tokens x the query
// heads that share it, so keys and values are read once for the whole group. Both products, scores = Q x key panels and output +=
// P x value lines, run on gemm_f32; in the fast path over an f16 cache on gemm_bf16 where the processor has it, softmax and sums
// staying f32.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "plan/executor.h"
#include "plan/scratch.h"

namespace lowbit {

// A region over (item, kv head). Reads only what stays mapped and is in bounds whatever a late worker finds in it.
struct Executor::ManyTask {
  const Executor* e;
  const Op* op;
  const KvCache* cache;

  struct Memory {
    AttentionLayout layout;
    float *query, *scores, *packed, *output, *keys, *values, *maximum, *sum;
  };
  Memory Of(int worker) const {
    const AttentionLayout a = AttentionScratch(*op);
    float* scratch = reinterpret_cast<float*>(e->ThreadScratch(worker));
    return {a,
            scratch + a.query,
            scratch + a.scores,
            scratch + a.packed,
            scratch + a.output,
            scratch + a.keys,
            scratch + a.values,
            scratch + a.state,
            scratch + a.state + a.rows};
  }
  AttendItem Item(int chunk) const {
    AttendItem item = RacingCopy(e->attend_items_.as<AttendItem>()[chunk / op->n_kv_heads]);
    // Changes nothing unless the words are of two regions.
    item.tokens = std::min({item.tokens, AttentionScratch(*op).tokens, cache->context_size() - item.position, e->max_rows_ - item.row});
    return item;
  }

  bool Compute(int chunk, int worker, bool) const {
    const AttendItem item = Item(chunk);
    const int kv_head = chunk % op->n_kv_heads, group = op->n_heads / op->n_kv_heads, head_dim = op->head_dim;
    const KernelTable& kernels = e->kernels_;
    const Memory mem = Of(worker);
    const int tokens = item.tokens, m = tokens * group;
    const size_t dim = static_cast<size_t>(mem.layout.dim);

    // Row t*group + h, scaled: the scale goes into q once instead of into every score.
    for (int t = 0; t < tokens; ++t) {
      float* to = mem.scores + static_cast<size_t>(t * group * head_dim);
      const size_t floats = static_cast<size_t>(group * head_dim);
      kernels.scale(e->Row(op->in, item.row + t) + kv_head * group * head_dim, to, floats, op->factor);
    }
    const bool bf16 = e->fast_ && cache->f16() && kernels.gemm_bf16 != nullptr && head_dim % 2 == 0;
    if (bf16)
      kernels.pack_rows_bf16(mem.scores, static_cast<size_t>(head_dim), m, head_dim, reinterpret_cast<uint16_t*>(mem.query));
    else
      kernels.pack_rows(mem.scores, static_cast<size_t>(head_dim), m, head_dim, mem.query);
    for (int r = 0; r < m; ++r) {
      mem.maximum[r] = -std::numeric_limits<float>::infinity();
      mem.sum[r] = 0;
    }
    std::memset(mem.output, 0, static_cast<size_t>(m) * dim * sizeof(float));

    const int first = item.position, last = first + tokens - 1;  // query positions
    const int lowest = op->window > 0 ? std::max(0, first - op->window + 1) : 0;
    for (int begin = lowest / 16 * 16; begin <= last; begin += kKeyBlock) {
      const int end = std::min(begin + kKeyBlock, last + 1);
      if (bf16)
        BlockBf16(mem, item, kv_head, m, begin, end);
      else
        BlockF32(mem, item, kv_head, m, begin, end);
    }
    return true;
  }

  void BlockF32(const Memory& mem, const AttendItem& item, int kv_head, int m, int begin, int end) const {
    const KernelTable& kernels = e->kernels_;
    const int keys = end - begin, head_dim = op->head_dim;
    const size_t width = static_cast<size_t>(head_dim), dim = static_cast<size_t>(mem.layout.dim);
    const float* key = cache->Keys(op->index, item.sequence, kv_head, begin, end, mem.keys, kernels);
    const float* value = cache->Values(op->index, item.sequence, kv_head, begin, end, mem.values, kernels);
    kernels.gemm_f32(mem.query, width * kRowTile, kRowTile, key, width * 16, 16, m, keys, head_dim, mem.scores, kKeyBlock, false);
    for (int r = 0; r < m; ++r) Softmax(mem, r, item.position + r * op->n_kv_heads / op->n_heads, begin, end);
    kernels.pack_rows(mem.scores, kKeyBlock, m, keys, mem.packed);
    kernels.gemm_f32(mem.packed, static_cast<size_t>(keys) * kRowTile, kRowTile, value, 16, dim, m, head_dim, keys, mem.output, dim, true);
  }

  void BlockBf16(const Memory& mem, const AttendItem& item, int kv_head, int m, int begin, int end) const {
    const KernelTable& kernels = e->kernels_;
    const int keys = end - begin, head_dim = op->head_dim, pairs = (keys + 1) / 2;
    const size_t dim = static_cast<size_t>(mem.layout.dim), key_panel = 16 * static_cast<size_t>(head_dim);
    uint16_t *key = reinterpret_cast<uint16_t*>(mem.keys), *value = reinterpret_cast<uint16_t*>(mem.values),
             *packed = reinterpret_cast<uint16_t*>(mem.packed);
    kernels.f16_lines_to_bf16(cache->KeysF16(op->index, item.sequence, kv_head, begin), 16, (keys + 15) / 16 * head_dim, key);
    kernels.gemm_bf16(reinterpret_cast<const uint16_t*>(mem.query), key_panel, key, key_panel, m, keys, head_dim / 2, mem.scores, kKeyBlock,
                      false);
    for (int r = 0; r < m; ++r) Softmax(mem, r, item.position + r * op->n_kv_heads / op->n_heads, begin, end);
    kernels.pack_rows_bf16(mem.scores, kKeyBlock, m, keys, packed);
    const uint16_t* lines = cache->ValuesF16(op->index, item.sequence, kv_head, begin);
    const size_t stride = static_cast<size_t>(pairs) * 32;
    for (size_t d = 0; d < dim; d += 16) kernels.f16_lines_to_bf16(lines + d, dim, keys, value + d / 16 * stride);
    kernels.gemm_bf16(packed, stride, value, stride, m, head_dim, pairs, mem.output, dim, true);
  }

  // Row r of the scores of keys [begin, end): exp(score - maximum), with what was summed before rescaled to a new maximum.
  void Softmax(const Memory& mem, int r, int position, int begin, int end) const {
    const KernelTable& kernels = e->kernels_;
    float* row = mem.scores + static_cast<size_t>(r) * kKeyBlock;
    const int from = op->window > 0 ? std::max(begin, position - op->window + 1) : begin;
    const int to = std::min(end, position + 1);
    if (to <= from) {  // nothing visible in this block
      std::memset(row, 0, static_cast<size_t>(end - begin) * sizeof(float));
      return;
    }
    std::fill(row, row + (from - begin), -std::numeric_limits<float>::infinity());
    std::fill(row + (to - begin), row + (end - begin), -std::numeric_limits<float>::infinity());
    if (op->softcap > 0) kernels.softcap(row + (from - begin), static_cast<size_t>(to - from), op->softcap);
    const float peak = std::max(mem.maximum[r], kernels.max(row + (from - begin), static_cast<size_t>(to - from)));
    if (peak > mem.maximum[r]) {
      if (mem.sum[r] > 0) {
        const float factor = std::exp(mem.maximum[r] - peak);
        mem.sum[r] *= factor;
        const size_t dim = static_cast<size_t>(mem.layout.dim);
        float* output = mem.output + static_cast<size_t>(r) * dim;
        kernels.scale(output, output, dim, factor);
      }
      mem.maximum[r] = peak;
    }
    mem.sum[r] += kernels.exp_sum(row, static_cast<size_t>(end - begin), mem.maximum[r]);
  }

  void Commit(int chunk, int worker) const {
    const AttendItem item = Item(chunk);
    const int kv_head = chunk % op->n_kv_heads, group = op->n_heads / op->n_kv_heads, head_dim = op->head_dim;
    const Memory mem = Of(worker);
    for (int r = 0; r < item.tokens * group; ++r) {
      float* to = e->Row(op->out, item.row + r / group) + (kv_head * group + r % group) * head_dim;
      e->kernels_.scale(mem.output + static_cast<size_t>(r * mem.layout.dim), to, static_cast<size_t>(head_dim), 1.0f / mem.sum[r]);
    }
  }
};

void Executor::AttendMany(const Op& op, const KvCache& cache, const std::vector<AttendItem>& items) {
  const ManyTask task{this, &op, &cache};
  const size_t most = static_cast<size_t>(std::max(1, Pool::kMaxStealableChunks / op.n_kv_heads));
  for (size_t first = 0; first < items.size(); first += most) {
    const size_t count = std::min(most, items.size() - first);
    std::copy_n(items.begin() + static_cast<std::ptrdiff_t>(first), count, attend_items_.as<AttendItem>());
    RunStealable(static_cast<int>(count) * op.n_kv_heads, task);
  }
}

}  // namespace lowbit
