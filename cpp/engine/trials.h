// engine/trials: other forms of a model's weights ("variants") put in place of them for a while, to see how far the model's predictions
// move. What an allocation of bits is decided by (cpp/allocate).
//
// The predictions are those behind some rows of every sample; the reference is the model as it was loaded, on the exact path with f32 sums.
// Trials run on the integer path, as the compressed model will. All variants are kept in memory.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "allocate/evolve.h"
#include "base/alloc.h"
#include "engine/model.h"
#include "engine/solve_weight.h"
#include "plan/executor.h"

namespace lowbit {

struct TrialOptions {
  int64_t reference_bytes = int64_t(1) << 29;  // of reference logits: fewer rows of every sample are compared where all would take more
  int skipped_rows = 32;                       // at the start of a sample: with little context, predictions move more than they will in use
};

// A variant of a weight, by its number in the order of Add; -1: the uncompressed weight.
struct Swap {
  int weight = 0;
  int variant = -1;
};

class Trials {
 public:
  // Of a model with precision "exact" that is in memory and whose weights nobody else replaces meanwhile. Sample s is tokens[offsets[s] ..
  // offsets[s+1]), each longer than skipped_rows. Runs all of them for the reference.
  static Result<std::unique_ptr<Trials>> Create(std::shared_ptr<Model> model, std::vector<int32_t> tokens, std::vector<int32_t> offsets,
                                                const TrialOptions& options, const Progress& progress);
  // Puts the uncompressed weights back.
  ~Trials();

  // Solves an uncompressed weight, whatever is in its place now, and keeps the result as its next variant.
  Result<Solved> Add(const SolveRequest& request, const HessianView& hessian);

  int Variants(int weight) const;

  // Puts variants in place of weights.
  Status Bind(std::span<const Swap> swaps);

  // Mean Kullback-Leibler divergence of the model as bound from the reference, in nats; quick: of the first sample only.
  Result<double> Divergence(bool quick, const Progress& progress);

  // The same with each of the swaps alone in place, the others as bound. Layers in front of a swap run once for all.
  Result<std::vector<double>> DivergenceOfEach(std::span<const Swap> swaps, const Progress& progress);

  // allocate/evolve with the divergence as fitness. weights [items]; variants [items][candidates]: what each candidate is. The choice is
  // bound in the end.
  Result<Evolved> Evolve(std::span<const int> weights, std::span<const std::vector<int>> variants, std::span<const Item> items,
                         int64_t budget, const Choice& start, const EvolveOptions& options, const Progress& progress);

  Model& model() { return *model_; }

 private:
  struct Forms {
    std::vector<Part> dense;  // while a variant is bound
    std::vector<std::vector<Part>> variants;
    int bound = -1;
  };
  Trials() = default;
  int samples() const { return static_cast<int>(offsets_.size()) - 1; }
  int Rows(int sample) const { return offsets_[static_cast<size_t>(sample) + 1] - offsets_[static_cast<size_t>(sample)]; }
  int FirstCompared(int sample) const { return std::max(skipped_rows_, Rows(sample) - compared_rows_); }
  Status BindOne(const Swap& swap);
  Result<std::vector<float>> Dense(int weight);
  // Stages of a pass: the embedding, each block, the head. What goes from one to the next is the residual.
  int stages() const { return static_cast<int>(model_->plan().blocks.size()) + 2; }
  int FirstStage(int weight) const;
  Status Begin(int sample);
  Status RunStage(int stage, const Progress& progress);
  void SaveResidual(int rows);
  void RestoreResidual(int rows);
  // Logits of compared rows: keeps them as reference, or adds up divergences.
  Status RunHead(int sample, bool keep, const Progress& progress, double* sum);
  Status RunFrom(int sample, int stage, const Progress& progress, double* sum);

  std::shared_ptr<Model> model_;
  std::vector<int32_t> tokens_, offsets_;
  int skipped_rows_ = 0, compared_rows_ = 0;
  KvCache cache_;  // before the executors, which wait for late readers of it
  std::unique_ptr<Executor> exact_, fast_;
  Executor* executor_ = nullptr;  // of the pass at work
  Block reference_;               // [compared rows of all samples][vocab]
  std::vector<size_t> reference_begin_;
  std::vector<float> residual_;
  std::vector<std::vector<float>> scratch_;  // per thread
  std::map<int, Forms> forms_;
};

}  // namespace lowbit
