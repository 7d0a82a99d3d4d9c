// kernel/simd: y = x W^T for few rows and single weights. The lanes of a sum are outputs, as everywhere: a shared line of weights costs one
// gather of x and one multiply-add, with no branch that depends on how many weights a row has. Lines of one row are summed over
// their lanes.
#pragma once

#include "kernel/kernel.h"
#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

void SparseFew(const SparseView& w, const float* x, size_t ldx, int m, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  constexpr size_t kAhead = 1024;
  constexpr int kParts = kPanelRows / kLanes;
  const auto product = [](const uint8_t* line, int part, const float* row, Float sum) {
    const uint8_t* at = line + part * kLanes * 2;
    return Fma(LoadHalf(at + kSparseLine / 2), Gather(row, at), sum);
  };
  for (int panel = panel0; panel < panel1; ++panel) {
    const size_t start = static_cast<size_t>(w.starts[panel]), all = static_cast<size_t>(w.starts[panel + 1]) - start;
    const size_t shared = static_cast<size_t>(w.shared[panel]);
    const uint8_t *lines = w.lines + start * kSparseLine, *owners = w.owners + start;
    for (int r = 0; r < m; ++r) {
      const float* row = x + static_cast<size_t>(r) * ldx;
      Float sums[kParts];
      for (Float& sum : sums) sum = Zero();
      for (size_t i = 0; i < shared; ++i) {
        LOWBIT_PREFETCH(lines + i * kSparseLine + kAhead);
        LOWBIT_UNROLL(4)
        for (int part = 0; part < kParts; ++part) sums[part] = product(lines + i * kSparseLine, part, row, sums[part]);
      }
      if (shared < all) {
        float own[kPanelRows] = {};
        for (size_t i = shared; i < all; ++i) {
          LOWBIT_PREFETCH(lines + i * kSparseLine + kAhead);
          Float sum = Zero();
          LOWBIT_UNROLL(4)
          for (int part = 0; part < kParts; ++part) sum = product(lines + i * kSparseLine, part, row, sum);
          own[owners[i]] += SumLanes(sum);
        }
        for (int part = 0; part < kParts; ++part) sums[part] = Add(sums[part], Load(own + part * kLanes));
      }
      for (int part = 0; part < kParts; ++part) {
        const int column = panel * kPanelRows + part * kLanes, left = w.n - column;
        float* to = y + static_cast<size_t>(r) * ldy + column;
        if (left >= kLanes)
          Store(to, accumulate ? Add(Load(to), sums[part]) : sums[part]);
        else if (left > 0)
          Store(to, accumulate ? Add(Load(to, First{left}), sums[part]) : sums[part], First{left});
      }
    }
  }
}

}  // namespace
}  // namespace lowbit
