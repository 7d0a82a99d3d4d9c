// quantize/hessian_energy: d H d^T of many rows d at once: what an error of weights costs as its calibration inputs see it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/alloc.h"
#include "quantize/method.h"

namespace lowbit {

class HessianEnergy {
 public:
  // Packs the half of H that is needed. hessian.data null: the identity (squared norms). OUT_OF_MEMORY when k*k/2 floats are refused.
  static Result<HessianEnergy> Pack(const HessianView& hessian, int k, Pool& pool);

  // Writes rows [row0, row0 + rows) as lanes[k][kGridRows], transposed; lanes beyond `rows` are zero already and stay so.
  using LoadRows = std::function<void(int row0, int rows, float* lanes)>;
  // One value per row, n of them; non-finite rows give non-finite values. n*k*k/2 multiply-adds, in chunks of kGridRows rows.
  Result<std::vector<double>> Rows(int n, const LoadRows& load, const KernelTable& kernels, Pool& pool) const;

 private:
  int k_ = 0;
  bool weighted_ = false;
  std::vector<size_t> offsets_;
  Block tiles_;
};

// A loader of a - b for row-major a and b [n][k]; b null: a alone.
HessianEnergy::LoadRows Difference(const float* a, const float* b, int k);

double Sum(std::span<const double> values);

}  // namespace lowbit
