// quantize/input_scale: see input_scale.h.
#include "quantize/input_scale.h"

#include <algorithm>
#include <cmath>

namespace lowbit {
namespace {

constexpr int kTaskRows = 64;

// 1 / s, with s over the geometric mean of its extremes, which keeps the sizes of weights where they were.
std::vector<float> Inverse(const std::vector<double>& s) {
  const auto [low, high] = std::minmax_element(s.begin(), s.end());
  const double middle = std::sqrt(*low * *high);
  std::vector<float> inverse(s.size(), 1.0f);
  for (size_t j = 0; j < s.size(); ++j) {
    const float value = static_cast<float>(middle / s[j]);
    if (std::isfinite(value) && value > 0) inverse[j] = value;
  }
  return inverse;
}

}  // namespace

std::vector<float> InputMagnitudes(std::span<const float> given, const HessianView& hessian, int k) {
  if (!given.empty()) return std::vector<float>(given.begin(), given.end());
  std::vector<float> found(k, 1.0f);
  for (int j = 0; hessian.data != nullptr && j < k; ++j) found[j] = std::sqrt(std::max(0.0f, hessian.data[size_t(j) * k + j]) / 2);
  return found;
}

std::vector<float> AwqInputScale(std::span<const float> magnitudes, double ratio) {
  if (ratio == 0) return std::vector<float>(magnitudes.size(), 1.0f);
  std::vector<double> s(magnitudes.size());
  for (size_t j = 0; j < s.size(); ++j) s[j] = std::max(std::pow(double(magnitudes[j]), ratio), 1e-4);
  return Inverse(s);
}

std::vector<float> SmoothInputScale(std::span<const float> w, int n, int k, std::span<const float> max_abs, double alpha) {
  std::vector<double> x(max_abs.begin(), max_abs.end()), weight(k, 0);
  for (size_t r = 0; r < size_t(n); ++r)
    for (int c = 0; c < k; ++c) weight[c] = std::max(weight[c], std::fabs(double(w[r * k + c])));
  for (std::vector<double>* values : {&x, &weight}) {
    const double largest = *std::max_element(values->begin(), values->end());
    for (double& value : *values) value = largest > 0 ? std::max(value, 1e-5 * largest) : 1;
  }
  std::vector<double> s(k);
  for (int c = 0; c < k; ++c) s[c] = std::pow(x[c], alpha) / std::pow(weight[c], 1 - alpha);
  return Inverse(s);
}

void ScaleColumns(std::span<const float> w, int k, std::span<const float> input_scale, std::span<float> out, Pool& pool) {
  const int n = static_cast<int>(w.size() / k);
  pool.Run((n + kTaskRows - 1) / kTaskRows, [&](int task, int) {
    for (size_t r = size_t(task) * kTaskRows; r < std::min(size_t(n), (size_t(task) + 1) * kTaskRows); ++r)
      for (int c = 0; c < k; ++c) out[r * k + c] = w[r * k + c] / input_scale[c];
  });
}

Result<Block> ScaledHessian(const HessianView& hessian, std::span<const float> input_scale, Pool& pool) {
  const int k = hessian.k;
  LOWBIT_ASSIGN_OR_RETURN(Block scaled, Block::Allocate(size_t(k) * k * sizeof(float), MemoryClass::kScratch, "a scaled Hessian"));
  float* out = scaled.as<float>();
  pool.Run((k + kTaskRows - 1) / kTaskRows, [&](int task, int) {
    for (size_t i = size_t(task) * kTaskRows; i < std::min(size_t(k), (size_t(task) + 1) * kTaskRows); ++i)
      for (int j = 0; j < k; ++j) out[i * k + j] = hessian.data[i * k + j] * (input_scale[i] * input_scale[j]);
  });
  return scaled;
}

}  // namespace lowbit
