// binding/: loadModel, modelInfo, disposeModel, exportWeight, encodeWeight, carryWeight, exportVector, solveWeight.
#include "base/half.h"
#include "engine/carry_weight.h"
#include "engine/encode_weight.h"
#include "exports.h"
#include "fields.h"
#include "handles.h"
#include "job.h"
#include "solve_result.h"
#include "spec.h"

namespace lowbit {
namespace {

Status Disposed() { return Error(Code::kInvalidArgument, "The model was disposed"); }

Napi::Value LoadModel(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto spec = std::make_shared<ModelSpec>();
  const Status status = ReadModelSpec(info[0], spec.get());
  if (!status.ok()) return Reject(env, status);
  auto state = std::make_shared<ModelState>();
  state->worker = std::make_shared<Worker>();
  JobSpec job;
  job.worker = state->worker;
  job.control = info[1];
  job.work = [state, spec](const Progress& progress) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(state->model, Model::Load(std::move(*spec), progress));
    return Status::Ok();
  };
  job.result = [state](Napi::Env e) { return MakeHandle(e, state); };
  return StartJob(env, std::move(job));
}

Napi::Value ModelInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = UnwrapHandle<ModelState>(info[0], &status);
  if (status.ok() && state->disposed) status = Disposed();
  if (status.ok() && state->busy > 0) status = Error(Code::kInvalidArgument, "The model's weights are being quantised");
  if (!status.ok()) return Throw(env, status);
  Model& model = *state->model;
  Napi::Object out = Napi::Object::New(env);
  out.Set("weightBytes", static_cast<double>(model.weight_bytes()));
  out.Set("storedBytes", static_cast<double>(model.stored_bytes()));
  out.Set("parameters", static_cast<double>(model.parameters()));
  out.Set("isa", model.kernels().name);
  out.Set("threads", model.pool().threads());
  out.Set("packedCache", CacheStateName(model.packed_cache().state));
  out.Set("packedCacheNote", model.packed_cache().note);
  return out;
}

Napi::Value DisposeModel(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = UnwrapHandle<ModelState>(info[0], &status);
  if (status.ok() && state->users > 0)
    status = Error(Code::kInvalidArgument, "The model still has %d contexts or calibrations; dispose them first", state->users);
  if (!status.ok()) return Reject(env, status);
  state->disposed = true;
  JobSpec job;
  job.worker = state->worker;
  job.keep = {info[0]};
  job.work = [state](const Progress&) {  // on the worker: giving gigabytes back takes time
    state->model.reset();
    return Status::Ok();
  };
  return StartJob(env, std::move(job));
}

Napi::Value ExportWeight(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = UnwrapHandle<ModelState>(info[0], &status);
  if (status.ok() && state->disposed) status = Disposed();
  if (status.ok() && !info[1].IsNumber()) status = Error(Code::kInvalidArgument, "Expected a weight number");
  int begin = 0, end = 0;
  if (status.ok()) {
    Fields rows(info[2], "rows", &status);
    begin = static_cast<int>(rows.Int("begin", 0, 0x7fffffff));
    end = static_cast<int>(rows.Int("end", 0, 0x7fffffff));
  }
  if (!status.ok()) return Reject(env, status);
  const int weight = info[1].As<Napi::Number>().Int32Value();
  auto bits = std::make_shared<std::vector<uint16_t>>();
  JobSpec job;
  job.worker = state->worker;
  job.control = info[3];
  job.keep = {info[0]};
  job.work = [state, weight, begin, end, bits](const Progress&) -> Status {
    if (weight < 0 || weight >= static_cast<int>(state->model->plan().weights.size()))
      return Error(Code::kInvalidArgument, "Weight %d is not in the plan", weight);
    LOWBIT_ASSIGN_OR_RETURN(const std::vector<float> dense, state->model->DenseRows(weight, begin, end));
    bits->resize(dense.size());
    for (size_t i = 0; i < dense.size(); ++i) (*bits)[i] = FloatToBfloat16(dense[i]);
    return Status::Ok();
  };
  job.result = [bits](Napi::Env e) -> Napi::Value {
    Napi::Uint16Array array = Napi::Uint16Array::New(e, bits->size());
    std::copy(bits->begin(), bits->end(), array.Data());
    return array;
  };
  return StartJob(env, std::move(job));
}

Napi::Value EncodeOne(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = UnwrapHandle<ModelState>(info[0], &status);
  if (status.ok() && state->disposed) status = Disposed();
  if (status.ok() && !info[1].IsNumber()) status = Error(Code::kInvalidArgument, "Expected a weight number");
  DType dtype = DType::kF32;
  int begin = 0, end = 0;
  if (status.ok()) {
    Fields as(info[2], "as", &status);
    const std::string name = as.String("dtype");
    begin = static_cast<int>(as.Int("begin", 0, 0x7fffffff));
    end = static_cast<int>(as.Int("end", 0, 0x7fffffff));
    const Result<DType> parsed = ParseDType(name);
    if (parsed.ok())
      dtype = parsed.value();
    else if (status.ok())
      status = parsed.status();
  }
  if (!status.ok()) return Reject(env, status);
  const int weight = info[1].As<Napi::Number>().Int32Value();
  auto encoded = std::make_shared<EncodedWeight>();
  ++state->busy;
  JobSpec job;
  job.worker = state->worker;
  job.control = info[3];
  job.keep = {info[0]};
  job.work = [state, weight, dtype, begin, end, encoded](const Progress& progress) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(*encoded, EncodeWeight(*state->model, weight, dtype, begin, end, progress));
    return Status::Ok();
  };
  job.result = [encoded](Napi::Env e) -> Napi::Value {
    Napi::Object out = Napi::Object::New(e);
    Napi::Uint8Array bytes = Napi::Uint8Array::New(e, encoded->bytes.size());
    std::copy(encoded->bytes.begin(), encoded->bytes.end(), bytes.Data());
    out.Set("bytes", bytes);
    out.Set("error", encoded->error);
    out.Set("norm", encoded->norm);
    return out;
  };
  job.finally = [state] { --state->busy; };
  return StartJob(env, std::move(job));
}

