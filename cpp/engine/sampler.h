// engine/sampler: from one row of logits to a token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernel/kernel.h"

namespace lowbit {

// Order of the chain (llama.cpp's default): repetition penalty, top-k, top-p, min-p, temperature, draw.
struct SampleOptions {
  float temperature = 0;     // below 1e-6: greedy, lowest id on ties
  int top_k = 0;             // keep the k largest; 0 = off
  float top_p = 1;           // smallest prefix by falling probability with at least this mass; 1 = off
  float min_p = 0;           // keep p >= min_p * max p; 0 = off
  float repeat_penalty = 1;  // > 1 discourages tokens of the history (Keskar et al. 2019); 1 = off
  int repeat_last_n = 64;    // how much of the history counts; -1 = all
  uint64_t seed = 0;
};

struct Candidate {
  float logit;
  int id;
};

// Memory of a sampler, reused from call to call. One for each thread that samples.
struct SampleBuffer {
  std::vector<float> block_maxima;    // of the logits
  std::vector<float> masses;          // a copy of the logits to take exponentials of
  std::vector<Candidate> candidates;  // sorted, see sampler.cc
  std::vector<int32_t> seen;
};

// logits [vocab], changed in place by the penalty. history: the sequence so far. position keys the random draw: the result depends
// on (seed, position), the history and the logits only, not on batching, guessing or threads. A NaN, or no finite logit at all, is
// an INVALID_ARGUMENT error that says so.
Result<int> Sample(const KernelTable& kernels, std::span<float> logits, std::span<const int32_t> history, int64_t position,
                   const SampleOptions& options, SampleBuffer* buffer);

}  // namespace lowbit
