// binding/: createCalibration, calibrationAdvance, calibrationSolve, calibrationTry, calibrationState, setCalibrationState,
// disposeCalibration.
#include "engine/calibration.h"

#include "exports.h"
#include "fields.h"
#include "handles.h"
#include "job.h"
#include "solve_result.h"
#include "trials.h"

namespace lowbit {
namespace {

Napi::Value CreateCalibration(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto owner = UnwrapHandle<ModelState>(info[0], &status);
  if (status.ok() && owner->disposed) status = Error(Code::kInvalidArgument, "The model was disposed");
  CalibrationOptions options;
  auto tokens = std::make_shared<std::vector<int32_t>>(), offsets = std::make_shared<std::vector<int32_t>>();
  if (status.ok()) {
    Fields f(info[1], "spec", &status);
    size_t length;
    if (const int32_t* data = f.Typed<int32_t>("tokens", napi_int32_array, &length)) tokens->assign(data, data + length);
    if (const int32_t* data = f.Typed<int32_t>("offsets", napi_int32_array, &length)) offsets->assign(data, data + length);
    const std::string name = f.String("precision");
    if (name != "exact" && name != "fast") f.Fail("precision", "\"exact\" or \"fast\"");
    if (name == "fast") options.precision = CalibrationPrecision::kFast;
    const std::string weighing = f.String("tokenWeights");
    if (weighing != "magnitude" && weighing != "equal") f.Fail("tokenWeights", "\"magnitude\" or \"equal\"");
    if (weighing == "equal") options.weights = TokenWeights::kEqual;
    options.state_bytes = f.Int("stateBytes", 0, int64_t(1) << 53);
    options.first_block = static_cast<int>(f.Int("firstBlock", 0, 0x7fffffff));
  }
  if (!status.ok()) return Reject(env, status);
  auto state = std::make_shared<CalibrationState>();
  state->owner = owner;
  ++owner->users;
  auto created = std::make_shared<bool>(false);
  JobSpec job;
  job.worker = owner->worker;
  job.control = info[2];
  job.keep = {info[0]};
  job.work = [state, tokens, offsets, options, created](const Progress&) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(state->calibration, Calibration::Create(state->owner->model, std::move(*tokens), std::move(*offsets), options));
    *created = true;
    return Status::Ok();
  };
  job.result = [state](Napi::Env e) { return MakeHandle(e, state); };
  job.finally = [state, created] {
    if (!*created) --state->owner->users;
  };
  return StartJob(env, std::move(job));
}

std::shared_ptr<CalibrationState> Live(const Napi::Value& handle, Status* status) {
  auto state = UnwrapHandle<CalibrationState>(handle, status);
  if (status->ok() && state->disposed) *status = Error(Code::kInvalidArgument, "The calibration was disposed");
  return state;
}

Napi::Value Advance(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = Live(info[0], &status);
  bool hessian = false;
  if (status.ok()) {
    Fields f(info[1], "options", &status);
    hessian = f.Bool("hessian");
  }
  if (!status.ok()) return Reject(env, status);
  auto stop = std::make_shared<CalibrationStop>();
  JobSpec job;
  job.worker = state->owner->worker;
  job.control = info[2];
  job.keep = {info[0]};
  job.work = [state, hessian, stop](const Progress& progress) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(*stop, state->calibration->Advance(hessian, progress));
    return Status::Ok();
  };
  job.result = [stop](Napi::Env e) {
    Napi::Object out = Napi::Object::New(e);
    Napi::Array weights = Napi::Array::New(e, stop->weights.size());
    for (size_t i = 0; i < stop->weights.size(); ++i) weights.Set(static_cast<uint32_t>(i), stop->weights[i]);
    out.Set("block", stop->block);
    out.Set("weights", weights);
    out.Set("tokens", static_cast<double>(stop->tokens));
    out.Set("droppedRows", static_cast<double>(stop->dropped_rows));
    out.Set("finished", stop->finished);
    return out;
  };
  return StartJob(env, std::move(job));
}

