// engine/context: sequences of tokens over a model. Three ways to run them: Step (one sequence, scores and logits: evaluation),
// Decode (a few rows of several sequences: generation) and a prompt run (many rows, in slices). Who runs when is the scheduler's.
//
// What a sequence gets does not depend on who shares the run. The kernels compute a row alike whatever the number of rows, but those
// for few rows (up to kSmallRows) and those for many round differently; so Decode never takes more than kSmallRows rows, a prompt
// run never reads less than kSmallRows + 1 rows of a sequence, and which of the two reads a prompt depends on the prompt alone.
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
  // log p(targets[i]) of row score_from + i goes to scores[i].
  int score_from = 0;
  std::vector<int32_t> targets;
  double* scores = nullptr;
  // Logits of rows [logits_from, tokens.size()) go to logits, row-major [rows][vocab].
  int logits_from = 0;
  float* logits = nullptr;
  // Rows [compare_from, compare_from + compare_rows) against those of another model, reference [rows][vocab]: the divergence of row i goes
  // to divergences[2 i], and 1 to divergences[2 i + 1] where both find the same token likeliest, else 0.
  int compare_from = 0, compare_rows = 0;
  const float* reference = nullptr;
  double* divergences = nullptr;
};

// One sequence's part of a Decode.
struct DecodeItem {
  int sequence = 0;
  std::vector<int32_t> tokens;  // appended; the last `guesses` of them are guessed
  int guesses = 0;              // < tokens.size()
  SampleOptions sampling;
  // Out: the tokens behind the last one that was not a guess. A guess stays in the sequence if it is the token that was sampled in its
  // place; behind the first wrong one everything is dropped. sampled[i] for i < size - 1 are the right guesses, the last one is new.
  // So the sequence and the tokens are those of a run without guesses, for every kind of sampling.
  std::vector<int32_t> sampled;
  Status status;  // of this sequence alone: its logits were not finite. It is then as before.
};

// One sequence's part of a prompt run.
struct PromptItem {
  int sequence = 0;
  std::vector<int32_t> tokens;  // appended; more than kSmallRows
  bool sample = false;          // whether the token behind them is wanted
  SampleOptions sampling;
  int sampled = -1;
  Status status;  // as in DecodeItem
};

class Context {
 public:
  // context_size tokens for each sequence. The model must outlive the context.
  static Result<std::unique_ptr<Context>> Create(std::shared_ptr<Model> model, int context_size, int sequences, bool kv_f16);

  // Appends the tokens, fills scores and logits, samples. On failure or cancellation the sequence is as before the call.
  // Returns the sampled token, or -1. Drops a prompt run.
  Result<int> Step(const StepRequest& request, const Progress& progress);

  // Appends and samples for several sequences, each named once, in one pass over the weights. At most kSmallRows rows in all.
  // Everything is checked before anything changes; on failure all sequences are as before.
  Status Decode(std::span<DecodeItem> items);

  // Reads prompts of several sequences, at most max_prompt_rows() rows in all. Begin checks everything; Advance works for about
  // `seconds`, one op at least, and returns whether the run is complete. Until then no sequence has changed, and the run can be
  // dropped; a failure drops it. Take gives the items back after completion.
  Status BeginPrompts(std::vector<PromptItem> items);
  Result<bool> AdvancePrompts(double seconds, const std::atomic<bool>* cancel);
  std::vector<PromptItem> TakePrompts();
  void DropPrompts() { prompts_ = PromptRun(); }
  // How many of `left` tokens of a prompt the next run should read.
  int PromptChunk(int left) const;
  int max_prompt_rows() const { return executor_->max_rows(); }

  int length(int sequence) const { return static_cast<int>(tokens_[static_cast<size_t>(sequence)].size()); }
  std::span<const int32_t> tokens(int sequence) const { return tokens_[static_cast<size_t>(sequence)]; }
  // Touches nothing of other sequences: another thread may run those meanwhile.
  void Truncate(int sequence, int length);
  int context_size() const { return cache_.context_size(); }
  int sequences() const { return cache_.sequences(); }
  Model& model() { return *model_; }
  const Model& model() const { return *model_; }

  // Sequence in range, at least one token, all in the vocabulary, and room for them behind `past` tokens.
  Status CheckTokens(int sequence, int past, std::span<const int32_t> tokens) const;

 private:
  struct PromptRun {
    std::vector<PromptItem> items;
    std::vector<int32_t> tokens;  // of all items
    int next_op = -1;             // -1: no run
    bool complete = false;
  };

  Context() = default;
  Status RunRows(const StepRequest& request, int begin, int count, int past, const Progress& progress, int* token);
  Status RunBlocks(Executor& executor, const std::atomic<bool>* cancel);
  // Ops from `begin` on (Executor::RunHead) for `rows` of the batch (rising), at_once together; fn(i, logits of rows[i]).
  Status RunHead(Executor& executor, int begin, std::span<const int> rows, int at_once, const std::atomic<bool>* cancel,
                 const std::function<Status(size_t, std::span<float>)>& fn);
  Status CheckFinite(std::span<const float> logits, int position) const;
  // Samples behind the sequence's first `length` tokens.
  Result<int> SampleAt(int sequence, int length, std::span<float> logits, const SampleOptions& options);
  Status FinishPrompts(const std::atomic<bool>* cancel);
  void SetTokens(int sequence, int length);

  std::shared_ptr<Model> model_;
  KvCache cache_;
  std::unique_ptr<Executor> executor_;        // prompts and evaluation
  std::unique_ptr<Executor> small_executor_;  // Decode, also between two slices of a prompt run
  std::vector<std::vector<int32_t>> tokens_;  // per sequence
  PromptRun prompts_;
  SampleBuffer sample_buffer_;
  std::vector<float> compare_buffer_;  // of Diverge
};

}  // namespace lowbit
