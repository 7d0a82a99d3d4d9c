// quantize/block_grid: see block_grid.h. The candidates follow what llama.cpp's quantisers try for the same types (its ggml-quants.c), with
// the Hessian's diagonal in place of an importance file.
#include "quantize/block_grid.h"

#include <algorithm>
#include <cmath>

#include "part/gguf_encode.h"
#include "quantize/grid.h"

namespace lowbit {
namespace {

constexpr int kMostColumns = 32;  // of a group
constexpr int kSuperColumns = 256;
constexpr int kRowsPerTask = 16;
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to an integer, half to even

float Rounded(float x) { return (x + kRound) - kRound; }
float Clamped(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

struct Fit {
  float scale = 0, minimum = 0;
  int zero = 0;
};

// One group of columns: x weights, h importances, both finite, h >= 0 and not all zero.
struct Group {
  float x[kMostColumns], h[kMostColumns];
  int columns;

  // Without minimum. Candidates scale the outermost code beyond and inside the largest weight; both signs where the code range has one more
  // on one side.
  Fit Symmetric(int bits, bool search) const {
    const int half = 1 << (bits - 1);
    float largest = 0, extreme = 0;
    for (int c = 0; c < columns; ++c) {
      if (std::fabs(x[c]) > largest) {
        largest = std::fabs(x[c]);
        extreme = x[c];
      }
    }
    Fit fit{0, 0, half};
    if (largest == 0) return fit;
    if (bits == 8 && !search) return {largest / 127, 0, half};
    const int outward = extreme < 0 ? half : half - 1;  // puts the longer side where the largest weight is
    fit = {largest / static_cast<float>(half), 0, outward};
    if (!search) return fit;
    float best = 0;
    for (const int zero : {outward, half + half - 1 - outward}) {
      for (int i = -3; i <= 12; ++i) {
        const float inverse = static_cast<float>(half) * (1 + 0.03f * static_cast<float>(i)) / largest;
        float along = 0, square = 0;
        for (int c = 0; c < columns; ++c) {
          const float code = Clamped(Rounded(x[c] * inverse), static_cast<float>(-zero), static_cast<float>(2 * half - 1 - zero));
          along += h[c] * x[c] * code;
          square += h[c] * code * code;
        }
        // With the best scale along / square, that much of sum h x^2 is explained.
        if (!(square > 0) || !(along > 0) || along * along / square <= best) continue;
        best = along * along / square;
        fit = {along / square, 0, zero};
      }
    }
    return fit;
  }

  // With a minimum, at most 0 if `negative`.
  Fit Affine(int bits, bool negative, bool search) const {
    const float most = static_cast<float>((1 << bits) - 1);
    float low = x[0], high = x[0];
    for (int c = 1; c < columns; ++c) {
      low = std::min(low, x[c]);
      high = std::max(high, x[c]);
    }
    if (negative) low = std::min(low, 0.0f);
    Fit fit{(high - low) / most, low, 0};
    if (!(high > low) || !search) return fit;
    float best = Error(fit, most);
    for (int i = -1; i <= 14; ++i) {
      const float inverse = most * (1 + 0.025f * static_cast<float>(i)) / (high - low);
      float sh = 0, sx = 0, sc = 0, scc = 0, sxc = 0;
      for (int c = 0; c < columns; ++c) {
        const float code = Clamped(Rounded((x[c] - low) * inverse), 0, most);
        sh += h[c];
        sx += h[c] * x[c];
        sc += h[c] * code;
        scc += h[c] * code * code;
        sxc += h[c] * x[c] * code;
      }
      const float determinant = sh * scc - sc * sc;
      if (!(determinant > 1e-6f * sh * scc)) continue;
      Fit tried{(sh * sxc - sc * sx) / determinant, (scc * sx - sc * sxc) / determinant, 0};
      if (negative && tried.minimum > 0) tried = {sxc / scc, 0, 0};
      if (!(tried.scale > 0)) continue;
      const float error = Error(tried, most);
      if (!(error < best)) continue;
      best = error;
      fit = tried;
    }
    return fit;
  }

  float Error(const Fit& fit, float most) const {
    const float inverse = fit.scale > 0 ? 1 / fit.scale : 0;
    float sum = 0;
    for (int c = 0; c < columns; ++c) {
      const float code = Clamped(Rounded((x[c] - fit.minimum) * inverse), 0, most);
      const float rest = x[c] - fit.scale * code - fit.minimum;
      sum += h[c] * rest * rest;
    }
    return sum;
  }
};

float RoundHalf(float x) { return x == 0 ? 0 : x < 0 ? -RoundScale(-x) : RoundScale(x); }

// Small multiples of one f16 value for the scales (or minima) of 256 columns.
void Multiples(const float* values, int groups, int most, float* super, uint8_t* codes, float* decoded) {
  float largest = 0;
  for (int g = 0; g < groups; ++g) largest = std::max(largest, values[g]);
  *super = largest > 0 ? RoundScale(largest / static_cast<float>(most)) : 0;
  for (int g = 0; g < groups; ++g) {
    const float code = *super > 0 ? Clamped(Rounded(values[g] / *super), 0, static_cast<float>(most)) : 0;
    codes[g] = static_cast<uint8_t>(code);
    decoded[g] = *super * code;
  }
}

}  // namespace

void FitBlockGrids(std::span<const float> w, const uint8_t* dead, const float* importance, bool search, Pool& pool, QuantizedLinear* q) {
  const BlockType& type = *FindBlockType(q->block_type);
  const int groups = q->groups, size = q->group_size;
  if (type.has_minimum) q->minima.resize(size_t(q->n) * groups);
  const int per_super = type.coded ? kSuperColumns / size : 1;
  if (type.coded) {
    q->super_scales.resize(size_t(q->n) * groups / per_super);
    q->scale_codes.resize(size_t(q->n) * groups);
    if (type.has_minimum) {
      q->super_minima.resize(q->super_scales.size());
      q->minimum_codes.resize(q->scale_codes.size());
    }
  }
  pool.Run((q->n + kRowsPerTask - 1) / kRowsPerTask, [&](int task, int) {
    for (int r = task * kRowsPerTask; r < std::min(q->n, (task + 1) * kRowsPerTask); ++r) {
      const float* row = w.data() + size_t(r) * q->k;
      const size_t first = size_t(r) * groups;
      for (int g = 0; g < groups; ++g) {
        Group group;
        group.columns = size;
        float weight = 0;
        for (int c = 0; c < size; ++c) {
          const int column = g * size + c;
          group.x[c] = dead != nullptr && dead[column] ? 0 : row[column];
          group.h[c] = importance == nullptr ? 1 : importance[column];
          weight += group.h[c];
        }
        // A mean of 1 keeps the sums in the middle of what f32 holds.
        for (int c = 0; c < size; ++c) group.h[c] = weight > 0 ? group.h[c] * static_cast<float>(size) / weight : 1;
        const Fit fit = type.has_minimum ? group.Affine(type.bits, type.coded, search) : group.Symmetric(type.bits, search);
        q->scales[first + g] = type.coded ? fit.scale : RoundHalf(fit.scale);
        q->zeros[first + g] = static_cast<uint8_t>(fit.zero);
        if (type.has_minimum) q->minima[first + g] = type.coded ? fit.minimum : RoundHalf(fit.minimum);
      }
      for (int g = 0; type.coded && g < groups; g += per_super) {
        const size_t at = first + g, super = at / per_super;
        float values[kSuperColumns / 16];
        std::copy_n(q->scales.begin() + at, per_super, values);
        Multiples(values, per_super, type.scale_codes, &q->super_scales[super], &q->scale_codes[at], &q->scales[at]);
        if (!type.has_minimum) continue;
        for (int i = 0; i < per_super; ++i) values[i] = -q->minima[at + i];
        Multiples(values, per_super, type.scale_codes, &q->super_minima[super], &q->minimum_codes[at], &q->minima[at]);
        for (int i = 0; i < per_super; ++i) q->minima[at + i] = -q->minima[at + i];
      }
    }
  });
}

void RoundOnGrids(std::span<const float> w, Pool& pool, QuantizedLinear* q) {
  const float most = static_cast<float>((1 << q->bits) - 1);
  pool.Run((q->n + kRowsPerTask - 1) / kRowsPerTask, [&](int task, int) {
    for (int r = task * kRowsPerTask; r < std::min(q->n, (task + 1) * kRowsPerTask); ++r) {
      for (int g = 0; g < q->groups; ++g) {
        const size_t at = size_t(r) * q->groups + g, first = size_t(r) * q->k + size_t(g) * q->group_size;
        const float inverse = q->scales[at] > 0 ? 1 / q->scales[at] : 0;
        const float minimum = q->minima.empty() ? 0 : q->minima[at], zero = q->minima.empty() ? static_cast<float>(q->zeros[at]) : 0;
        for (int c = 0; c < q->group_size; ++c)
          q->codes[first + c] = static_cast<uint8_t>(Clamped(Rounded((w[first + c] - minimum) * inverse + zero), 0, most));
      }
    }
  });
}

Result<std::vector<uint8_t>> BlocksOf(const char* name, const QuantizedLinear& q) {
  BlockCodes source;
  source.n = q.n;
  source.k = q.k;
  source.codes = q.codes;
  source.scales = q.scales;
  source.zeros = q.zeros;
  source.minima = q.minima;
  source.super_scales = q.super_scales;
  source.super_minima = q.super_minima;
  source.scale_codes = q.scale_codes;
  source.minimum_codes = q.minimum_codes;
  std::vector<uint8_t> blocks;
  LOWBIT_RETURN_IF_ERROR(EncodeBlocks(name, q.block_type, source, &blocks));
  return blocks;
}

}  // namespace lowbit
