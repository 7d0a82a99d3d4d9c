// binding/: opaque JS handles of engine objects. A handle is a type-tagged object that wraps a shared_ptr; jobs copy the
// pointer, so a handle that is collected or disposed while a job runs frees nothing under it.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "engine/calibration.h"
#include "engine/context.h"
#include "engine/model.h"
#include "engine/scheduler.h"
#include "engine/trials.h"
#include "engine/worker.h"
#include "env_state.h"

namespace lowbit {

// Counters are touched on the JS thread only.
struct ModelState {
  std::shared_ptr<Model> model;  // null after dispose
  std::shared_ptr<Worker> worker;
  int users = 0;  // contexts and calibrations not yet disposed
  bool disposed = false;
  int busy = 0;  // jobs that change weights, queued or running
};

// The part of a context that the engine's thread keeps alive by itself. It must not lead to the worker, which would then be destroyed
// on its own thread.
struct ContextCore {
  explicit ContextCore(std::function<void()> on_news) : scheduler(std::move(on_news)) {}
  std::unique_ptr<Context> context;  // null after dispose; used by the owner's worker
  Scheduler scheduler;
};

struct GenerationState;

struct ContextState {
  std::shared_ptr<ModelState> owner;
  std::shared_ptr<ContextCore> core;
  bool disposed = false;
  int busy = 0;                                               // steps queued or running
  std::vector<std::shared_ptr<GenerationState>> generations;  // started and not closed
};

struct CalibrationState {
  std::shared_ptr<ModelState> owner;
  std::unique_ptr<Calibration> calibration;
  bool disposed = false;
};

struct TrialsState {
  std::shared_ptr<ModelState> owner;
  std::unique_ptr<Trials> trials;
  bool disposed = false;
};

enum class HandleKind { kModel, kContext, kCalibration, kTrials, kCancel, kGeneration };

template <typename T>
constexpr HandleKind KindOf();
template <>
constexpr HandleKind KindOf<ModelState>() {
  return HandleKind::kModel;
}
template <>
constexpr HandleKind KindOf<ContextState>() {
  return HandleKind::kContext;
}
template <>
constexpr HandleKind KindOf<CalibrationState>() {
  return HandleKind::kCalibration;
}
template <>
constexpr HandleKind KindOf<TrialsState>() {
  return HandleKind::kTrials;
}
template <>
constexpr HandleKind KindOf<std::atomic<bool>>() {
  return HandleKind::kCancel;
}
template <>
constexpr HandleKind KindOf<GenerationState>() {
  return HandleKind::kGeneration;
}

const char* HandleName(HandleKind kind);
const napi_type_tag* HandleTag(HandleKind kind);

template <typename T>
Napi::Value MakeHandle(Napi::Env env, std::shared_ptr<T> state) {
  Napi::Object object = Napi::Object::New(env);
  auto* held = new std::shared_ptr<T>(std::move(state));
  const auto finalize = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<T>*>(data); };
  napi_wrap(env, object, held, finalize, nullptr, nullptr);
  napi_type_tag_object(env, object, HandleTag(KindOf<T>()));
  return object;
}

// Null, with *status set, when the value is no handle of this kind.
template <typename T>
std::shared_ptr<T> UnwrapHandle(Napi::Value value, Status* status) {
  constexpr HandleKind kind = KindOf<T>();
  bool matches = false;
  void* data = nullptr;
  if (value.IsObject() && napi_check_object_type_tag(value.Env(), value, HandleTag(kind), &matches) == napi_ok && matches &&
      napi_unwrap(value.Env(), value, &data) == napi_ok)
    return *static_cast<std::shared_ptr<T>*>(data);
  if (status->ok()) *status = Error(Code::kInvalidArgument, "Expected a %s handle", HandleName(kind));
  return nullptr;
}

}  // namespace lowbit
