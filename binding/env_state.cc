// binding/: see env_state.h.
#include "env_state.h"

#include <utility>

namespace lowbit {

std::shared_ptr<EnvState> EnvState::Create(Napi::Env env) {
  auto state = std::make_shared<EnvState>();
  state->env_ = env;
  const napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "lowbit"), 0, 1, nullptr,
                                                             nullptr, nullptr, &EnvState::CallJs, &state->function_);
  if (status != napi_ok) return nullptr;
  napi_unref_threadsafe_function(env, state->function_);
  // Hooks run in reverse order of registration: this one runs before the threadsafe function closes itself.
  auto* held = new std::shared_ptr<EnvState>(state);
  env.SetInstanceData<std::shared_ptr<EnvState>>(held);
  napi_add_env_cleanup_hook(env, &EnvState::Shutdown, held->get());
  return state;
}

std::shared_ptr<EnvState> EnvState::Get(Napi::Env env) { return *env.GetInstanceData<std::shared_ptr<EnvState>>(); }

// The environment is going away (process exit, worker terminated): stop what runs and never call JS again.
void EnvState::Shutdown(void* data) {
  EnvState* state = static_cast<EnvState*>(data);
  for (const CancelFlag& cancel : state->running_) cancel->store(true);
  std::lock_guard<std::mutex> lock(state->mutex_);
  state->closing_ = true;
}

bool EnvState::Post(std::function<void(Napi::Env)> fn) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closing_) return false;
  auto* call = new std::function<void(Napi::Env)>(std::move(fn));
  if (napi_call_threadsafe_function(function_, call, napi_tsfn_nonblocking) == napi_ok) return true;
  delete call;
  return false;
}

namespace {

// False while a worker_thread is being terminated: its queue still runs, but every call into JS fails.
bool CanRunJs(napi_env env) {
  napi_value value;
  return napi_get_undefined(env, &value) == napi_ok && napi_coerce_to_bool(env, value, &value) == napi_ok;
}

}  // namespace

void EnvState::CallJs(napi_env env, napi_value, void*, void* data) {
  auto* call = static_cast<std::function<void(Napi::Env)>*>(data);
  if (env == nullptr) return;  // called while the environment closes
  Napi::HandleScope scope(env);
  if (!CanRunJs(env)) return;
  (*call)(Napi::Env(env));
  delete call;
}

void EnvState::Hold() {
  if (holds_++ == 0) napi_ref_threadsafe_function(env_, function_);
}

void EnvState::Release() {
  if (--holds_ == 0) napi_unref_threadsafe_function(env_, function_);
}

}  // namespace lowbit
