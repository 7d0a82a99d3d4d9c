// engine/weights: the weights of a model, from the tensor table into one arena.
// All packers are made first, so that every size is known; then panels are packed in place by all threads. The arena holds the matrices
// in the order in which a step reads them, head last: a decode step is one forward stream, and what the hardware prefetches behind
// the end of a matrix is the beginning of the next one. A packed-weight cache (packed_cache.h) takes the place of packing.
#pragma once

#include <string>
#include <vector>

#include "base/pool.h"
#include "base/status.h"
#include "engine/arena.h"
#include "engine/spec.h"
#include "kernel/kernel.h"
#include "part/part.h"
#include "plan/plan.h"
#include "tensor/tensor.h"

namespace lowbit {

// Order is part of the JS API: see CacheStateName.
enum class CacheState {
  kOff,      // not asked for
  kHit,      // the weights came from it
  kWritten,  // there was none; there is now
  kStale,    // there was one that did not fit or was damaged; it was replaced
  kFailed,   // it could not be written; the model is loaded all the same
};
const char* CacheStateName(CacheState state);  // "off", "hit", ...

struct CacheReport {
  CacheState state = CacheState::kOff;
  std::string note;  // why, for kStale and kFailed
};

struct LoadedWeights {
  Arena arena;
  std::vector<Part> parts;  // one per weight of the plan; views into the arena
  // What else belongs to a weight of a lowbit container: affine parts in the arena, low-rank and sparse ones in `added`, in the same
  // order. Either empty or one list per weight.
  std::vector<std::vector<Part>> others;
  Block added;
  CacheReport cache;
};

// Weights of the plan in the order of the arena: as the linear, route and experts ops of a step read them; then the others.
std::vector<int> ExecutionOrder(const Plan& plan);

// True for a weight rounded from a tensor that an earlier weight holds too: a second copy, which a file does not store.
bool IsSecondCopy(const std::vector<WeightSource>& weights, size_t index);

// File pages are given back as packing proceeds, so that memory holds little more than the arena. Errors name the tensor.
// CANCELLED when progress says so. spec.plan is not read.
Result<LoadedWeights> LoadWeights(const ModelSpec& spec, const Plan& plan, const std::vector<Tensor>& tensors, const KernelTable& kernels,
                                  Pool& pool, const Progress& progress);

}  // namespace lowbit
