// kernel/self_check: a product whose result is exact in f32, so that there is no tolerance to choose.
#include "kernel/self_check.h"

#include <cstdint>
#include <cstring>
#include <vector>

namespace lowbit {
namespace {

constexpr int kGroups = 2, kColumns = kGroups * kSubBlock, kOutputs = 2 * kPanelRows;

int Code(int row, int column) { return (row * 29 + column * 7 + row * column) & 255; }
int Activation(int row, int column) { return (row * 37 + column * 11) % 255 - 127; }
float Scale(int group) { return group == 0 ? 1.0f : 0.5f; }

// 8 bits, symmetric, f32 scales (part/packed.h): a line of 16 scales and 8 lines of 16 rows x 4 columns per group. The scales are 1.
void FillWeights(uint8_t* out) {
  for (int row0 = 0; row0 < kOutputs; row0 += kPanelRows) {
    for (int group = 0; group < kGroups; ++group) {
      for (int r = 0; r < kPanelRows; ++r, out += sizeof(float)) {
        const float one = 1;
        std::memcpy(out, &one, sizeof(one));
      }
      for (int quad = 0; quad < 8; ++quad) {
        for (int r = 0; r < kPanelRows; ++r) {
          for (int i = 0; i < 4; ++i) *out++ = static_cast<uint8_t>(Code(row0 + r, group * kSubBlock + 4 * quad + i));
        }
      }
    }
  }
}

constexpr size_t kWeightBytes = size_t(2 * kGroups) * (64 + 8 * 64);

}  // namespace

bool GemmIsRight(const KernelTable& table) {
  const int m = table.gemm_tile + 3;
  const size_t rows = static_cast<size_t>(m);
  std::vector<uint8_t> memory(kWeightBytes + kGemmScratchBytes + 64);
  uint8_t* weights = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  FillWeights(weights);
  PackedView w;
  w.data = weights;
  w.panel_bytes = kWeightBytes / 2;
  w.n = kOutputs;
  w.k = kColumns;
  w.kind = PackedKind::kAffine;
  w.bits = 8;
  w.group_size = kSubBlock;
  w.meta = MetaKind::kF32;

  std::vector<int8_t> q;
  std::vector<float> scale, scale_sum, y(rows * kOutputs, -1.0f);
  std::vector<int32_t> bias;
  for (int first = 0; first < m; first += table.gemm_tile) {
    const int end = m - first < table.gemm_tile ? m : first + table.gemm_tile;
    for (int quad = 0; quad < kColumns / 4; ++quad) {
      for (int i = first; i < end; ++i) {
        for (int c = 4 * quad; c < 4 * quad + 4; ++c) q.push_back(static_cast<int8_t>(Activation(i, c)));
      }
    }
    for (int group = 0; group < kGroups; ++group) {
      for (int i = first; i < end; ++i) {
        int sum = 0;
        for (int c = group * kSubBlock; c < (group + 1) * kSubBlock; ++c) sum += Activation(i, c);
        scale.push_back(Scale(group));
        scale_sum.push_back(Scale(group) * static_cast<float>(sum));
        bias.push_back(-128 * sum);
      }
    }
  }
  QuantizedRows x;
  x.m = m;
  x.k = x.k_padded = kColumns;
  x.group = kSubBlock;
  x.groups = kGroups;
  x.tile = table.gemm_tile;
  x.q = q.data();
  x.scale = scale.data();
  x.scale_sum = scale_sum.data();
  x.bias = bias.data();
  table.affine_gemm(w, x, y.data(), kOutputs, 0, kOutputs / kPanelRows, false, weights + kWeightBytes);

  for (int i = 0; i < m; ++i) {
    for (int r = 0; r < kOutputs; ++r) {
      float expected = 0;  // integers and halves below 2^21: exact in any order
      for (int c = 0; c < kColumns; ++c) expected += Scale(c / kSubBlock) * static_cast<float>(Activation(i, c) * (Code(r, c) - 128));
      if (!(y[static_cast<size_t>(i) * kOutputs + static_cast<size_t>(r)] == expected)) return false;
    }
  }
  return true;
}

bool Bf16GemmIsRight(const KernelTable& table) {
  constexpr int kRows = 2 * kPanelRows + 3, kPairs = 150, kPanels = 3;  // both operands have as many rows
  constexpr size_t kStride = size_t(kPairs) * 2 * kPanelRows;
  const auto value = [](int row, int column) { return (row * 13 + column * 5 + row * column) % 17 - 8; };
  std::vector<uint16_t> panels(kPanels * kStride);
  for (int row = 0; row < kRows; ++row)
    for (int column = 0; column < 2 * kPairs; ++column) {
      const float number = static_cast<float>(value(row, column));
      uint32_t bits;
      std::memcpy(&bits, &number, sizeof(bits));
      const size_t line = static_cast<size_t>(column / 2) * 2 * kPanelRows;
      panels[static_cast<size_t>(row / kPanelRows) * kStride + line + static_cast<size_t>(row % kPanelRows * 2 + column % 2)] =
          static_cast<uint16_t>(bits >> 16);
    }
  std::vector<float> c(size_t(kRows) * kRows, 1.0f);
  table.gemm_bf16(panels.data(), kStride, panels.data(), kStride, kRows, kRows, kPairs, c.data(), kRows, true);
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kRows; ++j) {
      int expected = 1;  // below 2^15: exact in any order
      for (int column = 0; column < 2 * kPairs; ++column) expected += value(i, column) * value(j, column);
      if (!(c[static_cast<size_t>(i) * kRows + static_cast<size_t>(j)] == static_cast<float>(expected))) return false;
    }
  return true;
}

}  // namespace lowbit
