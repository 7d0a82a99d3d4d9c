// kernel/simd: numbers of the activation rows of a tile, which lie side by side (x86).
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

// Up to eight of them, zeros behind.
template <int kRows>
LOWBIT_INLINE __m256 LoadRows(const float* p) {
  if constexpr (kRows == 8)
    return _mm256_loadu_ps(p);
  else if constexpr (kRows == 4)
    return _mm256_zextps128_ps256(_mm_loadu_ps(p));
  else if constexpr (kRows == 2)
    return _mm256_zextps128_ps256(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  else if constexpr (kRows == 1)
    return _mm256_zextps128_ps256(_mm_load_ss(p));
  else
    return _mm256_maskload_ps(
        p, _mm256_setr_epi32(-1, -1, -1, kRows > 3 ? -1 : 0, kRows > 4 ? -1 : 0, kRows > 5 ? -1 : 0, kRows > 6 ? -1 : 0, 0));
}

// Their sum over the sub-blocks of a group, and each of them in all lanes.
template <int kRows>
class RowSums {
 public:
  LOWBIT_INLINE void Clear() { sums_ = _mm256_setzero_ps(); }
  LOWBIT_INLINE void Add(const float* p) { sums_ = _mm256_add_ps(sums_, LoadRows<kRows>(p)); }
  // What At() gives until the next call.
  LOWBIT_INLINE void Finish() { _mm256_store_ps(values_, sums_); }
  LOWBIT_INLINE Float At(int row) const { return Set(values_[row]); }

 private:
  __m256 sums_;
  alignas(32) float values_[8];
};

}  // namespace
}  // namespace lowbit
