// binding/: SolveOptions in, SolveResult out (lib/native.ts).
#pragma once

#include <napi.h>

#include <cstdint>
#include <vector>

#include "engine/calibration.h"
#include "fields.h"
#include "quantize/container_tensors.h"

namespace lowbit {

struct SolveJob {
  SolveRequest request;
  int zero_offset = 1;
  bool container = false;  // tensors of a lowbit container in place of words
};

// A solved linear as its output wants it, made on the worker thread.
struct SolveOutput {
  LinearParts linear;  // without codes, which have become the words below
  QuantizedLinear grid;
  std::vector<int32_t> qweight, qzeros;
  std::vector<StoredTensor> tensors;  // of a lowbit container, in place of the words
  std::vector<uint8_t> blocks;        // of a GGUF type, in place of the words
  int64_t tokens = 0;
  double seconds = 0;
};

// {part, dtype, shape, data} each.
Napi::Value TensorValues(Napi::Env env, const std::vector<StoredTensor>& tensors);

SolveJob ReadSolveJob(int weight, Fields& options, Status* status);
// An array of {weight, options}.
std::vector<SolveJob> ReadSolveJobs(const Napi::Value& value, Status* status);
// UNSUPPORTED for a result that a GPTQ checkpoint cannot hold.
Result<SolveOutput> MakeOutput(const SolveJob& job, Solved solved);
Napi::Value SolveResultValue(Napi::Env env, const SolveJob& job, const SolveOutput& output);

}  // namespace lowbit
