// engine/lazy_weights: weights that stay in their files until they are asked for, one at a time or some rows of one, so that a model larger
// than memory can be calibrated and solved block by block. Each load gives the file pages behind it back. Holds no weight itself, and
// knows nothing of blocks: calibration.cc says what is needed when.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/pool.h"
#include "base/status.h"
#include "engine/spec.h"
#include "kernel/kernel.h"
#include "part/part.h"
#include "plan/plan.h"
#include "tensor/tensor.h"

namespace lowbit {

class LazyWeights {
 public:
  LazyWeights(std::vector<Tensor> tensors, std::vector<WeightSource> sources, const KernelTable& kernels)
      : tensors_(std::move(tensors)), sources_(std::move(sources)), kernels_(kernels) {}

  // Reads every weight once and keeps nothing: shapes, types, values that are not finite, and files that cannot be read show now and not
  // after hours. UNSUPPORTED for a weight that is to be rounded; CORRUPT_FILE, IO naming the tensor; CANCELLED.
  Status Check(const Plan& plan, Pool& pool, const Progress& progress) const;

  // The packed weight, in memory of its own.
  Result<std::vector<Part>> Load(const WeightShape& shape, int weight, Pool& pool, const Progress& progress) const;

  // Rows [begin, end) of it; begin is a multiple of 16. INVALID_ARGUMENT for less than all rows of a weight in parts.
  Result<std::vector<Part>> LoadRange(const WeightShape& shape, int weight, int begin, int end, Pool& pool, const Progress& progress) const;

  // Some rows of it, in this order: part row i is row rows[i] of the Hugging Face checkpoint. Rows within [0, shape.n). UNSUPPORTED for a
  // weight that is not one tensor.
  Result<Part> LoadRows(const WeightShape& shape, int weight, const std::vector<int32_t>& rows, Pool& pool) const;

  // Whether a weight is stored in parts (lowbit container).
  bool InParts(int weight) const { return !sources_[static_cast<size_t>(weight)].parts.empty(); }

 private:
  // All tensors of a weight; the first is the one with its codes or values.
  std::vector<const Tensor*> TensorsOf(int weight) const;
  // Panels [panel0, panel1) in memory of their own, and what else a weight in parts has.
  Result<std::vector<Part>> LoadPanels(const WeightShape& shape, int weight, int panel0, int panel1, Pool& pool,
                                       const Progress& progress) const;
  std::vector<Tensor> tensors_;
  std::vector<WeightSource> sources_;
  const KernelTable& kernels_;
};

// Weights that the ops of a range read, each once.
std::vector<int> WeightsOfRange(const Plan& plan, OpRange range);

}  // namespace lowbit
