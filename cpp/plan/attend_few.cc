// plan/: attention of single query tokens over an f16 cache. The keys of a token are cut into blocks that threads take one by
// one; a block leaves unnormalised sums with their maximum, and the caller merges the blocks of a head in order. Where blocks
// begin depends on the token's position alone, so the result does not depend on threads or on what else is in the step.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "plan/executor.h"
#include "plan/scratch.h"

namespace lowbit {
namespace {

// Less work than this (multiply-adds) is done before another thread has woken up.
constexpr int64_t kMinParallelWork = 1 << 17;

// Keys per block: enough to pay for a chunk, few enough to share a long context out, never more blocks than kFewBlocks.
int BlockKeys(int position) {
  const int needed = (position + kFewBlocks) / kFewBlocks;
  return std::max(kKeyBlock, (needed + kKeyBlock - 1) / kKeyBlock * kKeyBlock);
}

}  // namespace

// Sums of one token, kv head and block: out[group][dim], then maximum[group] and sum[group].
size_t FewPartialFloats(const Op& op) {
  const size_t group = static_cast<size_t>(op.n_heads / op.n_kv_heads), dim = (static_cast<size_t>(op.head_dim) + 15) / 16 * 16;
  return group * (dim + 2);
}

// A region over (block, kv head). Reads only what stays mapped and is in bounds whatever a late worker finds in it.
struct Executor::FewTask {
  const Executor* e;
  const Op* op;
  const KvCache* cache;

  float* Partial(int chunk) const { return e->partials_.as<float>() + static_cast<size_t>(chunk) * FewPartialFloats(*op); }
  float* Private(int worker) const { return reinterpret_cast<float*>(e->ThreadScratch(worker)); }

