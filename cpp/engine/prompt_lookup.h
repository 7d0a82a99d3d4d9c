// engine/prompt_lookup: guesses the next tokens from the text itself (Saxena 2023, "Prompt Lookup Decoding"; in transformers
// prompt_lookup_num_tokens and max_matching_ngram_size). Pure logic; Context::Decode verifies.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lowbit {

struct PromptLookupOptions {
  int max_tokens = 0;  // most guesses of one step; 0 = off
  int ngram = 3;       // most tokens of the end of the text that must match
};

// What followed the latest earlier occurrence of the longest possible end of `text`: at most `ngram` and at least min(2, ngram) tokens
// of it must match (one token alone repeats too often to say anything). An occurrence that overlaps the end is a period and goes on as
// one. Replaces *guesses by `count` tokens, or by none if nothing matches.
void LookUp(std::span<const int32_t> text, int ngram, int count, std::vector<int32_t>* guesses);

// How many guesses are worth their rows. All guesses right doubles the number, up to the limit; half of them wrong halves it, down to
// none, and after that many plain steps one is tried again. So text without repetition costs next to nothing.
class GuessBudget {
 public:
  explicit GuessBudget(int limit) : limit_(limit), count_(limit) {}

  // For the coming step.
  int Count();
  // After a step with `guessed` > 0 guesses.
  void Learn(int guessed, int right);

 private:
  static constexpr int kFirstPause = 2, kLongestPause = 16;
  int limit_, count_;
  int pause_ = 0, next_pause_ = kFirstPause;
};

}  // namespace lowbit
