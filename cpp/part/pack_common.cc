// part/pack_common: checks shared by the packers, and packing on the calling thread.
#include "part/pack_common.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/half.h"
#include "part/packer.h"

namespace lowbit {

Status CheckRowMap(const char* name, const RowMap& map, int n) {
  if (map.empty()) return Status::Ok();
  if (map.size() != static_cast<size_t>(n)) {
    return Error(Code::kInvalidArgument, "Expected %d entries in the row map of %s but received %zu", n, name, map.size());
  }
  for (size_t i = 0; i < map.size(); ++i) {
    if (map[i] < 0 || map[i] >= n) {
      return Error(Code::kInvalidArgument, "Expected integer between 0 and %d for entry %zu of the row map of %s but received %d", n - 1, i,
                   name, map[i]);
    }
  }
  return Status::Ok();
}

Status AllocatePanels(const char* name, Part& part) {
  part.view.panel_bytes = PackedPanelBytes(part.view);
  LOWBIT_ASSIGN_OR_RETURN(part.storage, Block::Allocate(PackedBytes(part.view), MemoryClass::kWeights, name));
  part.view.data = part.storage.data();
  return Status::Ok();
}

Result<Part> PackWhole(Result<std::unique_ptr<Packer>> packer) {
  if (!packer.ok()) return packer.status();
  Packer& p = *packer.value();
  LOWBIT_ASSIGN_OR_RETURN(Block storage, Block::Allocate(p.part().bytes(), MemoryClass::kWeights, p.name()));
  LOWBIT_RETURN_IF_ERROR(p.Pack(0, PanelCount(p.part().view), storage.data()));
  Part part = p.Finish(storage.data());
  part.storage = std::move(storage);
  return part;
}

bool FitsHalf(float value) { return HalfToFloat(FloatToHalf(value)) == value; }

float FloatAt(const uint8_t* values, DType dtype, size_t index) {
  const uint8_t* from = values + index * static_cast<size_t>(Info(dtype).block_bytes);
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  return dtype == DType::kF16 ? HalfToFloat(HalfWordAt(from)) : Bfloat16ToFloat(HalfWordAt(from));
}

Result<bool> ScalesFitHalf(const char* name, const char* what, std::span<const uint8_t> scales, DType dtype, size_t minor,
                           bool rows_first) {
  const size_t count = scales.size() / static_cast<size_t>(Info(dtype).block_bytes);
  bool finite = true, half = true;
  if (dtype == DType::kF16) {
    uint32_t bad = 0;
    for (size_t i = 0; i < count; ++i) bad |= (HalfWordAt(scales.data() + 2 * i) & 0x7c00u) == 0x7c00u;
    finite = bad == 0;
  } else {
    for (size_t i = 0; i < count; ++i) {
      const float scale = FloatAt(scales.data(), dtype, i);
      finite = finite && std::isfinite(scale);
      half = half && FitsHalf(scale);
    }
  }
  for (size_t i = 0; !finite && i < count; ++i) {
    if (std::isfinite(FloatAt(scales.data(), dtype, i))) continue;
    const size_t major = i / minor, rest = i % minor;
    return Error(Code::kCorruptFile,
                 "%s of %s hold a value that is not finite at group %zu, row %zu; download the file again or use another checkpoint", what,
                 name, rows_first ? rest : major, rows_first ? major : rest);
  }
  return half;
}

Result<std::vector<int32_t>> ColumnOrder(const char* name, const char* what, std::span<const int32_t> g_idx, size_t k, size_t group_size) {
  const size_t groups = (k + group_size - 1) / group_size;
  std::vector<int32_t> order;
  std::vector<size_t> members(groups, 0);
  bool trivial = true;
  for (size_t c = 0; c < g_idx.size(); ++c) {
    const int32_t g = static_cast<int32_t>(WordOf(g_idx.data(), c));
    if (g < 0 || static_cast<size_t>(g) >= groups) {
      return Error(Code::kCorruptFile, "%s of %s assigns column %zu to group %d, but there are %zu groups", what, name, c, g, groups);
    }
    ++members[static_cast<size_t>(g)];
    trivial = trivial && static_cast<size_t>(g) == c / group_size;
  }
  if (trivial) return order;
  for (size_t g = 0; g < groups; ++g) {
    const size_t expected = std::min(group_size, k - g * group_size);
    if (members[g] != expected) {
      return Error(Code::kUnsupported, "%s of %s assigns %zu columns to group %zu; groups of %zu columns are supported (%zu in this one)",
                   what, name, members[g], g, group_size, expected);
    }
  }
  // counting sort, stable: columns of one group keep their order
  std::vector<size_t> next(groups);
  for (size_t g = 0; g < groups; ++g) next[g] = g * group_size;
  order.resize(k);
  for (size_t c = 0; c < k; ++c) order[next[WordOf(g_idx.data(), c)]++] = static_cast<int32_t>(c);
  return order;
}

}  // namespace lowbit
