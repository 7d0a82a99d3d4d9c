// engine/model: a loaded model: plan, packed weights, kernels and threads. Contexts and calibrations run on it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/pool.h"
#include "base/status.h"
#include "engine/lazy_weights.h"
#include "engine/spec.h"
#include "engine/weights.h"
#include "kernel/kernel.h"
#include "part/part.h"
#include "plan/executor.h"
#include "plan/plan.h"

namespace lowbit {

class Model {
 public:
  // Maps, checks and packs; a lazy model is checked only, and its weights are in memory while a calibration or LoadWeights has them there.
  // Errors name the file and tensor.
  static Result<std::shared_ptr<Model>> Load(ModelSpec spec, const Progress& progress);

  const Plan& plan() const { return plan_; }
  const Bindings& bindings() const { return bindings_; }
  const KernelTable& kernels() const { return *kernels_; }
  Pool& pool() { return *pool_; }
  bool fast() const { return fast_; }

  size_t weight_bytes() const;                        // packed, in memory
  size_t stored_bytes() const;                        // as files store them
  int64_t parameters() const { return parameters_; }  // a head that is a second copy of the embedding is counted once
  const CacheReport& packed_cache() const { return packed_cache_; }

  // Dequantised rows [begin, end) of a weight, [end - begin][k] f32 row-major, in the order of the Hugging Face checkpoint. Of a lazy model
  // from the file when the weight is not in memory.
  Result<std::vector<float>> DenseRows(int weight, int begin, int end);
  Result<std::vector<float>> DenseWeight(int weight) { return DenseRows(weight, 0, plan_.weights[static_cast<size_t>(weight)].n); }
  // The same rows as parts, for as long as the model holds the weight; those of a lazy model own their bytes when the weight is not in
  // memory. begin is a multiple of 16; of a weight in several parts, or in one that knows only some rows, the range is all rows.
  // INVALID_ARGUMENT otherwise.
  Result<std::vector<Part>> RowParts(int weight, int begin, int end, const Progress& progress);
  const std::vector<float>& vector(int index) const { return bindings_.vectors[static_cast<size_t>(index)]; }

  // Replaces a weight by parts of the same shape, which own their bytes, and gives the memory of the old ones back. No step may be running.
  void ReplaceWeight(int weight, std::vector<Part> parts);

  // The same, but the old ones stay as they are and are returned: they may come back.
  std::vector<Part> ExchangeWeight(int weight, std::vector<Part> parts);

  // Lazy models. No step may be running.
  bool lazy() const { return lazy_ != nullptr; }
  bool in_memory(int weight) const { return !bindings_.weights[static_cast<size_t>(weight)].empty(); }
  // Brings those of the weights into memory that are not there.
  Status LoadWeights(const std::vector<int>& weights, const Progress& progress);
  // Holds only these rows of a weight, as its rows 0, 1, ...: of an embedding, whose other tokens do not occur.
  Status LoadRows(int weight, const std::vector<int32_t>& rows);
  void DropWeights(const std::vector<int>& weights);

 private:
  Model() = default;
  Plan plan_;
  Block added_;  // LoadedWeights::added
  Arena arena_;  // the panels of all weights that were not replaced, in execution order
  Bindings bindings_;
  CacheReport packed_cache_;
  std::unique_ptr<LazyWeights> lazy_;
  int64_t parameters_ = 0;
  const KernelTable* kernels_ = nullptr;
  std::shared_ptr<Pool> pool_;
  bool fast_ = true;
};

// The pool of `threads` threads (caller included); models that ask for the same number share one.
std::shared_ptr<Pool> SharedPool(int threads);

}  // namespace lowbit
