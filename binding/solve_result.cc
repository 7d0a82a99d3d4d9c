// binding/: see solve_result.h.
#include "solve_result.h"

#include <algorithm>
#include <utility>

#include "base/half.h"
#include "part/part.h"

namespace lowbit {
namespace {

// What single methods take, and the parts around any of them (cpp/quantize/quantize_parts.h, which checks the ranges).
void ReadMethodOptions(Fields& f, PartsOptions* o) {
  constexpr int64_t kMost = 1 << 20;
  o->awq.grid = static_cast<int>(f.Int("awqGrid", 0, kMost));
  o->awq.clip = f.Bool("awqClip");
  o->hqq.lp_norm = f.Number("hqqLpNorm");
  o->hqq.beta = f.Number("hqqBeta");
  o->hqq.iterations = static_cast<int>(f.Int("hqqIterations", 0, kMost));
  o->spqr.outlier_threshold = f.Number("spqrOutlierThreshold");
  o->spqr.max_outliers = f.Number("spqrMaxOutliers");
  const std::string order = f.String("spqrOrder");
  if (order == "identity")
    o->spqr.order = SpqrOrder::kIdentity;
  else if (order == "group_aware")
    o->spqr.order = SpqrOrder::kGroupAware;
  else if (order != "act_order")
    f.Fail("spqrOrder", "\"act_order\", \"group_aware\" or \"identity\"");
  o->mixllm.fraction = f.Number("mixllmFraction");
  o->finequant.alpha = f.Number("finequantAlpha");
  o->smooth.alpha = f.Number("smoothAlpha");
  o->eora.rank = static_cast<int>(f.Int("eoraRank", 0, kMost));
}

Napi::Value TensorValue(Napi::Env env, const StoredTensor& tensor) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("part", tensor.part);
  out.Set("dtype", Info(tensor.dtype).name);
  Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
  for (size_t d = 0; d < tensor.shape.size(); ++d) shape.Set(static_cast<uint32_t>(d), static_cast<double>(tensor.shape[d]));
  out.Set("shape", shape);
  Napi::Uint8Array data = Napi::Uint8Array::New(env, tensor.bytes.size());
  std::copy(tensor.bytes.begin(), tensor.bytes.end(), data.Data());
  out.Set("data", data);
  return out;
}

}  // namespace

Napi::Value TensorValues(Napi::Env env, const std::vector<StoredTensor>& tensors) {
  Napi::Array out = Napi::Array::New(env, tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) out.Set(static_cast<uint32_t>(i), TensorValue(env, tensors[i]));
  return out;
}

SolveJob ReadSolveJob(int weight, Fields& f, Status* status) {
  SolveJob job;
  job.request.weight = weight;
  const std::string method = f.String("method");
  QuantizeOptions& o = job.request.options.base;
  o.bits = static_cast<int>(f.Int("bits", 2, 8));
  o.group_size = static_cast<int>(f.Int("groupSize", -1, 1 << 24));
  o.sym = f.Bool("sym");
  o.desc_act = f.Bool("descAct");
  o.static_groups = f.Bool("staticGroups");
  o.act_group_aware = f.Bool("actGroupAware");
  o.mse = f.Number("mse");
  o.hessian_mse = f.Bool("hessianMse");
  o.refit_scales = f.Bool("refitScales");
  o.sweeps = static_cast<int>(f.Int("sweeps", 0, 100));
  o.row_guard = f.Bool("rowGuard");
  o.classic = f.Bool("classic");
  o.damp_percent = f.Number("dampPercent");
  o.damp_auto_increment = f.Number("dampAutoIncrement");
  o.block_size = static_cast<int>(f.Int("blockSize", 1, 1 << 20));
  o.min_tokens = f.Int("minTokens", 0, int64_t(1) << 53);
  ReadMethodOptions(f, &job.request.options);
  const std::string type = f.Has("ggufType") ? f.String("ggufType") : "";
  job.zero_offset = static_cast<int>(f.Int("zeroOffset", 0, 1));
  job.container = f.Has("container") && f.Bool("container");
  if (!status->ok()) return job;
  if (!type.empty()) {
    const Result<DType> parsed = ParseDType(type);
    if (!parsed.ok()) *status = parsed.status();
    if (!parsed.ok()) return job;
    o.block_type = parsed.value();
  }
  const Result<Method> parsed = ParseMethod(method);
  if (parsed.ok())
    job.request.method = parsed.value();
  else
    *status = parsed.status();
  return job;
}

