// engine/container_source: the parts of a linear as a lowbit container stores them. Internal to engine/.
#pragma once

#include <memory>
#include <vector>

#include "engine/spec.h"
#include "part/packer.h"
#include "tensor/tensor.h"

namespace lowbit {

// The first part, which is affine and goes into the arena of the model like any weight.
Result<std::unique_ptr<Packer>> FirstPartPacker(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source);

// A further affine part, which goes into the arena behind the first: a step streams both.
struct OtherPacker {
  std::unique_ptr<Packer> packer;
  int codes;  // its tensor of codes
};
// Empty for sources of another kind. Checks that the rows of all affine parts cover the linear once.
Result<std::vector<OtherPacker>> OtherPackers(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source);

// Low-rank and sparse parts, each with its own bytes; empty for sources of another kind.
Result<std::vector<Part>> AddedParts(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source);

}  // namespace lowbit
