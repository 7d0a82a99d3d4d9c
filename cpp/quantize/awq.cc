// quantize/awq: see awq.h.
#include "quantize/awq.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "quantize/grid.h"
#include "quantize/hessian_energy.h"
#include "quantize/hessian_tiles.h"
#include "quantize/input_scale.h"
#include "quantize/rtn.h"

namespace lowbit {
namespace {

// Lines of W - Q * input_scale.
HessianEnergy::LoadRows Errors(const QuantizedLinear& q, std::span<const float> w, std::span<const float> input_scale) {
  return [&q, w, input_scale](int row0, int rows, float* lanes) {
    for (int c = 0; c < q.k; ++c) {
      const int group = c / q.group_size;
      for (int r = 0; r < rows; ++r) {
        const size_t row = row0 + r, grid = row * q.groups + group;
        const float w_hat = q.scales[grid] * static_cast<float>(int(q.codes[row * q.k + c]) - int(q.zeros[grid]));
        lanes[size_t(c) * kGridRows + r] = w[row * q.k + c] - w_hat * input_scale[c];
      }
    }
  };
}

// Ranges of groups shrunk where that lowers the error of their own columns.
class Clip {
 public:
  Clip(std::span<const float> scaled, std::span<const float> input_scale, const HessianTiles& tiles, const AwqOptions& options,
       const GridRule& rule, const KernelTable& kernels, QuantizedLinear* q)
      : scaled_(scaled), input_scale_(input_scale), tiles_(tiles), options_(options), rule_(rule), kernels_(kernels), q_(q) {}

  static size_t Floats(int largest) { return 4 * size_t(largest) * kGridRows; }

  void Run(int row0, int rows, float* scratch) {
    for (int group = 0; group < q_->groups; ++group) {
      const int first = group * q_->group_size, count = std::min(q_->group_size, q_->k - first);
      const size_t floats = size_t(count) * kGridRows;
      tile_ = scratch;
      clipped_ = scratch + floats;
      error_ = scratch + 2 * floats;
      product_ = scratch + 3 * floats;
      LoadTile(scaled_.data() + size_t(row0) * q_->k, q_->k, rows, nullptr, first, count, tile_);
      Search(group, first, count, row0, rows);
    }
  }

 private:
  void Search(int group, int first, int count, int row0, int rows) {
    float largest[kGridRows] = {};
    for (int c = 0; c < count; ++c)
      for (int r = 0; r < kGridRows; ++r) largest[r] = std::max(largest[r], std::max(tile_[c * kGridRows + r], -tile_[c * kGridRows + r]));
    float best[kGridRows];
    std::fill(best, best + kGridRows, std::numeric_limits<float>::infinity());
    const int steps = static_cast<int>(options_.max_shrink * options_.clip_grid);
    std::vector<uint8_t> codes(size_t(count) * kGridRows);
    for (int i = 0; i <= steps; ++i) {
      const float keep = 1 - static_cast<float>(i) / static_cast<float>(options_.clip_grid);
      for (int c = 0; c < count; ++c)
        for (int r = 0; r < kGridRows; ++r)
          clipped_[c * kGridRows + r] = std::clamp(tile_[c * kGridRows + r], -keep * largest[r], keep * largest[r]);
      float scale[kGridRows], zero[kGridRows], fitted[kGridRows], total[kGridRows] = {};
      FitGrid(clipped_, count, rule_, scale, zero, fitted);
      for (int c = 0; c < count; ++c) {
        float* error = error_ + c * kGridRows;
        QuantizeColumn(clipped_ + c * kGridRows, fitted, scale, zero, rule_.bits, codes.data() + c * kGridRows, error);
        for (int r = 0; r < kGridRows; ++r) error[r] = (error[r] - tile_[c * kGridRows + r]) * input_scale_[first + c];
      }
      tiles_.Multiply(group, first, count, error_, product_, false, kernels_);
      for (int c = 0; c < count; ++c)
        for (int r = 0; r < kGridRows; ++r) total[r] += error_[c * kGridRows + r] * product_[c * kGridRows + r];
      for (int r = 0; r < rows; ++r) {
        if (!(total[r] < best[r])) continue;
        best[r] = total[r];
        const size_t row = row0 + r, grid = row * q_->groups + group;
        q_->scales[grid] = scale[r];
        q_->zeros[grid] = static_cast<uint8_t>(zero[r]);
        for (int c = 0; c < count; ++c) q_->codes[row * q_->k + first + c] = codes[size_t(c) * kGridRows + r];
      }
    }
  }

