// kernel/avxvnni: vpdpbusd on 8 lanes.
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

LOWBIT_INLINE Int Dot(Int sum, Int codes, Int x) {
#ifdef LOWBIT_AVXVNNI_EVEX
  return _mm256_dpbusd_epi32(sum, codes, x);
#else
  return _mm256_dpbusd_avx_epi32(sum, codes, x);
#endif
}

}  // namespace
}  // namespace lowbit

#include "kernel/simd/dot_vnni.h"
