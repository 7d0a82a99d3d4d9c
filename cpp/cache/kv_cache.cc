// cache/kv_cache: addressing and conversion.
#include "cache/kv_cache.h"

#include <cstring>

#include "base/half.h"

namespace lowbit {
namespace {

constexpr int kPanelTokens = 16;
constexpr int kDims = 64;  // dimensions of a head converted at a time

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

void KvCache::Store(int cache, int sequence, int kv_head, int position, int count, const float* keys, size_t key_stride,
                    const float* values, size_t value_stride, const KernelTable& kernels) {
  const int head_dim = caches_[static_cast<size_t>(cache)].spec.head_dim;
  const size_t width = static_cast<size_t>(head_dim);
  for (int t = 0; t < count;) {
    const int at = position + t, lane = at % kPanelTokens;
    const size_t offset = KeyOffset(cache, sequence, kv_head, at - lane);
    if (lane == 0 && count - t >= kPanelTokens) {
      StoreKeyPanel(offset, keys + static_cast<size_t>(t) * key_stride, key_stride, head_dim, kernels);
      t += kPanelTokens;
    } else {
      StoreKey(offset + static_cast<size_t>(lane), keys + static_cast<size_t>(t) * key_stride, head_dim, kernels);
      ++t;
    }
  }
  for (int t = 0; t < count; ++t) {
    const size_t offset = ValueOffset(cache, sequence, kv_head, position + t);
    const float* value = values + static_cast<size_t>(t) * value_stride;
    if (f16_)
      kernels.f32_to_f16(value, storage_.as<uint16_t>() + offset, width);
    else
      std::memcpy(storage_.as<float>() + offset, value, width * sizeof(float));
  }
}

// One token: a column of its panel.
void KvCache::StoreKey(size_t offset, const float* key, int head_dim, const KernelTable& kernels) {
  if (!f16_) {
    float* to = storage_.as<float>() + offset;
    for (int d = 0; d < head_dim; ++d) to[static_cast<size_t>(d) * kPanelTokens] = key[d];
    return;
  }
  uint16_t* to = storage_.as<uint16_t>() + offset;
  uint16_t halves[kDims];
  for (int d = 0; d < head_dim; d += kDims) {
    const int count = head_dim - d < kDims ? head_dim - d : kDims;
    kernels.f32_to_f16(key + d, halves, static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) to[static_cast<size_t>(d + i) * kPanelTokens] = halves[i];
  }
}

// A whole panel of 16 tokens, through the kernels' transpose of 8 rows: a store per line instead of one per element.
void KvCache::StoreKeyPanel(size_t offset, const float* keys, size_t stride, int head_dim, const KernelTable& kernels) {
  static_assert(kPanelTokens == 2 * kRowTile);
  float tiles[2][kDims * kRowTile], lines[kDims * kPanelTokens];
  for (int d = 0; d < head_dim; d += kDims) {
    const int count = head_dim - d < kDims ? head_dim - d : kDims;
    for (int half = 0; half < 2; ++half)
      kernels.pack_rows(keys + static_cast<size_t>(half * kRowTile) * stride + d, stride, kRowTile, count, tiles[half]);
    for (int i = 0; i < count; ++i)
      for (int half = 0; half < 2; ++half)
        std::memcpy(lines + i * kPanelTokens + half * kRowTile, tiles[half] + i * kRowTile, kRowTile * sizeof(float));
    const size_t to = offset + static_cast<size_t>(d) * kPanelTokens, floats = static_cast<size_t>(count) * kPanelTokens;
    if (f16_)
      kernels.f32_to_f16(lines, storage_.as<uint16_t>() + to, floats);
    else
      std::memcpy(storage_.as<float>() + to, lines, floats * sizeof(float));
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
