// quantize/unpack_parts: see unpack_parts.h.
#include "quantize/unpack_parts.h"

#include <algorithm>
#include <cstddef>

#include "part/layout.h"

namespace lowbit {
namespace {

AffineCodes UnpackAffine(const Part& part, int k, Pool& pool) {
  const PackedView& view = part.view;
  const size_t rows = static_cast<size_t>(view.n), columns = static_cast<size_t>(k);
  AffineCodes a;
  a.rows = part.rows;
  a.bits = view.bits;
  a.group_size = std::min(view.group_size, k);
  a.groups = (k + a.group_size - 1) / a.group_size;
  a.affine = view.affine;
  const size_t groups = static_cast<size_t>(a.groups);
  a.codes.resize(rows * columns);
  a.scales.resize(rows * groups);
  if (view.affine != AffineKind::kSymmetric) a.seconds.resize(rows * groups);
  if (!part.permutation.empty()) {
    a.g_idx.resize(columns);
    for (size_t j = 0; j < columns; ++j)
      a.g_idx[static_cast<size_t>(part.permutation[j])] = static_cast<int32_t>(j) / static_cast<int32_t>(a.group_size);
  }
  const AffineLayout layout(view);
  pool.Run(PanelCount(view), [&](int p, int) {
    const uint8_t* panel = view.data + static_cast<size_t>(p) * view.panel_bytes;
    const size_t row0 = static_cast<size_t>(p) * kPanelRows, count = std::min<size_t>(kPanelRows, rows - row0);
    for (size_t s = 0; s < layout.sub_blocks; ++s) {
      uint32_t quads[8][kPanelRows];
      LoadSubBlock(panel + layout.SubBlockOffset(s), view.bits, quads);
      const size_t first = s * kSubBlock, width = std::min<size_t>(kSubBlock, columns - first);
      for (size_t r = 0; r < count; ++r)
        for (size_t c = 0; c < width; ++c) {
          const size_t column = part.permutation.empty() ? first + c : static_cast<size_t>(part.permutation[first + c]);
          a.codes[(row0 + r) * columns + column] = static_cast<uint8_t>(quads[c / 4][r] >> (8 * (c % 4)));
        }
    }
    for (size_t g = 0; g < groups; ++g) {
      float scales[kPanelRows], seconds[kPanelRows];
      LoadRecord(view, layout, panel, g, scales, seconds);
      for (size_t r = 0; r < count; ++r) {
        a.scales[(row0 + r) * groups + g] = scales[r];
        if (!a.seconds.empty()) a.seconds[(row0 + r) * groups + g] = seconds[r];
      }
    }
  });
  return a;
}

// [n, k] row-major of a dense matrix in panels.
std::vector<float> UnpackDense(const PackedView& view, UnpackPanel unpack) {
  const size_t rows = static_cast<size_t>(view.n), columns = static_cast<size_t>(view.k);
  std::vector<float> out(rows * columns), panel(columns * kPanelRows);
  for (int p = 0; p < PanelCount(view); ++p) {
    unpack(view, p, 0, view.k, panel.data());
    const size_t row0 = static_cast<size_t>(p) * kPanelRows, count = std::min<size_t>(kPanelRows, rows - row0);
    for (size_t r = 0; r < count; ++r)
      for (size_t c = 0; c < columns; ++c) out[(row0 + r) * columns + c] = panel[c * kPanelRows + r];
  }
  return out;
}

}  // namespace

Result<LinearParts> UnpackParts(const char* name, int n, int k, std::span<const Part> parts, UnpackPanel unpack, Pool& pool) {
  LinearParts linear;
  linear.n = n;
  linear.k = k;
  for (const Part& part : parts) {
    if (!part.input_scale.empty()) linear.input_scale = part.input_scale;  // the same for all parts of a linear
    switch (part.kind) {
      case PartKind::kDense:
        return Error(Code::kUnsupported, "%s is dense: it has no codes", name);
      case PartKind::kAffine:
        linear.affine.push_back(UnpackAffine(part, k, pool));
        break;
      case PartKind::kLowRank:
        linear.low_rank.rank = part.inner.n;
        linear.low_rank.a = UnpackDense(part.inner, unpack);
        linear.low_rank.b = UnpackDense(part.view, unpack);
        break;
      case PartKind::kSparse: {
        linear.sparse.row_offsets.assign(1, 0);
        for (int r = 0; r < n; ++r) linear.sparse.row_offsets.push_back(linear.sparse.row_offsets.back() + part.sparse.counts[r]);
        for (const SparseWeight& w : SparseWeightsOf(part.sparse)) {
          linear.sparse.columns.push_back(w.column);
          linear.sparse.values.push_back(w.value);
        }
        break;
      }
    }
  }
  return linear;
}

}  // namespace lowbit
