// quantize/damping: see damping.h.
#include "quantize/damping.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quantize/gptq_core.h"
#include "solve/cholesky.h"

namespace lowbit {
namespace {

constexpr int kCopyRows = 64;   // rows of H per copying task
constexpr int kFloorSteps = 6;  // 1e-6 to 1e-1 of the largest diagonal, as GPTQModel
constexpr double kFloorStart = 1e-6;

// The Hessian in solving order with `added` on the diagonal; dead columns have dead_value there.
void LoadDamped(const HessianView& hessian, const HessianDiagonal& diagonal, const std::vector<int32_t>& order, float added, float* out,
                Pool& pool) {
  const int k = hessian.k;
  pool.Run((k + kCopyRows - 1) / kCopyRows, [&](int task, int) {
    for (int i = task * kCopyRows; i < std::min(k, (task + 1) * kCopyRows); ++i) {
      const float* row = hessian.data + size_t(order[i]) * k;
      float* line = out + size_t(i) * k;
      for (int j = 0; j < k; ++j) line[j] = row[order[j]];
      line[i] = (diagonal.dead[order[i]] ? diagonal.dead_value : line[i]) + added;
    }
  });
}

// u: room for the inverse factor. -1, or as InverseFactor where it failed.
int DampedFactor(const HessianView& hessian, const HessianDiagonal& diagonal, const std::vector<int32_t>& order, float added, Block* u,
                 const KernelTable& kernels, Pool& pool) {
  const size_t bytes = size_t(hessian.k) * hessian.k * sizeof(float);
  FactorCache* cache = hessian.factors;
  if (cache != nullptr && cache->factor.data() != nullptr && cache->added == added && cache->dead_value == diagonal.dead_value &&
      cache->order == order) {
    std::memcpy(u->data(), cache->factor.data(), bytes);
    return -1;
  }
  LoadDamped(hessian, diagonal, order, added, u->as<float>(), pool);
  const int failed = InverseFactor(u->as<float>(), hessian.k, kernels, pool);
  if (failed >= 0 || cache == nullptr) return failed;
  if (cache->factor.data() == nullptr) {
    Result<Block> room = Block::Allocate(bytes, MemoryClass::kScratch, "the inverse Hessian for later solves");
    if (!room.ok()) return failed;  // each solve then makes its own
    cache->factor = std::move(room.value());
  }
  std::memcpy(cache->factor.data(), u->data(), bytes);
  cache->added = added;
  cache->dead_value = diagonal.dead_value;
  cache->order = order;
  return failed;
}

}  // namespace

HessianDiagonal ReadDiagonal(const HessianView& hessian, bool classic) {
  const int k = hessian.k;
  HessianDiagonal found;
  found.values.resize(k);
  found.dead.resize(k);
  double sum = 0;
  for (int j = 0; j < k; ++j) {
    found.values[j] = hessian.data[size_t(j) * k + j];
    found.dead[j] = found.values[j] == 0;
    found.dead_columns += found.dead[j];
    sum += found.values[j];
    found.largest = std::max(found.largest, static_cast<double>(found.values[j]));
  }
  found.mean = classic ? (sum + found.dead_columns) / k : sum / (k - found.dead_columns);
  found.dead_value = classic ? 1.0f : static_cast<float>(found.mean);
  return found;
}

Result<DampedSolve> SolveDamped(const HessianView& hessian, const HessianDiagonal& diagonal, const std::vector<int32_t>& order,
                                const QuantizeOptions& options, const KernelTable& kernels, Pool& pool,
                                const std::function<Result<double>(Block u)>& solve) {
  const int k = hessian.k;
  double damp = options.damp_percent, floor = 0;
  int floor_step = 0;
  std::string trouble;  // why the first attempt was not the last
  for (;;) {
    LOWBIT_ASSIGN_OR_RETURN(Block u,
                            Block::Allocate(PackedFactor::Floats(k) * sizeof(float), MemoryClass::kScratch, "the inverse Hessian"));
    const int failed = DampedFactor(hessian, diagonal, order, static_cast<float>(damp * diagonal.mean + floor), &u, kernels, pool);
    if (failed >= k)
      return Error(Code::kOutOfMemory, "Could not allocate scratch for the inverse Hessian of %d columns; close other programs", k);
    if (failed < 0) {
      LOWBIT_ASSIGN_OR_RETURN(const double loss, solve(std::move(u)));
      if (std::isfinite(loss)) {
        DampedSolve found{true, damp, ""};
        if (floor > 0) {
          found.note = Format("diagonal floor %g (%g of the largest Hessian diagonal) added to damping %g: %s", floor,
                              floor / diagonal.largest, damp, trouble.c_str());
        } else if (damp > options.damp_percent) {
          found.note = Format("damping raised from %g to %g of the mean Hessian diagonal: %s", options.damp_percent, damp, trouble.c_str());
        }
        return found;
      }
      if (trouble.empty()) trouble = Format("with %g the solve left the range of f32", damp);
      damp = std::max(10 * damp, damp + options.damp_auto_increment);
      if (floor > 0 || damp >= 1) return DampedSolve{false, damp, "the solve left the range of f32 at every damping below 1"};
      continue;
    }
    if (trouble.empty()) trouble = Format("with %g the Cholesky factorisation failed at step %d of %d", damp, failed, k);
    if (floor == 0 && damp + options.damp_auto_increment < 1) {
      damp += options.damp_auto_increment;
      continue;
    }
    if (floor_step == kFloorSteps) return DampedSolve{false, damp, "the Hessian is not positive definite at any damping or diagonal floor"};
    damp = options.damp_percent;
    floor = kFloorStart * std::pow(10, floor_step++) * diagonal.largest;
  }
}

}  // namespace lowbit
