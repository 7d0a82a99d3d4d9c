// kernel/simd: the most columns that the int8 GEMM takes at a time (x86).
#pragma once

namespace lowbit {
namespace {

// The f32 outputs, whose lines lie far apart, are read and written once per pass: with 1024 columns that took 8 % of the time of a
// 4096 x 4096 product. The codes of a pass come from the second-level cache (128 KB), at about 12 of the 32 bytes per cycle that it
// can deliver.
constexpr int kPassColumns = 4096;

}  // namespace
}  // namespace lowbit
