// engine/calibration: runs calibration samples through a model block by block and hands each linear op its Hessian.
//
// The run stops before every linear op, before the gates and ups and before the downs of a few experts at a time (calibration_stops.h), and
// at the end of every block. An expert's Hessian is over the rows that were routed to it. The state of a sample between two stops is
// exactly the columns that later ops still read (LiveViews), taken where they are fewest: a norm in front of the linear op runs once more
// rather than having its output kept. All other ops run once per sample and block, with the quantised weights that precede them ("true
// sequential"). Quantising the stop's weights and advancing repeats until the last block is done.
//
// Memory: of a lazy model only the block at work is loaded, and of its embedding only the rows of tokens that occur. States wider than
// `state_bytes` allows are not kept, and what led to them runs again: no result depends on it. At the end of a block the state is the
// residual alone: it can be taken out, and a later calibration of the same model and tokens can go on from there.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/calibration_stops.h"
#include "engine/model.h"
#include "engine/solve_weight.h"
#include "plan/executor.h"
#include "quantize/damping.h"
#include "solve/hessian.h"

namespace lowbit {

// Arithmetic of the forward passes and of the Hessians; sums are f32 or exact in every case.
enum class CalibrationPrecision : uint8_t {
  kExact,  // f32
  kFast,   // int8 products with quantised weights, as the fast path runs them; bf16 elsewhere where the processor has it
};

struct CalibrationOptions {
  CalibrationPrecision precision = CalibrationPrecision::kExact;
  TokenWeights weights = TokenWeights::kMagnitude;
  int64_t state_bytes = INT64_MAX;  // of all samples together; the state at a block's end is kept in any case
  int first_block = 0;              // > 0: go on in front of this block, once SetState has been called for every sample
};

struct CalibrationStop {
  int block = 0;
  std::vector<int> weights;  // plan weights that read the stop's inputs; empty at the end of a block
  int64_t tokens = 0;        // rows in the Hessian, or in those of all experts of the stop together
  int64_t dropped_rows = 0;  // rows with non-finite values
  bool finished = false;     // the last block's end
};

class Trials;

class Calibration {
 public:
  // Sample s is tokens[offsets[s] .. offsets[s+1]); each at most kMaxSampleTokens long. The model must be of exact precision.
  static Result<std::unique_ptr<Calibration>> Create(std::shared_ptr<Model> model, std::vector<int32_t> tokens,
                                                     std::vector<int32_t> offsets, const CalibrationOptions& options);

  // After a failed or cancelled Advance the calibration can only be destroyed.
  // Runs to the next linear op, or to the end of the block; accumulates that op's Hessian if `hessian`.
  Result<CalibrationStop> Advance(bool hessian, const Progress& progress);

  // Quantises weights of the current stop and replaces them in the model.
  Result<std::vector<Solved>> Solve(const std::vector<SolveRequest>& requests, const Progress& progress);

  // The same with the uncompressed weights, of which `trials` keeps every result as a variant; the model stays as it is. Per request, as
  // solved.
  Result<std::vector<Solved>> Try(Trials& trials, const std::vector<SolveRequest>& requests, const Progress& progress);

  // What the next block reads of one sample, [columns][rows] in an order of its own. At the end of a block that is not the last.
  Result<std::vector<float>> State(int sample) const;
  // Of a calibration that begins at a later block, before the first Advance: what State gave at the end of the block before.
  Status SetState(int sample, std::vector<float> state);

  int samples() const { return static_cast<int>(state_.size()); }
  Model& model() { return *model_; }

 private:
  Calibration() = default;
  Status AdvanceSamples(const StopPoint* from, const StopPoint& to, const Progress& progress);
  Status LoadBlock(int block, const Progress& progress);
  size_t StateFloats(int sample) const;
  void Save(int sample, const StopPoint& stop, int rows);
  void Restore(int sample, const StopPoint& stop, int rows);

  std::shared_ptr<Model> model_;
  std::vector<int32_t> tokens_, offsets_;
  KvCache cache_;  // before the executor, which waits for late readers of it
  std::unique_ptr<Executor> executor_;
  TokenWeights weights_ = TokenWeights::kMagnitude;
  bool bf16_ = false;
  std::vector<StopPoint> stops_;
  std::vector<Block> state_;  // per sample, room for every stop
  int stop_ = -1;             // the last stop made
  int saved_ = -1;            // the last one with a state: what state_ holds
  int missing_states_ = 0;    // samples that SetState is still to be called for
  std::vector<bool> set_;     // those it was called for
  int loaded_block_ = -1;     // of a lazy model
  bool finished_ = false;     // the end of the last block was reached
  bool failed_ = false;       // an Advance failed half way: the states no longer belong together
  struct Statistics {
    StopInput input;
    Hessian hessian;
    FactorCache factors;  // while a list of requests is solved
  };
  Status AddRows(const StopPoint& stop, int rows, Statistics* statistics);
  Result<HessianView> HessianOf(int weight, const std::vector<SolveRequest>& requests);
  void DropFactors();
  std::vector<Statistics> statistics_;  // of the current stop: one, or one per expert; empty without Hessians
  std::vector<int> stop_weights_;
};

// Longest calibration sample, in tokens: bounds the activation buffers.
constexpr int kMaxSampleTokens = 32768;

}  // namespace lowbit
