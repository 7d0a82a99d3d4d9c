// test/native: weights with the statistics of their inputs, for tests of the quantisation methods.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernel/chooser.h"
#include "quantize/method.h"

namespace lowbit_test {

using lowbit::HessianView;
using lowbit::Method;
using lowbit::QuantizedLinear;
using lowbit::QuantizeOptions;

struct Layer {
  int n = 0, k = 0;
  std::vector<float> w, h;
  HessianView View(int64_t tokens = 1000) const { return {h.data(), k, tokens}; }
};

inline double Normal(std::mt19937& random) {  // the same numbers with every standard library
  const double u = (random() + 0.5) / 4294967296.0, v = random() / 4294967296.0;
  return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
}

// Inputs: a moving average along the columns, each column with its own (log-normal) size.
inline Layer Correlated(int n, int k, uint32_t seed) {
  std::mt19937 random(seed);
  Layer layer{n, k, std::vector<float>(size_t(n) * k), std::vector<float>(size_t(k) * k)};
  for (float& w : layer.w) w = static_cast<float>(0.02 * Normal(random));
  std::vector<double> size(k), x(k), sum(size_t(k) * k, 0);
  for (double& s : size) s = std::exp(0.8 * Normal(random));
  const int tokens = 3 * k;
  for (int t = 0; t < tokens; ++t) {
    double last = 0;
    for (int j = 0; j < k; ++j) x[j] = size[j] * (last = 0.8 * last + 0.6 * Normal(random));
    for (int i = 0; i < k; ++i)
      for (int j = 0; j <= i; ++j) sum[size_t(i) * k + j] += x[i] * x[j];
  }
  for (int i = 0; i < k; ++i)
    for (int j = 0; j <= i; ++j)
      layer.h[size_t(i) * k + j] = layer.h[size_t(j) * k + i] = static_cast<float>(2 * sum[size_t(i) * k + j] / tokens);
  return layer;
}

inline lowbit::Result<QuantizedLinear> Run(const Layer& layer, const QuantizeOptions& options, Method method = Method::kGptq,
                                           int threads = 1) {
  lowbit::Pool pool(threads);
  return lowbit::Quantize(method, "model.weight", layer.w, layer.n, layer.k, layer.View(), options, *lowbit::RefKernels(), pool);
}

inline QuantizeOptions Options(int bits, int group_size, bool sym) {
  QuantizeOptions options;
  options.bits = bits;
  options.group_size = group_size;
  options.sym = sym;
  return options;
}

// d H d^T for each row d of W - W_hat, in double; W itself when w_hat is empty.
inline std::vector<double> ErrorEnergies(const Layer& layer, const std::vector<float>& w_hat) {
  std::vector<double> energies(layer.n, 0);
  for (int r = 0; r < layer.n; ++r) {
    std::vector<double> d(layer.k);
    for (int j = 0; j < layer.k; ++j)
      d[j] = double(layer.w[size_t(r) * layer.k + j]) - (w_hat.empty() ? 0 : w_hat[size_t(r) * layer.k + j]);
    for (int i = 0; i < layer.k; ++i) {
      double product = 0;
      for (int j = 0; j < layer.k; ++j) product += layer.h[size_t(i) * layer.k + j] * d[j];
      energies[r] += product * d[i];
    }
  }
  return energies;
}

// tr(D H D^T) of D = W - W_hat, in double.
inline double ErrorEnergy(const Layer& layer, const std::vector<float>& w_hat) {
  double sum = 0;
  for (const double energy : ErrorEnergies(layer, w_hat)) sum += energy;
  return sum;
}

}  // namespace lowbit_test
