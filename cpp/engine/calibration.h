// engine/calibration: runs calibration samples through a model block by block and hands each linear op its Hessian.
//
// The run stops before every linear op. The state of a sample between two stops is exactly the columns that later ops
// still read (LiveViews), so each op runs once per sample and block, with the quantised weights that precede it
// ("true sequential"). Quantising the stop's weights and advancing repeats until the last block is done.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/model.h"
#include "plan/executor.h"
#include "quantize/method.h"
#include "solve/hessian.h"

namespace lowbit {

struct CalibrationStop {
  int block = 0;
  std::vector<int> weights;  // plan weights that read this input; empty at the end of a block
  int64_t tokens = 0;        // rows in the Hessian
  int64_t dropped_rows = 0;  // rows with non-finite values
  bool finished = false;     // the last block's end
};

struct SolveRequest {
  int weight = 0;
  Method method = Method::kGptq;
  QuantizeOptions options;
};

struct Solved {
  QuantizedLinear linear;
  double seconds = 0;
};

class Calibration {
 public:
  // Sample s is tokens[offsets[s] .. offsets[s+1]); each at most kMaxSampleTokens long. The model must be of exact precision.
  static Result<std::unique_ptr<Calibration>> Create(std::shared_ptr<Model> model, std::vector<int32_t> tokens,
                                                     std::vector<int32_t> offsets);

  // After a failed or cancelled Advance the calibration can only be destroyed.
  // Runs to the next linear op, or to the end of the block; accumulates that op's Hessian if `hessian`.
  Result<CalibrationStop> Advance(bool hessian, const Progress& progress);

  // Quantises weights of the current stop and replaces them in the model.
  Result<std::vector<Solved>> Solve(const std::vector<SolveRequest>& requests, const Progress& progress);

  Model& model() { return *model_; }

 private:
  Calibration() = default;
  Status AdvanceSamples(int next, const std::vector<View>& live, bool first, const Progress& progress);
  void Save(int sample, const std::vector<View>& views, int rows);
  void Restore(int sample, const std::vector<View>& views, int rows);

  std::shared_ptr<Model> model_;
  std::vector<int32_t> tokens_, offsets_;
  KvCache cache_;  // before the executor, which waits for late readers of it
  std::unique_ptr<Executor> executor_;
  std::vector<Block> state_;  // per sample [rows][live columns], room for the widest stop
  std::vector<View> live_;    // what state_ holds
  int block_ = -1;            // current block; -1 before the first
  int op_ = 0;                // next op to run
  bool stopped_ = false;      // op_ is a linear op whose Hessian was taken
  bool failed_ = false;       // an Advance failed half way: the states no longer belong together
  std::unique_ptr<Hessian> hessian_;
  std::vector<int> stop_weights_;
};

// Longest calibration sample, in tokens: bounds the activation buffers.
constexpr int kMaxSampleTokens = 32768;

// Quantises one weight without calibration data.
Result<Solved> SolveWeight(Model& model, int weight, Method method, const QuantizeOptions& options);

}  // namespace lowbit
