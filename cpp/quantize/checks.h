// quantize/checks: of everything that crosses into this room, for all methods. lib/ checks options before; this is the engine's own look.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "quantize/method.h"

namespace lowbit {

// INVALID_ARGUMENT "Expected <what> for <option> but received ...".
Status Expected(const char* what, const char* option, double received);

Status CheckOptions(Method method, const QuantizeOptions& options);
Status CheckShapes(Method method, const char* name, std::span<const float> w, int n, int k, const HessianView& hessian);
// CORRUPT_FILE naming the first value that is not finite.
Status CheckWeights(const char* name, std::span<const float> w, int n, int k, const KernelTable& kernels);

bool FiniteHessian(const HessianView& hessian, const KernelTable& kernels);
// Why no solve can rest on this Hessian, in words for a report; empty when one can.
std::string WhyUnusable(const HessianView& hessian, int64_t min_tokens, const KernelTable& kernels);

}  // namespace lowbit
