// binding/: createTrials, trialsAdd, trialsBind, trialsDivergence, trialsDivergenceOfEach, trialsChoose, trialsEvolve, disposeTrials,
// closedFormBits.
#include "trials.h"

#include <map>

#include "allocate/choose.h"
#include "allocate/closed_form.h"
#include "exports.h"
#include "fields.h"
#include "job.h"

namespace lowbit {
namespace {

std::vector<int32_t> Ints(Fields& f, const char* name) {
  size_t length;
  const int32_t* data = f.Typed<int32_t>(name, napi_int32_array, &length);
  return data == nullptr ? std::vector<int32_t>() : std::vector<int32_t>(data, data + length);
}

std::vector<double> Doubles(Fields& f, const char* name) {
  size_t length;
  const double* data = f.Typed<double>(name, napi_float64_array, &length);
  return data == nullptr ? std::vector<double>() : std::vector<double>(data, data + length);
}

std::vector<Swap> ReadSwaps(const Napi::Value& value, Status* status) {
  std::vector<Swap> swaps;
  Fields f(value, "swaps", status);
  const std::vector<int32_t> weights = Ints(f, "weights"), variants = Ints(f, "variants");
  if (status->ok() && weights.size() != variants.size()) f.Fail("variants", "as many variants as weights");
  for (size_t i = 0; i < weights.size() && status->ok(); ++i) swaps.push_back({weights[i], variants[i]});
  return swaps;
}

// Items and their budget: counts of candidates per item, then all candidates back to back.
struct Budgeted {
  std::vector<Item> items;
  int64_t budget = 0;
};

Budgeted ReadBudgeted(Fields& f) {
  Budgeted out;
  const std::vector<int32_t> counts = Ints(f, "counts");
  const std::vector<double> bytes = Doubles(f, "bytes"), losses = Doubles(f, "losses");
  out.budget = f.Int("budget", 0, int64_t(1) << 53);
  size_t total = 0;
  for (const int32_t count : counts) {
    if (count < 0 || count > 255) f.Fail("counts", "numbers between 0 and 255");
    total += static_cast<size_t>(std::max(0, count));
  }
  if (f.ok() && (bytes.size() != total || losses.size() != total)) f.Fail("bytes", "as many bytes and losses as candidates");
  if (!f.ok()) return out;
  size_t at = 0;
  for (const int32_t count : counts) {
    Item item;
    for (int32_t c = 0; c < count; ++c, ++at) {
      if (!(bytes[at] >= 0 && bytes[at] <= 9e15)) f.Fail("bytes", "numbers of at least 0");
      item.push_back({static_cast<int64_t>(bytes[at]), losses[at]});
    }
    out.items.push_back(std::move(item));
  }
  return out;
}

Napi::Object ChoiceValue(Napi::Env env, const Choice& choice) {
  Napi::Object out = Napi::Object::New(env);
  Napi::Int32Array candidates = Napi::Int32Array::New(env, choice.candidate.size());
  std::copy(choice.candidate.begin(), choice.candidate.end(), candidates.Data());
  out.Set("candidates", candidates);
  out.Set("bytes", static_cast<double>(choice.bytes));
  out.Set("loss", choice.loss);
  return out;
}

Napi::Value CreateTrials(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto owner = UnwrapHandle<ModelState>(info[0], &status);
  if (status.ok() && owner->disposed) status = Error(Code::kInvalidArgument, "The model was disposed");
  auto tokens = std::make_shared<std::vector<int32_t>>(), offsets = std::make_shared<std::vector<int32_t>>();
  if (status.ok()) {
    Fields f(info[1], "spec", &status);
    *tokens = Ints(f, "tokens");
    *offsets = Ints(f, "offsets");
  }
  if (!status.ok()) return Reject(env, status);
  auto state = std::make_shared<TrialsState>();
  state->owner = owner;
  ++owner->users;
  auto created = std::make_shared<bool>(false);
  JobSpec job;
  job.worker = owner->worker;
  job.control = info[2];
  job.keep = {info[0]};
  job.work = [state, tokens, offsets, created](const Progress& progress) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(state->trials, Trials::Create(state->owner->model, std::move(*tokens), std::move(*offsets), {}, progress));
    *created = true;
    return Status::Ok();
  };
  job.result = [state](Napi::Env e) { return MakeHandle(e, state); };
  job.finally = [state, created] {
    if (!*created) --state->owner->users;
  };
  return StartJob(env, std::move(job));
}

// A job on live trials that changes which weights the model runs with.
JobSpec TrialsJob(const Napi::CallbackInfo& info, const std::shared_ptr<TrialsState>& state, size_t control) {
  ++state->owner->busy;
  JobSpec job;
  job.worker = state->owner->worker;
  job.control = info[control];
  job.keep = {info[0]};
  job.finally = [state] { --state->owner->busy; };
  return job;
}

Napi::Value Add(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = LiveTrials(info[0], &status);
  const auto jobs = std::make_shared<std::vector<SolveJob>>(ReadSolveJobs(info[1], &status));
  if (!status.ok()) return Reject(env, status);
  const auto tried = std::make_shared<std::vector<Tried>>();
  JobSpec job = TrialsJob(info, state, 2);
  job.work = [state, jobs, tried](const Progress& progress) -> Status {
    std::vector<Solved> solved;
    for (const SolveJob& j : *jobs) {
      if (progress.cancelled()) return Error(Code::kCancelled, "The operation was aborted");
      LOWBIT_ASSIGN_OR_RETURN(Solved one, state->trials->Add(j.request, {}));
      solved.push_back(std::move(one));
      progress.Report(static_cast<int64_t>(solved.size()), static_cast<int64_t>(jobs->size()));
    }
    *tried = TriedOf(*state->trials, *jobs, solved);
    return Status::Ok();
  };
  job.result = [tried](Napi::Env e) { return TriedValue(e, *tried); };
  return StartJob(env, std::move(job));
}

Napi::Value Bind(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = LiveTrials(info[0], &status);
  const auto swaps = std::make_shared<std::vector<Swap>>(ReadSwaps(info[1], &status));
  if (!status.ok()) return Reject(env, status);
  JobSpec job = TrialsJob(info, state, 2);
  job.work = [state, swaps](const Progress&) { return state->trials->Bind(*swaps); };
  return StartJob(env, std::move(job));
}

Napi::Value Divergence(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = LiveTrials(info[0], &status);
  if (!status.ok()) return Reject(env, status);
  const auto divergence = std::make_shared<double>();
  JobSpec job = TrialsJob(info, state, 1);
  job.work = [state, divergence](const Progress& progress) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(*divergence, state->trials->Divergence(/*quick=*/false, progress));
    return Status::Ok();
  };
  job.result = [divergence](Napi::Env e) { return Napi::Number::New(e, *divergence); };
  return StartJob(env, std::move(job));
}

