// quantize/pack_parts: checks and packs. Numbers that a solve made are trusted as little as those of a file.
#include "quantize/pack_parts.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "base/half.h"
#include "part/pack_common.h"

namespace lowbit {
namespace {

Result<std::vector<uint16_t>> Halves(const char* name, const char* what, const std::vector<float>& values) {
  std::vector<uint16_t> halves(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i]) || !FitsHalf(values[i]))
      return Error(Code::kInvalidArgument, "Expected number that f16 holds exactly for %s %zu of %s but received %.9g", what, i, name,
                   static_cast<double>(values[i]));
    halves[i] = FloatToHalf(values[i]);
  }
  return halves;
}

Status CheckCoverage(const char* name, const LinearParts& linear) {
  std::vector<uint8_t> covered(static_cast<size_t>(linear.n));
  for (const AffineCodes& affine : linear.affine) {
    const size_t count = affine.rows.empty() ? covered.size() : affine.rows.size();
    int32_t last = -1;
    for (size_t i = 0; i < count; ++i) {
      const int32_t row = affine.rows.empty() ? static_cast<int32_t>(i) : affine.rows[i];
      if (row <= last || row >= linear.n)
        return Error(Code::kInvalidArgument, "Row %zu of a part of %s is %d; rows must rise and stay below %d", i, name, row, linear.n);
      if (covered[static_cast<size_t>(row)]++ != 0)
        return Error(Code::kInvalidArgument, "Row %d of %s belongs to two affine parts; each row needs exactly one", row, name);
      last = row;
    }
  }
  const auto missing = std::find(covered.begin(), covered.end(), 0);
  if (missing == covered.end()) return Status::Ok();
  return Error(Code::kInvalidArgument, "Row %d of %s belongs to no affine part; each row needs exactly one",
               static_cast<int>(missing - covered.begin()), name);
}

// The columns in the order of their groups, for codes of a stored column order; empty without one.
Result<std::vector<int32_t>> ColumnOrder(const char* name, const AffineCodes& affine, int k) {
  std::vector<int32_t> order;
  if (affine.g_idx.empty()) return order;
  std::vector<int> sizes(static_cast<size_t>(affine.groups));
  for (const int32_t group : affine.g_idx) {
    if (affine.g_idx.size() != static_cast<size_t>(k) || group < 0 || group >= affine.groups)
      return Error(Code::kInvalidArgument, "Expected %d groups below %d for the columns of %s", k, affine.groups, name);
    ++sizes[static_cast<size_t>(group)];
  }
  for (int g = 0; g < affine.groups; ++g)
    if (sizes[static_cast<size_t>(g)] != std::min(affine.group_size, k - g * affine.group_size))
      return Error(Code::kInvalidArgument, "Group %d of %s has %d columns; groups have %d", g, name, sizes[static_cast<size_t>(g)],
                   affine.group_size);
  order.resize(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return affine.g_idx[static_cast<size_t>(a)] < affine.g_idx[static_cast<size_t>(b)]; });
  return order;
}

std::vector<uint8_t> Reordered(const std::vector<uint8_t>& codes, const std::vector<int32_t>& order) {
  const size_t k = order.size();
  std::vector<uint8_t> out(codes.size());
  for (size_t row = 0; row < codes.size() / k; ++row)
    for (size_t j = 0; j < k; ++j) out[row * k + j] = codes[row * k + static_cast<size_t>(order[j])];
  return out;
}

}  // namespace