  std::span<const float> scaled_, input_scale_;
  const HessianTiles& tiles_;
  const AwqOptions& options_;
  GridRule rule_;
  const KernelTable& kernels_;
  QuantizedLinear* q_;
  float *tile_ = nullptr, *clipped_ = nullptr, *error_ = nullptr, *product_ = nullptr;
};

Result<QuantizedLinear> ClipRanges(const QuantizedLinear& start, std::span<const float> scaled, std::span<const float> input_scale,
                                   const HessianView& hessian, const AwqOptions& options, const GridRule& rule, const KernelTable& kernels,
                                   Pool& pool) {
  std::vector<std::vector<int32_t>> columns(start.groups);
  for (int c = 0; c < start.k; ++c) columns[c / start.group_size].push_back(c);
  LOWBIT_ASSIGN_OR_RETURN(const HessianTiles tiles, HessianTiles::Pack(hessian, std::move(columns), pool));
  const size_t floats = Clip::Floats(tiles.largest());
  LOWBIT_ASSIGN_OR_RETURN(Block scratch, Block::Allocate(floats * pool.threads() * sizeof(float), MemoryClass::kScratch, "AWQ's ranges"));
  QuantizedLinear q = start;
  pool.Run((q.n + kGridRows - 1) / kGridRows, [&](int chunk, int worker) {
    Clip clip(scaled, input_scale, tiles, options, rule, kernels, &q);
    clip.Run(chunk * kGridRows, std::min(kGridRows, q.n - chunk * kGridRows), scratch.as<float>() + worker * floats);
  });
  return q;
}

}  // namespace

Result<LinearParts> QuantizeAwq(std::span<const float> w, int n, int k, const LayerStatistics& stats, const PartsOptions& options,
                                const KernelTable& kernels, Pool& pool) {
  const HessianView& hessian = stats.hessian;
  const QuantizeOptions& base = options.base;
  LOWBIT_ASSIGN_OR_RETURN(const HessianEnergy energy, HessianEnergy::Pack(hessian, k, pool));
  LOWBIT_ASSIGN_OR_RETURN(Block block, Block::Allocate(w.size() * sizeof(float), MemoryClass::kScratch, "a scaled weight"));
  const std::span<float> scaled(block.as<float>(), w.size());
  const std::vector<float> magnitudes = InputMagnitudes(stats.mean_abs, hessian, k);

  QuantizedLinear best;
  std::vector<double> errors;
  std::vector<float> scale;
  double ratio = 0;
  for (int i = 0; i < options.awq.grid; ++i) {
    const double candidate = double(i) / options.awq.grid;
    std::vector<float> input_scale = AwqInputScale(magnitudes, candidate);
    ScaleColumns(w, k, input_scale, scaled, pool);
    std::vector<float> importance(k);
    for (int j = 0; j < k; ++j) importance[j] = hessian.data[size_t(j) * k + j] * input_scale[j] * input_scale[j];
    LOWBIT_ASSIGN_OR_RETURN(QuantizedLinear q, QuantizeRtn(scaled, n, k, base, base.hessian_mse ? importance.data() : nullptr, pool));
    LOWBIT_ASSIGN_OR_RETURN(std::vector<double> found, energy.Rows(n, Errors(q, w, input_scale), kernels, pool));
    if (i > 0 && !(Sum(found) < Sum(errors))) continue;
    best = std::move(q);
    errors = std::move(found);
    scale = std::move(input_scale);
    ratio = candidate;
  }

  if (options.awq.clip) {
    ScaleColumns(w, k, scale, scaled, pool);
    const GridRule rule{base.bits, base.sym};
    LOWBIT_ASSIGN_OR_RETURN(const QuantizedLinear clipped, ClipRanges(best, scaled, scale, hessian, options.awq, rule, kernels, pool));
    LOWBIT_ASSIGN_OR_RETURN(const std::vector<double> found, energy.Rows(n, Errors(clipped, w, scale), kernels, pool));
    for (size_t r = 0; r < size_t(n); ++r) {
      if (!(found[r] < errors[r])) continue;
      std::copy_n(clipped.codes.begin() + r * k, k, best.codes.begin() + r * k);
      std::copy_n(clipped.scales.begin() + r * best.groups, best.groups, best.scales.begin() + r * best.groups);
      std::copy_n(clipped.zeros.begin() + r * best.groups, best.groups, best.zeros.begin() + r * best.groups);
    }
  }
  LinearParts parts = FromQuantized(std::move(best));
  if (ratio > 0) parts.input_scale = std::move(scale);
  parts.scale_ratio = ratio;
  return parts;
}

}  // namespace lowbit
