// plan/: a model as data (the C++ mirror of lib/graph/plan.ts, which documents every op).
// plan.cc validates; execute.cc and ops_*.cc run it.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "cache/kv_cache.h"

namespace lowbit {

enum class OpKind : uint8_t {
#define LOWBIT_OP(id, name) id,
#include "plan/ops.def"
#undef LOWBIT_OP
};
Result<OpKind> ParseOp(const std::string& name);

// Columns [offset, offset+width) of a buffer [rows, buffer width], f32 row-major.
struct View {
  int buffer = 0;
  int offset = 0;
  int width = 0;
};

inline bool Overlap(const View& a, const View& b) {
  return a.buffer == b.buffer && a.offset < b.offset + b.width && b.offset < a.offset + a.width;
}

struct LinearOutput {
  int weight = 0;
  View out;
  bool accumulate = false;
};

enum class Activation : uint8_t { kSilu, kGeluTanh, kGelu, kRelu };  // a glu knows the first two

enum class Scoring : uint8_t { kSoftmax, kSigmoid };

// Weights of one expert.
struct Expert {
  int gate = 0, up = 0, down = 0;
};

// Most experts of one op: several times those of any published model; a row of scores fits the stack.
constexpr int kMaxExperts = 1024;

// One record for every kind; which fields count is listed beside the op in lib/graph/plan.ts.
struct Op {
  OpKind kind = OpKind::kAdd;
  // embed, embed_position: -; rms_norm, layer_norm, linear, activation: in; rope, softcap: in (in place); attention: q k v; glu: gate up;
  // add: a b; copy, route: in; experts: in route
  View in, in2, in3;
  View out;
  std::vector<LinearOutput> outputs;        // linear
  std::vector<Expert> experts;              // experts
  View gathered, gate, up, gated, product;  // experts: room for the rows of one expert
  int index = 0;                            // embed, embed_position, route: weight; norms: vector; rope: table; attention: cache
  int bias = 0;                             // layer_norm: vector; route: vector or -1
  int shift = 0;                            // embed_position: row of position 0
  float factor = 0;                         // embed, route: scale; norms: eps; attention: scale; softcap: cap
  float softcap = 0;                        // attention
  int group = 0;                            // rms_norm
  int width = 0, zeros = 0, in_stride = 0, out_stride = 0;  // copy
  int offset = 0;                                           // rope: first column of a head that turns
  bool interleaved = false;                                 // rope
  int top_k = 0, groups = 1, top_groups = 1;                // route
  Scoring scoring = Scoring::kSoftmax;                      // route
  bool normalise = false;                                   // route
  bool accumulate = false;                                  // experts
  int n_heads = 0, n_kv_heads = 0, head_dim = 0, window = 0;
  Activation activation = Activation::kSilu;
};

struct WeightShape {
  std::string name;
  int n = 0, k = 0;
  int bias = -1;  // vector, or -1
};

struct VectorShape {
  std::string name;
  int length = 0;
};

struct RopeTable {
  std::vector<double> inverse_frequencies;
  double scale = 1;
};

struct Buffer {
  std::string name;
  int width = 0;
};

struct OpRange {
  int begin = 0, end = 0;
};

struct Plan {
  int vocab_size = 0, hidden_size = 0, max_seq_len = 0;
  std::vector<Buffer> buffers;
  std::vector<WeightShape> weights;
  std::vector<VectorShape> vectors;
  std::vector<RopeTable> ropes;
  std::vector<CacheSpec> caches;
  std::vector<Op> ops;
  OpRange prologue, epilogue;
  std::vector<OpRange> blocks;
  int residual = 0;
  View logits;
};

// The linear ops that one expert of a kExperts op stands for: gathered -> gate, up; gated -> product. Between them lies ExpertGlu.
Op ExpertUp(const Op& op, const Expert& expert);
Op ExpertGlu(const Op& op);
Op ExpertDown(const Op& op, const Expert& expert);

// Everything the executor relies on: indices in range, views inside their buffers, widths that fit the ops and weights,
// ranges that cover the ops in order. INVALID_ARGUMENT naming the op.
Status ValidatePlan(const Plan& plan);

// Column ranges of all buffers that ops from `from` to the end of the block still read before writing them, given that
// the residual buffer is wanted at the end: the state to keep when a block is left between two ops.
std::vector<View> LiveViews(const Plan& plan, int from, int end);

// Whether an op of `range` writes any of these columns.
bool Writes(const Plan& plan, OpRange range, const View& view);

}  // namespace lowbit
