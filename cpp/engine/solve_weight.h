// engine/solve_weight: one weight of a model through a method of quantize/, and what becomes of it in the model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model.h"
#include "quantize/quantize_parts.h"

namespace lowbit {

struct SolveRequest {
  int weight = 0;
  Method method = Method::kGptq;
  PartsOptions options;
};

struct Solved {
  LinearParts linear;           // without codes where there are blocks
  std::vector<uint8_t> blocks;  // of QuantizeOptions::block_type, when that is one
  QuantizedLinear grid;         // what the blocks hold, without codes
  int64_t tokens = 0;           // rows in its Hessian; of an expert, those routed to it
  double seconds = 0;
};

struct SolvedParts {
  Solved solved;
  std::vector<Part> parts;  // what the engine runs on
};

// dense: the weight [n][k] as the Hugging Face checkpoint has it. Nothing in the model changes.
Result<SolvedParts> SolveParts(Model& model, const SolveRequest& request, std::span<const float> dense, const HessianView& hessian);

// The same for a weight as the model holds it, which is replaced where it is in memory.
Result<Solved> SolveAndReplace(Model& model, const SolveRequest& request, const HessianView& hessian);

// Quantises one weight without calibration data. Plain rounding reads it in pieces of some rows, so that an embedding larger than all else
// is never in memory as floats.
Result<Solved> SolveWeight(Model& model, const SolveRequest& request);

}  // namespace lowbit
