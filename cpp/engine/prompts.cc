// engine/prompts: prompts of one or several sequences read together, many rows at a time, in slices between which sequences may decode.
#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/context.h"

namespace lowbit {

int Context::PromptChunk(int left) const {
  const int rows = max_prompt_rows();
  if (left <= rows) return left;
  // What stays behind must be enough for another run. kMaxRows is far more than twice kSmallRows, and a context that holds fewer tokens
  // than that is one run.
  return left - rows > kSmallRows ? rows : left - kSmallRows - 1;
}

Status Context::BeginPrompts(std::vector<PromptItem> items) {
  PromptRun run;
  Batch batch;
  for (size_t i = 0; i < items.size(); ++i) {
    const PromptItem& item = items[i];
    const int past = item.sequence >= 0 && item.sequence < sequences() ? length(item.sequence) : 0;
    LOWBIT_RETURN_IF_ERROR(CheckTokens(item.sequence, past, item.tokens));
    const int count = static_cast<int>(item.tokens.size()), row = static_cast<int>(run.tokens.size());
    if (count <= kSmallRows) return Error(Code::kInternal, "A prompt of %d tokens is read by Decode", count);
    if (std::any_of(items.begin(), items.begin() + static_cast<ptrdiff_t>(i), [&](auto& o) { return o.sequence == item.sequence; }))
      return Error(Code::kInternal, "Sequence %d is in the run twice", item.sequence);
    if (count > max_prompt_rows() - row) return Error(Code::kInternal, "A prompt run has more than %d rows", max_prompt_rows());
    run.tokens.insert(run.tokens.end(), item.tokens.begin(), item.tokens.end());
    batch.segments.push_back({item.sequence, row, count, past});
  }
  if (items.empty()) return Error(Code::kInternal, "A prompt run without prompts");
  run.items = std::move(items);
  prompts_ = std::move(run);
  batch.rows = static_cast<int>(prompts_.tokens.size());
  batch.tokens = prompts_.tokens.data();
  const Status status = executor_->Begin(batch);
  if (status.ok()) prompts_.next_op = model_->plan().prologue.begin;
  return status;
}

Result<bool> Context::AdvancePrompts(double seconds, const std::atomic<bool>* cancel) {
  if (prompts_.next_op < 0) return Error(Code::kInternal, "There is no prompt run");
  const auto start = std::chrono::steady_clock::now();
  Status status;
  // What follows the last attention is wanted of the rows that are sampled from only.
  const int end = executor_->head_begin();
  while (status.ok() && prompts_.next_op < end) {
    const int next = std::min(executor_->NextStop(prompts_.next_op), end);
    status = executor_->Run({prompts_.next_op, next}, &cache_, cancel);
    prompts_.next_op = next;
    if (status.ok() && std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() >= seconds) break;
  }
  const bool blocks_done = prompts_.next_op >= end;
  if (status.ok() && blocks_done) status = FinishPrompts(cancel);
  if (!status.ok()) {
    DropPrompts();
    return status;
  }
  prompts_.complete = blocks_done;
  return blocks_done;
}

Status Context::FinishPrompts(const std::atomic<bool>* cancel) {
  std::vector<int> wanted;
  std::vector<size_t> owners;
  std::vector<int> pasts;
  int row = 0;
  for (size_t i = 0; i < prompts_.items.size(); ++i) {
    const PromptItem& item = prompts_.items[i];
    row += static_cast<int>(item.tokens.size());
    if (item.sample) {
      wanted.push_back(row - 1);
      owners.push_back(i);
    }
    std::vector<int32_t>& tokens = tokens_[static_cast<size_t>(item.sequence)];
    pasts.push_back(static_cast<int>(tokens.size()));
    tokens.insert(tokens.end(), item.tokens.begin(), item.tokens.end());
  }
  const Status status =
      RunHead(*executor_, executor_->head_begin(), wanted, kSmallRows, cancel, [&](size_t w, std::span<float> logits) -> Status {
        PromptItem& item = prompts_.items[owners[w]];
        const int length = this->length(item.sequence);
        item.status = CheckFinite(logits, length - 1);
        if (!item.status.ok()) return Status::Ok();
        auto sampled = SampleAt(item.sequence, length, logits, item.sampling);
        item.status = sampled.status();
        if (sampled.ok()) item.sampled = sampled.value();
        return Status::Ok();
      });
  for (size_t i = 0; i < prompts_.items.size(); ++i) {
    const PromptItem& item = prompts_.items[i];
    SetTokens(item.sequence, status.ok() && item.status.ok() ? length(item.sequence) : pasts[i]);
  }
  return status;
}

std::vector<PromptItem> Context::TakePrompts() {
  std::vector<PromptItem> items;
  if (prompts_.complete) items = std::move(prompts_.items);
  DropPrompts();
  return items;
}

}  // namespace lowbit
