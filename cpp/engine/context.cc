// engine/context: creation, evaluation steps and what all three ways to run share. decode.cc and prompts.cc have the others.
#include "engine/context.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/divergence.h"

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
  LOWBIT_ASSIGN_OR_RETURN(context->small_executor_, Executor::Create(plan, model->bindings(), model->kernels(), model->pool(),
                                                                     model->fast(), kSmallRows, kSmallRows));
  context->tokens_.resize(static_cast<size_t>(sequences));
  context->model_ = std::move(model);
  return context;
}

void Context::SetTokens(int sequence, int length) {
  tokens_[static_cast<size_t>(sequence)].resize(static_cast<size_t>(length));
  cache_.SetLength(sequence, length);
}

void Context::Truncate(int sequence, int length) {
  if (length < this->length(sequence)) SetTokens(sequence, std::max(0, length));
}

Status Context::CheckTokens(int sequence, int past, std::span<const int32_t> tokens) const {
  if (sequence < 0 || sequence >= sequences())
    return Error(Code::kInvalidArgument, "Expected integer between 0 and %d for sequence but received %d", sequences() - 1, sequence);
  if (tokens.empty()) return Error(Code::kInvalidArgument, "A step needs at least one token");
  if (tokens.size() > static_cast<size_t>(context_size() - past))
    return Error(Code::kInvalidArgument,
                 "Context overflow: %zu tokens do not fit behind %d in a context of %d; create the context with a larger contextSize or "
                 "shorten the prompt",
                 tokens.size(), past, context_size());
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= model_->plan().vocab_size)
      return Error(Code::kInvalidArgument, "Token %d at position %zu is outside the model's vocabulary of %d", tokens[i],
                   static_cast<size_t>(past) + i, model_->plan().vocab_size);
  return Status::Ok();
}

Result<int> Context::Step(const StepRequest& request, const Progress& progress) {
  const Plan& plan = model_->plan();
  const int count = static_cast<int>(request.tokens.size());
  const int past = request.sequence >= 0 && request.sequence < sequences() ? length(request.sequence) : 0;
  LOWBIT_RETURN_IF_ERROR(CheckTokens(request.sequence, past, request.tokens));
  for (int32_t target : request.targets)
    if (target < 0 || target >= plan.vocab_size)
      return Error(Code::kInvalidArgument, "Target token %d is outside the model's vocabulary of %d", target, plan.vocab_size);
  if (request.score_from < 0 || request.logits_from < 0 || request.score_from > count ||
      static_cast<int>(request.targets.size()) > count - request.score_from)
    return Error(Code::kInvalidArgument, "The rows to score reach beyond the step's %d tokens", count);
  if (request.compare_from < 0 || request.compare_rows < 0 || request.compare_rows > count - request.compare_from)
    return Error(Code::kInvalidArgument, "The rows to compare reach beyond the step's %d tokens", count);
  if (request.sample && request.score_from + static_cast<int>(request.targets.size()) == count && !request.targets.empty())
    return Error(Code::kInvalidArgument, "A step either samples or scores its last row, not both");

  DropPrompts();
  std::vector<int32_t>& tokens = tokens_[static_cast<size_t>(request.sequence)];
  tokens.insert(tokens.end(), request.tokens.begin(), request.tokens.end());
  int token = -1;
  Status status;
  for (int begin = 0; begin < count && status.ok(); begin += executor_->max_rows()) {
    const int rows = std::min(executor_->max_rows(), count - begin);
    status = RunRows(request, begin, rows, past + begin, progress, &token);
    if (status.ok()) progress.Report(begin + rows, count);
  }
  SetTokens(request.sequence, status.ok() ? past + count : past);
  if (!status.ok()) return status;
  return token;
}

Status Context::RunBlocks(Executor& executor, const std::atomic<bool>* cancel) {
  const Plan& plan = model_->plan();
  LOWBIT_RETURN_IF_ERROR(executor.Run(plan.prologue, &cache_, cancel));
  for (const OpRange& block : plan.blocks) LOWBIT_RETURN_IF_ERROR(executor.Run(block, &cache_, cancel));
  return Status::Ok();
}

