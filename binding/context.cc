// binding/: createContext, disposeContext, sequenceLength, truncate, step.
#include "engine/context.h"

#include "exports.h"
#include "fields.h"
#include "generation.h"
#include "handles.h"
#include "job.h"
#include "sampling.h"

namespace lowbit {
namespace {

constexpr int64_t kMaxInt = 0x7fffffff;

Napi::Value CreateContext(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto owner = UnwrapHandle<ModelState>(info[0], &status);
  if (status.ok() && owner->disposed) status = Error(Code::kInvalidArgument, "The model was disposed");
  int context_size = 1, sequences = 1;
  std::string kv;
  if (status.ok()) {
    Fields f(info[1], "spec", &status);
    context_size = static_cast<int>(f.Int("contextSize", 1, kMaxInt));
    sequences = static_cast<int>(f.Int("sequences", 1, 4096));
    kv = f.String("kvType");
    if (kv != "f16" && kv != "f32") f.Fail("kvType", "\"f16\" or \"f32\"");
  }
  if (!status.ok()) return Reject(env, status);
  auto state = std::make_shared<ContextState>();
  state->owner = owner;
  state->core = std::make_shared<ContextCore>(DeliverNews(env, state));
  ++owner->users;  // the model must stay until this context is gone
  auto created = std::make_shared<bool>(false);
  JobSpec job;
  job.worker = owner->worker;
  job.keep = {info[0]};
  const bool f16 = kv == "f16";
  job.work = [state, context_size, sequences, f16, created](const Progress&) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(state->core->context, Context::Create(state->owner->model, context_size, sequences, f16));
    *created = true;
    return Status::Ok();
  };
  job.result = [state](Napi::Env e) { return MakeHandle(e, state); };
  job.finally = [state, created] {
    if (!*created) --state->owner->users;
  };
  return StartJob(env, std::move(job));
}

Napi::Value DisposeContext(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = UnwrapHandle<ContextState>(info[0], &status);
  if (!status.ok()) return Reject(env, status);
  const bool first = !state->disposed;
  state->disposed = true;
  JobSpec job;
  job.worker = state->owner->worker;
  job.keep = {info[0]};
  job.work = [state](const Progress&) {
    state->core->scheduler.CloseAll();
    state->core->context.reset();
    return Status::Ok();
  };
  job.finally = [state, first] {
    if (first) --state->owner->users;
  };
  return StartJob(env, std::move(job));
}

// The context for a synchronous call, or null with *status set.
std::shared_ptr<ContextState> Idle(const Napi::CallbackInfo& info, Status* status, int* sequence) {
  auto state = UnwrapHandle<ContextState>(info[0], status);
  if (status->ok() && state->disposed) *status = Error(Code::kInvalidArgument, "The context was disposed");
  if (status->ok() && state->busy > 0) *status = Error(Code::kInvalidArgument, "A step is running on this context; wait for it first");
  if (!status->ok()) return nullptr;
  const double number = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number < state->core->context->sequences())) {
    *status = Error(Code::kInvalidArgument, "Expected integer between 0 and %d for sequence", state->core->context->sequences() - 1);
    return nullptr;
  }
  *sequence = static_cast<int>(number);
  if (!Generates(*state, *sequence)) return state;
  *status = Error(Code::kInvalidArgument, "Sequence %d is generating; end that first", *sequence);
  return nullptr;
}

Napi::Value SequenceLength(const Napi::CallbackInfo& info) {
  Status status;
  int sequence = 0;
  const auto state = Idle(info, &status, &sequence);
  if (!status.ok()) return Throw(info.Env(), status);
  return Napi::Number::New(info.Env(), state->core->context->length(sequence));
}

Napi::Value Truncate(const Napi::CallbackInfo& info) {
  Status status;
  int sequence = 0;
  const auto state = Idle(info, &status, &sequence);
  const double length = info[2].IsNumber() ? info[2].As<Napi::Number>().DoubleValue() : -1;
  if (status.ok() && !(length >= 0 && length <= static_cast<double>(kMaxInt)))
    status = Error(Code::kInvalidArgument, "Expected a non-negative integer for length");
  if (!status.ok()) return Throw(info.Env(), status);
  state->core->context->Truncate(sequence, static_cast<int>(length));
  return info.Env().Undefined();
}

