// plan/: validation and liveness. No execution.
#include "plan/plan.h"

#include <algorithm>
#include <iterator>

namespace lowbit {
namespace {

constexpr const char* kOpNames[] = {
#define LOWBIT_OP(id, name) name,
#include "plan/ops.def"
#undef LOWBIT_OP
};

constexpr int kMaxWidth = 1 << 24;  // columns of one buffer; far above any model, small enough that products fit 64 bits

Status Bad(int op, OpKind kind, const char* what) {
  return Error(Code::kInvalidArgument, "The plan is invalid at op %d (%s): %s", op, kOpNames[static_cast<int>(kind)], what);
}

bool ViewOk(const Plan& plan, const View& v) {
  if (v.buffer < 0 || v.buffer >= static_cast<int>(plan.buffers.size())) return false;
  const int width = plan.buffers[static_cast<size_t>(v.buffer)].width;
  return v.offset >= 0 && v.width > 0 && v.offset <= width && v.width <= width - v.offset;
}

Status CheckOp(const Plan& plan, int i, const Op& op) {
  const auto bad = [&](const char* what) { return Bad(i, op.kind, what); };
  const int n_weights = static_cast<int>(plan.weights.size());
  switch (op.kind) {
    case OpKind::kEmbed: {
      if (op.index < 0 || op.index >= n_weights) return bad("weight out of range");
      const WeightShape& w = plan.weights[static_cast<size_t>(op.index)];
      if (!ViewOk(plan, op.out) || op.out.width != w.k) return bad("output view does not fit the embedding");
      if (w.n < plan.vocab_size) return bad("the embedding has fewer rows than the vocabulary");
      return Status::Ok();
    }
    case OpKind::kEmbedPosition: {
      if (op.index < 0 || op.index >= n_weights) return bad("weight out of range");
      const WeightShape& w = plan.weights[static_cast<size_t>(op.index)];
      if (!ViewOk(plan, op.out) || op.out.width != w.k) return bad("output view does not fit the table");
      if (op.shift < 0 || op.shift > w.n || plan.max_seq_len > w.n - op.shift)
        return bad("the table has fewer rows than there are positions");
      return Status::Ok();
    }
    case OpKind::kRmsNorm:
      if (!ViewOk(plan, op.in) || !ViewOk(plan, op.out) || op.in.width != op.out.width) return bad("views do not match");
      if (op.index < 0 || op.index >= static_cast<int>(plan.vectors.size())) return bad("vector out of range");
      if (op.group <= 0 || op.in.width % op.group != 0 || plan.vectors[static_cast<size_t>(op.index)].length != op.group)
        return bad("group does not divide the width or match the weight vector");
      return Status::Ok();
    case OpKind::kLayerNorm:
      if (!ViewOk(plan, op.in) || !ViewOk(plan, op.out) || op.in.width != op.out.width) return bad("views do not match");
      for (const int vector : {op.index, op.bias}) {
        if (vector < 0 || vector >= static_cast<int>(plan.vectors.size())) return bad("vector out of range");
        if (plan.vectors[static_cast<size_t>(vector)].length != op.in.width) return bad("a vector is not as long as the view is wide");
      }
      return Status::Ok();
    case OpKind::kLinear: {
      if (!ViewOk(plan, op.in) || op.outputs.empty()) return bad("input view or outputs missing");
      for (const LinearOutput& o : op.outputs) {
        if (o.weight < 0 || o.weight >= n_weights) return bad("weight out of range");
        const WeightShape& w = plan.weights[static_cast<size_t>(o.weight)];
        if (w.k != op.in.width) return bad("input width differs from the weight's k");
        if (!ViewOk(plan, o.out) || o.out.width != w.n) return bad("output width differs from the weight's n");
        if (Overlap(o.out, op.in)) return bad("output overlaps the input");
      }
      for (size_t a = 0; a < op.outputs.size(); ++a)
        for (size_t b = a + 1; b < op.outputs.size(); ++b)
          if (Overlap(op.outputs[a].out, op.outputs[b].out)) return bad("two outputs overlap");
      return Status::Ok();
    }
    case OpKind::kRope: {
      if (op.index < 0 || op.index >= static_cast<int>(plan.ropes.size())) return bad("rope table out of range");
      const size_t half = plan.ropes[static_cast<size_t>(op.index)].inverse_frequencies.size();
      if (op.n_heads <= 0 || op.head_dim <= 0 || half == 0 || op.offset < 0 || op.offset > op.head_dim ||
          half * 2 > static_cast<size_t>(op.head_dim - op.offset))
        return bad("head sizes do not fit the table");
      if (!ViewOk(plan, op.in) || op.in.width / op.head_dim != op.n_heads || op.in.width % op.head_dim != 0)
        return bad("view is not n_heads * head_dim wide");
      return Status::Ok();
    }
    case OpKind::kAttention: {
      if (op.index < 0 || op.index >= static_cast<int>(plan.caches.size())) return bad("cache out of range");
      const CacheSpec& c = plan.caches[static_cast<size_t>(op.index)];
      if (op.n_heads <= 0 || op.n_kv_heads <= 0 || op.n_heads % op.n_kv_heads != 0 || op.n_heads / op.n_kv_heads > 1024)
        return bad("heads do not divide");
      if (c.n_kv_heads != op.n_kv_heads || c.head_dim != op.head_dim) return bad("cache has other heads");
      const int q = op.n_heads * op.head_dim, kv = op.n_kv_heads * op.head_dim;
      if (!ViewOk(plan, op.in) || !ViewOk(plan, op.in2) || !ViewOk(plan, op.in3) || !ViewOk(plan, op.out)) return bad("view out of range");
      if (op.in.width != q || op.out.width != q || op.in2.width != kv || op.in3.width != kv) return bad("view widths do not fit the heads");
      if (op.window < 0) return bad("negative window");
      return Status::Ok();
    }
    case OpKind::kCopy: {
      if (!ViewOk(plan, op.in) || !ViewOk(plan, op.out)) return bad("view out of range");
      if (op.n_heads <= 0 || op.width <= 0 || op.zeros < 0 || op.in_stride < 0 || op.width > op.in.width || op.zeros > op.out.width)
        return bad("sizes out of range");
      const int64_t heads = op.n_heads - 1, block = int64_t(op.width) + op.zeros;
      if (heads * op.in_stride + op.width != op.in.width || heads * op.out_stride + block != op.out.width)
        return bad("views do not span the heads");
      if ((op.in_stride != 0 && op.in_stride < op.width) || op.out_stride < block) return bad("heads overlap");
      if (Overlap(op.in, op.out)) return bad("output overlaps the input");
      return Status::Ok();
    }
    case OpKind::kRoute: {
      if (op.index < 0 || op.index >= n_weights) return bad("weight out of range");
      const WeightShape& w = plan.weights[static_cast<size_t>(op.index)];
      if (!ViewOk(plan, op.in) || !ViewOk(plan, op.out) || op.in.width != w.k || op.out.width != w.n || w.bias >= 0)
        return bad("views do not fit the router");
      if (w.n > kMaxExperts) return bad("too many experts");
      if (op.bias < -1 || op.bias >= static_cast<int>(plan.vectors.size()) ||
          (op.bias >= 0 && plan.vectors[static_cast<size_t>(op.bias)].length != w.n))
        return bad("the bias does not fit the experts");
      if (op.groups < 1 || w.n % op.groups != 0 || op.top_groups < 1 || op.top_groups > op.groups)
        return bad("groups do not fit the experts");
      if (op.top_k < 1 || op.top_k > op.top_groups * (w.n / op.groups)) return bad("more experts wanted than can be chosen");
      if (Overlap(op.in, op.out)) return bad("output overlaps the input");
      return Status::Ok();
    }
    case OpKind::kExperts: {
      if (op.experts.empty() || op.experts.size() > static_cast<size_t>(kMaxExperts) || static_cast<int>(op.experts.size()) != op.in2.width)
        return bad("experts and routes differ in number");
      const View views[] = {op.in, op.in2, op.out, op.gathered, op.gate, op.up, op.gated, op.product};
      for (size_t a = 0; a < std::size(views); ++a) {
        if (!ViewOk(plan, views[a])) return bad("view out of range");
        for (size_t b = a + 1; b < std::size(views); ++b)
          if (Overlap(views[a], views[b])) return bad("views overlap");
      }
      if (op.gathered.width != op.in.width || op.product.width != op.out.width) return bad("the room for rows does not fit in and out");
      for (const Expert& expert : op.experts) {
        LOWBIT_RETURN_IF_ERROR(CheckOp(plan, i, ExpertUp(op, expert)));
        LOWBIT_RETURN_IF_ERROR(CheckOp(plan, i, ExpertDown(op, expert)));
      }
      return CheckOp(plan, i, ExpertGlu(op));
    }
    case OpKind::kGlu:
      if (!ViewOk(plan, op.in) || !ViewOk(plan, op.in2) || !ViewOk(plan, op.out) || op.in.width != op.out.width ||
          op.in2.width != op.out.width)
        return bad("views do not match");
      if (op.activation != Activation::kSilu && op.activation != Activation::kGeluTanh) return bad("activation of another op");
      return Status::Ok();
    case OpKind::kActivation:
      if (!ViewOk(plan, op.in) || !ViewOk(plan, op.out) || op.in.width != op.out.width) return bad("views do not match");
      if (op.in.offset != op.out.offset && Overlap(op.in, op.out)) return bad("the output overlaps the input without being it");
      return Status::Ok();
    case OpKind::kAdd:
      if (!ViewOk(plan, op.in) || !ViewOk(plan, op.in2) || !ViewOk(plan, op.out) || op.in.width != op.out.width ||
          op.in2.width != op.out.width)
        return bad("views do not match");
      return Status::Ok();
    case OpKind::kSoftcap:
      if (!ViewOk(plan, op.in) || !(op.factor > 0)) return bad("view out of range or cap not positive");
      return Status::Ok();
  }
  return Error(Code::kInternal, "The plan has an op of an unknown kind");
}

// Views read and written by an op (attention's cache is not a view).
void Accesses(const Op& op, std::vector<View>* reads, std::vector<View>* writes) {
  reads->clear();
  writes->clear();
  switch (op.kind) {
    case OpKind::kEmbed:
      writes->push_back(op.out);
      break;
    case OpKind::kEmbedPosition:
      reads->push_back(op.out);
      writes->push_back(op.out);
      break;
    case OpKind::kCopy:
      reads->push_back(op.in);
      for (int h = 0; h < op.n_heads; ++h) writes->push_back({op.out.buffer, op.out.offset + h * op.out_stride, op.width + op.zeros});
      break;
    case OpKind::kExperts:
      reads->push_back(op.in);
      reads->push_back(op.in2);
      if (op.accumulate) reads->push_back(op.out);
      for (const View& view : {op.out, op.gathered, op.gate, op.up, op.gated, op.product}) writes->push_back(view);
      break;
    case OpKind::kRmsNorm:
    case OpKind::kLayerNorm:
    case OpKind::kActivation:
    case OpKind::kRoute:
      reads->push_back(op.in);
      writes->push_back(op.out);
      break;
    case OpKind::kLinear:
      reads->push_back(op.in);
      for (const LinearOutput& o : op.outputs) {
        if (o.accumulate) reads->push_back(o.out);
        writes->push_back(o.out);
      }
      break;
    case OpKind::kRope:
    case OpKind::kSoftcap:
      reads->push_back(op.in);
      break;
    case OpKind::kAttention:
      reads->push_back(op.in);
      reads->push_back(op.in2);
      reads->push_back(op.in3);
      writes->push_back(op.out);
      break;
    case OpKind::kGlu:
    case OpKind::kAdd:
      reads->push_back(op.in);
      reads->push_back(op.in2);
      writes->push_back(op.out);
      break;
  }
}

}  // namespace

Op ExpertUp(const Op& op, const Expert& expert) {
  Op linear;
  linear.kind = OpKind::kLinear;
  linear.in = op.gathered;
  linear.outputs = {{expert.gate, op.gate, false}, {expert.up, op.up, false}};
  return linear;
}

Op ExpertGlu(const Op& op) {
  Op glu;
  glu.kind = OpKind::kGlu;
  glu.in = op.gate;
  glu.in2 = op.up;
  glu.out = op.gated;
  glu.activation = op.activation;
  return glu;
}

Op ExpertDown(const Op& op, const Expert& expert) {
  Op linear;
  linear.kind = OpKind::kLinear;
  linear.in = op.gated;
  linear.outputs = {{expert.down, op.product, false}};
  return linear;
}

Result<OpKind> ParseOp(const std::string& name) {
  for (size_t i = 0; i < sizeof(kOpNames) / sizeof(kOpNames[0]); ++i)
    if (name == kOpNames[i]) return static_cast<OpKind>(i);
  return Error(Code::kUnsupported, "The plan uses an unknown op %s", name.c_str());
}

Status ValidatePlan(const Plan& plan) {
  const auto fail = [](const char* what) { return Error(Code::kInvalidArgument, "The plan is invalid: %s", what); };
  if (plan.vocab_size <= 0 || plan.vocab_size > kMaxWidth || plan.hidden_size <= 0 || plan.max_seq_len <= 0)
    return fail("sizes must be positive");
  if (plan.buffers.empty() || plan.buffers.size() > 1024) return fail("number of buffers");
  for (const Buffer& b : plan.buffers)
    if (b.width <= 0 || b.width > kMaxWidth) return fail("buffer width");
  for (const CacheSpec& c : plan.caches)
    if (c.n_kv_heads <= 0 || c.n_kv_heads > 65536 || c.head_dim <= 0 || c.head_dim > 65536) return fail("cache heads");
  for (const WeightShape& w : plan.weights) {
    if (w.n <= 0 || w.k <= 0 || w.n > kMaxWidth || w.k > kMaxWidth) return fail("weight shape");
    if (w.bias >= static_cast<int>(plan.vectors.size()) || (w.bias >= 0 && plan.vectors[static_cast<size_t>(w.bias)].length != w.n))
      return fail("bias");
  }
  for (const RopeTable& r : plan.ropes)
    if (r.inverse_frequencies.empty() || r.inverse_frequencies.size() > 65536) return fail("rope table");
  if (plan.residual < 0 || plan.residual >= static_cast<int>(plan.buffers.size()) ||
      plan.buffers[static_cast<size_t>(plan.residual)].width != plan.hidden_size)
    return fail("residual buffer");
  if (!ViewOk(plan, plan.logits) || plan.logits.width != plan.vocab_size) return fail("logits view");
  int next = 0;
  const auto follows = [&](const OpRange& range) {
    const bool ok = range.begin == next && range.end >= range.begin && range.end <= static_cast<int>(plan.ops.size());
    next = range.end;
    return ok;
  };
  if (!follows(plan.prologue)) return fail("prologue range");
  for (const OpRange& block : plan.blocks)
    if (!follows(block)) return fail("block ranges must follow one another");
  if (!follows(plan.epilogue) || next != static_cast<int>(plan.ops.size())) return fail("epilogue range must end the plan");
  for (size_t i = 0; i < plan.ops.size(); ++i) LOWBIT_RETURN_IF_ERROR(CheckOp(plan, static_cast<int>(i), plan.ops[i]));
  for (int i = plan.epilogue.begin; i < plan.epilogue.end; ++i)
    if (plan.ops[static_cast<size_t>(i)].kind == OpKind::kAttention) return fail("the epilogue must not attend");
  for (int i = plan.prologue.end; i < plan.epilogue.end; ++i)
    if (const OpKind kind = plan.ops[static_cast<size_t>(i)].kind; kind == OpKind::kEmbed || kind == OpKind::kEmbedPosition)
      return fail("embeddings belong to the prologue");
  return Status::Ok();
}

std::vector<View> LiveViews(const Plan& plan, int from, int end) {
  std::vector<std::vector<bool>> live;
  for (const Buffer& b : plan.buffers) live.emplace_back(static_cast<size_t>(b.width), false);
  const auto mark = [&](const View& v, bool value) {
    auto& columns = live[static_cast<size_t>(v.buffer)];
    std::fill(columns.begin() + v.offset, columns.begin() + v.offset + v.width, value);
  };
  mark({plan.residual, 0, plan.hidden_size}, true);
  std::vector<View> reads, writes;
  for (int i = end - 1; i >= from; --i) {
    Accesses(plan.ops[static_cast<size_t>(i)], &reads, &writes);
    for (const View& v : writes) mark(v, false);
    for (const View& v : reads) mark(v, true);
  }
  std::vector<View> views;
  for (size_t b = 0; b < live.size(); ++b) {
    const int width = static_cast<int>(live[b].size());
    for (int begin = 0; begin < width;) {
      if (!live[b][static_cast<size_t>(begin)]) {
        ++begin;
        continue;
      }
      int stop = begin;
      while (stop < width && live[b][static_cast<size_t>(stop)]) ++stop;
      views.push_back({static_cast<int>(b), begin, stop - begin});
      begin = stop;
    }
  }
  return views;
}

bool Writes(const Plan& plan, OpRange range, const View& view) {
  std::vector<View> reads, writes;
  for (int i = range.begin; i < range.end; ++i) {
    const Op& op = plan.ops[static_cast<size_t>(i)];
    Accesses(op, &reads, &writes);
    if (op.kind == OpKind::kRope || op.kind == OpKind::kSoftcap) writes.push_back(op.in);  // in place
    if (std::any_of(writes.begin(), writes.end(), [&](const View& v) { return Overlap(v, view); })) return true;
  }
  return false;
}

}  // namespace lowbit
