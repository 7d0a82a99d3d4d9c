// quantize/container_tensors: the parts of a linear as the tensors of a lowbit container (docs/formats.md, "lowbit container").
// part/container.cc, low_rank.cc and sparse.cc read them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "quantize/linear_parts.h"

namespace lowbit {

struct StoredTensor {
  std::string part;  // within the linear: "parts", "input_scale", "0.codes", ...
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;  // little endian
};

// Ints of one record of "parts": kind (PartKind), bits, group_size, affine kind, bits of coded scales, flags, count, 0.
constexpr int kPartRecord = 8;
constexpr int32_t kPartHasRows = 1, kPartHasOrder = 2;  // flags

// The linear must be one that PackParts takes.
std::vector<StoredTensor> ContainerTensors(const LinearParts& linear);

}  // namespace lowbit
