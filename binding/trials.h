// binding/: what calls that solve variants have in common.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <vector>

#include "handles.h"
#include "solve_result.h"

namespace lowbit {

// A variant that trials keep, as lib/native.ts names it.
struct Tried {
  int weight = 0, variant = 0;
  double error = 0, seconds = 0;
  std::vector<std::string> fallbacks;
};

std::shared_ptr<TrialsState> LiveTrials(const Napi::Value& handle, Status* status);
// Right behind the calls that solved them, in their order.
std::vector<Tried> TriedOf(const Trials& trials, const std::vector<SolveJob>& jobs, const std::vector<Solved>& solved);
Napi::Value TriedValue(Napi::Env env, const std::vector<Tried>& tried);

}  // namespace lowbit