Result<std::vector<Part>> PackParts(const char* name, const LinearParts& linear) {
  if (linear.n < 1 || linear.k < 1) return Error(Code::kInvalidArgument, "%s has no rows or no columns", name);
  const size_t n = static_cast<size_t>(linear.n), k = static_cast<size_t>(linear.k);
  LOWBIT_RETURN_IF_ERROR(CheckCoverage(name, linear));
  if (!linear.input_scale.empty()) {
    const bool good = std::all_of(linear.input_scale.begin(), linear.input_scale.end(), [](float s) { return s > 0 && std::isfinite(s); });
    if (linear.input_scale.size() != k || !good)
      return Error(Code::kInvalidArgument, "Expected %zu positive finite input scales for %s", k, name);
  }
  std::vector<Part> parts;
  for (const AffineCodes& affine : linear.affine) {
    AffineSource source;
    source.n = affine.rows.empty() ? linear.n : static_cast<int>(affine.rows.size());
    source.k = linear.k;
    source.bits = affine.bits;
    source.group_size = affine.group_size;
    source.affine = affine.affine;
    LOWBIT_ASSIGN_OR_RETURN(std::vector<int32_t> order, ColumnOrder(name, affine, linear.k));
    const bool whole = affine.codes.size() == static_cast<size_t>(source.n) * k;  // else PackAffine refuses
    const std::vector<uint8_t> reordered = order.empty() || !whole ? std::vector<uint8_t>() : Reordered(affine.codes, order);
    source.codes = reordered.empty() ? std::span<const uint8_t>(affine.codes) : std::span<const uint8_t>(reordered);
    source.scales = affine.scales;
    source.seconds = affine.seconds;
    LOWBIT_ASSIGN_OR_RETURN(Part part, PackAffine(name, source));
    part.rows = affine.rows;
    part.permutation = std::move(order);
    part.stored_bytes += 4 * (affine.rows.size() + affine.g_idx.size());
    const CodedScales& coded = affine.coded;
    if (coded.bits > 0) {
      const size_t rows = static_cast<size_t>(source.n), groups = static_cast<size_t>(affine.groups);
      const size_t codes = 2 * rows * ((groups * static_cast<size_t>(coded.bits) + 7) / 8);
      part.stored_bytes = rows * ((k * static_cast<size_t>(affine.bits) + 7) / 8) + codes + (rows + 15) / 16 * groups * 8 +
                          4 * (affine.rows.size() + affine.g_idx.size());
    }
    parts.push_back(std::move(part));
  }
  const LowRank& low_rank = linear.low_rank;
  if (low_rank.rank > 0) {
    const size_t rank = static_cast<size_t>(low_rank.rank);
    if (low_rank.a.size() != rank * k || low_rank.b.size() != n * rank)
      return Error(Code::kInvalidArgument, "The low-rank factors of %s do not have %d rows and columns", name, low_rank.rank);
    LOWBIT_ASSIGN_OR_RETURN(const std::vector<uint16_t> a, Halves(name, "low-rank factor A", low_rank.a));
    LOWBIT_ASSIGN_OR_RETURN(const std::vector<uint16_t> b, Halves(name, "low-rank factor B", low_rank.b));
    LOWBIT_ASSIGN_OR_RETURN(Part part, PackLowRank(name, linear.n, linear.k, low_rank.rank, reinterpret_cast<const uint8_t*>(a.data()),
                                                   reinterpret_cast<const uint8_t*>(b.data())));
    parts.push_back(std::move(part));
  }
  const SparseWeights& sparse = linear.sparse;
  if (!sparse.columns.empty()) {
    if (sparse.values.size() != sparse.columns.size())
      return Error(Code::kInvalidArgument, "%s has %zu sparse columns but %zu values", name, sparse.columns.size(), sparse.values.size());
    LOWBIT_ASSIGN_OR_RETURN(const std::vector<uint16_t> values, Halves(name, "sparse weight", sparse.values));
    LOWBIT_ASSIGN_OR_RETURN(Part part, PackSparse(name, linear.n, linear.k, sparse.row_offsets, sparse.columns,
                                                  reinterpret_cast<const uint8_t*>(values.data())));
    parts.push_back(std::move(part));
  }
  for (Part& part : parts) part.input_scale = linear.input_scale;
  if (!linear.input_scale.empty()) parts.front().stored_bytes += 4 * k;
  return parts;
}

}  // namespace lowbit
