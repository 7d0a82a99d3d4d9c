// binding/: see solve_result.h.
#include "solve_result.h"

#include "base/half.h"
#include "part/part.h"
#include "quantize/block_grid.h"

namespace lowbit {

SolveJob ReadSolveJob(int weight, Fields& f, Status* status) {
  SolveJob job;
  job.request.weight = weight;
  const std::string method = f.String("method");
  QuantizeOptions& o = job.request.options;
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
  const std::string type = f.Has("ggufType") ? f.String("ggufType") : "";
  job.zero_offset = static_cast<int>(f.Int("zeroOffset", 0, 1));
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

Napi::Value SolveResultValue(Napi::Env env, const SolveJob& job, const Solved& solved) {
  const QuantizedLinear& q = solved.linear;
  const size_t n = static_cast<size_t>(q.n), k = static_cast<size_t>(q.k), groups = static_cast<size_t>(q.groups);
  Napi::Object out = Napi::Object::New(env);
  out.Set("weight", job.request.weight);
  out.Set("n", q.n);
  out.Set("k", q.k);
  out.Set("bits", q.bits);
  out.Set("groupSize", q.group_size);
  out.Set("sym", q.sym);
  out.Set("error", q.error);
  out.Set("dampPercent", q.damp_percent);
  out.Set("deadColumns", q.dead_columns);
  out.Set("seconds", solved.seconds);
  Napi::Array fallbacks = Napi::Array::New(env, q.fallbacks.size());
  for (size_t i = 0; i < q.fallbacks.size(); ++i) fallbacks.Set(static_cast<uint32_t>(i), q.fallbacks[i]);
  out.Set("fallbacks", fallbacks);

  if (q.block_type != DType::kF32) {
    // Sizes and codes were checked when the engine packed these blocks; a failure here would be a bug, and an absent field says so to lib/.
    const Result<std::vector<uint8_t>> blocks = BlocksOf("weight", q);
    if (!blocks.ok()) return out;
    Napi::Uint8Array bytes = Napi::Uint8Array::New(env, blocks.value().size());
    std::copy(blocks.value().begin(), blocks.value().end(), bytes.Data());
    out.Set("blocks", bytes);
    return out;
  }
  const size_t bits = static_cast<size_t>(q.bits);
  Napi::Int32Array qweight = Napi::Int32Array::New(env, k * bits / 32 * n);
  Napi::Int32Array qzeros = Napi::Int32Array::New(env, groups * (n * bits / 32));
  WriteGptqWords(q.n, q.k, q.bits, q.groups, job.zero_offset, q.codes, q.zeros, {qweight.Data(), qweight.ElementLength()},
                 {qzeros.Data(), qzeros.ElementLength()});
  // The checkpoint stores scales [groups, n].
  Napi::Uint16Array scales = Napi::Uint16Array::New(env, groups * n);
  for (size_t r = 0; r < n; ++r)
    for (size_t g = 0; g < groups; ++g) scales.Data()[g * n + r] = FloatToHalf(q.scales[r * groups + g]);
  Napi::Int32Array g_idx = Napi::Int32Array::New(env, k);
  for (size_t j = 0; j < k; ++j)
    g_idx.Data()[j] = q.g_idx.empty() ? static_cast<int32_t>(j / static_cast<size_t>(q.group_size)) : q.g_idx[j];
  out.Set("qweight", qweight);
  out.Set("qzeros", qzeros);
  out.Set("scales", scales);
  out.Set("gIdx", g_idx);
  return out;
}

}  // namespace lowbit