Napi::Value CarryOne(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = UnwrapHandle<ModelState>(info[0], &status);
  if (status.ok() && state->disposed) status = Disposed();
  if (status.ok() && !info[1].IsNumber()) status = Error(Code::kInvalidArgument, "Expected a weight number");
  CarryFormat format = CarryFormat::kGptq;
  int zero_offset = 0;
  bool tensors = false;
  if (status.ok()) {
    Fields as(info[2], "as", &status);
    const std::string name = as.String("format");
    zero_offset = static_cast<int>(as.Int("zeroOffset", 0, 1));
    tensors = as.Bool("tensors");
    if (name == "lowbit")
      format = CarryFormat::kLowbit;
    else if (name != "gptq")
      as.Fail("format", "\"gptq\" or \"lowbit\"");
  }
  if (!status.ok()) return Reject(env, status);
  const int weight = info[1].As<Napi::Number>().Int32Value();
  auto carried = std::make_shared<CarriedWeight>();
  ++state->busy;
  JobSpec job;
  job.worker = state->worker;
  job.control = info[3];
  job.keep = {info[0]};
  job.work = [state, weight, format, zero_offset, tensors, carried](const Progress& progress) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(*carried, CarryWeight(*state->model, weight, format, zero_offset, tensors, progress));
    return Status::Ok();
  };
  job.result = [carried](Napi::Env e) -> Napi::Value {
    Napi::Object out = Napi::Object::New(e);
    if (!carried->misfit.empty()) {
      out.Set("misfit", carried->misfit);
      return out;
    }
    out.Set("bits", carried->bits);
    out.Set("groupSize", carried->group_size);
    out.Set("symmetric", carried->symmetric);
    out.Set("ordered", carried->ordered);
    out.Set("leastZero", carried->least_zero);
    out.Set("largestZero", carried->largest_zero);
    out.Set("tensors", TensorValues(e, carried->tensors));
    return out;
  };
  job.finally = [state] { --state->busy; };
  return StartJob(env, std::move(job));
}

Napi::Value ExportVector(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = UnwrapHandle<ModelState>(info[0], &status);
  if (status.ok() && state->disposed) status = Disposed();
  if (status.ok() && (!info[1].IsNumber() || info[1].As<Napi::Number>().Int64Value() < 0 ||
                      info[1].As<Napi::Number>().Int64Value() >= static_cast<int64_t>(state->model->plan().vectors.size())))
    status = Error(Code::kInvalidArgument, "Expected the number of a vector of the plan");
  if (!status.ok()) return Throw(env, status);
  const std::vector<float>& values = state->model->vector(info[1].As<Napi::Number>().Int32Value());
  Napi::Float32Array array = Napi::Float32Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

Napi::Value SolveOne(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = UnwrapHandle<ModelState>(info[0], &status);
  if (status.ok() && state->disposed) status = Disposed();
  if (status.ok() && !info[1].IsNumber()) status = Error(Code::kInvalidArgument, "Expected a weight number");
  SolveJob request;
  if (status.ok()) {
    Fields options(info[2], "options", &status);
    request = ReadSolveJob(info[1].As<Napi::Number>().Int32Value(), options, &status);
  }
  if (!status.ok()) return Reject(env, status);
  auto output = std::make_shared<SolveOutput>();
  ++state->busy;
  JobSpec job;
  job.worker = state->worker;
  job.control = info[3];
  job.keep = {info[0]};
  job.work = [state, request, output](const Progress&) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(Solved one, SolveWeight(*state->model, request.request));
    LOWBIT_ASSIGN_OR_RETURN(*output, MakeOutput(request, std::move(one)));
    return Status::Ok();
  };
  job.result = [request, output](Napi::Env e) { return SolveResultValue(e, request, *output); };
  job.finally = [state] { --state->busy; };
  return StartJob(env, std::move(job));
}

}  // namespace

void ExportModel(Napi::Env env, Napi::Object exports) {
  exports.Set("loadModel", Napi::Function::New(env, LoadModel));
  exports.Set("modelInfo", Napi::Function::New(env, ModelInfo));
  exports.Set("disposeModel", Napi::Function::New(env, DisposeModel));
  exports.Set("exportWeight", Napi::Function::New(env, ExportWeight));
  exports.Set("encodeWeight", Napi::Function::New(env, EncodeOne));
  exports.Set("carryWeight", Napi::Function::New(env, CarryOne));
  exports.Set("exportVector", Napi::Function::New(env, ExportVector));
  exports.Set("solveWeight", Napi::Function::New(env, SolveOne));
}

}  // namespace lowbit
