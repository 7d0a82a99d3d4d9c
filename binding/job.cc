// binding/: see job.h.
#include "job.h"

#include <chrono>
#include <new>
#include <utility>

#include "fields.h"
#include "handles.h"

namespace lowbit {
namespace {

constexpr auto kProgressInterval = std::chrono::milliseconds(50);

// Lives from StartJob to the settling of the promise. JS members are touched on the JS thread only; when the environment
// dies first the job is leaked on purpose, because its references may only be released there.
struct Job {
  Napi::Promise::Deferred deferred;
  Napi::FunctionReference on_progress;
  std::vector<Napi::Reference<Napi::Value>> keep;
  CancelFlag cancel = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<EnvState> env_state;
  JobSpec spec;
  Status status;
  std::chrono::steady_clock::time_point last_report;

  explicit Job(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)) {}
};

void Report(Job* job, int64_t done, int64_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (done != total && now - job->last_report < kProgressInterval) return;
  job->last_report = now;
  (void)job->env_state->Post([job, done, total](Napi::Env env) {
    if (job->on_progress.IsEmpty()) return;
    job->on_progress.Call({Napi::Number::New(env, static_cast<double>(done)), Napi::Number::New(env, static_cast<double>(total))});
    // An exception thrown by the callback cancels the job; there is no caller to give it to.
    if (env.IsExceptionPending()) {
      env.GetAndClearPendingException();
      job->cancel->store(true);
    }
  });
}

void Settle(Job* job, Napi::Env env) {
  if (job->spec.finally) job->spec.finally();
  job->env_state->Unwatch(job->cancel);
  job->env_state->Release();
  if (job->status.ok())
    job->deferred.Resolve(job->spec.result ? job->spec.result(env) : env.Undefined());
  else
    job->deferred.Reject(ErrorValue(env, job->status));
  delete job;
}

}  // namespace

Napi::Value ErrorValue(Napi::Env env, const Status& status) {
  Napi::Object error = Napi::Object::New(env);
  error.Set("code", Napi::String::New(env, CodeName(status.code())));
  error.Set("message", Napi::String::New(env, status.message()));
  return error;
}

Napi::Value Throw(Napi::Env env, const Status& status) {
  napi_throw(env, ErrorValue(env, status));
  return env.Undefined();
}

Napi::Value Reject(Napi::Env env, const Status& status) {
  Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
  deferred.Reject(ErrorValue(env, status));
  return deferred.Promise();
}

Napi::Value StartJob(Napi::Env env, JobSpec spec) {
  Status status;
  Napi::FunctionReference on_progress;
  CancelFlag cancel;
  if (!spec.control.IsEmpty() && !spec.control.IsUndefined()) {
    Fields control(spec.control, "control", &status);
    if (control.Has("cancel")) cancel = UnwrapHandle<std::atomic<bool>>(control.Get("cancel"), &status);
    if (control.Has("onProgress")) {
      const Napi::Value fn = control.Get("onProgress");
      if (fn.IsFunction())
        on_progress = Napi::Persistent(fn.As<Napi::Function>());
      else
        control.Fail("onProgress", "a function");
    }
  }
  if (!status.ok()) {
    if (spec.finally) spec.finally();
    return Reject(env, status);
  }
  Job* job = new Job(env);
  job->on_progress = std::move(on_progress);
  if (cancel != nullptr) job->cancel = std::move(cancel);
  for (const Napi::Value& value : spec.keep) job->keep.push_back(Napi::Persistent(value));
  spec.keep.clear();
  spec.control = Napi::Value();
  job->env_state = EnvState::Get(env);
  job->spec = std::move(spec);
  const Napi::Value promise = job->deferred.Promise();
  job->env_state->Watch(job->cancel);
  job->env_state->Hold();
  job->spec.worker->Post([job] {
    Progress progress;
    progress.cancel = job->cancel.get();
    if (!job->on_progress.IsEmpty()) progress.report = [job](int64_t done, int64_t total) { Report(job, done, total); };
    // The engine reports through Status; the standard library's containers may still run out of memory.
    try {
      job->status = progress.cancelled() ? Error(Code::kCancelled, "The operation was aborted") : job->spec.work(progress);
    } catch (const std::bad_alloc&) {
      job->status = Error(Code::kOutOfMemory, "Memory ran out; close other programs or use a smaller model or context");
    } catch (const std::exception& e) {
      job->status = Error(Code::kInternal, "Unexpected failure in the engine: %s", e.what());
    }
    (void)job->env_state->Post([job](Napi::Env e) { Settle(job, e); });
  });
  return promise;
}

}  // namespace lowbit
