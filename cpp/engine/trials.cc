// engine/trials: passes over the samples, stage by stage, with variants in place.
#include "engine/trials.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/divergence.h"
#include "engine/lazy_weights.h"

namespace lowbit {
namespace {

constexpr size_t kLogitsBytes = size_t(64) << 20;  // of the rows whose logits are held at once

Status Cancelled() { return Error(Code::kCancelled, "The operation was aborted"); }

}  // namespace

Result<std::unique_ptr<Trials>> Trials::Create(std::shared_ptr<Model> model, std::vector<int32_t> tokens, std::vector<int32_t> offsets,
                                               const TrialOptions& options, const Progress& progress) {
  if (model->fast() || model->lazy())
    return Error(Code::kInvalidArgument, "Trials need a model in memory that was loaded with precision \"exact\"");
  const Plan& plan = model->plan();
  if (offsets.size() < 2 || offsets.front() != 0 || offsets.back() != static_cast<int32_t>(tokens.size()))
    return Error(Code::kInvalidArgument, "The offsets of samples must start at 0 and end at the number of tokens");
  int longest = 0;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const int64_t length = static_cast<int64_t>(offsets[s + 1]) - offsets[s];
    if (length <= options.skipped_rows || length > plan.max_seq_len)
      return Error(Code::kInvalidArgument, "Sample %zu has %lld tokens; expected %d to %d", s, static_cast<long long>(length),
                   options.skipped_rows + 1, plan.max_seq_len);
    longest = std::max(longest, static_cast<int>(length));
  }
  for (const int32_t token : tokens)
    if (token < 0 || token >= plan.vocab_size)
      return Error(Code::kInvalidArgument, "Token %d is outside the model's vocabulary of %d", token, plan.vocab_size);

  std::unique_ptr<Trials> trials(new Trials());
  trials->model_ = std::move(model);
  trials->tokens_ = std::move(tokens);
  trials->offsets_ = std::move(offsets);
  trials->skipped_rows_ = options.skipped_rows;
  const int64_t row_bytes = int64_t(plan.vocab_size) * static_cast<int64_t>(sizeof(float));
  trials->compared_rows_ = static_cast<int>(std::clamp<int64_t>(options.reference_bytes / row_bytes / trials->samples(), 1, longest));
  size_t rows = 0;
  for (int s = 0; s < trials->samples(); ++s) {
    trials->reference_begin_.push_back(rows);
    rows += static_cast<size_t>(trials->Rows(s) - trials->FirstCompared(s));
  }
  LOWBIT_ASSIGN_OR_RETURN(trials->reference_,
                          Block::Allocate(rows * static_cast<size_t>(row_bytes), MemoryClass::kScratch, "the uncompressed model's logits"));
  LOWBIT_ASSIGN_OR_RETURN(trials->cache_, KvCache::Create(plan.caches, 1, longest, /*f16=*/false));
  Model& m = *trials->model_;
  const int head_rows =
      static_cast<int>(std::clamp<size_t>(kLogitsBytes / static_cast<size_t>(row_bytes), 1, static_cast<size_t>(longest)));
  LOWBIT_ASSIGN_OR_RETURN(trials->exact_, Executor::Create(plan, m.bindings(), m.kernels(), m.pool(), /*fast=*/false, longest, head_rows));
  trials->executor_ = trials->exact_.get();
  trials->residual_.resize(static_cast<size_t>(longest) * static_cast<size_t>(plan.buffers[static_cast<size_t>(plan.residual)].width));
  trials->scratch_.resize(static_cast<size_t>(m.pool().threads()));
  for (int s = 0; s < trials->samples(); ++s) {
    LOWBIT_RETURN_IF_ERROR(trials->Begin(s));
    for (int stage = 0; stage + 1 < trials->stages(); ++stage) LOWBIT_RETURN_IF_ERROR(trials->RunStage(stage, progress));
    LOWBIT_RETURN_IF_ERROR(trials->RunHead(s, /*keep=*/true, progress, nullptr));
    progress.Report(s + 1, trials->samples());
  }
  LOWBIT_ASSIGN_OR_RETURN(trials->fast_, Executor::Create(plan, m.bindings(), m.kernels(), m.pool(), /*fast=*/true, longest, head_rows));
  trials->executor_ = trials->fast_.get();
  trials->exact_.reset();
  return trials;
}

Trials::~Trials() {
  for (auto& [weight, forms] : forms_)
    if (forms.bound >= 0) model_->ExchangeWeight(weight, std::move(forms.dense));
}

Result<std::vector<float>> Trials::Dense(int weight) {
  const auto found = forms_.find(weight);
  if (found == forms_.end() || found->second.bound < 0) return model_->DenseWeight(weight);
  const WeightShape& shape = model_->plan().weights[static_cast<size_t>(weight)];
  return SumOfParts(found->second.dense, shape.n, shape.k, model_->kernels().unpack_panel);
}

