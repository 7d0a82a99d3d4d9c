// kernel/avx512: vpdpbusd on 16 lanes.
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

LOWBIT_INLINE Int Dot(Int sum, Int codes, Int x) { return _mm512_dpbusd_epi32(sum, codes, x); }

}  // namespace
}  // namespace lowbit

#include "kernel/simd/dot_vnni.h"
