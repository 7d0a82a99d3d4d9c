// binding/: startGeneration, readGeneration, endGeneration.
//
// The engine's thread runs the scheduler of a context by jobs that post themselves again while there is something to do, so that other
// contexts of the model get their turns in between.
#include "generation.h"

#include <algorithm>
#include <exception>
#include <new>
#include <optional>
#include <utility>

#include "env_state.h"
#include "exports.h"
#include "fields.h"
#include "job.h"
#include "sampling.h"

namespace lowbit {

// JS thread only, but for what the scheduler shares. Held by its handle and, while it is not closed, by its context.
struct GenerationState {
  std::shared_ptr<ContextState> context;  // null once closed
  std::shared_ptr<Generation> generation;
  int sequence = 0;
  Napi::FunctionReference on_news;
  CancelFlag cancel = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<EnvState> env_state;
  bool holds = false;                               // the event loop, because the reader waits
  std::optional<Napi::Promise::Deferred> deferred;  // of endGeneration
  GenerationNews last;                              // for an end after the closing

  void Hold(bool hold) {
    if (hold != std::exchange(holds, hold)) hold ? env_state->Hold() : env_state->Release();
  }
};

namespace {

// The worker outlives the jobs it runs, so a plain pointer does; the core has none to it (handles.h).
void PostTick(Worker* worker, const std::shared_ptr<ContextCore>& core) {
  worker->Post([worker, core] {
    if (core->context == nullptr) return;
    bool more = true;
    Status failure;
    try {
      more = core->scheduler.Tick(*core->context);
    } catch (const std::bad_alloc&) {
      failure = Error(Code::kOutOfMemory, "Memory ran out; close other programs or use a smaller model or context");
    } catch (const std::exception& e) {
      failure = Error(Code::kInternal, "Unexpected failure in the engine: %s", e.what());
    }
    if (!failure.ok()) core->scheduler.Abandon(*core->context, failure);
    if (more) PostTick(worker, core);
  });
}

void Wake(const ContextState& state) {
  if (state.core->scheduler.Wake()) PostTick(state.owner->worker.get(), state.core);
}

Napi::Value EndValue(Napi::Env env, const GenerationNews& news) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("length", news.length);
  out.Set("promptSeconds", news.stats.prompt_seconds);
  out.Set("decodeSeconds", news.stats.decode_seconds);
  out.Set("decoded", static_cast<double>(news.stats.decoded));
  out.Set("guessed", static_cast<double>(news.stats.guessed));
  out.Set("accepted", static_cast<double>(news.stats.right));
  return out;
}

void Close(Napi::Env env, const std::shared_ptr<GenerationState>& g, GenerationNews news) {
  g->Hold(false);
  g->env_state->Unwatch(g->cancel);
  g->on_news.Reset();
  const std::shared_ptr<ContextState> context = std::move(g->context);
  std::erase(context->generations, g);
  g->last = std::move(news);
  if (g->deferred) g->deferred->Resolve(EndValue(env, g->last));
}

void Deliver(Napi::Env env, const std::shared_ptr<GenerationState>& g) {
  GenerationNews news;
  if (g->context == nullptr || !g->context->core->scheduler.Take(*g->generation, &news)) return;
  Napi::HandleScope scope(env);
  if (!g->deferred) {
    g->Hold(false);
    Napi::Int32Array tokens = Napi::Int32Array::New(env, news.tokens.size());
    if (tokens.IsEmpty()) return;  // the environment is going away
    std::copy(news.tokens.begin(), news.tokens.end(), tokens.Data());
    Napi::Value finish = env.Undefined();
    if (news.phase == GenerationPhase::kStopToken) finish = Napi::String::New(env, "eos");
    if (news.phase == GenerationPhase::kLength) finish = Napi::String::New(env, "length");
    if (news.phase == GenerationPhase::kFailed) finish = ErrorValue(env, news.status);
    g->on_news.Call({tokens, finish});
    // There is no caller to give an exception to; the callback is lowbit's own and throws none.
    if (env.IsExceptionPending()) env.GetAndClearPendingException();
  }
  if (news.closed) Close(env, g, std::move(news));
}

// The generation of a call, or null with *status set.
std::shared_ptr<GenerationState> Unwrap(const Napi::CallbackInfo& info, int64_t* count, Status* status) {
  auto g = UnwrapHandle<GenerationState>(info[0], status);
  const double number = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : -1;
  if (status->ok() && !(number >= 0 && number <= 0x7fffffff)) *status = Error(Code::kInvalidArgument, "Expected a number of tokens");
  *count = status->ok() ? static_cast<int64_t>(number) : 0;
  return status->ok() ? g : nullptr;
}

Napi::Value StartGeneration(const Napi::CallbackInfo& info) {
  constexpr int64_t kMaxInt = 0x7fffffff;
  const Napi::Env env = info.Env();
  Status status;
  const auto context = UnwrapHandle<ContextState>(info[0], &status);
  if (status.ok() && context->disposed) status = Error(Code::kInvalidArgument, "The context was disposed");
  if (status.ok() && context->busy > 0) status = Error(Code::kInvalidArgument, "A step is running on this context; wait for it first");
  auto g = std::make_shared<GenerationState>();
  GenerationRequest request;
  if (status.ok()) {
    Fields f(info[1], "spec", &status);
    request.sequence = static_cast<int>(f.Int("sequence", 0, 4095));
    request.keep = static_cast<int>(f.Int("keep", 0, kMaxInt));
    size_t length;
    if (const int32_t* prompt = f.Typed<int32_t>("prompt", napi_int32_array, &length)) request.prompt.assign(prompt, prompt + length);
    request.sampling = ReadSampling(f.Object("sample"));
    request.max_tokens = f.Int("maxTokens", 1, kMaxInt);
    if (const int32_t* stops = f.Typed<int32_t>("stopTokens", napi_int32_array, &length)) request.stop_tokens.assign(stops, stops + length);
    if (f.Has("promptLookup")) {
      Fields lookup = f.Object("promptLookup");
      request.lookup.max_tokens = static_cast<int>(lookup.Int("maxTokens", 1, kMaxInt));
      request.lookup.ngram = static_cast<int>(lookup.Int("ngram", 1, kMaxInt));
    }
  }
  if (status.ok() && !info[2].IsFunction()) status = Error(Code::kInvalidArgument, "Expected a function for onNews");
  if (status.ok() && Generates(*context, request.sequence))
    status = Error(Code::kInvalidArgument, "Sequence %d is generating; end that first", request.sequence);
  if (status.ok()) {
    g->sequence = request.sequence;
    request.cancel = g->cancel;
    auto started = context->core->scheduler.Start(*context->core->context, std::move(request));
    status = started.status();
    if (status.ok()) g->generation = started.value();
  }
  if (!status.ok()) return Throw(env, status);
  g->context = context;
  g->env_state = EnvState::Get(env);
  g->on_news = Napi::Persistent(info[2].As<Napi::Function>());
  g->env_state->Watch(g->cancel);
  g->Hold(true);
  context->generations.push_back(g);
  Wake(*context);
  return MakeHandle(env, g);
}

Napi::Value ReadGeneration(const Napi::CallbackInfo& info) {
  Status status;
  int64_t count;
  const auto g = Unwrap(info, &count, &status);
  if (!status.ok()) return Throw(info.Env(), status);
  if (g->context != nullptr && !g->deferred) {
    g->context->core->scheduler.Read(*g->generation, count);
    g->Hold(true);
    Wake(*g->context);
  }
  return info.Env().Undefined();
}

Napi::Value EndGeneration(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  int64_t count;
  const auto g = Unwrap(info, &count, &status);
  if (status.ok() && g->deferred) status = Error(Code::kInvalidArgument, "The generation was ended before");
  if (!status.ok()) return Reject(env, status);
  g->deferred.emplace(Napi::Promise::Deferred::New(env));
  const Napi::Value promise = g->deferred->Promise();
  if (g->context == nullptr) {
    g->deferred->Resolve(EndValue(env, g->last));
  } else {
    g->context->core->scheduler.End(*g->generation, count);
    g->Hold(true);
    Wake(*g->context);
  }
  return promise;
}

}  // namespace

std::function<void()> DeliverNews(Napi::Env env, const std::weak_ptr<ContextState>& state) {
  // Only weak pointers: a closure that cannot be delivered is dropped on the engine's thread.
  auto posted = std::make_shared<std::atomic<bool>>(false);
  return [env_state = EnvState::Get(env), state, posted] {
    if (posted->exchange(true)) return;
    (void)env_state->Post([state, posted](Napi::Env e) {
      posted->store(false);
      const auto context = state.lock();
      if (context == nullptr) return;
      const auto generations = context->generations;  // a callback may start another one, closing removes one
      for (const auto& g : generations) Deliver(e, g);
    });
  };
}

bool Generates(const ContextState& state, int sequence) {
  return std::any_of(state.generations.begin(), state.generations.end(), [&](const auto& g) { return g->sequence == sequence; });
}

void ExportGeneration(Napi::Env env, Napi::Object exports) {
  exports.Set("startGeneration", Napi::Function::New(env, StartGeneration));
  exports.Set("readGeneration", Napi::Function::New(env, ReadGeneration));
  exports.Set("endGeneration", Napi::Function::New(env, EndGeneration));
}

}  // namespace lowbit