Napi::Value DivergenceOfEach(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = LiveTrials(info[0], &status);
  const auto swaps = std::make_shared<std::vector<Swap>>(ReadSwaps(info[1], &status));
  if (!status.ok()) return Reject(env, status);
  const auto divergences = std::make_shared<std::vector<double>>();
  JobSpec job = TrialsJob(info, state, 2);
  job.work = [state, swaps, divergences](const Progress& progress) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(*divergences, state->trials->DivergenceOfEach(*swaps, progress));
    return Status::Ok();
  };
  job.result = [divergences](Napi::Env e) -> Napi::Value {
    Napi::Float64Array out = Napi::Float64Array::New(e, divergences->size());
    std::copy(divergences->begin(), divergences->end(), out.Data());
    return out;
  };
  return StartJob(env, std::move(job));
}

Napi::Value ChooseOne(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = LiveTrials(info[0], &status);
  Fields f(info[1], "spec", &status);
  const auto spec = std::make_shared<Budgeted>(ReadBudgeted(f));
  if (!status.ok()) return Reject(env, status);
  const auto choice = std::make_shared<Choice>();
  JobSpec job = TrialsJob(info, state, 2);
  job.work = [spec, choice](const Progress&) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(*choice, Choose(spec->items, spec->budget));
    return Status::Ok();
  };
  job.result = [choice](Napi::Env e) { return ChoiceValue(e, *choice); };
  return StartJob(env, std::move(job));
}

struct EvolveSpec {
  Budgeted budgeted;
  std::vector<int> weights;
  std::vector<std::vector<int>> variants;
  Choice start;
  EvolveOptions options;
};

std::shared_ptr<EvolveSpec> ReadEvolve(const Napi::Value& value, Status* status) {
  auto spec = std::make_shared<EvolveSpec>();
  Fields f(value, "spec", status);
  spec->budgeted = ReadBudgeted(f);
  const std::vector<Item>& items = spec->budgeted.items;
  spec->weights = Ints(f, "weights");
  const std::vector<int32_t> variants = Ints(f, "variants");
  spec->start.candidate = Ints(f, "start");
  spec->options.generations = static_cast<int>(f.Int("generations", 0, 10000));
  spec->options.offspring = static_cast<int>(f.Int("offspring", 1, 1024));
  spec->options.survivors = static_cast<int>(f.Int("survivors", 1, 1024));
  spec->options.seed = static_cast<uint64_t>(f.Int("seed", 0, int64_t(1) << 53));
  size_t total = 0;
  for (const Item& item : items) total += item.size();
  if (f.ok() && variants.size() != total) f.Fail("variants", "a variant for each candidate");
  if (f.ok() && spec->start.candidate.size() != items.size()) f.Fail("start", "a candidate for each item");
  size_t at = 0;
  for (size_t i = 0; i < items.size() && f.ok(); ++i) {
    if (spec->start.candidate[i] < 0 || static_cast<size_t>(spec->start.candidate[i]) >= items[i].size())
      f.Fail("start", "candidates that there are");
    spec->variants.emplace_back(variants.begin() + static_cast<std::ptrdiff_t>(at),
                                variants.begin() + static_cast<std::ptrdiff_t>(at + items[i].size()));
    at += items[i].size();
  }
  return spec;
}

