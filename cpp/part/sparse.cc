// part/sparse: single weights, added to what the other parts of a linear have in their places (outliers of SpQR). Files have compressed
// rows; in memory they lie in lines over the rows of a panel (packed.h): [starts][shared][counts][owners][lines], each from a 64-byte
// boundary.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/half.h"
#include "part/layout.h"
#include "part/part.h"

namespace lowbit {
namespace {

int32_t IntAt(std::span<const int32_t> values, size_t i) {
  int32_t value;
  std::memcpy(&value, reinterpret_cast<const uint8_t*>(values.data()) + 4 * i, 4);
  return value;
}

size_t Aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

int OwnLines(int count, int shared) { return count <= shared ? 0 : (count - shared + kPanelRows - 1) / kPanelRows; }

// Shared lines of a panel whose rows have these counts, at the least cost of all lines. One of a single row takes about half as
// long again, for the sum over its lanes.
int SharedLines(std::span<const int32_t> counts) {
  int best = 0, least = INT32_MAX;
  for (int shared = *std::max_element(counts.begin(), counts.end()); shared >= 0; --shared) {
    int cost = 2 * shared;
    for (const int32_t count : counts) cost += 3 * OwnLines(count, shared);
    if (cost < least) {
      least = cost;
      best = shared;
    }
  }
  return best;
}

struct Layout {
  std::vector<int32_t> starts, shared, counts;
  std::vector<uint8_t> owners;
};

// fn(i, offset): where weight i of row r lies, as bytes from the lines on; with `all` the unused places of its lines too.
template <typename Fn>
void ForRow(const SparseView& view, size_t r, bool all, const Fn& fn) {
  const size_t panel = r / kPanelRows, lane = r % kPanelRows;
  const size_t begin = static_cast<size_t>(view.starts[panel]), own = begin + static_cast<size_t>(view.shared[panel]);
  const size_t end = static_cast<size_t>(view.starts[panel + 1]), count = static_cast<size_t>(view.counts[r]);
  size_t i = 0;
  for (size_t line = begin; line < own && (all || i < count); ++line) fn(i++, line * kSparseLine + 2 * lane);
  for (size_t line = own; line < end; ++line) {
    if (view.owners[line] != lane) continue;
    for (size_t place = 0; place < kPanelRows && (all || i < count); ++place) fn(i++, line * kSparseLine + 2 * place);
  }
}

Result<Layout> LayoutOf(const char* name, int n, int k, std::span<const int32_t> row_offsets, size_t count) {
  const size_t rows = static_cast<size_t>(n), panels = (rows + kPanelRows - 1) / kPanelRows;
  if (row_offsets.size() != rows + 1 || IntAt(row_offsets, 0) != 0 || static_cast<size_t>(IntAt(row_offsets, rows)) != count)
    return Error(Code::kCorruptFile, "The row offsets of the sparse weights of %s do not lead from 0 to their number, %zu", name, count);
  Layout layout;
  layout.starts.push_back(0);
  for (size_t r = 0; r < rows; ++r) {
    const int32_t begin = IntAt(row_offsets, r), end = IntAt(row_offsets, r + 1);
    if (end < begin || static_cast<size_t>(end) > count)
      return Error(Code::kCorruptFile, "The row offsets of the sparse weights of %s fall at row %zu", name, r);
    if (end - begin > k) return Error(Code::kCorruptFile, "Row %zu of %s has %d sparse weights in %d columns", r, name, end - begin, k);
    layout.counts.push_back(end - begin);
  }
  for (size_t p = 0; p < panels; ++p) {
    const size_t row0 = p * kPanelRows;
    const std::span<const int32_t> counts(layout.counts.data() + row0, std::min<size_t>(kPanelRows, rows - row0));
    const int shared = SharedLines(counts);
    layout.shared.push_back(shared);
    layout.owners.resize(layout.owners.size() + static_cast<size_t>(shared));
    for (size_t r = 0; r < counts.size(); ++r)
      layout.owners.insert(layout.owners.end(), static_cast<size_t>(OwnLines(counts[r], shared)), static_cast<uint8_t>(r));
    if (layout.owners.size() > INT32_MAX) return Error(Code::kUnsupported, "%s has too many sparse weights", name);
    layout.starts.push_back(static_cast<int32_t>(layout.owners.size()));
  }
  return layout;
}

// Weights [begin, begin + counts[r]) of the file into the lines of row r.
Status StoreRow(const char* name, int k, std::span<const int32_t> columns, const uint8_t* values, size_t begin, size_t r,
                const SparseView& view, uint8_t* lines) {
  const size_t count = static_cast<size_t>(view.counts[r]);
  int32_t last = -1;
  Status status;
  ForRow(view, r, true, [&](size_t i, size_t offset) {
    uint16_t half = 0;
    if (i < count) {
      const int32_t column = IntAt(columns, begin + i);
      std::memcpy(&half, values + 2 * (begin + i), 2);
      const float value = HalfToFloat(half);
      if (status.ok() && (column <= last || column >= k || !std::isfinite(value)))
        status = Error(Code::kCorruptFile,
                       "Sparse weight %zu of %s, in row %zu, has column %d and value %g; columns must rise within a row and stay below %d",
                       begin + i, name, r, column, static_cast<double>(value), k);
      last = column;
    }
    const uint16_t stored = static_cast<uint16_t>(std::max(last, 0));
    std::memcpy(lines + offset, &stored, 2);
    std::memcpy(lines + offset + kSparseLine / 2, &half, 2);
  });
  return status;
}

}  // namespace

Result<Part> PackSparse(const char* name, int n, int k, std::span<const int32_t> row_offsets, std::span<const int32_t> columns,
                        const uint8_t* values) {
  LOWBIT_RETURN_IF_ERROR(CheckPackShape(name, n, k));
  if (k > kSparseColumns)
    return Error(Code::kUnsupported, "%s has sparse weights in rows of %d columns; at most %d are supported", name, k, kSparseColumns);
  const size_t rows = static_cast<size_t>(n), count = columns.size();
  LOWBIT_ASSIGN_OR_RETURN(const Layout layout, LayoutOf(name, n, k, row_offsets, count));
  size_t bytes = 0;
  const auto take = [&](size_t size) { return std::exchange(bytes, bytes + Aligned(size)); };
  const size_t starts = take(layout.starts.size() * 4), shared = take(layout.shared.size() * 4), counts = take(rows * 4);
  const size_t owners = take(layout.owners.size()), lines = take(layout.owners.size() * kSparseLine);
  LOWBIT_ASSIGN_OR_RETURN(Block storage, Block::Allocate(bytes, MemoryClass::kWeights, name));
  const auto ints = [&](size_t at, const std::vector<int32_t>& from) {
    std::memcpy(storage.data() + at, from.data(), from.size() * 4);
    return reinterpret_cast<const int32_t*>(storage.data() + at);
  };
  Part part;
  part.kind = PartKind::kSparse;
  part.view.n = n;
  part.view.k = k;
  part.sparse.n = n;
  part.sparse.starts = ints(starts, layout.starts);
  part.sparse.shared = ints(shared, layout.shared);
  part.sparse.counts = ints(counts, layout.counts);
  part.sparse.owners = storage.data() + owners;
  part.sparse.lines = storage.data() + lines;
  std::copy(layout.owners.begin(), layout.owners.end(), storage.data() + owners);
  for (size_t r = 0; r < rows; ++r)
    LOWBIT_RETURN_IF_ERROR(
        StoreRow(name, k, columns, values, static_cast<size_t>(IntAt(row_offsets, r)), r, part.sparse, storage.data() + lines));
  part.stored_bytes = (rows + 1) * 4 + count * 4;
  part.storage = std::move(storage);
  return part;
}

std::vector<SparseWeight> SparseWeightsOf(const SparseView& view) {
  std::vector<SparseWeight> weights;
  for (size_t r = 0; r < static_cast<size_t>(view.n); ++r)
    ForRow(view, r, false, [&](size_t, size_t offset) {
      uint16_t column, half;
      std::memcpy(&column, view.lines + offset, 2);
      std::memcpy(&half, view.lines + offset + kSparseLine / 2, 2);
      weights.push_back({static_cast<int32_t>(r), column, HalfToFloat(half)});
    });
  return weights;
}

}  // namespace lowbit
