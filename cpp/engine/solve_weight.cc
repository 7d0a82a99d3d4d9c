// engine/solve_weight: codes on the grid of a method or of a GGUF block type, packed.
#include "engine/solve_weight.h"

#include <algorithm>
#include <chrono>

#include "quantize/block_grid.h"
#include "quantize/pack_parts.h"

namespace lowbit {
namespace {

constexpr int64_t kPieceFloats = int64_t(1) << 24;  // of a weight that is rounded in pieces: 64 MB

// The blocks are what is stored and what the engine runs on.
Result<Part> SolveBlocks(Method method, const WeightShape& shape, std::span<const float> dense, const HessianView& hessian,
                         const QuantizeOptions& options, Model& model, Solved* solved) {
  const char* name = shape.name.c_str();
  LOWBIT_ASSIGN_OR_RETURN(QuantizedLinear q,
                          Quantize(method, name, dense, shape.n, shape.k, hessian, options, model.kernels(), model.pool()));
  LOWBIT_ASSIGN_OR_RETURN(solved->blocks, BlocksOf(name, q));
  solved->linear.n = q.n;
  solved->linear.k = q.k;
  solved->linear.error = q.error;
  solved->linear.damp_percent = q.damp_percent;
  solved->linear.dead_columns = q.dead_columns;
  solved->linear.fallbacks = std::move(q.fallbacks);
  q.codes = {};
  solved->grid = std::move(q);
  return PackGguf(name, options.block_type, solved->blocks.data(), shape.n, shape.k, {});
}

template <typename T>
void Append(std::vector<T>* to, const std::vector<T>& from) {
  to->insert(to->end(), from.begin(), from.end());
}

double SquaredNorm(std::span<const float> values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v) * v;
  return sum;
}

// Rows do not know of each other when they are rounded.
Result<LinearParts> RoundInPieces(Model& model, const SolveRequest& request, const WeightShape& shape) {
  const int rows = static_cast<int>(std::max<int64_t>(1, kPieceFloats / shape.k));
  LinearParts whole;
  double errors = 0, norms = 0;
  for (int begin = 0; begin < shape.n; begin += rows) {
    const int end = std::min(shape.n, begin + rows);
    LOWBIT_ASSIGN_OR_RETURN(const std::vector<float> dense, model.DenseRows(request.weight, begin, end));
    LOWBIT_ASSIGN_OR_RETURN(LinearParts piece, QuantizeParts(request.method, shape.name.c_str(), dense, end - begin, shape.k, {},
                                                             request.options, model.kernels(), model.pool()));
    const double norm = SquaredNorm(dense);
    errors += piece.error * norm;
    norms += norm;
    if (begin == 0) {
      whole = std::move(piece);
      continue;
    }
    AffineCodes& to = whole.affine.front();
    const AffineCodes& from = piece.affine.front();
    Append(&to.codes, from.codes);
    Append(&to.scales, from.scales);
    Append(&to.seconds, from.seconds);
  }
  whole.n = shape.n;
  whole.error = norms > 0 ? errors / norms : 0;
  return whole;
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Result<SolvedParts> SolveParts(Model& model, const SolveRequest& request, std::span<const float> dense, const HessianView& hessian) {
  const auto start = std::chrono::steady_clock::now();
  const WeightShape& shape = model.plan().weights[static_cast<size_t>(request.weight)];
  const char* name = shape.name.c_str();
  SolvedParts out;
  if (request.options.base.block_type != DType::kF32) {
    LOWBIT_ASSIGN_OR_RETURN(Part part, SolveBlocks(request.method, shape, dense, hessian, request.options.base, model, &out.solved));
    out.parts.push_back(std::move(part));
  } else {
    LayerStatistics stats;
    stats.hessian = hessian;
    LOWBIT_ASSIGN_OR_RETURN(out.solved.linear, QuantizeParts(request.method, name, dense, shape.n, shape.k, stats, request.options,
                                                             model.kernels(), model.pool()));
    LOWBIT_ASSIGN_OR_RETURN(out.parts, PackParts(name, out.solved.linear));
  }
  out.solved.tokens = hessian.tokens;
  out.solved.seconds = SecondsSince(start);
  return out;
}

Result<Solved> SolveAndReplace(Model& model, const SolveRequest& request, const HessianView& hessian) {
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<float> dense, model.DenseWeight(request.weight));
  LOWBIT_ASSIGN_OR_RETURN(SolvedParts out, SolveParts(model, request, dense, hessian));
  if (model.in_memory(request.weight)) model.ReplaceWeight(request.weight, std::move(out.parts));
  return std::move(out.solved);
}

Result<Solved> SolveWeight(Model& model, const SolveRequest& request) {
  if (request.weight < 0 || request.weight >= static_cast<int>(model.plan().weights.size()))
    return Error(Code::kInvalidArgument, "Weight %d is not in the plan", request.weight);
  const WeightShape& shape = model.plan().weights[static_cast<size_t>(request.weight)];
  const PartsOptions& options = request.options;
  const bool alone =
      request.method == Method::kRtn && options.base.block_type == DType::kF32 && options.eora.rank == 0 && options.smooth.alpha == 0;
  if (!alone || model.in_memory(request.weight) || int64_t(shape.n) * shape.k <= kPieceFloats)
    return SolveAndReplace(model, request, HessianView());
  const auto start = std::chrono::steady_clock::now();
  Solved solved;
  LOWBIT_ASSIGN_OR_RETURN(solved.linear, RoundInPieces(model, request, shape));
  solved.seconds = SecondsSince(start);
  return solved;
}

}  // namespace lowbit
