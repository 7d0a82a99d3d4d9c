// quantize/quantize_parts: every method behind one function: a dense weight and its statistics in, parts out.
// Pure: no files, no globals, the same result for any number of threads. A method is cpp/quantize/<method>.cc, a line in methods.def, its
// options here, its case in QuantizeParts and its test.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quantize/linear_parts.h"

namespace lowbit {

// What is known of a linear's inputs. Everything may be missing for methods that need no data.
struct LayerStatistics {
  HessianView hessian;              // solve/hessian.h
  std::span<const float> mean_abs;  // [k] mean |x_j|; empty: sqrt(H_jj / 2), the root mean square, stands in for it
  std::span<const float> max_abs;   // [k] max |x_j|; empty: likewise
};

// Activation-aware weight scaling (Lin et al. 2023): codes by plain rounding of W * s, inputs divided by s, s_j = (mean |x_j|)^ratio.
struct AwqOptions {
  int grid = 20;            // ratios tried: 0, 1/grid, ..., (grid - 1)/grid; 1 to 100, 1 = plain rounding
  bool clip = true;         // behind it, ranges of groups shrunk where that lowers the error; a row keeps them only if its error falls
  int clip_grid = 20;       // range times 1 - i/clip_grid; 1 to 100
  double max_shrink = 0.5;  // as far as 1 - max_shrink; [0, 1)
};

// Half-quadratic quantisation (Badri and Shaji 2023): a zero per group, no integer, that minimises the sum of |w - w_hat|^lp_norm.
// Data-free.
struct HqqOptions {
  double lp_norm = 0.7;  // (0, 1]
  double beta = 10;      // (0, 1e6]
  double kappa = 1;      // beta times kappa after every iteration, [1, 10]; 1 as the published default solver, 1.01 as its slow one
  int iterations = 20;   // 0 to 1000; 0 keeps the minimum of each group
};

enum class SpqrOrder : uint8_t {
  kIdentity,
  kActOrder,    // columns by falling Hessian diagonal, groups in that order: best error, a stored column order (g_idx)
  kGroupAware,  // groups of 16 by their largest diagonal, columns inside groups too: no stored order
};

// Sparse-quantised representation (Dettmers et al. 2023): groups of 16 columns whose scales and zeros are 3-bit codes themselves, and the
// weights that hurt most beside them in 16 bits. bits 2, 3, 4, 5, 6 or 8; group_size and sym do not count.
struct SpqrOptions {
  double outlier_threshold = 0.2;  // in units of the mean of var(W_j) / U_jj^2; at least 0, infinity = no outliers
  double max_outliers = 0.05;      // share of all weights, [0, 1]: above it the threshold is doubled, and that is reported
  bool coded_scales = true;        // false: scales and minima of every group in f16
  SpqrOrder order = SpqrOrder::kActOrder;
};

// Two widths in one matrix, by output row (Zheng et al. 2024): chosen rows at high_bits (symmetric), the rest at bits as sym says; both
// solved by GPTQ with the same Hessian.
struct MixllmOptions {
  int high_bits = 8;      // 3, 4 or 8, above bits
  double fraction = 0.1;  // share of this weight's rows at high_bits, those with the largest error; [0, 1]
};

// FineQuant (Kim et al. 2023): plain symmetric rounding with a group size that follows from the weight alone. Start: group_size, or the
// whole row; halved while that shrinks the root mean square of the steps by more than alpha.
struct FinequantOptions {
  double alpha = 0.88;  // (0, 1): 0.92 to 0.93 per halving are normal weights, 0.71 to 0.76 those with outliers
  int min_group = 32;   // 32, 64, 128
};

// SmoothQuant (Xiao et al. 2022), in front of any method: s_j = (max |x_j|)^alpha / (max |w_j|)^(1 - alpha), W * s and x / s. It moves
// large input channels into the weight, which makes 8-bit activations better and weights harder.
struct SmoothOptions {
  double alpha = 0;  // [0, 1], 0 = off; 0.5 as published
};

// EoRA (Liu et al. 2024), behind any method: the best B A of this rank for the error that is left, as the inputs see it.
struct EoraOptions {
  int rank = 0;  // 0 = off, 1 to 256 and at most n and k
};

struct PartsOptions {
  QuantizeOptions base;  // bits, group_size, sym, mse and what GPTQ takes
  AwqOptions awq;
  HqqOptions hqq;
  SpqrOptions spqr;
  MixllmOptions mixllm;
  FinequantOptions finequant;
  SmoothOptions smooth;
  EoraOptions eora;
};

// w [n][k] row-major f32, finite. INVALID_ARGUMENT for options out of range, CORRUPT_FILE naming `name` for non-finite weights. A method
// that needs a Hessian and gets none it can use falls back to rounding, and says so.
Result<LinearParts> QuantizeParts(Method method, const char* name, std::span<const float> w, int n, int k, const LayerStatistics& stats,
                                  const PartsOptions& options, const KernelTable& kernels, Pool& pool);

// Plain rounding in place of `method`, which `reason` kept from running: for methods' last resort. SpQR's groups are of 16 columns.
Result<LinearParts> RoundInstead(Method method, const std::string& reason, std::span<const float> w, int n, int k,
                                 const PartsOptions& options, Pool& pool);

}  // namespace lowbit
