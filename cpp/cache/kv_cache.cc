// cache/kv_cache: addressing and conversion.
#include "cache/kv_cache.h"

#include <cstring>

#include "base/half.h"

namespace lowbit {
namespace {

int RoundUp16(int value) { return (value + 15) / 16 * 16; }

}  // namespace

Result<KvCache> KvCache::Create(const std::vector<CacheSpec>& specs, int sequences, int context_size, bool f16) {
  KvCache cache;
  cache.context_size_ = context_size;
  cache.sequences_ = sequences;
  cache.f16_ = f16;
  cache.lengths_.assign(static_cast<size_t>(sequences), 0);
  const size_t padded = static_cast<size_t>(RoundUp16(context_size));
  size_t elements = 0;
  for (const CacheSpec& spec : specs) {
    Cache c;
    c.spec = spec;
    c.value_stride = RoundUp16(spec.head_dim);
    c.key_head = padded * static_cast<size_t>(spec.head_dim);
    c.value_head = padded * static_cast<size_t>(c.value_stride);
    c.key_sequence = c.key_head * static_cast<size_t>(spec.n_kv_heads);
    c.value_sequence = c.value_head * static_cast<size_t>(spec.n_kv_heads);
    c.keys = elements;
    elements += c.key_sequence * static_cast<size_t>(sequences);
    c.values = elements;
    elements += c.value_sequence * static_cast<size_t>(sequences);
    cache.caches_.push_back(c);
  }
  LOWBIT_ASSIGN_OR_RETURN(cache.storage_, Block::Allocate(elements * (f16 ? 2 : 4), MemoryClass::kKvCache, "the key/value cache"));
  return cache;
}

void KvCache::Store(int cache, int sequence, int kv_head, int position, const float* key, const float* value, const KernelTable& kernels) {
  const Cache& c = caches_[static_cast<size_t>(cache)];
  const int head_dim = c.spec.head_dim;
  const size_t panel = static_cast<size_t>(position / 16) * static_cast<size_t>(head_dim) * 16 + static_cast<size_t>(position % 16);
  const size_t k0 = c.keys + c.key_sequence * static_cast<size_t>(sequence) + c.key_head * static_cast<size_t>(kv_head) + panel;
  const size_t v0 = c.values + c.value_sequence * static_cast<size_t>(sequence) + c.value_head * static_cast<size_t>(kv_head) +
                    static_cast<size_t>(position) * static_cast<size_t>(c.value_stride);
  if (f16_) {
    uint16_t* k = storage_.as<uint16_t>() + k0;
    uint16_t packed[64];
    for (int d = 0; d < head_dim; d += 64) {
      const int count = head_dim - d < 64 ? head_dim - d : 64;
      kernels.f32_to_f16(key + d, packed, static_cast<size_t>(count));
      for (int i = 0; i < count; ++i) k[static_cast<size_t>(d + i) * 16] = packed[i];
    }
    kernels.f32_to_f16(value, storage_.as<uint16_t>() + v0, static_cast<size_t>(head_dim));
  } else {
    float* k = storage_.as<float>() + k0;
    for (int d = 0; d < head_dim; ++d) k[static_cast<size_t>(d) * 16] = key[d];
    std::memcpy(storage_.as<float>() + v0, value, static_cast<size_t>(head_dim) * sizeof(float));
  }
}

size_t KvCache::BlockFloats(const CacheSpec& spec, int tokens) {
  return static_cast<size_t>(RoundUp16(tokens)) * static_cast<size_t>(RoundUp16(spec.head_dim));
}

size_t KvCache::KeyOffset(int cache, int sequence, int kv_head, int begin) const {
  const Cache& c = caches_[static_cast<size_t>(cache)];
  return c.keys + c.key_sequence * static_cast<size_t>(sequence) + c.key_head * static_cast<size_t>(kv_head) +
         static_cast<size_t>(begin) * static_cast<size_t>(c.spec.head_dim);
}

size_t KvCache::ValueOffset(int cache, int sequence, int kv_head, int begin) const {
  const Cache& c = caches_[static_cast<size_t>(cache)];
  return c.values + c.value_sequence * static_cast<size_t>(sequence) + c.value_head * static_cast<size_t>(kv_head) +
         static_cast<size_t>(begin) * static_cast<size_t>(c.value_stride);
}

const uint16_t* KvCache::KeysF16(int cache, int sequence, int kv_head, int begin) const {
  return storage_.as<uint16_t>() + KeyOffset(cache, sequence, kv_head, begin);
}

const uint16_t* KvCache::ValuesF16(int cache, int sequence, int kv_head, int begin) const {
  return storage_.as<uint16_t>() + ValueOffset(cache, sequence, kv_head, begin);
}

const float* KvCache::Keys(int cache, int sequence, int kv_head, int begin, int end, float* scratch, const KernelTable& kernels) const {
  const size_t offset = KeyOffset(cache, sequence, kv_head, begin);
  if (!f16_) return storage_.as<float>() + offset;
  const int head_dim = caches_[static_cast<size_t>(cache)].spec.head_dim;
  kernels.f16_to_f32(storage_.as<uint16_t>() + offset, scratch,
                     static_cast<size_t>(RoundUp16(end - begin)) * static_cast<size_t>(head_dim));
  return scratch;
}

const float* KvCache::Values(int cache, int sequence, int kv_head, int begin, int end, float* scratch, const KernelTable& kernels) const {
  const size_t offset = ValueOffset(cache, sequence, kv_head, begin);
  if (!f16_) return storage_.as<float>() + offset;
  const int stride = caches_[static_cast<size_t>(cache)].value_stride;
  kernels.f16_to_f32(storage_.as<uint16_t>() + offset, scratch, static_cast<size_t>(end - begin) * static_cast<size_t>(stride));
  return scratch;
}

}  // namespace lowbit