Status Context::RunHead(Executor& executor, int begin, std::span<const int> rows, int at_once, const std::atomic<bool>* cancel,
                        const std::function<Status(size_t, std::span<float>)>& fn) {
  const Plan& plan = model_->plan();
  const size_t limit = static_cast<size_t>(std::min(at_once, executor.epilogue_rows()));
  for (size_t first = 0; first < rows.size(); first += limit) {
    const size_t count = std::min(rows.size() - first, limit);
    // Gathered to the front in rising order: a row is never overwritten before it was moved.
    for (size_t i = 0; i < count; ++i) executor.MoveRow(begin, rows[first + i], static_cast<int>(i));
    LOWBIT_RETURN_IF_ERROR(executor.RunHead(begin, static_cast<int>(count), cancel));
    for (size_t i = 0; i < count; ++i)
      LOWBIT_RETURN_IF_ERROR(fn(first + i, {executor.Row(plan.logits, static_cast<int>(i)), static_cast<size_t>(plan.vocab_size)}));
  }
  return Status::Ok();
}

Status Context::CheckFinite(std::span<const float> logits, int position) const {
  if (model_->kernels().all_finite(logits.data(), logits.size())) return Status::Ok();
  return Error(Code::kInvalidArgument,
               "The model produced logits that are not finite at position %d; its weights are damaged or its values overflow", position);
}

Result<int> Context::SampleAt(int sequence, int length, std::span<float> logits, const SampleOptions& options) {
  return Sample(model_->kernels(), logits, tokens(sequence).first(static_cast<size_t>(length)), length, options, &sample_buffer_);
}

Status Context::RunRows(const StepRequest& request, int begin, int count, int past, const Progress& progress, int* token) {
  Batch batch;
  batch.rows = count;
  batch.tokens = request.tokens.data() + begin;
  batch.segments.push_back({request.sequence, 0, count, past});
  LOWBIT_RETURN_IF_ERROR(executor_->Begin(batch));
  LOWBIT_RETURN_IF_ERROR(RunBlocks(*executor_, progress.cancel));

  // Rows of this micro-batch whose logits somebody wants.
  const int total = static_cast<int>(request.tokens.size());
  const int score_to = request.score_from + static_cast<int>(request.targets.size());
  std::vector<int> wanted;
  for (int r = 0; r < count; ++r) {
    const int row = begin + r;
    const bool scored = row >= request.score_from && row < score_to;
    const bool copied = request.logits != nullptr && row >= request.logits_from;
    const bool compared = row >= request.compare_from && row < request.compare_from + request.compare_rows;
    if (scored || copied || compared || (request.sample && row == total - 1)) wanted.push_back(r);
  }
  const KernelTable& kernels = model_->kernels();
  const Plan& plan = model_->plan();
  return RunHead(
      *executor_, plan.epilogue.begin, wanted, executor_->epilogue_rows(), progress.cancel,
      [&](size_t i, std::span<float> logits) -> Status {
        const int row = begin + wanted[i];
        LOWBIT_RETURN_IF_ERROR(CheckFinite(logits, past - begin + row));
        if (request.logits != nullptr && row >= request.logits_from)
          std::memcpy(request.logits + static_cast<size_t>(row - request.logits_from) * logits.size(), logits.data(), logits.size_bytes());
        if (request.sample && row == total - 1) {
          LOWBIT_ASSIGN_OR_RETURN(*token, SampleAt(request.sequence, length(request.sequence), logits, request.sampling));
        }
        if (const int at = row - request.compare_from; at >= 0 && at < request.compare_rows) {
          const auto index = static_cast<size_t>(at);
          const Divergence found = Diverge(kernels, {request.reference + index * logits.size(), logits.size()}, logits, &compare_buffer_);
          request.divergences[2 * index] = found.kl;
          request.divergences[2 * index + 1] = found.same_top ? 1 : 0;
        }
        if (row >= request.score_from && row < score_to) {  // last: it overwrites the logits
          const size_t at = static_cast<size_t>(row - request.score_from);
          const float target = logits[static_cast<size_t>(request.targets[at])];
          const float maximum = kernels.max(logits.data(), logits.size());
          request.scores[at] =
              static_cast<double>(target - maximum) - std::log(static_cast<double>(kernels.exp_sum(logits.data(), logits.size(), maximum)));
        }
        return Status::Ok();
      });
}

}  // namespace lowbit
