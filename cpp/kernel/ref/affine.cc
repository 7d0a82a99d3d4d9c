// kernel/ref/affine: the fast path in portable C++: int8 activations times affine weights.
// Products of codes and int8 activations are summed in float, which is exact here: at most 32 terms of at most 128 * 256 stay
// below 2^24. So integer arithmetic needs no integer instructions, and the compiler vectorises one simple loop on any machine.
// It reads only q and scale of QuantizedRows; bias and the scaled sums serve kernels that keep codes unsigned.
#include <cmath>
#include <cstring>

#include "kernel/ref/ref.h"
#include "part/layout.h"

namespace lowbit::ref {
namespace {

// One decoded sub-block: code - zero (an integer; for kMinimum the bare code), and the scale records of its one or two groups.
struct SubBlock {
  float values[kSubBlock][kPanelRows];
  float scales[2][kPanelRows];
  float minima[2][kPanelRows];
};

constexpr size_t kGemmSubBlocks = kGemmColumns / kSubBlock;
static_assert(kGemmSubBlocks * sizeof(SubBlock) <= kGemmScratchBytes);

// Sub-blocks that AffineSmall decodes at a time, on the stack.
constexpr size_t kSmallSubBlocks = 4;

void Decode(const PackedView& w, const AffineLayout& layout, const uint8_t* panel, size_t index, SubBlock& out) {
  const bool minimum = w.affine == AffineKind::kMinimum;
  uint32_t quads[8][kPanelRows];
  LoadSubBlock(panel + layout.SubBlockOffset(index), w.bits, quads);
  const int parts = w.group_size == 16 ? 2 : 1, columns = kSubBlock / parts;
  for (int part = 0; part < parts; ++part) {
    const size_t column = index * kSubBlock + static_cast<size_t>(part * columns);
    float seconds[kPanelRows], zeros[kPanelRows];
    LoadRecord(w, layout, panel, column / static_cast<size_t>(w.group_size), out.scales[part], seconds);
    for (int r = 0; r < kPanelRows; ++r) {
      zeros[r] = minimum ? 0.0f : seconds[r];
      out.minima[part][r] = minimum ? seconds[r] : 0.0f;
    }
    for (int c = part * columns; c < (part + 1) * columns; ++c) {
      const uint32_t* quad = quads[c / 4];
      const int shift = c % 4 * 8;
      for (int r = 0; r < kPanelRows; ++r) {
        out.values[c][r] = static_cast<float>(static_cast<int32_t>(quad[r] >> shift & 255)) - zeros[r];
      }
    }
  }
}

// Where one activation row lies in its tile.
struct ActivationRow {
  size_t rows;  // of the tile: the stride between quads, and between groups
  const int8_t* q;
  const float* scale;
};

ActivationRow FindRow(const QuantizedRows& x, int row) {
  const int first = row / x.tile * x.tile;
  const size_t rows = static_cast<size_t>(x.m - first < x.tile ? x.m - first : x.tile), local = static_cast<size_t>(row - first);
  return {rows, x.q + static_cast<size_t>(first) * static_cast<size_t>(x.k_padded) + local * 4,
          x.scale + static_cast<size_t>(first) * static_cast<size_t>(x.groups) + local};
}

// dots[i][r] = sum over columns [begin, end) of q[i][column] * values[column][r].
template <int kRows>
void Dots(const float (*q)[kSubBlock], const float (*values)[kPanelRows], int begin, int end, float (*dots)[kPanelRows]) {
  Vector4 acc[kRows][kPanelRows / 4] = {};  // two rows fill half of the 16 registers of SSE
  for (int c = begin; c < end; ++c) {
    for (int j = 0; j < kPanelRows / 4; ++j) {
      const Vector4 value = Load4(values[c] + 4 * j);
      for (int i = 0; i < kRows; ++i) acc[i][j] += value * q[i][c];
    }
  }
  std::memcpy(dots, acc, sizeof(acc));
}

// total[i][r] += scale_x * (scale_w * sum(q * value) + minimum * sum(q)) over one sub-block, for kRows rows.
template <int kRows>
void AddSubBlock(const QuantizedRows& x, const ActivationRow* rows, size_t index, const SubBlock& block, int parts, bool minimum,
                 float (*total)[kPanelRows]) {
  float q[kRows][kSubBlock];
  for (int i = 0; i < kRows; ++i) {
    for (size_t t = 0; t < kSubBlock / 4; ++t) {
      const int8_t* quad = rows[i].q + (index * (kSubBlock / 4) + t) * rows[i].rows * 4;
      for (size_t j = 0; j < 4; ++j) q[i][t * 4 + j] = static_cast<float>(quad[j]);
    }
  }
  const int columns = kSubBlock / parts;
  for (int part = 0; part < parts; ++part) {
    const int begin = part * columns, end = begin + columns;
    float dots[kRows][kPanelRows];
    Dots<kRows>(q, block.values, begin, end, dots);
    for (int i = 0; i < kRows; ++i) {
      float sum = 0;
      for (int c = begin; minimum && c < end; ++c) sum += q[i][c];
      const float scale = rows[i].scale[index * kSubBlock / static_cast<size_t>(x.group) * rows[i].rows];
      for (int r = 0; r < kPanelRows; ++r) total[i][r] += scale * (block.scales[part][r] * dots[i][r] + block.minima[part][r] * sum);
    }
  }
}

// kRows rows of y, one panel, a run of decoded sub-blocks.
template <int kRows>
void AddRows(const QuantizedRows& x, int row0, size_t first, size_t count, const SubBlock* blocks, int parts, bool minimum, bool add,
             float* y, size_t ldy, int lanes) {
  float total[kRows][kPanelRows] = {};
  ActivationRow rows[kRows];
  for (int i = 0; i < kRows; ++i) {
    rows[i] = FindRow(x, row0 + i);
    for (int r = 0; add && r < lanes; ++r) total[i][r] = y[static_cast<size_t>(i) * ldy + static_cast<size_t>(r)];
  }
  for (size_t s = 0; s < count; ++s) AddSubBlock<kRows>(x, rows, first + s, blocks[s], parts, minimum, total);
  for (int i = 0; i < kRows; ++i) {
    for (int r = 0; r < lanes; ++r) y[static_cast<size_t>(i) * ldy + static_cast<size_t>(r)] = total[i][r];
  }
}

// Both entry points: the same order of additions for every m, so that a row's result does not depend on its neighbours.
void Run(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate, SubBlock* blocks,
         size_t capacity) {
  const AffineLayout layout(w);
  const int parts = w.group_size == 16 ? 2 : 1;
  const bool minimum = w.affine == AffineKind::kMinimum;
  for (int panel = panel0; panel < panel1; ++panel) {
    const uint8_t* base = w.data + static_cast<size_t>(panel) * w.panel_bytes;
    const int lanes = w.n - panel * kPanelRows < kPanelRows ? w.n - panel * kPanelRows : kPanelRows;
    for (size_t first = 0; first < layout.sub_blocks; first += capacity) {
      const size_t count = layout.sub_blocks - first < capacity ? layout.sub_blocks - first : capacity;
      for (size_t s = 0; s < count; ++s) Decode(w, layout, base, first + s, blocks[s]);
      const bool add = accumulate || first > 0;
      for (int i = 0; i < x.m; i += 2) {
        float* out = y + static_cast<size_t>(i) * ldy + static_cast<size_t>(panel) * kPanelRows;
        const auto add_rows = i + 1 < x.m ? AddRows<2> : AddRows<1>;
        add_rows(x, i, first, count, blocks, parts, minimum, add, out, ldy, lanes);
      }
    }
  }
}

}  // namespace

void QuantizeRows(const float* x, size_t ldx, const QuantizedRows& q, int zero_code, int row0, int row1) {
  const size_t k = static_cast<size_t>(q.k), padded = static_cast<size_t>(q.k_padded), group = static_cast<size_t>(q.group);
  const size_t halves = padded / 16;
  for (int i = row0; i < row1; ++i) {
    const int tile = i / q.tile, first = tile * q.tile;
    const size_t rows = static_cast<size_t>(q.m - first < q.tile ? q.m - first : q.tile), local = static_cast<size_t>(i - first);
    const float* source = x + static_cast<size_t>(i) * ldx;
    int8_t* codes = q.q + static_cast<size_t>(first) * padded + local * 4;
    const size_t group_base = static_cast<size_t>(first) * static_cast<size_t>(q.groups) + local;
    const size_t half_base = static_cast<size_t>(first) * halves + local;
    for (size_t g = 0; g * group < padded; ++g) {
      const size_t begin = g * group, end = begin + group < padded ? begin + group : padded, real_end = end < k ? end : k;
      float maximum = 0;
      for (size_t c = begin; c < real_end; ++c) maximum = std::fabs(source[c]) > maximum ? std::fabs(source[c]) : maximum;
      const float scale = maximum / 127.0f, inverse = maximum >= kLeastMagnitude ? 127.0f / maximum : 0.0f;
      int32_t sum = 0;
      for (size_t half = begin; half < end; half += 16) {
        int32_t half_sum = 0;
        for (size_t c = half; c < half + 16; ++c) {
          // adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even
          const float rounded = c < k ? (source[c] * inverse + 12582912.0f) - 12582912.0f : 0.0f;
          // NaN, which callers exclude, becomes -127
          const int32_t value = rounded > 127.0f ? 127 : rounded >= -127.0f ? static_cast<int32_t>(rounded) : -127;
          codes[c / 4 * rows * 4 + c % 4] = static_cast<int8_t>(value);
          half_sum += value;
        }
        if (q.half_scale_sum != nullptr) {
          q.half_scale_sum[half_base + half / 16 * rows] = scale * static_cast<float>(half_sum);
          q.half_bias[half_base + half / 16 * rows] = -zero_code * half_sum;
        }
        sum += half_sum;
      }
      q.scale[group_base + g * rows] = scale;
      q.scale_sum[group_base + g * rows] = scale * static_cast<float>(sum);
      q.bias[group_base + g * rows] = -zero_code * sum;
    }
  }
}

void AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  SubBlock blocks[kSmallSubBlocks];
  Run(w, x, y, ldy, panel0, panel1, accumulate, blocks, kSmallSubBlocks);
}

void AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                uint8_t* scratch) {
  Run(w, x, y, ldy, panel0, panel1, accumulate, reinterpret_cast<SubBlock*>(scratch), kGemmSubBlocks);
}

}  // namespace lowbit::ref
