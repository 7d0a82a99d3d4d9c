// quantize/eora: see eora.h.
#include "quantize/eora.h"

#include <algorithm>
#include <cmath>

#include "base/alloc.h"
#include "base/half.h"
#include "quantize/hessian_energy.h"
#include "solve/matmul.h"
#include "solve/symmetric_eigen.h"

namespace lowbit {
namespace {

constexpr int kOversample = 16;  // directions beyond the rank: the spectrum behind it is flat
constexpr int kIterations = 8;   // each multiplies by D H D^T, the squares of the singular values

float RoundHalf(float x) { return HalfToFloat(FloatToHalf(std::clamp(x, -65504.0f, 65504.0f))); }

// A start that is the same everywhere: signs from a hash of the place (splitmix64).
void FillSigns(float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    y[i] = (z >> 63) != 0 ? 1.0f : -1.0f;
  }
}

// Orthonormal columns of y [n][l] in place by Gram-Schmidt, twice per column, in double. A column that depends on those before it
// becomes zero.
void Orthonormalise(float* y, size_t n, size_t l) {
  std::vector<double> columns(n * l);  // [l][n]
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < l; ++j) columns[j * n + i] = y[i * l + j];
  for (size_t j = 0; j < l; ++j) {
    double* own = columns.data() + j * n;
    double before = 0;
    for (size_t i = 0; i < n; ++i) before += own[i] * own[i];
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t p = 0; p < j; ++p) {
        const double* other = columns.data() + p * n;
        double dot = 0;
        for (size_t i = 0; i < n; ++i) dot += own[i] * other[i];
        for (size_t i = 0; i < n; ++i) own[i] -= dot * other[i];
      }
    }
    double after = 0;
    for (size_t i = 0; i < n; ++i) after += own[i] * own[i];
    // Below 1e-6 of its length only the rounding of f32 is left.
    const double factor = after > 1e-12 * before && std::isfinite(after) && after > 0 ? 1 / std::sqrt(after) : 0;
    for (size_t i = 0; i < n; ++i) own[i] *= factor;
  }
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < l; ++j) y[i * l + j] = static_cast<float>(columns[j * n + i]);
}

class Iteration {
 public:
  Iteration(const float* error, int n, int k, int l, const HessianView& hessian, const KernelTable& kernels, Pool& pool)
      : error_(error), n_(n), k_(k), l_(l), hessian_(hessian), kernels_(kernels), pool_(pool) {}

  Status Run(int rank, LowRank* out) {
    y_.resize(size_t(n_) * l_);
    z_.resize(size_t(k_) * l_);
    hz_.resize(hessian_.data == nullptr ? 0 : size_t(k_) * l_);
    FillSigns(y_.data(), y_.size());
    for (int i = 0; i < kIterations; ++i) {
      Orthonormalise(y_.data(), n_, l_);
      LOWBIT_RETURN_IF_ERROR(Project());
      LOWBIT_RETURN_IF_ERROR(Multiply(error_, Weighted(), n_, k_, l_, y_.data(), kernels_, pool_));
    }
    Orthonormalise(y_.data(), n_, l_);
    LOWBIT_RETURN_IF_ERROR(Project());
    return Extract(rank, out);
  }

 private:
  const float* Weighted() const { return hz_.empty() ? z_.data() : hz_.data(); }

  // z = D^T y, hz = H z.
  Status Project() {
    LOWBIT_RETURN_IF_ERROR(MultiplyTransposed(error_, y_.data(), k_, n_, l_, z_.data(), kernels_, pool_));
    if (hz_.empty()) return Status::Ok();
    return Multiply(hessian_.data, z_.data(), k_, k_, l_, hz_.data(), kernels_, pool_);
  }

