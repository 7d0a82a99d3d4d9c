// binding/: reads the plan, the tensor table and the sources. Field by field, no meaning: plan/ validates.
#include "spec.h"

#include <string>

#include "fields.h"

namespace lowbit {
namespace {

constexpr int64_t kMaxInt = 0x7fffffff;
constexpr int64_t kMaxSafe = (int64_t(1) << 53) - 1;

// Calls read(fields, i) for every element of an array of objects.
template <typename Read>
void ForEach(Fields& parent, const char* name, Status* status, uint32_t limit, const Read& read) {
  const Napi::Array array = parent.Array(name);
  if (!status->ok()) return;
  if (array.Length() > limit) {
    parent.Fail(name, "a shorter array");
    return;
  }
  for (uint32_t i = 0; i < array.Length() && status->ok(); ++i) {
    Napi::HandleScope scope(array.Env());
    Fields element(array.Get(i), parent.path() + "." + name + "[" + std::to_string(i) + "]", status);
    if (status->ok()) read(element);
  }
}

View ReadView(Fields& parent, const char* name) {
  Fields f = parent.Object(name);
  View v;
  v.buffer = static_cast<int>(f.Int("buffer", 0, kMaxInt));
  v.offset = static_cast<int>(f.Int("offset", 0, kMaxInt));
  v.width = static_cast<int>(f.Int("width", 1, kMaxInt));
  return v;
}

OpRange ReadRange(Fields& f) {
  OpRange range;
  range.begin = static_cast<int>(f.Int("begin", 0, kMaxInt));
  range.end = static_cast<int>(f.Int("end", 0, kMaxInt));
  return range;
}

// `known` of the names, in the order of Activation.
Activation ReadActivation(Fields& f, size_t known) {
  static constexpr const char* kNames[] = {"silu", "gelu_tanh", "gelu", "relu"};
  const std::string name = f.String("activation");
  for (size_t i = 0; i < known; ++i)
    if (name == kNames[i]) return static_cast<Activation>(i);
  f.Fail("activation", known == 2 ? "\"silu\" or \"gelu_tanh\"" : "\"silu\", \"gelu_tanh\", \"gelu\" or \"relu\"");
  return Activation::kSilu;
}

Op ReadOp(Fields& f, Status* status) {
  Op op;
  const std::string name = f.String("op");
  if (!status->ok()) return op;
  Result<OpKind> kind = ParseOp(name);
  if (!kind.ok()) {
    *status = kind.status();
    return op;
  }
  op.kind = kind.value();
  const auto heads = [&](const char* field) { return static_cast<int>(f.Int(field, 1, 1 << 20)); };
  switch (op.kind) {
    case OpKind::kEmbed:
      op.index = static_cast<int>(f.Int("weight", 0, kMaxInt));
      op.out = ReadView(f, "out");
      op.factor = static_cast<float>(f.Number("scale"));
      break;
    case OpKind::kEmbedPosition:
      op.index = static_cast<int>(f.Int("weight", 0, kMaxInt));
      op.out = ReadView(f, "out");
      op.shift = static_cast<int>(f.Int("shift", 0, 1 << 20));
      break;
    case OpKind::kLayerNorm:
      op.in = ReadView(f, "in");
      op.out = ReadView(f, "out");
      op.index = static_cast<int>(f.Int("vector", 0, kMaxInt));
      op.bias = static_cast<int>(f.Int("bias", 0, kMaxInt));
      op.factor = static_cast<float>(f.Number("eps"));
      break;
    case OpKind::kRmsNorm:
      op.in = ReadView(f, "in");
      op.out = ReadView(f, "out");
      op.index = static_cast<int>(f.Int("vector", 0, kMaxInt));
      op.group = static_cast<int>(f.Int("group", 1, kMaxInt));
      op.factor = static_cast<float>(f.Number("eps"));
      break;
    case OpKind::kLinear:
      op.in = ReadView(f, "in");
      ForEach(f, "outputs", status, 1 << 16, [&](Fields& o) {
        LinearOutput output;
        output.weight = static_cast<int>(o.Int("weight", 0, kMaxInt));
        output.out = ReadView(o, "out");
        output.accumulate = o.Bool("accumulate");
        op.outputs.push_back(output);
      });
      break;
    case OpKind::kRope:
      op.in = ReadView(f, "view");
      op.n_heads = heads("nHeads");
      op.head_dim = heads("headDim");
      op.index = static_cast<int>(f.Int("rope", 0, kMaxInt));
      op.offset = static_cast<int>(f.IntOr("offset", 0, kMaxInt, 0));
      op.interleaved = f.Has("interleaved") && f.Bool("interleaved");
      break;
    case OpKind::kCopy:
      op.in = ReadView(f, "in");
      op.out = ReadView(f, "out");
      op.n_heads = heads("nHeads");
      op.width = static_cast<int>(f.Int("width", 1, kMaxInt));
      op.zeros = static_cast<int>(f.Int("zeros", 0, kMaxInt));
      op.in_stride = static_cast<int>(f.Int("inStride", 0, kMaxInt));
      op.out_stride = static_cast<int>(f.Int("outStride", 0, kMaxInt));
      break;
    case OpKind::kRoute: {
      op.in = ReadView(f, "in");
      op.out = ReadView(f, "out");
      op.index = static_cast<int>(f.Int("weight", 0, kMaxInt));
      op.bias = static_cast<int>(f.IntOr("bias", 0, kMaxInt, -1));
      const std::string scoring = f.String("scoring");
      if (scoring != "softmax" && scoring != "sigmoid") f.Fail("scoring", "\"softmax\" or \"sigmoid\"");
      op.scoring = scoring == "sigmoid" ? Scoring::kSigmoid : Scoring::kSoftmax;
      op.top_k = static_cast<int>(f.Int("topK", 1, kMaxExperts));
      op.normalise = f.Bool("normalise");
      op.factor = static_cast<float>(f.Number("scale"));
      op.groups = static_cast<int>(f.Int("groups", 1, kMaxExperts));
      op.top_groups = static_cast<int>(f.Int("topGroups", 1, kMaxExperts));
      break;
    }
    case OpKind::kExperts:
      op.in = ReadView(f, "in");
      op.in2 = ReadView(f, "route");
      op.out = ReadView(f, "out");
      op.accumulate = f.Bool("accumulate");
      op.activation = ReadActivation(f, 2);
      op.gathered = ReadView(f, "gathered");
      op.gate = ReadView(f, "gate");
      op.up = ReadView(f, "up");
      op.gated = ReadView(f, "gated");
      op.product = ReadView(f, "product");
      ForEach(f, "experts", status, kMaxExperts, [&](Fields& e) {
        Expert expert;
        expert.gate = static_cast<int>(e.Int("gate", 0, kMaxInt));
        expert.up = static_cast<int>(e.Int("up", 0, kMaxInt));
        expert.down = static_cast<int>(e.Int("down", 0, kMaxInt));
        op.experts.push_back(expert);
      });
      break;
    case OpKind::kAttention:
      op.in = ReadView(f, "q");
      op.in2 = ReadView(f, "k");
      op.in3 = ReadView(f, "v");
      op.out = ReadView(f, "out");
      op.index = static_cast<int>(f.Int("cache", 0, kMaxInt));
      op.n_heads = heads("nHeads");
      op.n_kv_heads = heads("nKvHeads");
      op.head_dim = heads("headDim");
      op.factor = static_cast<float>(f.Number("scale"));
      op.softcap = static_cast<float>(f.Number("softcap"));
      op.window = static_cast<int>(f.Int("window", 0, kMaxInt));
      break;
    case OpKind::kGlu:
      op.in = ReadView(f, "gate");
      op.in2 = ReadView(f, "up");
      op.out = ReadView(f, "out");
      op.activation = ReadActivation(f, 2);
      break;
    case OpKind::kActivation:
      op.in = ReadView(f, "in");
      op.out = ReadView(f, "out");
      op.activation = ReadActivation(f, 4);
      break;
    case OpKind::kAdd:
      op.in = ReadView(f, "a");
      op.in2 = ReadView(f, "b");
      op.out = ReadView(f, "out");
      break;
    case OpKind::kSoftcap:
      op.in = ReadView(f, "view");
      op.factor = static_cast<float>(f.Number("cap"));
      break;
  }
  return op;
}

// One part of a weight in a lowbit container (lib/graph/plan.ts, PartSource).
PartTensors ReadPart(Fields& f) {
  PartTensors part;
  const auto tensor = [&](const char* name) { return static_cast<int>(f.Int(name, 0, kMaxInt)); };
  const auto optional = [&](const char* name) { return static_cast<int>(f.IntOr(name, 0, kMaxInt, -1)); };
  const std::string kind = f.String("kind");
  part.count = static_cast<int>(f.Int("count", 1, kMaxInt));
  if (kind == "lowrank") {
    part.kind = PartKind::kLowRank;
    part.a = tensor("a");
    part.b = tensor("b");
  } else if (kind == "sparse") {
    part.kind = PartKind::kSparse;
    part.row_offsets = tensor("rowOffsets");
    part.columns = tensor("columns");
    part.values = tensor("values");
  } else if (kind == "affine") {
    part.bits = static_cast<int>(f.Int("bits", 1, 8));
    part.group_size = static_cast<int>(f.Int("groupSize", 1, kMaxInt));
    part.scale_bits = static_cast<int>(f.Int("scaleBits", 0, 8));
    const std::string affine = f.String("affine");
    if (affine == "minimum")
      part.affine = AffineKind::kMinimum;
    else if (affine == "zero_point")
      part.affine = AffineKind::kZeroPoint;
    else if (affine != "symmetric")
      f.Fail("affine", "\"symmetric\", \"minimum\" or \"zero_point\"");
    part.codes = tensor("codes");
    part.scales = optional("scales");
    part.seconds = optional("seconds");
    part.scale_codes = optional("scaleCodes");
    part.zero_codes = optional("zeroCodes");
    part.tiles = optional("tiles");
    part.rows = optional("rows");
    part.g_idx = optional("gIdx");
  } else {
    f.Fail("kind", "\"affine\", \"lowrank\" or \"sparse\"");
  }
  return part;
}

void ReadWeight(Fields& f, ModelSpec* spec, Status* status) {
  WeightShape shape;
  shape.name = f.String("name");
  shape.n = static_cast<int>(f.Int("n", 1, kMaxInt));
  shape.k = static_cast<int>(f.Int("k", 1, kMaxInt));
  shape.bias = static_cast<int>(f.IntOr("bias", 0, kMaxInt, -1));
  WeightSource source;
  source.rope_heads = static_cast<int>(f.IntOr("ropeHeads", 1, 1 << 20, 0));
  source.round_bits = static_cast<int>(f.IntOr("roundBits", 4, 8, 0));
  Fields s = f.Object("source");
  const std::string kind = s.String("kind");
  if (kind == "tensor") {
    source.tensor = static_cast<int>(s.Int("tensor", 0, kMaxInt));
    source.transposed = s.Has("transposed") && s.Bool("transposed");
  } else if (kind == "gptq") {
    source.qweight = static_cast<int>(s.Int("qweight", 0, kMaxInt));
    source.qzeros = static_cast<int>(s.Int("qzeros", 0, kMaxInt));
    source.scales = static_cast<int>(s.Int("scales", 0, kMaxInt));
    source.g_idx = static_cast<int>(s.IntOr("gIdx", 0, kMaxInt, -1));
    source.bits = static_cast<int>(s.Int("bits", 1, 8));
    source.group_size = static_cast<int>(s.Int("groupSize", 1, kMaxInt));
    source.zero_offset = static_cast<int>(s.Int("zeroOffset", 0, 1));
  } else if (kind == "words") {
    source.qweight = static_cast<int>(s.Int("qweight", 0, kMaxInt));
    source.qzeros = static_cast<int>(s.IntOr("qzeros", 0, kMaxInt, -1));
    source.scales = static_cast<int>(s.Int("scales", 0, kMaxInt));
    source.g_idx = static_cast<int>(s.IntOr("gIdx", 0, kMaxInt, -1));
    source.bits = static_cast<int>(s.Int("bits", 1, 8));
    source.group_size = static_cast<int>(s.Int("groupSize", 1, kMaxInt));
    const std::string layout = s.String("layout");
    if (layout == "awq")
      source.layout = WordLayout::kAwq;
    else if (layout == "stream")
      source.layout = WordLayout::kStream;
    else if (layout == "padded")
      source.layout = WordLayout::kPadded;
    else
      s.Fail("layout", "\"awq\", \"stream\" or \"padded\"");
  } else if (kind == "parts") {
    source.input_scale = static_cast<int>(s.IntOr("inputScale", 0, kMaxInt, -1));
    ForEach(s, "parts", status, 64, [&](Fields& p) { source.parts.push_back(ReadPart(p)); });
    if (source.parts.empty()) s.Fail("parts", "at least one part");
  } else {
    s.Fail("kind", "\"tensor\", \"gptq\", \"words\" or \"parts\"");
  }
  spec->plan.weights.push_back(std::move(shape));
  spec->weights.push_back(source);
}

void ReadPlan(Fields& f, ModelSpec* spec, Status* status) {
  Plan& plan = spec->plan;
  plan.vocab_size = static_cast<int>(f.Int("vocabSize", 1, 1 << 24));
  plan.hidden_size = static_cast<int>(f.Int("hiddenSize", 1, 1 << 24));
  plan.max_seq_len = static_cast<int>(f.Int("maxSeqLen", 1, kMaxInt));
  plan.residual = static_cast<int>(f.Int("residual", 0, kMaxInt));
  plan.logits = ReadView(f, "logits");
  constexpr uint32_t kLimit = 1 << 20;
  ForEach(f, "buffers", status, kLimit,
          [&](Fields& b) { plan.buffers.push_back({b.String("name"), static_cast<int>(b.Int("width", 1, kMaxInt))}); });
  ForEach(f, "weights", status, kLimit, [&](Fields& w) { ReadWeight(w, spec, status); });
  ForEach(f, "vectors", status, kLimit, [&](Fields& v) {
    VectorSource source;
    source.tensor = static_cast<int>(v.Int("tensor", 0, kMaxInt));
    source.addend = v.Has("addend") ? static_cast<float>(v.Number("addend")) : 0.0f;
    source.rope_heads = static_cast<int>(v.IntOr("ropeHeads", 1, 1 << 20, 0));
    plan.vectors.push_back({v.String("name"), static_cast<int>(v.Int("length", 1, 1 << 24))});
    spec->vectors.push_back(source);
  });
  ForEach(f, "ropes", status, kLimit, [&](Fields& r) {
    size_t length;
    const double* frequencies = r.Typed<double>("inverseFrequencies", napi_float64_array, &length);
    RopeTable table;
    if (frequencies != nullptr) table.inverse_frequencies.assign(frequencies, frequencies + length);
    table.scale = r.Number("scale");
    plan.ropes.push_back(std::move(table));
  });
  ForEach(f, "caches", status, kLimit, [&](Fields& c) {
    plan.caches.push_back({static_cast<int>(c.Int("nKvHeads", 1, kMaxInt)), static_cast<int>(c.Int("headDim", 1, kMaxInt))});
  });
  ForEach(f, "ops", status, kLimit, [&](Fields& o) { plan.ops.push_back(ReadOp(o, status)); });
  ForEach(f, "blocks", status, kLimit, [&](Fields& b) { plan.blocks.push_back(ReadRange(b)); });
  Fields prologue = f.Object("prologue");
  plan.prologue = ReadRange(prologue);
  Fields epilogue = f.Object("epilogue");
  plan.epilogue = ReadRange(epilogue);
}

}  // namespace

Status ReadModelSpec(Napi::Value value, ModelSpec* spec) {
  Status status;
  Fields f(value, "spec", &status);
  const Napi::Array files = f.Array("files");
  for (uint32_t i = 0; i < files.Length() && status.ok(); ++i) {
    const Napi::Value path = files.Get(i);
    if (!path.IsString())
      f.Fail("files", "an array of strings");
    else
      spec->files.push_back(path.As<Napi::String>().Utf8Value());
  }
  ForEach(f, "tensors", &status, 1 << 22, [&](Fields& t) {
    TensorEntry entry;
    entry.name = t.String("name");
    entry.file = static_cast<int>(t.Int("file", 0, kMaxInt));
    entry.dtype = t.String("dtype");
    entry.offset = static_cast<uint64_t>(t.Int("offset", 0, kMaxSafe));
    entry.bytes = static_cast<uint64_t>(t.Int("bytes", 0, kMaxSafe));
    const Napi::Array shape = t.Array("shape");
    for (uint32_t d = 0; d < shape.Length() && d < 16 && status.ok(); ++d) {
      const Napi::Value v = shape.Get(d);
      const double size = v.IsNumber() ? v.As<Napi::Number>().DoubleValue() : -1;
      if (!(size >= 0 && size <= static_cast<double>(kMaxSafe)))
        t.Fail("shape", "an array of non-negative integers");
      else
        entry.shape.push_back(static_cast<int64_t>(size));
    }
    spec->tensors.push_back(std::move(entry));
  });
  Fields plan = f.Object("plan");
  if (status.ok()) ReadPlan(plan, spec, &status);
  const std::string precision = f.String("precision");
  if (precision != "exact" && precision != "fast") f.Fail("precision", "\"exact\" or \"fast\"");
  spec->fast = precision == "fast";
  spec->threads = static_cast<int>(f.Int("threads", 0, 256));
  if (f.Has("lazy")) spec->lazy = f.Bool("lazy");
  if (f.Has("packedCache")) spec->packed_cache = f.String("packedCache");
  return status;
}

}  // namespace lowbit
