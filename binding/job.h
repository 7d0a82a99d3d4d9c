// binding/: one long call: a promise, work on an engine thread, progress back to JS, cancellation.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/model.h"
#include "engine/worker.h"
#include "env_state.h"
#include "handles.h"

namespace lowbit {

// {code, message}: what lib/native.ts turns into a LowbitError.
Napi::Value ErrorValue(Napi::Env env, const Status& status);
// Throws it from a synchronous function and returns undefined.
Napi::Value Throw(Napi::Env env, const Status& status);
// A promise already rejected with it.
Napi::Value Reject(Napi::Env env, const Status& status);

struct JobSpec {
  std::shared_ptr<Worker> worker;
  Napi::Value control;                           // JobControl of lib/native.ts
  std::vector<Napi::Value> keep;                 // JS values (handles, output arrays) alive until the end
  std::function<Status(const Progress&)> work;   // engine thread
  std::function<Napi::Value(Napi::Env)> result;  // JS thread, after success; undefined when empty
  std::function<void()> finally;                 // JS thread, before the promise settles, success or not
};

// Starts the job and returns its promise. A malformed control rejects (after running `finally`).
Napi::Value StartJob(Napi::Env env, JobSpec spec);

// Frees what uses a model, `part` of the handle info[0], behind the jobs that are queued. Idempotent.
template <typename State, typename Part>
Napi::Value DisposeUser(const Napi::CallbackInfo& info, std::unique_ptr<Part> State::* part) {
  Status status;
  const auto state = UnwrapHandle<State>(info[0], &status);
  if (!status.ok()) return Reject(info.Env(), status);
  const bool first = !state->disposed;
  state->disposed = true;
  JobSpec job;
  job.worker = state->owner->worker;
  job.keep = {info[0]};
  job.work = [state, part](const Progress&) {
    ((*state).*part).reset();
    return Status::Ok();
  };
  job.finally = [state, first] {
    if (first) --state->owner->users;
  };
  return StartJob(info.Env(), std::move(job));
}

}  // namespace lowbit
