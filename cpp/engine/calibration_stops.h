// engine/calibration_stops: where a calibration stops in a plan, and what it keeps of every sample at each stop.
#pragma once

#include <vector>

#include "plan/plan.h"

namespace lowbit {

// Columns kept from one stop to the next: an area [rows][view.width] that begins `column` * rows floats into the sample's state.
struct KeptView {
  View view;
  int column = 0;
  bool fresh = true;  // written since the last stop with a state; otherwise the area already holds it
};

// A stop in front of op `linear` (a linear or an experts op), whose state is taken in front of op `resume` <= linear: behind it only ops
// without a product are left, which cost less to repeat than their outputs to store. The last stop of a block is its end: no linear op
// (-1), and the state is what the next block reads.
struct StopPoint {
  int block = 0, resume = 0, linear = 0;
  // Of an experts op, the stop is for these experts: in front of their gates and ups, or of their downs, for which the products before
  // them run once more.
  int expert_begin = 0, expert_end = 0;
  bool down = false;
  bool saved = true;           // false: its state would be too wide; the ops from the last stop that has one run again
  std::vector<KeptView> kept;  // of a saved stop

  bool end() const { return linear < 0; }
};

// What one Hessian of a stop is for: the weights that read the same rows, and the expert whose rows these are (-1: all rows).
struct StopInput {
  int expert = -1;
  View view;
  std::vector<int> weights;
};
std::vector<StopInput> StopInputs(const Plan& plan, const StopPoint& stop);  // empty at the end of a block

// Bytes that the Hessians of the experts of one stop may take together; one is always allowed. lib/models/summary.ts says the same.
constexpr int64_t kStopHessianBytes = int64_t(1) << 28;

// All stops of the plan's blocks in order. States wider than max_columns are not kept, but for those of a block's first stop and of its
// end, which are as narrow as a state can be. *columns: floats per row that a state needs.
std::vector<StopPoint> PlanStops(const Plan& plan, int max_columns, int* columns);

}  // namespace lowbit
