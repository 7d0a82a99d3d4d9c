// engine/prompt_lookup: the search and the budget behind prompt_lookup.h.
#include "engine/prompt_lookup.h"

#include <algorithm>

namespace lowbit {

void LookUp(std::span<const int32_t> text, int ngram, int count, std::vector<int32_t>* guesses) {
  guesses->clear();
  const size_t size = text.size();
  if (count < 1 || ngram < 1 || size < 2) return;
  const size_t least = std::min<size_t>(2, static_cast<size_t>(ngram));
  size_t best = 0, best_end = 0;  // length of the match and where it ends
  // One pass from the end: the first place that matches longest is the latest one.
  for (size_t end = size - 1; end >= least && best < static_cast<size_t>(ngram); --end) {
    if (text[end - 1] != text[size - 1]) continue;
    const size_t limit = std::min(static_cast<size_t>(ngram), end);
    size_t match = 1;
    while (match < limit && text[end - 1 - match] == text[size - 1 - match]) ++match;
    if (match >= least && match > best) {
      best = match;
      best_end = end;
    }
  }
  if (best == 0) return;
  const size_t follow = size - best_end;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) guesses->push_back(i < follow ? text[best_end + i] : (*guesses)[i - follow]);
}

int GuessBudget::Count() {
  if (pause_ > 0) {
    if (--pause_ > 0) return 0;
    count_ = 1;
  }
  return count_;
}

void GuessBudget::Learn(int guessed, int right) {
  if (right == guessed) {
    count_ = std::min(limit_, std::max(count_, 2 * guessed));
    next_pause_ = kFirstPause;
  } else if (2 * right < guessed) {
    count_ /= 2;
    if (count_ == 0) {
      pause_ = next_pause_ + 1;
      next_pause_ = std::min(2 * next_pause_, kLongestPause);
    }
  }
}

}  // namespace lowbit
