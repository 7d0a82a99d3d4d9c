// binding/: engineInfo, createCancel, cancel.
#include "base/alloc.h"
#include "base/config.h"
#include "base/cpu.h"
#include "exports.h"
#include "handles.h"
#include "job.h"
#include "kernel/chooser.h"

namespace lowbit {
namespace {

Napi::Value EngineInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object out = Napi::Object::New(env);
  out.Set("version", LOWBIT_VERSION);
  out.Set("cpu", Cpu().name);
  out.Set("usableCores", UsableCores());
  Napi::Array list = Napi::Array::New(env);
  for (const KernelCandidate& candidate : KernelCandidates()) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", IsaName(candidate.isa));
    entry.Set("usable", candidate.usable);
    entry.Set("reason", candidate.reason);
    list.Set(list.Length(), entry);
  }
  out.Set("isa", list);
  const Result<const KernelTable*> chosen = ChooseKernels(ForcedIsa());
  if (!chosen.ok()) return Throw(env, chosen.status());
  out.Set("chosenIsa", chosen.value()->name);
  out.Set("bf16", chosen.value()->gemm_bf16 != nullptr);
  Napi::Object memory = Napi::Object::New(env);
  memory.Set("weights", static_cast<double>(MemoryInUse(MemoryClass::kWeights)));
  memory.Set("kvCache", static_cast<double>(MemoryInUse(MemoryClass::kKvCache)));
  memory.Set("scratch", static_cast<double>(MemoryInUse(MemoryClass::kScratch)));
  out.Set("memory", memory);
  return out;
}

Napi::Value CreateCancel(const Napi::CallbackInfo& info) { return MakeHandle(info.Env(), std::make_shared<std::atomic<bool>>(false)); }

Napi::Value Cancel(const Napi::CallbackInfo& info) {
  Status status;
  const auto flag = UnwrapHandle<std::atomic<bool>>(info[0], &status);
  if (!status.ok()) return Throw(info.Env(), status);
  flag->store(true);
  return info.Env().Undefined();
}

}  // namespace

void ExportInfo(Napi::Env env, Napi::Object exports) {
  exports.Set("engineInfo", Napi::Function::New(env, EngineInfo));
  exports.Set("createCancel", Napi::Function::New(env, CreateCancel));
  exports.Set("cancel", Napi::Function::New(env, Cancel));
}

}  // namespace lowbit
