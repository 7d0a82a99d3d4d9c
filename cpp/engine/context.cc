// engine/context: micro-batches, the wanted rows of the head, rollback.
#include "engine/context.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace lowbit {
namespace {

// Rows of logits held at once: up to 64 MB, so that scoring half a chunk of a 49k vocabulary is one pass over the head.
constexpr size_t kLogitsBytes = size_t(64) << 20;

int EpilogueRows(const Plan& plan, int max_rows) {
  const size_t fit = kLogitsBytes / (static_cast<size_t>(plan.vocab_size) * sizeof(float));
  return static_cast<int>(std::clamp<size_t>(fit, 1, static_cast<size_t>(max_rows)));
}

}  // namespace

Result<std::unique_ptr<Context>> Context::Create(std::shared_ptr<Model> model, int context_size, int sequences, bool kv_f16) {
  std::unique_ptr<Context> context(new Context());
  const Plan& plan = model->plan();
  if (context_size < 1 || context_size > plan.max_seq_len)
    return Error(Code::kInvalidArgument, "Expected integer between 1 and %d (the model's limit) for contextSize but received %d",
                 plan.max_seq_len, context_size);
  if (sequences < 1 || sequences > 4096)
    return Error(Code::kInvalidArgument, "Expected integer between 1 and 4096 for sequences but received %d", sequences);
  LOWBIT_ASSIGN_OR_RETURN(context->cache_, KvCache::Create(plan.caches, sequences, context_size, kv_f16));
  const int rows = std::min(kMaxRows, context_size);
  LOWBIT_ASSIGN_OR_RETURN(context->executor_, Executor::Create(plan, model->bindings(), model->kernels(), model->pool(), model->fast(),
                                                               rows, EpilogueRows(plan, rows)));
  context->tokens_.resize(static_cast<size_t>(sequences));
  context->model_ = std::move(model);
  return context;
}

void Context::Truncate(int sequence, int length) {
  std::vector<int32_t>& tokens = tokens_[static_cast<size_t>(sequence)];
  if (length < static_cast<int>(tokens.size())) tokens.resize(static_cast<size_t>(std::max(0, length)));
  cache_.SetLength(sequence, static_cast<int>(tokens.size()));
}

Result<int> Context::Step(const StepRequest& request, const Progress& progress) {
  const Plan& plan = model_->plan();
  const int count = static_cast<int>(request.tokens.size());
  if (request.sequence < 0 || request.sequence >= sequences())
    return Error(Code::kInvalidArgument, "Expected integer between 0 and %d for sequence but received %d", sequences() - 1,
                 request.sequence);
  if (count < 1) return Error(Code::kInvalidArgument, "A step needs at least one token");
  const int past = length(request.sequence);
  if (count > context_size() - past)
    return Error(Code::kInvalidArgument,
                 "Context overflow: %d tokens do not fit behind %d in a context of %d; create the context with a larger contextSize or "
                 "shorten the prompt",
                 count, past, context_size());
  for (int i = 0; i < count; ++i)
    if (request.tokens[static_cast<size_t>(i)] < 0 || request.tokens[static_cast<size_t>(i)] >= plan.vocab_size)
      return Error(Code::kInvalidArgument, "Token %d at position %d is outside the model's vocabulary of %d",
                   request.tokens[static_cast<size_t>(i)], past + i, plan.vocab_size);
  for (int32_t target : request.targets)
    if (target < 0 || target >= plan.vocab_size)
      return Error(Code::kInvalidArgument, "Target token %d is outside the model's vocabulary of %d", target, plan.vocab_size);
  if (request.score_from < 0 || request.logits_from < 0 || request.score_from > count ||
      static_cast<int>(request.targets.size()) > count - request.score_from)
    return Error(Code::kInvalidArgument, "The rows to score reach beyond the step's %d tokens", count);
  if (request.sample && request.score_from + static_cast<int>(request.targets.size()) == count && !request.targets.empty())
    return Error(Code::kInvalidArgument, "A step either samples or scores its last row, not both");

  std::vector<int32_t>& tokens = tokens_[static_cast<size_t>(request.sequence)];
  tokens.insert(tokens.end(), request.tokens.begin(), request.tokens.end());
  int token = -1;
  Status status;
  for (int begin = 0; begin < count && status.ok(); begin += executor_->max_rows()) {
    const int rows = std::min(executor_->max_rows(), count - begin);
    status = RunRows(request, begin, rows, past + begin, progress, &token);
    if (status.ok()) progress.Report(begin + rows, count);
  }
  if (!status.ok()) tokens.resize(static_cast<size_t>(past));
  cache_.SetLength(request.sequence, static_cast<int>(tokens.size()));
  if (!status.ok()) return status;
  return token;
}

