// part/pack_common: checks shared by the packers, and packing on the calling thread.
#include "part/pack_common.h"

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

}  // namespace lowbit
