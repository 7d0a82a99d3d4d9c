// engine/decode: one pass over the weights for a few rows of several sequences, with guesses verified on the way.
//
// A guess is right if it is the token that sampling would have drawn in its place: the draw depends on seed and position only, so this
// is known once its row's logits are, and the result is exact for every kind of sampling (with rejection sampling, Leviathan et al.
// 2023, it would be right in distribution only).
#include <algorithm>

#include "engine/context.h"

namespace lowbit {

Status Context::Decode(std::span<DecodeItem> items) {
  Batch batch;
  std::vector<int32_t> rows;
  std::vector<int> wanted;
  std::vector<size_t> owners;  // item of each wanted row
  for (size_t i = 0; i < items.size(); ++i) {
    DecodeItem& item = items[i];
    const int past = item.sequence >= 0 && item.sequence < sequences() ? length(item.sequence) : 0;
    LOWBIT_RETURN_IF_ERROR(CheckTokens(item.sequence, past, item.tokens));
    const int count = static_cast<int>(item.tokens.size()), row = static_cast<int>(rows.size());
    if (item.guesses < 0 || item.guesses >= count) return Error(Code::kInternal, "%d of %d tokens are guesses", item.guesses, count);
    if (std::any_of(items.begin(), items.begin() + static_cast<ptrdiff_t>(i), [&](auto& o) { return o.sequence == item.sequence; }))
      return Error(Code::kInternal, "Sequence %d is in the step twice", item.sequence);
    if (count > kSmallRows - row) return Error(Code::kInternal, "A step has more than %d rows", kSmallRows);
    rows.insert(rows.end(), item.tokens.begin(), item.tokens.end());
    if (item.guesses == 0) {
      batch.segments.push_back({item.sequence, row, count, past});
    } else {
      // Attention sums in an order that depends on where its segment ends: every row alone ends where it would without guesses.
      for (int r = 0; r < count; ++r) batch.segments.push_back({item.sequence, row + r, 1, past + r});
    }
    for (int r = count - 1 - item.guesses; r < count; ++r) {
      wanted.push_back(row + r);
      owners.push_back(i);
    }
    item.sampled.clear();
    item.status = Status::Ok();
  }
  if (rows.empty()) return Status::Ok();
  batch.rows = static_cast<int>(rows.size());
  batch.tokens = rows.data();
  LOWBIT_RETURN_IF_ERROR(small_executor_->Begin(batch));
  LOWBIT_RETURN_IF_ERROR(RunBlocks(*small_executor_, nullptr));

  std::vector<int> pasts;
  for (const DecodeItem& item : items) {
    std::vector<int32_t>& tokens = tokens_[static_cast<size_t>(item.sequence)];
    pasts.push_back(static_cast<int>(tokens.size()));
    tokens.insert(tokens.end(), item.tokens.begin(), item.tokens.end());
  }
  const Status status = RunHead(
      *small_executor_, model_->plan().epilogue.begin, wanted, kSmallRows, nullptr, [&](size_t w, std::span<float> logits) -> Status {
        DecodeItem& item = items[owners[w]];
        const int past = pasts[owners[w]], certain = static_cast<int>(item.tokens.size()) - item.guesses;
        // The rows of an item come in order: this one follows sampled.size() guesses, all right unless one was wrong or failed before.
        const size_t row = w - static_cast<size_t>(std::find(owners.begin(), owners.end(), owners[w]) - owners.begin());
        if (!item.status.ok() || row != item.sampled.size()) return Status::Ok();
        if (row > 0 && item.sampled.back() != item.tokens[static_cast<size_t>(certain) + row - 1]) return Status::Ok();
        const int length = past + certain + static_cast<int>(row);
        item.status = CheckFinite(logits, length - 1);
        if (!item.status.ok()) return Status::Ok();
        auto sampled = SampleAt(item.sequence, length, logits, item.sampling);
        item.status = sampled.status();
        if (sampled.ok()) item.sampled.push_back(sampled.value());
        return Status::Ok();
      });
  for (size_t i = 0; i < items.size(); ++i) {
    DecodeItem& item = items[i];
    if (!item.status.ok() || !status.ok()) item.sampled.clear();
    const int certain = static_cast<int>(item.tokens.size()) - item.guesses;
    SetTokens(item.sequence, item.sampled.empty() ? pasts[i] : pasts[i] + certain + static_cast<int>(item.sampled.size()) - 1);
  }
  return status;
}

}  // namespace lowbit
