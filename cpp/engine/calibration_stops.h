// engine/calibration_stops: where a calibration stops in a plan, and what it keeps of every sample at each stop.
#pragma once

#include <vector>

#include "plan/plan.h"

namespace lowbit {

// Columns kept from one stop to the next: an area [rows][view.width] that begins `column` * rows floats into the sample's state.
struct KeptView {
  View view;
  int column = 0;
  bool fresh = true;  // written since the previous stop; otherwise the area already holds it
};

// A stop in front of op `linear`, whose state is taken in front of op `resume` <= linear: behind it only ops without a product
// are left, which cost less to repeat than their outputs to store.
struct StopPoint {
  int block = 0, resume = 0, linear = 0;
  std::vector<KeptView> kept;
};

// All stops of the plan's blocks in order. *columns: floats per row that a state needs.
std::vector<StopPoint> PlanStops(const Plan& plan, int* columns);

}  // namespace lowbit
