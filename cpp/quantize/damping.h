// quantize/damping: a Hessian made positive definite, and again with more, until a solve on its inverse factor succeeds.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/alloc.h"
#include "quantize/method.h"

namespace lowbit {

struct HessianDiagonal {
  std::vector<float> values;  // [k]
  std::vector<uint8_t> dead;  // [k] columns that were zero in every token
  int dead_columns = 0;
  double mean = 0;  // of the live ones (classic: of all, dead ones counting 1)
  double largest = 0;
  float dead_value = 0;  // what the diagonal of dead columns becomes
};
// hessian usable (quantize/checks.h, WhyUnusable).
HessianDiagonal ReadDiagonal(const HessianView& hessian, bool classic);

// The inverse factor of a Hessian for solves that want it in the same order and with the same damping: the weights of one linear op, and
// several settings of one weight. For k columns a factor takes 4 k^3 / 3 operations, a solve of n rows 2 n k^2.
struct FactorCache {
  std::vector<int32_t> order;
  float added = 0, dead_value = 0;  // as SolveDamped puts them on the diagonal
  Block factor;                     // [k][k]; empty: none yet
};

struct DampedSolve {
  bool solved = false;
  double damp_percent = 0;  // what was used
  std::string note;         // solved: what had to be done beyond damp_percent, else empty. Not solved: why.
};

// solve(u): u holds the inverse factor U of the Hessian in `order` (solve/cholesky.h), PackedFactor::Floats(k) floats; it returns the loss,
// and one that is not finite asks for more damping. damp_percent of the mean diagonal first, then as in GPTQModel: damp_auto_increment
// more after each failed factorisation, ten times after a solve that left f32, and in the end a floor of the largest diagonal.
// OUT_OF_MEMORY when scratch is refused, and what `solve` returns.
Result<DampedSolve> SolveDamped(const HessianView& hessian, const HessianDiagonal& diagonal, const std::vector<int32_t>& order,
                                const QuantizeOptions& options, const KernelTable& kernels, Pool& pool,
                                const std::function<Result<double>(Block u)>& solve);

}  // namespace lowbit
