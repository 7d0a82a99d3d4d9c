// plan/linear: a linear op made ready to run. ops_linear.cc builds and executes it.
//
// A linear op is a list of products, one for each part of each output. Products that read the input in the same form share
// that form and one parallel region, so that q, k and v, or gate and up, run as one matrix product.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel/kernel.h"
#include "part/part.h"
#include "plan/plan.h"

namespace lowbit {

// What the input rows are turned into before the weights are read.
enum class InputForm : uint8_t {
  kF32Rows,   // tiles for gemm_f32, or the rows themselves for few rows of dense weights
  kBf16Rows,  // panels for gemm_bf16, or the rows themselves for few rows of dense weights
  kInt8Rows,  // QuantizedRows
  kSparse,    // as kF32Rows, for sparse weights
};

// Plain data with resolved addresses: a late worker of the pool may read it while the executor does something else.
struct Product {
  PackedView w;
  float* y = nullptr;  // row 0 of the output
  size_t ldy = 0;
  const float* bias = nullptr;  // [n] in the order of w's rows, or null
  bool accumulate = false;
  int panels = 0;
  const int32_t* rows = nullptr;  // column of y of each row of w, or null: the rows are the columns
  // kSparse: the weights; w then has n and k only. kInt8Rows: what few rows add in the same chunks, or nothing.
  SparseView sparse;
  bool wide = false;  // kInt8Rows: of the run's wide_zero_code
};

struct LinearRun {
  InputForm form = InputForm::kF32Rows;
  View in;
  int inner = -1;  // from this column of the executor's inner rows on (what A of a low-rank part yields) instead of `in`; -1: `in`
  int k = 0;
  const std::vector<int32_t>* permutation = nullptr;  // of the columns, or null
  const std::vector<float>* input_scale = nullptr;    // [columns of in], or null
  // kInt8Rows: zero codes of the symmetric weights (QuantizedRows::bias). Weights of up to two widths share the rows, as those of MixLLM
  // do; each has its own starts of the sums. 0: there are none. Weights that are not symmetric read no starts and go with all others.
  int zero_code = 0, wide_zero_code = 0;
  int group = 0;        // kInt8Rows: columns per activation scale
  bool halves = false;  // kInt8Rows: some weights have groups of 16
  bool rides = false;   // kInt8Rows: some products have sparse weights with them. kSparse: all are with such products; only many rows run
  std::vector<Product> products;
  int panels = 0;  // of all products
};

// Whether the op before a linear op, which makes its input, can run row by row while the rows are quantised, when both run in one
// go: its row then is read from the first-level cache instead of memory.
enum class InputRow : uint8_t {
  kStored,    // no: the op before is another, or the rows are not only quantised
  kProduced,  // yes, and each row is stored too: a later op, or another run, reads it
  kPassing,   // yes, and nothing else reads it
};

struct LinearOp {
  std::vector<LinearRun> runs;             // one after the other; what adds to an output comes behind what writes it
  std::vector<std::vector<float>> biases;  // gathered, of parts with `rows`; products point into them
  InputRow input = InputRow::kStored;
};

// A kExperts op made ready: the linear ops of every expert, and the gated activation between them.
struct ExpertsOp {
  Op glu;
  std::vector<LinearOp> up, down;
};

// linear_bf16.cc: y[m][ldy] = rows x panels [panel0, panel1) of w in bf16 with f32 sums; y points at column 0. packed: panels of
// pack_rows_bf16 for all w.k columns. scratch: kGemmScratchBytes.
void MultiplyBf16(const KernelTable& kernels, const PackedView& w, const uint16_t* packed, int m, int panel0, int panel1, float* y,
                  size_t ldy, uint8_t* scratch);
// linear_sparse.cc: y[m][ldy] = rows x the sparse weights of panels [panel0, panel1); y points at column 0. packed: tiles of
// KernelTable::pack_rows for all w.k columns. scratch: kGemmScratchBytes.
void MultiplySparse(const KernelTable& kernels, const Product& product, const float* packed, int m, int panel0, int panel1, float* y,
                    size_t ldy, uint8_t* scratch);
// Values of a panel of kPanelRows packed rows of k columns.
inline size_t Bf16PanelStride(int k) { return static_cast<size_t>(k + 1) / 2 * 2 * kPanelRows; }

}  // namespace lowbit
