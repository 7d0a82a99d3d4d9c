// engine/sampler: from one row of logits to a token.
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"

namespace lowbit {

// Order of the chain (llama.cpp's default): repetition penalty, top-k, top-p, min-p, temperature, draw.
struct SampleOptions {
  float temperature = 0;     // <= 0: greedy, lowest id on ties
  int top_k = 0;             // keep the k largest; 0 = off
  float top_p = 1;           // smallest prefix by falling probability with at least this mass; 1 = off
  float min_p = 0;           // keep p >= min_p * max p; 0 = off
  float repeat_penalty = 1;  // > 1 discourages tokens of `history` (Keskar et al. 2019); 1 = off
  uint64_t seed = 0;
};

// logits [vocab], changed in place by the penalty. history: recent tokens of the sequence. position keys the random draw:
// the result depends on (seed, position) and the logits only, not on batching or threads. A NaN, or
// no finite logit at all, is an INVALID_ARGUMENT error that says so.
Result<int> Sample(std::span<float> logits, std::span<const int32_t> history, int64_t position, const SampleOptions& options);

}  // namespace lowbit
