// engine/context: sequences of tokens over a model, one step at a time.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "engine/model.h"
#include "engine/sampler.h"
#include "plan/executor.h"

namespace lowbit {

// Rows of one micro-batch: enough to amortise unpacking a weight panel, small enough that activations stay in L2/L3.
constexpr int kMaxRows = 512;

struct StepRequest {
  int sequence = 0;
  std::vector<int32_t> tokens;  // appended; at least one
  bool sample = false;
  SampleOptions sampling;
  int repeat_last_n = 64;  // history of the penalty; -1 = the whole sequence
  // log p(targets[i]) of row score_from + i goes to scores[i].
  int score_from = 0;
  std::vector<int32_t> targets;
  double* scores = nullptr;
  // Logits of rows [logits_from, tokens.size()) go to logits, row-major [rows][vocab].
  int logits_from = 0;
  float* logits = nullptr;
};

class Context {
 public:
  // context_size tokens for each sequence. The model must outlive the context.
  static Result<std::unique_ptr<Context>> Create(std::shared_ptr<Model> model, int context_size, int sequences, bool kv_f16);

  // Appends the tokens, fills scores and logits, samples. On failure or cancellation the sequence is as before the call.
  // Returns the sampled token, or -1.
  Result<int> Step(const StepRequest& request, const Progress& progress);

  int length(int sequence) const { return static_cast<int>(tokens_[static_cast<size_t>(sequence)].size()); }
  void Truncate(int sequence, int length);
  int context_size() const { return cache_.context_size(); }
  int sequences() const { return cache_.sequences(); }
  Model& model() { return *model_; }

 private:
  Context() = default;
  Status RunRows(const StepRequest& request, int begin, int count, int past, const Progress& progress, int* token);

  std::shared_ptr<Model> model_;
  KvCache cache_;
  std::unique_ptr<Executor> executor_;
  std::vector<std::vector<int32_t>> tokens_;  // per sequence
};

}  // namespace lowbit
