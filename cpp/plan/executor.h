// plan/executor: runs ranges of a plan's ops over a batch of token rows.
// Owns the activation buffers and per-thread scratch of one user (a context or a calibration); shares weights and kernels.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/alloc.h"
#include "base/pool.h"
#include "base/status.h"
#include "cache/kv_cache.h"
#include "kernel/kernel.h"
#include "part/part.h"
#include "plan/plan.h"

namespace lowbit {

// What the ops compute with: per weight a sum of parts, per vector its f32 values.
struct Bindings {
  std::vector<std::vector<Part>> weights;
  std::vector<std::vector<float>> vectors;
};

// Consecutive rows of one sequence, appended behind `past` tokens.
struct Segment {
  int sequence = 0;
  int row = 0;  // first row of the batch
  int count = 0;
  int past = 0;  // tokens already in the cache; the position of the first row
};

struct Batch {
  int rows = 0;
  const int32_t* tokens = nullptr;  // [rows], each below the vocabulary size
  std::vector<Segment> segments;    // cover the rows in order
};

class Executor {
 public:
  // Buffers for max_rows token rows; buffers that only the epilogue touches (the logits) get epilogue_rows.
  // fast: integer kernels for affine parts. References must outlive the executor.
  static Result<std::unique_ptr<Executor>> Create(const Plan& plan, const Bindings& bindings, const KernelTable& kernels, Pool& pool,
                                                  bool fast, int max_rows, int epilogue_rows);

  // Products that are not integer ones in bf16 from now on; the kernel table must have gemm_bf16.
  void UseBf16() { bf16_ = true; }

  int max_rows() const { return max_rows_; }
  int epilogue_rows() const { return epilogue_rows_; }

  // Prepares rotary tables for the positions of a batch of at most max_rows rows.
  Status Begin(const Batch& batch);

  // Runs ops of the prologue or of blocks on the current batch. CANCELLED as soon as *cancel becomes true (checked between
  // ops). Attention reads and extends `cache` (positions past..past+count of each segment).
  Status Run(OpRange range, KvCache* cache, const std::atomic<bool>* cancel);

  // Runs the epilogue on the first `rows` (<= epilogue_rows) rows of the residual buffer.
  Status RunEpilogue(int rows, const std::atomic<bool>* cancel);

  // Row r of a view.
  float* Row(const View& view, int r) const {
    return base_[static_cast<size_t>(view.buffer)] +
           static_cast<size_t>(r) * static_cast<size_t>(plan_.buffers[static_cast<size_t>(view.buffer)].width) +
           static_cast<size_t>(view.offset);
  }
  size_t Stride(const View& view) const { return static_cast<size_t>(plan_.buffers[static_cast<size_t>(view.buffer)].width); }

 private:
  Executor(const Plan& plan, const Bindings& bindings, const KernelTable& kernels, Pool& pool, bool fast)
      : plan_(plan), bindings_(bindings), kernels_(kernels), pool_(pool), fast_(fast) {}

  Status RunOp(const Op& op, int rows, KvCache* cache);
  // Splits rows over the pool when there are enough of them to pay for waking a worker.
  void ForRows(int rows, const std::function<void(int begin, int end)>& fn);

  // ops_linear.cc
  Status Linear(const Op& op, int rows);
  Status Embed(const Op& op, int rows);
  struct Product;  // one part of one output of a linear op
  const float* InputRows(const Product& product, int rows, size_t* stride);
  void PrepareExact(const Product& first, int rows);
  void PrepareFast(const Product& first, int rows);
  void ComputePanels(const Product& product, int rows, int panel0, int panel1, int worker);
  // linear_bf16.cc
  void PackBf16(const float* x, size_t ldx, int rows, int k);
  void MultiplyBf16(const PackedView& w, int rows, int panel0, int panel1, float* y, size_t ldy, bool accumulate, uint8_t* scratch);
  // ops_attention.cc
  Status Attention(const Op& op, KvCache* cache);

  const Plan& plan_;
  const Bindings& bindings_;
  const KernelTable& kernels_;
  Pool& pool_;
  const bool fast_;
  bool bf16_ = false;
  int max_rows_ = 0, epilogue_rows_ = 0;
  Batch batch_;
  std::vector<int32_t> tokens_, positions_;
  std::vector<std::vector<float>> cosines_, sines_;  // per rope table [rows][half]

  Block buffers_;
  std::vector<float*> base_;
  Block shared_;  // packed or quantised rows of the current linear input, and its permuted copy
  float* permuted_ = nullptr;
  float* packed_rows_ = nullptr;
  const float* first_row_ = nullptr;  // row 0 of what packed_rows_ was packed from
  QuantizedRows quantized_;           // pointers into shared_
  Block scratch_;                     // per thread
  size_t thread_scratch_ = 0;         // bytes
};

}  // namespace lowbit
