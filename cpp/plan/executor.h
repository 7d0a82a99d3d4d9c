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
#include "plan/linear.h"
#include "plan/plan.h"

namespace lowbit {

// What the ops compute with: per weight a sum of parts, per vector its f32 values.
struct Bindings {
  std::vector<std::vector<Part>> weights;
  std::vector<std::vector<float>> vectors;
  uint64_t generation = 0;  // raised whenever a weight is replaced; executors then look again
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

// Query tokens [position, position + tokens) of a sequence, in rows [row, row + tokens) of the batch.
struct AttendItem {
  int sequence = 0, row = 0, position = 0, tokens = 0;
};

// Keys [begin, end) that the token in row `row` attends to in one chunk.
struct FewBlock {
  int sequence = 0, row = 0, begin = 0, end = 0;
};

class Executor {
 public:
  // Buffers for max_rows token rows; buffers that only the epilogue touches (the logits) get epilogue_rows.
  // fast: integer kernels for affine parts. References must outlive the executor.
  static Result<std::unique_ptr<Executor>> Create(const Plan& plan, const Bindings& bindings, const KernelTable& kernels, Pool& pool,
                                                  bool fast, int max_rows, int epilogue_rows);

  // Waits for late workers of the pool: they may still read the weights, the cache and this executor's memory.
  ~Executor() { pool_.Quiesce(); }
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Products that are not integer ones in bf16 from now on; the kernel table must have gemm_bf16. Before the first Begin.
  void UseBf16();

  int max_rows() const { return max_rows_; }
  int epilogue_rows() const { return epilogue_rows_; }

  // Prepares rotary tables for the positions of a batch of at most max_rows rows.
  Status Begin(const Batch& batch);

  // Runs ops of the prologue or of blocks on the current batch. CANCELLED as soon as *cancel becomes true (checked between
  // ops). Attention reads and extends `cache` (positions past..past+count of each segment), which must outlive the executor:
  // late workers of the pool may still read it.
  Status Run(OpRange range, KvCache* cache, const std::atomic<bool>* cancel);

  // The end of what runs as one when ops from `op` on run: op + 1, or op + 2 where op makes the input of the linear op behind it. A
  // range cut elsewhere runs as well, but slower.
  int NextStop(int op) const;

  // Parts of a kExperts op, for calibration. Copies the rows routed to one expert to the op's `gathered` rows, or on to its `gated` ones;
  // both say how many there are.
  int GatherExpert(int index, int expert, int rows);
  Result<int> RunExpertUp(int index, int expert, int rows);

  // Behind this op of the plan no row meets another, nor its position: from there on a caller may go on with some rows only.
  int head_begin() const { return head_begin_; }
  // Moves what ops from `begin` (head_begin() or the epilogue's) on read of row `from` to row `to`.
  void MoveRow(int begin, int from, int to);
  // Runs ops [begin, end of the plan) on the first `rows` (<= epilogue_rows) rows.
  Status RunHead(int begin, int rows, const std::atomic<bool>* cancel);

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

  // Resolves the linear ops against the bindings. When no step runs.
  Status Prepare();
  Status RunOps(OpRange range, int rows, KvCache* cache, const std::atomic<bool>* cancel);
  Status RunOp(int index, int rows, KvCache* cache);
  // Splits rows over the pool when there are enough of them to pay for waking a worker.
  void ForRows(int rows, const std::function<void(int begin, int end)>& fn);

  uint8_t* ThreadScratch(int worker) const { return scratch_.data() + static_cast<size_t>(worker) * thread_scratch_; }

  // A region of one op. What a late worker of it reads is meant to race with the ops that follow, and its result is dropped. The thread
  // sanitizer cannot know that: under it the region also waits for its late workers, and every other race is still found.
  template <typename Task>
  void RunStealable(int chunks, const Task& task) {
    pool_.RunStealable(chunks, task);
#ifdef __SANITIZE_THREAD__
    pool_.Quiesce();
#endif
  }

  // ops_rows.cc
  void ComputeRow(const Op& op, int r, float* out);
  static InputRow ProducedRows(const Plan& plan, int index);
  static InputRow InputRowFor(const LinearOp& linear, InputRow planned);
  // ops_embed.cc
  Status Embed(const Op& op, int rows);
  // ops_linear.cc
  int InnerWidth(const Op& op) const;
  Status PrepareLinear(const Op& op, LinearOp* linear) const;
  Status Linear(const LinearOp& op, int rows, const Op* producer);
  const float* InputRows(const LinearRun& run, const std::vector<int32_t>* order, int begin, int end, size_t* stride);
  template <typename Fn>
  void ForTiles(int rows, int tile, const Fn& fn);
  void PackInput(const LinearRun& run, int rows, const float** x, size_t* ldx);
  void QuantizeInput(const LinearRun& run, int rows, const Op* producer, bool keep, QuantizedRows* quantized, QuantizedRows* wide);
  // ops_moe.cc
  Status PrepareExperts(const Op& op, ExpertsOp* prepared) const;
  Status Route(const Op& op, int rows);
  Status Experts(int index, int rows);
  // ops_attention.cc
  Status Attention(const Op& op, KvCache* cache);
  // attend_few.cc, attend_many.cc
  struct FewTask;
  struct ManyTask;
  void AttendFew(const Op& op, const KvCache& cache, const std::vector<AttendItem>& items);
  void AttendMany(const Op& op, const KvCache& cache, const std::vector<AttendItem>& items);

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
  Block inner_;   // [max_rows][inner_width_]: what A of low-rank parts yields; empty without such parts
  int inner_width_ = 0;
  float* permuted_ = nullptr;
  float* packed_rows_ = nullptr;
  QuantizedRows quantized_;       // pointers into shared_
  int32_t* wide_bias_ = nullptr;  // as quantized_'s, of wide_zero_code
  int32_t* wide_half_bias_ = nullptr;
  Block scratch_;                               // per thread
  size_t thread_scratch_ = 0;                   // bytes
  size_t linear_result_ = 0;                    // where in a thread's scratch a linear chunk's private result lies
  Block attend_items_, few_blocks_, partials_;  // of the current attention region
  std::vector<LinearOp> linears_;               // one per op of the plan; empty for other kinds
  std::vector<ExpertsOp> experts_;              // likewise
  std::vector<int> routed_;                     // rows of the expert that runs
  std::vector<InputRow> planned_inputs_;        // one per op of the plan
  int head_begin_ = 0;
  std::vector<View> head_inputs_;  // what ops from head_begin_ on read
  uint64_t generation_ = 0;        // of the bindings that linears_ was made from
};

}  // namespace lowbit