std::vector<SolveJob> ReadSolveJobs(const Napi::Value& value, Status* status) {
  std::vector<SolveJob> jobs;
  if (status->ok() && !value.IsArray()) *status = Error(Code::kInvalidArgument, "Expected an array of solve jobs");
  if (!status->ok()) return jobs;
  const Napi::Array array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length() && status->ok(); ++i) {
    Fields f(array.Get(i), "jobs[" + std::to_string(i) + "]", status);
    const int weight = static_cast<int>(f.Int("weight", 0, 0x7fffffff));
    Fields options = f.Object("options");
    jobs.push_back(ReadSolveJob(weight, options, status));
  }
  return jobs;
}

Result<SolveOutput> MakeOutput(const SolveJob& job, Solved solved) {
  SolveOutput out;
  out.seconds = solved.seconds;
  out.tokens = solved.tokens;
  out.linear = std::move(solved.linear);
  if (!solved.blocks.empty()) {
    out.grid = std::move(solved.grid);
    out.blocks = std::move(solved.blocks);
    return out;
  }
  if (job.container) {
    out.tensors = ContainerTensors(out.linear);
    const AffineCodes& first = out.linear.affine.front();  // what a report says of the linear
    out.grid.n = out.linear.n;
    out.grid.k = out.linear.k;
    out.grid.bits = first.bits;
    out.grid.group_size = first.group_size;
    out.grid.sym = first.affine == AffineKind::kSymmetric;
    out.linear.affine.clear();
    return out;
  }
  const std::string name = Format("weight %d", job.request.weight);
  LOWBIT_ASSIGN_OR_RETURN(out.grid, AsGptq(name.c_str(), out.linear));
  out.linear.affine.clear();
  const QuantizedLinear& q = out.grid;
  const size_t n = static_cast<size_t>(q.n), k = static_cast<size_t>(q.k), bits = static_cast<size_t>(q.bits);
  out.qweight.resize(k * bits / 32 * n);
  out.qzeros.resize(static_cast<size_t>(q.groups) * (n * bits / 32));
  WriteGptqWords(q.n, q.k, q.bits, q.groups, job.zero_offset, q.codes, q.zeros, out.qweight, out.qzeros);
  out.grid.codes = {};
  return out;
}

Napi::Value SolveResultValue(Napi::Env env, const SolveJob& job, const SolveOutput& output) {
  const QuantizedLinear& q = output.grid;
  const LinearParts& linear = output.linear;
  const size_t n = static_cast<size_t>(q.n), k = static_cast<size_t>(q.k), groups = static_cast<size_t>(q.groups);
  Napi::Object out = Napi::Object::New(env);
  out.Set("weight", job.request.weight);
  out.Set("n", q.n);
  out.Set("k", q.k);
  out.Set("bits", q.bits);
  out.Set("groupSize", q.group_size);
  out.Set("sym", q.sym);
  out.Set("error", linear.error);
  out.Set("dampPercent", linear.damp_percent);
  out.Set("deadColumns", linear.dead_columns);
  out.Set("tokens", static_cast<double>(output.tokens));
  out.Set("seconds", output.seconds);
  Napi::Array fallbacks = Napi::Array::New(env, linear.fallbacks.size());
  for (size_t i = 0; i < linear.fallbacks.size(); ++i) fallbacks.Set(static_cast<uint32_t>(i), linear.fallbacks[i]);
  out.Set("fallbacks", fallbacks);

  if (!output.tensors.empty()) {
    out.Set("tensors", TensorValues(env, output.tensors));
    return out;
  }
  if (!output.blocks.empty()) {
    Napi::Uint8Array bytes = Napi::Uint8Array::New(env, output.blocks.size());
    std::copy(output.blocks.begin(), output.blocks.end(), bytes.Data());
    out.Set("blocks", bytes);
    return out;
  }
  Napi::Int32Array qweight = Napi::Int32Array::New(env, output.qweight.size());
  Napi::Int32Array qzeros = Napi::Int32Array::New(env, output.qzeros.size());
  std::copy(output.qweight.begin(), output.qweight.end(), qweight.Data());
  std::copy(output.qzeros.begin(), output.qzeros.end(), qzeros.Data());
  // The checkpoint stores scales [groups, n].
  Napi::Uint16Array scales = Napi::Uint16Array::New(env, groups * n);
  for (size_t r = 0; r < n; ++r)
    for (size_t g = 0; g < groups; ++g) scales.Data()[g * n + r] = FloatToHalf(q.scales[r * groups + g]);
  Napi::Int32Array g_idx = Napi::Int32Array::New(env, k);
  for (size_t j = 0; j < k; ++j) g_idx.Data()[j] = q.GroupOf(static_cast<int>(j));
  out.Set("qweight", qweight);
  out.Set("qzeros", qzeros);
  out.Set("scales", scales);
  out.Set("gIdx", g_idx);
  return out;
}

}  // namespace lowbit
