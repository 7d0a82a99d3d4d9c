// binding/: see sampling.h.
#include "sampling.h"

namespace lowbit {

SampleOptions ReadSampling(Fields f) {
  constexpr int64_t kMaxInt = 0x7fffffff;
  SampleOptions s;
  s.temperature = static_cast<float>(f.Number("temperature"));
  s.top_k = static_cast<int>(f.Int("topK", 0, kMaxInt));
  s.top_p = static_cast<float>(f.Number("topP"));
  s.min_p = static_cast<float>(f.Number("minP"));
  s.repeat_penalty = static_cast<float>(f.Number("repeatPenalty"));
  s.repeat_last_n = static_cast<int>(f.Int("repeatLastN", -1, kMaxInt));
  const Napi::Value seed = f.Get("seed");
  bool lossless = false;
  if (seed.IsBigInt()) s.seed = seed.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) f.Fail("seed", "a bigint of 64 bits");
  // Negated comparisons: NaN must fail.
  if (!(s.repeat_penalty > 0)) f.Fail("repeatPenalty", "a positive number");
  if (!(s.top_p >= 0 && s.top_p <= 1)) f.Fail("topP", "a number between 0 and 1");
  if (!(s.min_p >= 0 && s.min_p <= 1)) f.Fail("minP", "a number between 0 and 1");
  if (!(s.temperature >= 0 && s.temperature <= 1000)) f.Fail("temperature", "a number between 0 and 1000");
  return s;
}

}  // namespace lowbit