Napi::Value EvolveOne(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  const auto state = LiveTrials(info[0], &status);
  const std::shared_ptr<EvolveSpec> spec = ReadEvolve(info[1], &status);
  if (!status.ok()) return Reject(env, status);
  const auto evolved = std::make_shared<Evolved>();
  JobSpec job = TrialsJob(info, state, 2);
  job.work = [state, spec, evolved](const Progress& progress) -> Status {
    LOWBIT_ASSIGN_OR_RETURN(*evolved, state->trials->Evolve(spec->weights, spec->variants, spec->budgeted.items, spec->budgeted.budget,
                                                            spec->start, spec->options, progress));
    return Status::Ok();
  };
  job.result = [evolved](Napi::Env e) {
    Napi::Object out = ChoiceValue(e, evolved->choice);
    out.Set("before", evolved->before);
    out.Set("improvements", evolved->improvements);
    return out;
  };
  return StartJob(env, std::move(job));
}

Napi::Value DisposeTrials(const Napi::CallbackInfo& info) { return DisposeUser(info, &TrialsState::trials); }

Napi::Value ClosedForm(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Status status;
  Fields f(info[0], "spec", &status);
  const std::vector<double> losses = Doubles(f, "losses"), parameters = Doubles(f, "parameters");
  const double mean = f.Number("meanBits");
  const BitsRange range{f.Number("least"), f.Number("most")};
  if (!status.ok()) return Throw(env, status);
  const Result<std::vector<double>> bits = ClosedFormBits(losses, parameters, mean, range);
  if (!bits.ok()) return Throw(env, bits.status());
  Napi::Float64Array out = Napi::Float64Array::New(env, bits.value().size());
  std::copy(bits.value().begin(), bits.value().end(), out.Data());
  return out;
}

}  // namespace

std::shared_ptr<TrialsState> LiveTrials(const Napi::Value& handle, Status* status) {
  auto state = UnwrapHandle<TrialsState>(handle, status);
  if (status->ok() && state->disposed) *status = Error(Code::kInvalidArgument, "The trials were disposed");
  return state;
}

std::vector<Tried> TriedOf(const Trials& trials, const std::vector<SolveJob>& jobs, const std::vector<Solved>& solved) {
  std::vector<Tried> tried(jobs.size());
  std::map<int, int> later;  // variants of the same weight behind this one
  for (size_t i = jobs.size(); i-- > 0;) {
    const int weight = jobs[i].request.weight;
    tried[i] = {weight, trials.Variants(weight) - 1 - later[weight]++, solved[i].linear.error, solved[i].seconds,
                solved[i].linear.fallbacks};
  }
  return tried;
}

Napi::Value TriedValue(Napi::Env env, const std::vector<Tried>& tried) {
  Napi::Array out = Napi::Array::New(env, tried.size());
  for (size_t i = 0; i < tried.size(); ++i) {
    Napi::Object one = Napi::Object::New(env);
    one.Set("weight", tried[i].weight);
    one.Set("variant", tried[i].variant);
    one.Set("error", tried[i].error);
    one.Set("seconds", tried[i].seconds);
    Napi::Array fallbacks = Napi::Array::New(env, tried[i].fallbacks.size());
    for (size_t j = 0; j < tried[i].fallbacks.size(); ++j) fallbacks.Set(static_cast<uint32_t>(j), tried[i].fallbacks[j]);
    one.Set("fallbacks", fallbacks);
    out.Set(static_cast<uint32_t>(i), one);
  }
  return out;
}

void ExportTrials(Napi::Env env, Napi::Object exports) {
  exports.Set("createTrials", Napi::Function::New(env, CreateTrials));
  exports.Set("trialsAdd", Napi::Function::New(env, Add));
  exports.Set("trialsBind", Napi::Function::New(env, Bind));
  exports.Set("trialsDivergence", Napi::Function::New(env, Divergence));
  exports.Set("trialsDivergenceOfEach", Napi::Function::New(env, DivergenceOfEach));
  exports.Set("trialsChoose", Napi::Function::New(env, ChooseOne));
  exports.Set("trialsEvolve", Napi::Function::New(env, EvolveOne));
  exports.Set("disposeTrials", Napi::Function::New(env, DisposeTrials));
  exports.Set("closedFormBits", Napi::Function::New(env, ClosedForm));
}

}  // namespace lowbit