Napi::Value Solve(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = Live(info[0], &status);
  auto jobs = std::make_shared<std::vector<SolveJob>>(ReadSolveJobs(info[1], &status));
  if (!status.ok()) return Reject(env, status);
  auto outputs = std::make_shared<std::vector<SolveOutput>>();
  ++state->owner->busy;
  JobSpec job;
  job.worker = state->owner->worker;
  job.control = info[2];
  job.keep = {info[0]};
  job.work = [state, jobs, outputs](const Progress& progress) -> Status {
    std::vector<SolveRequest> requests;
    for (const SolveJob& j : *jobs) requests.push_back(j.request);
    LOWBIT_ASSIGN_OR_RETURN(std::vector<Solved> solved, state->calibration->Solve(requests, progress));
    for (size_t i = 0; i < solved.size(); ++i) {
      LOWBIT_ASSIGN_OR_RETURN(SolveOutput output, MakeOutput((*jobs)[i], std::move(solved[i])));
      outputs->push_back(std::move(output));
    }
    return Status::Ok();
  };
  job.result = [jobs, outputs](Napi::Env e) {
    Napi::Array out = Napi::Array::New(e, outputs->size());
    for (size_t i = 0; i < outputs->size(); ++i) out.Set(static_cast<uint32_t>(i), SolveResultValue(e, (*jobs)[i], (*outputs)[i]));
    return out;
  };
  job.finally = [state] { --state->owner->busy; };
  return StartJob(env, std::move(job));
}

Napi::Value Try(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = Live(info[0], &status);
  const auto trials = LiveTrials(info[1], &status);
  const auto jobs = std::make_shared<std::vector<SolveJob>>(ReadSolveJobs(info[2], &status));
  if (status.ok() && trials->owner != state->owner)
    status = Error(Code::kInvalidArgument, "The calibration and the trials are of different models");
  if (!status.ok()) return Reject(env, status);
  const auto tried = std::make_shared<std::vector<Tried>>();
  JobSpec job;
  job.worker = state->owner->worker;
  job.control = info[3];
  job.keep = {info[0], info[1]};
  job.work = [state, trials, jobs, tried](const Progress& progress) -> Status {
    std::vector<SolveRequest> requests;
    for (const SolveJob& j : *jobs) requests.push_back(j.request);
    LOWBIT_ASSIGN_OR_RETURN(const std::vector<Solved> solved, state->calibration->Try(*trials->trials, requests, progress));
    *tried = TriedOf(*trials->trials, *jobs, solved);
    return Status::Ok();
  };
  job.result = [tried](Napi::Env e) { return TriedValue(e, *tried); };
  return StartJob(env, std::move(job));
}

Napi::Value State(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = Live(info[0], &status);
  if (status.ok() && !info[1].IsNumber()) status = Error(Code::kInvalidArgument, "Expected the number of a sample");
  if (!status.ok()) return Reject(env, status);
  const int sample = info[1].As<Napi::Number>().Int32Value();
  auto values = std::make_shared<std::vector<float>>();
  JobSpec job;
  job.worker = state->owner->worker;
  job.control = info[2];
  job.keep = {info[0]};
  job.work = [state, sample, values](const Progress&) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(*values, state->calibration->State(sample));
    return Status::Ok();
  };
  job.result = [values](Napi::Env e) -> Napi::Value {
    Napi::Float32Array array = Napi::Float32Array::New(e, values->size());
    std::copy(values->begin(), values->end(), array.Data());
    return array;
  };
  return StartJob(env, std::move(job));
}

Napi::Value SetState(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = Live(info[0], &status);
  int sample = 0;
  auto values = std::make_shared<std::vector<float>>();
  if (status.ok()) {
    Fields f(info[1], "state", &status);
    sample = static_cast<int>(f.Int("sample", 0, 0x7fffffff));
    size_t length;
    if (const float* data = f.Typed<float>("values", napi_float32_array, &length)) values->assign(data, data + length);
  }
  if (!status.ok()) return Reject(env, status);
  JobSpec job;
  job.worker = state->owner->worker;
  job.control = info[2];
  job.keep = {info[0]};
  job.work = [state, sample, values](const Progress&) { return state->calibration->SetState(sample, std::move(*values)); };
  job.result = [](Napi::Env e) { return e.Undefined(); };
  return StartJob(env, std::move(job));
}

Napi::Value DisposeCalibration(const Napi::CallbackInfo& info) { return DisposeUser(info, &CalibrationState::calibration); }

}  // namespace

void ExportCalibration(Napi::Env env, Napi::Object exports) {
  exports.Set("createCalibration", Napi::Function::New(env, CreateCalibration));
  exports.Set("calibrationAdvance", Napi::Function::New(env, Advance));
  exports.Set("calibrationSolve", Napi::Function::New(env, Solve));
  exports.Set("calibrationTry", Napi::Function::New(env, Try));
  exports.Set("calibrationState", Napi::Function::New(env, State));
  exports.Set("setCalibrationState", Napi::Function::New(env, SetState));
  exports.Set("disposeCalibration", Napi::Function::New(env, DisposeCalibration));
}

}  // namespace lowbit