Result<Solved> Trials::Add(const SolveRequest& request, const HessianView& hessian) {
  if (request.weight < 0 || request.weight >= static_cast<int>(model_->plan().weights.size()))
    return Error(Code::kInvalidArgument, "Weight %d is not in the plan", request.weight);
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<float> dense, Dense(request.weight));
  LOWBIT_ASSIGN_OR_RETURN(SolvedParts out, SolveParts(*model_, request, dense, hessian));
  forms_[request.weight].variants.push_back(std::move(out.parts));
  LinearParts& linear = out.solved.linear;
  linear.affine.clear();
  linear.low_rank = {};
  linear.sparse = {};
  out.solved.blocks.clear();
  return std::move(out.solved);
}

int Trials::Variants(int weight) const {
  const auto found = forms_.find(weight);
  return found == forms_.end() ? 0 : static_cast<int>(found->second.variants.size());
}

Status Trials::BindOne(const Swap& swap) {
  const auto found = forms_.find(swap.weight);
  const int count = Variants(swap.weight);
  if (swap.variant < -1 || swap.variant >= count)
    return Error(Code::kInvalidArgument, "Weight %d has %d variants; there is no number %d", swap.weight, count, swap.variant);
  if (found == forms_.end() || found->second.bound == swap.variant) return Status::Ok();
  Forms& forms = found->second;
  const auto place = [&](int variant) -> std::vector<Part>& {
    return variant < 0 ? forms.dense : forms.variants[static_cast<size_t>(variant)];
  };
  std::vector<Part> old = model_->ExchangeWeight(swap.weight, std::move(place(swap.variant)));
  place(forms.bound) = std::move(old);
  forms.bound = swap.variant;
  return Status::Ok();
}

Status Trials::Bind(std::span<const Swap> swaps) {
  for (const Swap& swap : swaps) LOWBIT_RETURN_IF_ERROR(BindOne(swap));
  return Status::Ok();
}

int Trials::FirstStage(int weight) const {
  const Plan& plan = model_->plan();
  const auto reads = [&](OpRange range) {
    const std::vector<int> weights = WeightsOfRange(plan, range);
    return std::find(weights.begin(), weights.end(), weight) != weights.end();
  };
  if (reads(plan.prologue)) return 0;
  for (size_t b = 0; b < plan.blocks.size(); ++b)
    if (reads(plan.blocks[b])) return static_cast<int>(b) + 1;
  return stages() - 1;
}

Status Trials::Begin(int sample) {
  Batch batch;
  batch.rows = Rows(sample);
  batch.tokens = tokens_.data() + offsets_[static_cast<size_t>(sample)];
  batch.segments.push_back({0, 0, batch.rows, 0});
  return executor_->Begin(batch);
}

Status Trials::RunStage(int stage, const Progress& progress) {
  const Plan& plan = model_->plan();
  return executor_->Run(stage == 0 ? plan.prologue : plan.blocks[static_cast<size_t>(stage) - 1], &cache_, progress.cancel);
}

void Trials::SaveResidual(int rows) {
  const int buffer = model_->plan().residual;
  const View view{buffer, 0, model_->plan().buffers[static_cast<size_t>(buffer)].width};
  std::memcpy(residual_.data(), executor_->Row(view, 0), static_cast<size_t>(rows) * executor_->Stride(view) * sizeof(float));
}

void Trials::RestoreResidual(int rows) {
  const int buffer = model_->plan().residual;
  const View view{buffer, 0, model_->plan().buffers[static_cast<size_t>(buffer)].width};
  std::memcpy(executor_->Row(view, 0), residual_.data(), static_cast<size_t>(rows) * executor_->Stride(view) * sizeof(float));
}

Status Trials::RunHead(int sample, bool keep, const Progress& progress, double* sum) {
  const Plan& plan = model_->plan();
  const size_t vocab = static_cast<size_t>(plan.vocab_size);
  const int first = FirstCompared(sample), rows = Rows(sample);
  float* reference = reference_.as<float>() + reference_begin_[static_cast<size_t>(sample)] * vocab;
  std::vector<double> divergences(static_cast<size_t>(rows - first));
  for (int begin = first; begin < rows; begin += executor_->epilogue_rows()) {
    const int count = std::min(rows - begin, executor_->epilogue_rows());
    for (int i = 0; i < count; ++i) executor_->MoveRow(plan.epilogue.begin, begin + i, i);
    LOWBIT_RETURN_IF_ERROR(executor_->RunHead(plan.epilogue.begin, count, progress.cancel));
    model_->pool().Run(count, [&](int i, int worker) {
      const float* logits = executor_->Row(plan.logits, i);
      float* expected = reference + static_cast<size_t>(begin - first + i) * vocab;
      if (keep)
        std::memcpy(expected, logits, vocab * sizeof(float));
      else
        divergences[static_cast<size_t>(begin - first + i)] =
            Diverge(model_->kernels(), {expected, vocab}, {logits, vocab}, &scratch_[static_cast<size_t>(worker)]).kl;
    });
  }
  if (sum != nullptr)
    for (const double kl : divergences) *sum += kl;
  return Status::Ok();
}

