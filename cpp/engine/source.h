// engine/source: tensors of the table as the loaders of this room want them. Internal to engine/.
#pragma once

#include <initializer_list>
#include <memory>
#include <vector>

#include "engine/spec.h"
#include "kernel/kernel.h"
#include "part/packer.h"
#include "tensor/tensor.h"

namespace lowbit {

// GGUF llama files store row 2i+p of a head where Hugging Face has row p*half + i (p = 0, 1): packed row -> file row. Empty for heads 0.
Result<RowMap> RotaryRowMap(const char* name, int n, int heads);

// CORRUPT_FILE naming file and tensor unless the tensor has this shape.
Status CheckShape(const Tensor& t, std::initializer_list<int64_t> shape);

// The packer of one weight, rounding to source.round_bits where that is asked for. It points into the mapped files.
Result<std::unique_ptr<Packer>> SourcePacker(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source,
                                             const KernelTable& kernels);

}  // namespace lowbit
