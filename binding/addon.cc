// binding/: module entry. One EnvState per environment, so that worker_threads each have their own.
#include <napi.h>

#include "env_state.h"
#include "exports.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  if (lowbit::EnvState::Create(env) == nullptr) {
    Napi::Error::New(env, "lowbit could not create its thread-safe function").ThrowAsJavaScriptException();
    return exports;
  }
  lowbit::ExportInfo(env, exports);
  lowbit::ExportModel(env, exports);
  lowbit::ExportContext(env, exports);
  lowbit::ExportGeneration(env, exports);
  lowbit::ExportCalibration(env, exports);
  lowbit::ExportTrials(env, exports);
  return exports;
}

NODE_API_MODULE(lowbit, Init)
