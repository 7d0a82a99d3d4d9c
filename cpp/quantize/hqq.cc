// quantize/hqq: see hqq.h. Tiles [columns][kGridRows], one row of the weight per lane, so that every loop runs across rows.
#include "quantize/hqq.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/alloc.h"
#include "base/half.h"
#include "quantize/grid.h"
#include "quantize/power.h"

namespace lowbit {
namespace {

constexpr float kLargestHalf = 65504.0f;

float RoundMinimum(float x) { return HalfToFloat(FloatToHalf(std::clamp(x, -kLargestHalf, kLargestHalf))); }

// One group of kGridRows rows.
class Group {
 public:
  Group(const float* tile, int columns, int bits, const HqqOptions& options)
      : tile_(tile), columns_(columns), qmax_(static_cast<float>((1 << bits) - 1)), options_(options), power_(1 - options.lp_norm) {}

  void Solve(float* scale, float* minimum) {
    float low[kGridRows], high[kGridRows];
    std::copy(tile_, tile_ + kGridRows, low);
    std::copy(tile_, tile_ + kGridRows, high);
    for (int c = 1; c < columns_; ++c) {
      for (int r = 0; r < kGridRows; ++r) {
        const float w = tile_[c * kGridRows + r];
        low[r] = w < low[r] ? w : low[r];
        high[r] = w > high[r] ? w : high[r];
      }
    }
    float candidate[kGridRows], best[kGridRows];
    for (int r = 0; r < kGridRows; ++r) {
      // Equal weights: the range would be zero, any scale will do, and the minimum is the weight.
      scale[r] = RoundScale(high[r] > low[r] ? (high[r] - low[r]) / qmax_ : 1.0f);
      candidate[r] = minimum[r] = RoundMinimum(low[r]);
      best[r] = std::numeric_limits<float>::infinity();
    }
    double beta = options_.beta;
    for (int i = 0; i <= options_.iterations; ++i, beta *= options_.kappa) {
      float error[kGridRows] = {}, mean[kGridRows] = {};
      Step(scale, candidate, static_cast<float>(1 / beta), error, mean);
      for (int r = 0; r < kGridRows; ++r) {
        if (error[r] < best[r]) {
          best[r] = error[r];
          minimum[r] = candidate[r];
        }
        candidate[r] = RoundMinimum(mean[r] / static_cast<float>(columns_));
      }
    }
  }

 private:
  // error: sum of |w - w_hat|. mean: sum of w - e - scale * code, e what shrinkage leaves of the error.
  void Step(const float* scale, const float* minimum, float inverse_beta, float* error, float* mean) const {
    for (int c = 0; c < columns_; ++c) {
      const float* w = tile_ + c * kGridRows;
      for (int r = 0; r < kGridRows; ++r) {
        float code = RoundHalfEven((w[r] - minimum[r]) / scale[r]);
        code = code < 0 ? 0.0f : code;
        code = code > qmax_ ? qmax_ : code;
        const float product = scale[r] * code, x = w[r] - (product + minimum[r]), size = std::fabs(x);
        const float shrunk = size - inverse_beta / power_(size);
        error[r] += size;
        mean[r] += w[r] - std::copysign(shrunk > 0 ? shrunk : 0.0f, x) - product;
      }
    }
  }

  const float* tile_;
  int columns_;
  float qmax_;
  const HqqOptions& options_;
  Power power_;
};

}  // namespace

Result<LinearParts> QuantizeHqq(std::span<const float> w, int n, int k, const PartsOptions& options, Pool& pool) {
  LinearParts parts;
  parts.n = n;
  parts.k = k;
  AffineCodes& codes = parts.affine.emplace_back();
  codes.bits = options.base.bits;
  codes.group_size = options.base.group_size < 0 ? k : options.base.group_size;
  codes.groups = (k + codes.group_size - 1) / codes.group_size;
  codes.affine = AffineKind::kMinimum;
  codes.codes.resize(size_t(n) * k);
  codes.scales.resize(size_t(n) * codes.groups);
  codes.seconds.resize(size_t(n) * codes.groups);
  const float qmax = static_cast<float>((1 << codes.bits) - 1);
  const size_t task_floats = size_t(std::min(k, codes.group_size)) * kGridRows;
  LOWBIT_ASSIGN_OR_RETURN(Block scratch, Block::Allocate(task_floats * pool.threads() * sizeof(float), MemoryClass::kScratch, "HQQ tiles"));
  pool.Run((n + kGridRows - 1) / kGridRows, [&](int chunk, int worker) {
    float* tile = scratch.as<float>() + worker * task_floats;
    const int row0 = chunk * kGridRows, rows = std::min(kGridRows, n - row0);
    for (int group = 0; group < codes.groups; ++group) {
      const int first = group * codes.group_size, count = std::min(codes.group_size, k - first);
      LoadTile(w.data() + size_t(row0) * k, k, rows, nullptr, first, count, tile);
      float scale[kGridRows], minimum[kGridRows];
      Group(tile, count, codes.bits, options.hqq).Solve(scale, minimum);
      for (int r = 0; r < rows; ++r) {
        const size_t row = row0 + r;
        codes.scales[row * codes.groups + group] = scale[r];
        codes.seconds[row * codes.groups + group] = minimum[r];
        for (int c = 0; c < count; ++c) {
          const float code = RoundHalfEven((tile[size_t(c) * kGridRows + r] - minimum[r]) / scale[r]);
          codes.codes[row * k + first + c] = static_cast<uint8_t>(std::clamp(code, 0.0f, qmax));
        }
      }
    }
  });
  return parts;
}

}  // namespace lowbit
