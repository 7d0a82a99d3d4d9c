// engine/spec: what a load is asked for, and what every long call carries.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "part/part.h"
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

// Tensors of one part in a lowbit container (quantize/container_tensors.h); indices into ModelSpec.tensors, -1 = none.
struct PartTensors {
  PartKind kind = PartKind::kAffine;
  int bits = 0, group_size = 0, scale_bits = 0;
  int count = 0;  // rows of an affine part, rank, sparse values
  AffineKind affine = AffineKind::kSymmetric;
  int codes = -1, scales = -1, seconds = -1, scale_codes = -1, zero_codes = -1, tiles = -1, rows = -1, g_idx = -1;  // kAffine
  int a = -1, b = -1;                                                                                               // kLowRank
  int row_offsets = -1, columns = -1, values = -1;                                                                  // kSparse
};

// Tensors of a weight or vector; indices into ModelSpec.tensors.
struct WeightSource {
  int tensor = -1;                                         // dense or GGUF blocks
  int qweight = -1, qzeros = -1, scales = -1, g_idx = -1;  // codes in words, when tensor < 0
  int bits = 0, group_size = 0, zero_offset = 0;
  std::optional<WordLayout> layout;  // of those words; none: GPTQ
  bool transposed = false;           // the tensor holds [k, n]; floats only
  std::vector<PartTensors> parts;    // lowbit container, when not empty; the first is affine
  int input_scale = -1;              // of the parts
  int rope_heads = 0;                // > 0: undo GGUF's pairwise rotary row order
  int round_bits = 0;                // 4, 5, 6, 8: round to that width at load (part/requantize.cc); 0: as stored
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
  int threads = 0;           // 0 = usable physical cores
  bool lazy = false;         // weights stay in their files until a calibration or a solve needs them (engine/lazy_weights.h)
  std::string packed_cache;  // path of the packed-weight cache; empty = none (engine/packed_cache.h)
};

}  // namespace lowbit