Status Context::RunRows(const StepRequest& request, int begin, int count, int past, const Progress& progress, int* token) {
  const Plan& plan = model_->plan();
  Batch batch;
  batch.rows = count;
  batch.tokens = request.tokens.data() + begin;
  batch.segments.push_back({request.sequence, 0, count, past});
  LOWBIT_RETURN_IF_ERROR(executor_->Begin(batch));
  LOWBIT_RETURN_IF_ERROR(executor_->Run(plan.prologue, &cache_, progress.cancel));
  for (const OpRange& block : plan.blocks) LOWBIT_RETURN_IF_ERROR(executor_->Run(block, &cache_, progress.cancel));

  // Rows of this micro-batch whose logits somebody wants.
  const int total = static_cast<int>(request.tokens.size());
  const int score_to = request.score_from + static_cast<int>(request.targets.size());
  std::vector<int> wanted;
  for (int r = 0; r < count; ++r) {
    const int row = begin + r;
    const bool scored = row >= request.score_from && row < score_to;
    const bool copied = request.logits != nullptr && row >= request.logits_from;
    if (scored || copied || (request.sample && row == total - 1)) wanted.push_back(r);
  }
  const View residual = {plan.residual, 0, plan.hidden_size};
  const size_t vocab = static_cast<size_t>(plan.vocab_size);
  const KernelTable& kernels = model_->kernels();
  for (size_t first = 0; first < wanted.size(); first += static_cast<size_t>(executor_->epilogue_rows())) {
    const int rows = static_cast<int>(std::min(wanted.size() - first, static_cast<size_t>(executor_->epilogue_rows())));
    // Gathered to the front in rising order: a row is never overwritten before it was moved.
    for (int i = 0; i < rows; ++i)
      std::memmove(executor_->Row(residual, i), executor_->Row(residual, wanted[first + static_cast<size_t>(i)]),
                   static_cast<size_t>(plan.hidden_size) * sizeof(float));
    LOWBIT_RETURN_IF_ERROR(executor_->RunEpilogue(rows, progress.cancel));
    for (int i = 0; i < rows; ++i) {
      const int row = begin + wanted[first + static_cast<size_t>(i)];
      float* logits = executor_->Row(plan.logits, i);
      if (!kernels.all_finite(logits, vocab))
        return Error(Code::kInvalidArgument,
                     "The model produced logits that are not finite at position %d; its weights are damaged or its values overflow",
                     past - begin + row);
      if (request.logits != nullptr && row >= request.logits_from)
        std::memcpy(request.logits + static_cast<size_t>(row - request.logits_from) * vocab, logits, vocab * sizeof(float));
      if (request.sample && row == total - 1) {
        const std::vector<int32_t>& tokens = tokens_[static_cast<size_t>(request.sequence)];
        const size_t back = request.repeat_last_n < 0 ? tokens.size() : std::min(tokens.size(), static_cast<size_t>(request.repeat_last_n));
        LOWBIT_ASSIGN_OR_RETURN(*token, Sample({logits, vocab}, {tokens.data() + (tokens.size() - back), back},
                                               static_cast<int64_t>(tokens.size()), request.sampling));
      }
      if (row >= request.score_from && row < score_to) {
        const size_t at = static_cast<size_t>(row - request.score_from);
        const float target = logits[request.targets[at]];
        const float maximum = kernels.max(logits, vocab);
        request.scores[at] = static_cast<double>(target - maximum) - std::log(static_cast<double>(kernels.exp_sum(logits, vocab, maximum)));
      }
    }
  }
  return Status::Ok();
}

}  // namespace lowbit