  bool Compute(int chunk, int worker, bool direct) const {
    const FewBlock block = RacingCopy(e->few_blocks_.as<FewBlock>()[chunk / op->n_kv_heads]);
    if (block.end <= block.begin) return !direct;  // words of two regions: this worker is late, and its result will be dropped
    const int kv_head = chunk % op->n_kv_heads, group = op->n_heads / op->n_kv_heads, head_dim = op->head_dim;
    const size_t dim = (static_cast<size_t>(head_dim) + 15) / 16 * 16, size = FewPartialFloats(*op);
    float* result = direct ? Partial(chunk) : Private(worker);
    float *maximum = result + static_cast<size_t>(group) * dim, *sum = maximum + group;
    float* query = Private(worker) + (size + 15) / 16 * 16;
    float* scores = query + static_cast<size_t>(group) * dim;
    const KernelTable& kernels = e->kernels_;

    kernels.scale(e->Row(op->in, block.row) + kv_head * group * head_dim, query, static_cast<size_t>(group) * static_cast<size_t>(head_dim),
                  op->factor);
    std::memset(result, 0, static_cast<size_t>(group) * dim * sizeof(float));
    for (int g = 0; g < group; ++g) {
      maximum[g] = -std::numeric_limits<float>::infinity();
      sum[g] = 0;
    }
    const auto keys_at = [&](const FewBlock& of, int head, int begin) { return cache->KeysF16(op->index, of.sequence, head, begin); };
    const auto first_key = [](const FewBlock& of) { return of.begin / 16 * 16; };
    // What this thread is likely to read next.
    const bool same = kv_head + 1 < op->n_kv_heads;
    const FewBlock following = same ? block : RacingCopy(e->few_blocks_.as<FewBlock>()[chunk / op->n_kv_heads + 1]);
    const uint16_t* next_keys = keys_at(following, same ? kv_head + 1 : 0, first_key(following));
    for (int begin = first_key(block); begin < block.end; begin += kKeyBlock) {
      const int end = std::min(begin + kKeyBlock, block.end), from = std::max(begin, block.begin) - begin, keys = end - begin;
      const uint16_t* values = cache->ValuesF16(op->index, block.sequence, kv_head, begin + from);
      kernels.scores_f16(query, group, head_dim, keys_at(block, kv_head, begin), (keys + 15) / 16, scores, kKeyBlock, values);
      for (int g = 0; g < group; ++g) {
        float* row = scores + static_cast<size_t>(g) * kKeyBlock;
        const size_t count = static_cast<size_t>(keys - from);
        if (op->softcap > 0) kernels.softcap(row + from, count, op->softcap);
        const float peak = std::max(maximum[g], kernels.max(row + from, count));
        if (peak > maximum[g] && sum[g] > 0) {
          const float factor = std::exp(maximum[g] - peak);
          sum[g] *= factor;
          kernels.scale(result + static_cast<size_t>(g) * dim, result + static_cast<size_t>(g) * dim, dim, factor);
        }
        maximum[g] = peak;
        sum[g] += kernels.exp_sum(row + from, count, peak);
      }
      const uint16_t* next = end < block.end ? keys_at(block, kv_head, end) : next_keys;
      kernels.values_f16(scores + from, kKeyBlock, group, keys - from, values, dim, static_cast<int>(dim), result, dim, next);
    }
    return !direct;
  }
  void Commit(int chunk, int worker) const { std::memcpy(Partial(chunk), Private(worker), FewPartialFloats(*op) * sizeof(float)); }
};

size_t FewScratchFloats(const Op& op) {
  const size_t group = static_cast<size_t>(op.n_heads / op.n_kv_heads), dim = (static_cast<size_t>(op.head_dim) + 15) / 16 * 16;
  return FewPartialFloats(op) + 16 + group * (dim + kKeyBlock) + 16;
}

void Executor::AttendFew(const Op& op, const KvCache& cache, const std::vector<AttendItem>& items) {
  const int group = op.n_heads / op.n_kv_heads, head_dim = op.head_dim;
  const size_t dim = (static_cast<size_t>(head_dim) + 15) / 16 * 16, size = FewPartialFloats(op);
  const FewTask task{this, &op, &cache};
  for (size_t first = 0; first < items.size(); first += kFewItems) {
    const size_t last = std::min(items.size(), first + kFewItems);
    FewBlock* blocks = few_blocks_.as<FewBlock>();
    int count = 0;
    int64_t keys = 0;
    for (size_t i = first; i < last; ++i) {
      const AttendItem& item = items[i];
      const int length = BlockKeys(item.position), lowest = op.window > 0 ? std::max(0, item.position - op.window + 1) : 0;
      for (int b = lowest / length; b <= item.position / length; ++b)
        blocks[count++] = {item.sequence, item.row, std::max(lowest, b * length), std::min(item.position + 1, (b + 1) * length)};
      keys += item.position + 1 - lowest;
    }
    blocks[count] = blocks[count - 1];  // what "the next block" of the last one is
    const int chunks = count * op.n_kv_heads;
    if (keys * op.n_heads * head_dim < kMinParallelWork) {
      for (int c = 0; c < chunks; ++c) task.Compute(c, 0, true);
    } else {
      RunStealable(chunks, task);
    }

    for (int b = 0, end; b < count; b = end) {
      for (end = b + 1; end < count && blocks[end].row == blocks[b].row;) ++end;
      for (int h = 0; h < op.n_kv_heads; ++h)
        for (int g = 0; g < group; ++g) {
          const auto partial = [&](int block) { return partials_.as<float>() + static_cast<size_t>(block * op.n_kv_heads + h) * size; };
          const auto state = [&](int block) { return partial(block) + static_cast<size_t>(group) * dim + g; };
          float peak = state(b)[0];
          for (int i = b + 1; i < end; ++i) peak = std::max(peak, state(i)[0]);
          float total = 0;
          for (int i = b; i < end; ++i) total += state(i)[group] * std::exp(state(i)[0] - peak);
          float* to = Row(op.out, blocks[b].row) + (h * group + g) * head_dim;
          for (int i = b; i < end; ++i) {
            float* from = partial(i) + static_cast<size_t>(g) * dim;
            kernels_.scale(from, i == b ? to : from, static_cast<size_t>(head_dim), std::exp(state(i)[0] - peak) / total);
            if (i > b) kernels_.add(to, from, to, static_cast<size_t>(head_dim));
          }
        }
    }
  }
}

}  // namespace lowbit