Napi::Value Step(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = UnwrapHandle<ContextState>(info[0], &status);
  if (status.ok() && state->disposed) status = Error(Code::kInvalidArgument, "The context was disposed");
  if (status.ok() && !state->generations.empty())
    status = Error(Code::kInvalidArgument, "Sequences of this context are generating; end that first");
  if (!status.ok()) return Reject(env, status);
  auto request = std::make_shared<StepRequest>();
  JobSpec job;
  job.keep = {info[0]};
  Fields f(info[1], "spec", &status);
  request->sequence = static_cast<int>(f.Int("sequence", 0, 4095));
  size_t length;
  if (const int32_t* tokens = f.Typed<int32_t>("tokens", napi_int32_array, &length)) request->tokens.assign(tokens, tokens + length);
  if (f.Has("sample")) {
    request->sample = true;
    request->sampling = ReadSampling(f.Object("sample"));
  }
  const int64_t rows = static_cast<int64_t>(request->tokens.size());
  if (f.Has("score")) {
    Fields score = f.Object("score");
    request->score_from = static_cast<int>(score.Int("from", 0, kMaxInt));
    if (const int32_t* targets = score.Typed<int32_t>("targets", napi_int32_array, &length))
      request->targets.assign(targets, targets + length);
    request->scores = score.Typed<double>("out", napi_float64_array, &length);
    if (status.ok() && length < request->targets.size()) score.Fail("out", "an array as long as targets");
    if (status.ok()) job.keep.push_back(score.Get("out"));
  }
  if (f.Has("logits")) {
    Fields logits = f.Object("logits");
    request->logits_from = static_cast<int>(logits.Int("from", 0, kMaxInt));
    request->logits = logits.Typed<float>("out", napi_float32_array, &length);
    const int64_t wanted = std::max<int64_t>(0, rows - request->logits_from) * state->owner->model->plan().vocab_size;
    if (status.ok() && static_cast<int64_t>(length) < wanted) logits.Fail("out", "an array of rows * vocabSize elements");
    if (status.ok()) job.keep.push_back(logits.Get("out"));
  }
  if (f.Has("compare")) {
    Fields compare = f.Object("compare");
    request->compare_from = static_cast<int>(compare.Int("from", 0, kMaxInt));
    request->compare_rows = static_cast<int>(compare.Int("rows", 0, kMaxInt));
    request->reference = compare.Typed<float>("reference", napi_float32_array, &length);
    const int64_t wanted = int64_t(request->compare_rows) * state->owner->model->plan().vocab_size;
    if (status.ok() && static_cast<int64_t>(length) < wanted) compare.Fail("reference", "an array of rows * vocabSize elements");
    request->divergences = compare.Typed<double>("out", napi_float64_array, &length);
    if (status.ok() && static_cast<int64_t>(length) < 2 * int64_t(request->compare_rows))
      compare.Fail("out", "an array of 2 * rows elements");
    if (status.ok()) {
      job.keep.push_back(compare.Get("reference"));
      job.keep.push_back(compare.Get("out"));
    }
  }
  if (!status.ok()) return Reject(env, status);
  auto token = std::make_shared<int>(-1);
  ++state->busy;
  job.worker = state->owner->worker;
  job.control = info[2];
  job.work = [state, request, token](const Progress& progress) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(*token, state->core->context->Step(*request, progress));
    return Status::Ok();
  };
  job.result = [token](Napi::Env e) {
    Napi::Object out = Napi::Object::New(e);
    out.Set("token", *token);
    return out;
  };
  job.finally = [state] { --state->busy; };
  return StartJob(env, std::move(job));
}

}  // namespace

void ExportContext(Napi::Env env, Napi::Object exports) {
  exports.Set("createContext", Napi::Function::New(env, CreateContext));
  exports.Set("disposeContext", Napi::Function::New(env, DisposeContext));
  exports.Set("sequenceLength", Napi::Function::New(env, SequenceLength));
  exports.Set("truncate", Napi::Function::New(env, Truncate));
  exports.Set("step", Napi::Function::New(env, Step));
}

}  // namespace lowbit
