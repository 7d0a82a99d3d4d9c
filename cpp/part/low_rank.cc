// part/low_rank: the part B A of a compressed linear (EoRA, LoRA): two dense f16 matrices in panels, A first as it is read first.
#include <algorithm>

#include "part/layout.h"
#include "part/packer.h"
#include "part/part.h"

namespace lowbit {

Result<Part> PackLowRank(const char* name, int n, int k, int rank, const uint8_t* a, const uint8_t* b) {
  LOWBIT_RETURN_IF_ERROR(CheckPackShape(name, n, k));
  if (rank < 1 || rank > std::min(n, k)) {
    return Error(Code::kInvalidArgument, "Expected integer between 1 and %d for the rank of %s but received %d", std::min(n, k), name,
                 rank);
  }
  LOWBIT_ASSIGN_OR_RETURN(std::unique_ptr<Packer> inner, DensePacker(name, DType::kF16, a, rank, k, {}));
  LOWBIT_ASSIGN_OR_RETURN(std::unique_ptr<Packer> outer, DensePacker(name, DType::kF16, b, n, rank, {}));
  const size_t inner_bytes = inner->part().bytes(), outer_bytes = outer->part().bytes();
  LOWBIT_ASSIGN_OR_RETURN(Block storage, Block::Allocate(inner_bytes + outer_bytes, MemoryClass::kWeights, name));
  LOWBIT_RETURN_IF_ERROR(inner->Pack(0, PanelCount(inner->part().view), storage.data()));
  LOWBIT_RETURN_IF_ERROR(outer->Pack(0, PanelCount(outer->part().view), storage.data() + inner_bytes));
  Part part = outer->Finish(storage.data() + inner_bytes);
  part.kind = PartKind::kLowRank;
  part.inner = inner->Finish(storage.data()).view;
  part.stored_bytes = (static_cast<size_t>(n) + static_cast<size_t>(k)) * static_cast<size_t>(rank) * 2;
  part.storage = std::move(storage);
  return part;
}

}  // namespace lowbit