// The rest of a pass, with its sum of divergences added.
Status Trials::RunFrom(int sample, int stage, const Progress& progress, double* sum) {
  for (; stage + 1 < stages(); ++stage) LOWBIT_RETURN_IF_ERROR(RunStage(stage, progress));
  return RunHead(sample, /*keep=*/false, progress, sum);
}

Result<double> Trials::Divergence(bool quick, const Progress& progress) {
  const int count = quick ? 1 : samples();
  double sum = 0;
  int64_t rows = 0;
  for (int s = 0; s < count; ++s) {
    LOWBIT_RETURN_IF_ERROR(Begin(s));
    LOWBIT_RETURN_IF_ERROR(RunFrom(s, 0, progress, &sum));
    rows += Rows(s) - FirstCompared(s);
  }
  return sum / static_cast<double>(rows);
}

Result<std::vector<double>> Trials::DivergenceOfEach(std::span<const Swap> swaps, const Progress& progress) {
  std::vector<std::vector<size_t>> at(static_cast<size_t>(stages()));  // swaps by the first stage that they change
  for (size_t i = 0; i < swaps.size(); ++i) {
    if (!forms_.contains(swaps[i].weight)) return Error(Code::kInvalidArgument, "Weight %d has no variants", swaps[i].weight);
    at[static_cast<size_t>(FirstStage(swaps[i].weight))].push_back(i);
  }
  std::vector<double> sums(swaps.size(), 0);
  int64_t rows = 0, done = 0;
  const int64_t total = static_cast<int64_t>(swaps.size()) * samples();
  for (int s = 0; s < samples(); ++s) {
    rows += Rows(s) - FirstCompared(s);
    LOWBIT_RETURN_IF_ERROR(Begin(s));
    for (int stage = 0; stage < stages(); ++stage) {
      if (stage > 0) SaveResidual(Rows(s));
      for (const size_t i : at[static_cast<size_t>(stage)]) {
        if (progress.cancelled()) return Cancelled();
        const Swap back{swaps[i].weight, forms_[swaps[i].weight].bound};
        LOWBIT_RETURN_IF_ERROR(BindOne(swaps[i]));
        Status status = Begin(s);
        if (stage > 0) RestoreResidual(Rows(s));
        if (status.ok()) status = RunFrom(s, stage, progress, &sums[i]);
        LOWBIT_RETURN_IF_ERROR(BindOne(back));
        LOWBIT_RETURN_IF_ERROR(status);
        progress.Report(++done, total);
      }
      LOWBIT_RETURN_IF_ERROR(Begin(s));
      if (stage > 0) RestoreResidual(Rows(s));
      if (stage + 1 < stages()) LOWBIT_RETURN_IF_ERROR(RunStage(stage, progress));
    }
  }
  for (double& sum : sums) sum /= static_cast<double>(rows);
  return sums;
}

Result<Evolved> Trials::Evolve(std::span<const int> weights, std::span<const std::vector<int>> variants, std::span<const Item> items,
                               int64_t budget, const Choice& start, const EvolveOptions& options, const Progress& progress) {
  if (weights.size() != items.size() || variants.size() != items.size())
    return Error(Code::kInvalidArgument, "Expected a weight and its variants for each of %zu items", items.size());
  for (size_t i = 0; i < items.size(); ++i)
    if (variants[i].size() != items[i].size())
      return Error(Code::kInvalidArgument, "Weight %d has %zu candidates and %zu variants", weights[i], items[i].size(),
                   variants[i].size());
  const auto bind = [&](std::span<const int> candidates) {
    std::vector<Swap> swaps;
    for (size_t i = 0; i < items.size(); ++i) swaps.push_back({weights[i], variants[i][static_cast<size_t>(candidates[i])]});
    return Bind(swaps);
  };
  int64_t done = 0;
  const int64_t total = 1 + int64_t(options.generations) * (options.offspring + options.survivors);
  Progress inner;
  inner.cancel = progress.cancel;
  const Fitness fitness = [&](std::span<const int> candidates, bool quick) -> Result<double> {
    if (progress.cancelled()) return Cancelled();
    LOWBIT_RETURN_IF_ERROR(bind(candidates));
    LOWBIT_ASSIGN_OR_RETURN(const double divergence, Divergence(quick, inner));
    progress.Report(std::min(++done, total), total);
    return divergence;
  };
  LOWBIT_ASSIGN_OR_RETURN(Evolved evolved, lowbit::Evolve(items, budget, start, options, fitness));
  LOWBIT_RETURN_IF_ERROR(bind(evolved.choice.candidate));
  return evolved;
}

}  // namespace lowbit
