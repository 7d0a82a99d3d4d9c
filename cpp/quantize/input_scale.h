// quantize/input_scale: weights and statistics of a linear whose inputs are scaled, for AWQ and SmoothQuant.
#pragma once

#include <span>
#include <vector>

#include "base/alloc.h"
#include "quantize/quantize_parts.h"

namespace lowbit {

// `given` where there is one, else sqrt(H_jj / 2), the root mean square of x_j; ones without a Hessian.
std::vector<float> InputMagnitudes(std::span<const float> given, const HessianView& hessian, int k);

// AWQ: 1 / s for s_j = max(magnitude_j^ratio, 1e-4) over the geometric mean of the largest and the smallest. Ones for ratio 0.
std::vector<float> AwqInputScale(std::span<const float> magnitudes, double ratio);

// SmoothQuant, equation 4: 1 / s for s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), over the geometric mean of the largest and the smallest.
// Columns of zeros, in x or in w, count as 1e-5 of the largest.
std::vector<float> SmoothInputScale(std::span<const float> w, int n, int k, std::span<const float> max_abs, double alpha);

// out[n][k] = w / input_scale by column: what codes are made of.
void ScaleColumns(std::span<const float> w, int k, std::span<const float> input_scale, std::span<float> out, Pool& pool);
// The statistics of x * input_scale.
Result<Block> ScaledHessian(const HessianView& hessian, std::span<const float> input_scale, Pool& pool);

}  // namespace lowbit
