// binding/: SolveOptions in, SolveResult out (lib/native.ts).
#pragma once

#include <napi.h>

#include "engine/calibration.h"
#include "fields.h"

namespace lowbit {

struct SolveJob {
  SolveRequest request;
  int zero_offset = 1;
};

SolveJob ReadSolveJob(int weight, Fields& options, Status* status);
Napi::Value SolveResultValue(Napi::Env env, const SolveJob& job, const Solved& solved);

}  // namespace lowbit
