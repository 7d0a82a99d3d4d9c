// cache/kv_cache: keys and values of every attention op, for a fixed number of sequences and tokens.
//
// Layout per cache and sequence (elements f16 or f32):
//   keys   [kv_head][ceil(context/16)][head_dim][16 tokens]   - panels as the GEMM reads them: scores need no horizontal sums
//   values [kv_head][token][head_dim rounded up to 16]
// Memory is reserved at creation and touched only as tokens arrive.
#pragma once

#include <cstdint>
#include <vector>

#include "base/alloc.h"
#include "base/status.h"
#include "kernel/kernel.h"

namespace lowbit {

struct CacheSpec {
  int n_kv_heads = 0;
  int head_dim = 0;
};

class KvCache {
 public:
  // context_size tokens for each of `sequences` sequences. OUT_OF_MEMORY when the system refuses.
  static Result<KvCache> Create(const std::vector<CacheSpec>& specs, int sequences, int context_size, bool f16);

  int context_size() const { return context_size_; }
  int sequences() const { return sequences_; }
  bool f16() const { return f16_; }
  size_t bytes() const { return storage_.size(); }
  const CacheSpec& spec(int cache) const { return caches_[static_cast<size_t>(cache)].spec; }

  int length(int sequence) const { return lengths_[static_cast<size_t>(sequence)]; }
  void SetLength(int sequence, int length) { lengths_[static_cast<size_t>(sequence)] = length; }

  // Stores keys and values of `count` tokens of one head from `position` on; position + count <= context_size. Token t's vectors
  // of head_dim floats are at keys + t*key_stride and values + t*value_stride.
  void Store(int cache, int sequence, int kv_head, int position, int count, const float* keys, size_t key_stride, const float* values,
             size_t value_stride, const KernelTable& kernels);

  // Keys and values of tokens [begin, end) of one head as f32 panels (layout above, begin a multiple of 16), either
  // pointing into the cache (f32) or converted into scratch. key_scratch and value_scratch hold KeyBlockFloats(cache, end-begin).
  const float* Keys(int cache, int sequence, int kv_head, int begin, int end, float* scratch, const KernelTable& kernels) const;
  const float* Values(int cache, int sequence, int kv_head, int begin, int end, float* scratch, const KernelTable& kernels) const;
  // The f16 elements themselves, from token `begin` (keys: a multiple of 16) on; only for an f16 cache.
  const uint16_t* KeysF16(int cache, int sequence, int kv_head, int begin) const;
  const uint16_t* ValuesF16(int cache, int sequence, int kv_head, int begin) const;
  static size_t BlockFloats(const CacheSpec& spec, int tokens);

 private:
  void StoreKey(size_t offset, const float* key, int head_dim, const KernelTable& kernels);
  void StoreKeyPanel(size_t offset, const float* keys, size_t stride, int head_dim, const KernelTable& kernels);
  size_t KeyOffset(int cache, int sequence, int kv_head, int begin) const;
  size_t ValueOffset(int cache, int sequence, int kv_head, int begin) const;
  struct Cache {
    CacheSpec spec;
    size_t key_head = 0, value_head = 0;  // elements of one head
    size_t keys = 0, values = 0;          // element offset of sequence 0
    size_t key_sequence = 0, value_sequence = 0;
    int value_stride = 0;
  };
  int context_size_ = 0, sequences_ = 0;
  bool f16_ = false;
  std::vector<Cache> caches_;
  std::vector<int> lengths_;
  Block storage_;
};

}  // namespace lowbit
