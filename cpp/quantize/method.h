// quantize/method: one dense weight and its calibration statistics in, codes on an affine grid out.
// A method is a pure function of its arguments: no files, no globals, same result for any number of threads.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/pool.h"
#include "base/status.h"
#include "kernel/kernel.h"

namespace lowbit {

enum class Method : uint8_t {
#define LOWBIT_METHOD(id, name, needs_hessian, one_grid) id,
#include "quantize/methods.def"
#undef LOWBIT_METHOD
};
const char* MethodName(Method method);
bool NeedsHessian(Method method);
bool MakesOneGrid(Method method);  // Quantize knows it; QuantizeParts knows all
Result<Method> ParseMethod(const std::string& name);

// Field names are GPTQModel's; lib/quantize documents them for users.
struct QuantizeOptions {
  int bits = 4;          // 2, 3, 4, 5, 6, 8
  int group_size = 128;  // 32, 64, 128 or -1 for the whole row; the last group may be short
  bool sym = true;
  double mse = 0;  // exponent of the range search, 0 = off; 2.4 is the published choice, range [1, 8]
  // GPTQ only:
  bool hessian_mse = false;    // the range search weighs columns by the Hessian's diagonal
  bool refit_scales = false;   // quantize/refit_scales.h behind the solve
  int sweeps = 0;              // passes of quantize/coordinate_descent.h behind the solve, 0 to 100
  bool row_guard = false;      // rows that plain rounding leaves with a smaller error take its codes; not with stored column orders
  bool desc_act = false;       // columns by falling Hessian diagonal; groups follow that order (g_idx) unless static_groups
  bool static_groups = false;  // group grids from the original column order; keeps g_idx trivial with desc_act
  bool act_group_aware =
      true;  // group-aware order (GPTQModel): columns inside groups and groups by diagonal; g_idx stays trivial. Ignored with desc_act
  bool classic = false;               // as the published code: see GridRule, and a dead column's diagonal is 1
  double damp_percent = 0.05;         // fraction of the mean Hessian diagonal added to it, in (0, 1)
  double damp_auto_increment = 0.01;  // added to damp_percent after each failed factorisation
  int block_size = 128;               // columns per lazy update; no effect on the result beyond rounding when groups are whole blocks
  DType block_type = DType::kF32;     // a type of part/gguf_encode.h: its grids, chosen before the solve; decides bits and group_size
  int64_t min_tokens = 0;             // fewer accumulated tokens than this: fall back to RTN and report it
};

struct FactorCache;  // quantize/damping.h

struct HessianView {
  const float* data = nullptr;  // [k][k], finished; null for methods that need none
  int k = 0;
  int64_t tokens = 0;
  FactorCache* factors = nullptr;  // where several solves read the same Hessian: kept from one to the next
};

struct QuantizedLinear {
  int n = 0, k = 0, bits = 0, group_size = 0;  // group_size resolved (k for the whole row)
  int groups = 0;
  bool sym = true;
  std::vector<uint8_t> codes;  // [n][k], original column order
  std::vector<float> scales;   // [n][groups], every value exactly representable in f16
  std::vector<uint8_t> zeros;  // [n][groups]
  std::vector<int32_t> g_idx;  // [k] group of each column; empty when trivial (k / group_size)
  // On the grid of a GGUF block type: quantize/block_grid.h. Scales are then at least 0, and f16 holds them unless super_scales are given.
  DType block_type = DType::kF32;                   // kF32: none
  std::vector<float> minima;                        // [n][groups] w_hat = scale * code + minimum; empty: zeros speak
  std::vector<float> super_scales, super_minima;    // [n][k / 256], exact in f16
  std::vector<uint8_t> scale_codes, minimum_codes;  // [n][groups] scale = super_scale * code, minimum = -super_minimum * code
  int GroupOf(int column) const { return g_idx.empty() ? column / group_size : g_idx[column]; }
  // Report:
  double error = 0;                    // tr((W-Q) H (W-Q)^T) / tr(W H W^T), undamped H; relative squared weight error without H
  double damp_percent = 0;             // what was finally used
  int guarded_rows = 0;                // rows that row_guard took from plain rounding
  int refitted_rows = 0;               // rows with new scales
  int dead_columns = 0;                // columns whose Hessian diagonal was zero: codes set to the zero point
  std::vector<std::string> fallbacks;  // "damping raised from 0.05 to 0.07 ...", "RTN instead of GPTQ: ..."; empty normally
};

// w [n][k] row-major f32, finite. INVALID_ARGUMENT for options out of range (also checked by lib/), CORRUPT_FILE naming
// `name` for non-finite weights, UNSUPPORTED for methods whose result is more than codes on one grid. GPTQ: Frantar et al. 2022, algorithm
// 1; orderings: see gptq.cc.
Result<QuantizedLinear> Quantize(Method method, const char* name, std::span<const float> w, int n, int k, const HessianView& hessian,
                                 const QuantizeOptions& options, const KernelTable& kernels, Pool& pool);

// Whether options name a block type, and QuantizeOptions with its bits and group_size. INVALID_ARGUMENT for a type that is not written and
// a k that is no whole number of blocks.
Result<QuantizeOptions> WithBlockType(const char* name, const QuantizeOptions& options, int k);

// Dequantises to w_hat [n][k] row-major.
void Dequantize(const QuantizedLinear& q, std::span<float> out);

}  // namespace lowbit