  // Rayleigh-Ritz: eigenvectors of y^T D H D^T y turn the basis y into the leading eigenvectors of D H D^T.
  Status Extract(int rank, LowRank* out) {
    const size_t n = n_, k = k_, l = l_;
    std::vector<double> small(l * l, 0);
    for (size_t c = 0; c < k; ++c)
      for (size_t i = 0; i < l; ++i)
        for (size_t j = 0; j < l; ++j) small[i * l + j] += double(z_[c * l + i]) * Weighted()[c * l + j];
    for (size_t i = 0; i < l; ++i)
      for (size_t j = 0; j < i; ++j) small[i * l + j] = small[j * l + i] = (small[i * l + j] + small[j * l + i]) / 2;
    const SymmetricEigen eigen = EigenSymmetric(std::move(small), l_);
    if (!std::isfinite(eigen.values[0])) return Status::Ok();
    size_t r = 0;
    while (r < size_t(rank) && eigen.values[r] > 0) ++r;
    out->rank = static_cast<int>(r);
    out->b.assign(n * r, 0);
    out->a.assign(r * k, 0);
    for (size_t i = 0; i < r; ++i) {
      const double* v = eigen.vectors.data() + i * l;
      double b_size = 0, a_size = 0;
      std::vector<double> b(n, 0), a(k, 0);
      for (size_t row = 0; row < n; ++row) {
        for (size_t j = 0; j < l; ++j) b[row] += v[j] * y_[row * l + j];
        b_size = std::max(b_size, std::fabs(b[row]));
      }
      for (size_t c = 0; c < k; ++c) {
        for (size_t j = 0; j < l; ++j) a[c] += v[j] * z_[c * l + j];
        a_size = std::max(a_size, std::fabs(a[c]));
      }
      // Both factors of like size, so that neither ends among the subnormals of f16.
      const double balance = a_size > 0 && b_size > 0 ? std::sqrt(a_size / b_size) : 1;
      for (size_t row = 0; row < n; ++row) out->b[row * r + i] = RoundHalf(static_cast<float>(b[row] * balance));
      for (size_t c = 0; c < k; ++c) out->a[i * k + c] = RoundHalf(static_cast<float>(a[c] / balance));
    }
    return Status::Ok();
  }

  const float* error_;
  int n_, k_, l_;
  HessianView hessian_;
  const KernelTable& kernels_;
  Pool& pool_;
  std::vector<float> y_, z_, hz_;  // [n][l], [k][l], [k][l]
};

}  // namespace

Status AddLowRank(LinearParts* parts, std::span<const float> w, const HessianView& hessian, int rank, const KernelTable& kernels,
                  Pool& pool) {
  const int n = parts->n, k = parts->k, side = std::min(n, k);
  LOWBIT_ASSIGN_OR_RETURN(Block block, Block::Allocate(w.size() * sizeof(float), MemoryClass::kScratch, "the error of a layer"));
  const std::span<float> error(block.as<float>(), w.size());
  const std::vector<float> scale = std::move(parts->input_scale);  // w is in front of it
  parts->input_scale.clear();
  parts->low_rank = LowRank();
  DequantizeParts(*parts, error, pool);
  for (size_t i = 0; i < w.size(); ++i) error[i] = w[i] - error[i];

  LOWBIT_ASSIGN_OR_RETURN(const HessianEnergy energy, HessianEnergy::Pack(hessian, k, pool));
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<double> before, energy.Rows(n, Difference(error.data(), nullptr, k), kernels, pool));
  Iteration iteration(error.data(), n, k, std::min(side, rank + kOversample), hessian, kernels, pool);
  const Status status = iteration.Run(std::min(rank, side), &parts->low_rank);
  if (status.ok() && parts->low_rank.rank > 0) {
    DequantizeParts(*parts, error, pool);
    LOWBIT_ASSIGN_OR_RETURN(const std::vector<double> after, energy.Rows(n, Difference(w.data(), error.data(), k), kernels, pool));
    if (!(Sum(after) < Sum(before))) parts->low_rank = LowRank();
  }
  if (status.ok() && parts->low_rank.rank == 0 && Sum(before) > 0)
    parts->fallbacks.push_back(Format("no low-rank part: one of rank %d would not have lowered the error", rank));
  parts->input_scale = scale;
  return status;
}

}  // namespace lowbit
