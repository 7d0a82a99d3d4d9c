// engine/model: a loaded model: plan, packed weights, kernels and threads. Contexts and calibrations run on it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/pool.h"
#include "base/status.h"
#include "kernel/kernel.h"
#include "part/part.h"
#include "plan/executor.h"
#include "plan/plan.h"
#include "tensor/tensor.h"

namespace lowbit {

// What every long call carries. Both members may be empty.
struct Progress {
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(int64_t done, int64_t total)> report;  // called on the engine's thread

  bool cancelled() const { return cancel != nullptr && cancel->load(std::memory_order_relaxed); }
  void Report(int64_t done, int64_t total) const {
    if (report) report(done, total);
  }
};

// Tensors of a weight or vector; indices into ModelSpec.tensors.
struct WeightSource {
  int tensor = -1;                                         // dense or GGUF blocks
  int qweight = -1, qzeros = -1, scales = -1, g_idx = -1;  // GPTQ, when tensor < 0
  int bits = 0, group_size = 0, zero_offset = 0;
  int rope_heads = 0;  // > 0: undo GGUF's pairwise rotary row order
};

struct VectorSource {
  int tensor = -1;
  float addend = 0;
  int rope_heads = 0;
};

struct ModelSpec {
  std::vector<std::string> files;
  std::vector<TensorEntry> tensors;
  Plan plan;
  std::vector<WeightSource> weights;  // one per plan weight
  std::vector<VectorSource> vectors;  // one per plan vector
  bool fast = true;
  int threads = 0;  // 0 = usable physical cores
};

class Model {
 public:
  // Maps, checks and packs. Errors name the file and tensor.
  static Result<std::shared_ptr<Model>> Load(ModelSpec spec, const Progress& progress);

  const Plan& plan() const { return plan_; }
  const Bindings& bindings() const { return bindings_; }
  const KernelTable& kernels() const { return *kernels_; }
  Pool& pool() { return *pool_; }
  bool fast() const { return fast_; }

  size_t weight_bytes() const;  // packed, in memory
  size_t stored_bytes() const;  // as files store them
  int64_t parameters() const;

  // Dequantised weight, [n][k] f32 row-major, in the order of the Hugging Face checkpoint.
  Result<std::vector<float>> DenseWeight(int weight) const;
  const std::vector<float>& vector(int index) const { return bindings_.vectors[static_cast<size_t>(index)]; }

  // Replaces a weight by one part of the same shape. No step may be running.
  void ReplaceWeight(int weight, Part part);

 private:
  Model() = default;
  Plan plan_;
  Bindings bindings_;
  const KernelTable* kernels_ = nullptr;
  std::shared_ptr<Pool> pool_;
  bool fast_ = true;
};

// The pool of `threads` threads (caller included); models that ask for the same number share one.
std::shared_ptr<Pool> SharedPool(int threads);

}  // namespace lowbit
