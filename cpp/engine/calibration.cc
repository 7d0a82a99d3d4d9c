// engine/calibration: stops, saved state, solving.
#include "engine/calibration.h"

#include <algorithm>
#include <cstring>

#include "engine/trials.h"

namespace lowbit {
namespace {

constexpr int kCopyRows = 32;  // rows per task when states are saved and restored: about 100 KB

}  // namespace

Result<std::unique_ptr<Calibration>> Calibration::Create(std::shared_ptr<Model> model, std::vector<int32_t> tokens,
                                                         std::vector<int32_t> offsets, const CalibrationOptions& options) {
  if (model->fast()) return Error(Code::kInvalidArgument, "Calibration needs a model loaded with precision \"exact\"");
  if (offsets.size() < 2 || offsets.front() != 0 || offsets.back() != static_cast<int32_t>(tokens.size()))
    return Error(Code::kInvalidArgument, "Calibration offsets must start at 0 and end at the number of tokens");
  int longest = 0;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const int64_t length = static_cast<int64_t>(offsets[s + 1]) - offsets[s];
    if (length < 1 || length > kMaxSampleTokens)
      return Error(Code::kInvalidArgument, "Calibration sample %zu has %lld tokens; expected 1 to %d", s, static_cast<long long>(length),
                   kMaxSampleTokens);
    longest = std::max(longest, static_cast<int>(length));
  }
  const Plan& plan = model->plan();
  for (int32_t token : tokens)
    if (token < 0 || token >= plan.vocab_size)
      return Error(Code::kInvalidArgument, "Calibration token %d is outside the model's vocabulary of %d", token, plan.vocab_size);
  if (longest > plan.max_seq_len)
    return Error(Code::kInvalidArgument, "A calibration sample of %d tokens exceeds the model's limit of %d", longest, plan.max_seq_len);
  std::unique_ptr<Calibration> c(new Calibration());
  if (options.first_block < 0 || options.first_block > 0x7fffffff - 1 || options.first_block >= std::max<int>(1, int(plan.blocks.size())))
    return Error(Code::kInvalidArgument, "Calibration cannot begin at block %d of %zu", options.first_block, plan.blocks.size());
  const bool fast = options.precision == CalibrationPrecision::kFast;
  LOWBIT_ASSIGN_OR_RETURN(c->cache_, KvCache::Create(plan.caches, 1, longest, /*f16=*/fast));
  LOWBIT_ASSIGN_OR_RETURN(c->executor_, Executor::Create(plan, model->bindings(), model->kernels(), model->pool(), fast, longest, 1));
  c->weights_ = options.weights;
  c->bf16_ = fast && model->kernels().gemm_bf16 != nullptr;
  if (c->bf16_) c->executor_->UseBf16();
  c->model_ = std::move(model);
  c->tokens_ = std::move(tokens);
  c->offsets_ = std::move(offsets);
  // Room for the widest state of any stop, once: page faults of a new block at every stop cost a fifth of the whole run.
  int widest;
  const int64_t row_bytes = static_cast<int64_t>(sizeof(float)) * static_cast<int64_t>(c->tokens_.size());
  const int64_t columns_kept = std::clamp<int64_t>(options.state_bytes / row_bytes, 0, 0x7fffffff);
  c->stops_ = PlanStops(c->model_->plan(), static_cast<int>(columns_kept), &widest);
  const size_t columns = static_cast<size_t>(widest);
  for (size_t s = 0; s + 1 < c->offsets_.size(); ++s) {
    const size_t rows = static_cast<size_t>(c->offsets_[s + 1] - c->offsets_[s]);
    LOWBIT_ASSIGN_OR_RETURN(Block block, Block::Allocate(rows * columns * sizeof(float), MemoryClass::kScratch, "calibration activations"));
    c->state_.push_back(std::move(block));
  }
  if (options.first_block > 0) {
    while (!c->stops_[static_cast<size_t>(c->stop_ + 1)].end() ||
           c->stops_[static_cast<size_t>(c->stop_ + 1)].block + 1 < options.first_block)
      ++c->stop_;
    c->saved_ = ++c->stop_;
    c->missing_states_ = c->samples();
    c->set_.assign(c->state_.size(), false);
  }
  if (c->model_->lazy() && options.first_block == 0) {
    // Only rows of tokens that occur: they get numbers of their own, which the embedding in memory goes by.
    std::vector<int32_t> rows = c->tokens_;
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    for (int32_t& token : c->tokens_) token = static_cast<int32_t>(std::lower_bound(rows.begin(), rows.end(), token) - rows.begin());
    const OpRange& prologue = c->model_->plan().prologue;
    for (int i = prologue.begin; i < prologue.end; ++i) {
      const Op& op = c->model_->plan().ops[static_cast<size_t>(i)];
      if (op.kind == OpKind::kEmbed) LOWBIT_RETURN_IF_ERROR(c->model_->LoadRows(op.index, rows));
    }
    // What else it reads, a table of positions, is there in whole.
    LOWBIT_RETURN_IF_ERROR(c->model_->LoadWeights(WeightsOfRange(c->model_->plan(), prologue), {}));
  }
  return c;
}

size_t Calibration::StateFloats(int sample) const {
  size_t columns = 0;
  for (const KeptView& kept : stops_[static_cast<size_t>(saved_)].kept) columns += static_cast<size_t>(kept.view.width);
  return columns * static_cast<size_t>(offsets_[static_cast<size_t>(sample) + 1] - offsets_[static_cast<size_t>(sample)]);
}

Result<std::vector<float>> Calibration::State(int sample) const {
  if (failed_ || finished_ || stop_ < 0 || !stops_[static_cast<size_t>(stop_)].end() || missing_states_ > 0)
    return Error(Code::kInvalidArgument, "A calibration has a state to take out at the end of a block that is not the last");
  if (sample < 0 || sample >= samples()) return Error(Code::kInvalidArgument, "The calibration has no sample %d", sample);
  const size_t rows = static_cast<size_t>(offsets_[static_cast<size_t>(sample) + 1] - offsets_[static_cast<size_t>(sample)]);
  const float* from = state_[static_cast<size_t>(sample)].as<float>();
  std::vector<float> state;
  state.reserve(StateFloats(sample));
  for (const KeptView& kept : stops_[static_cast<size_t>(stop_)].kept) {
    const float* area = from + static_cast<size_t>(kept.column) * rows;
    state.insert(state.end(), area, area + static_cast<size_t>(kept.view.width) * rows);
  }
  return state;
}

Status Calibration::SetState(int sample, std::vector<float> state) {
  if (missing_states_ == 0) return Error(Code::kInvalidArgument, "This calibration takes no state: it began, or it has all of them");
  if (sample < 0 || sample >= samples() || set_[static_cast<size_t>(sample)])
    return Error(Code::kInvalidArgument, "The calibration waits for no state of sample %d", sample);
  if (state.size() != StateFloats(sample))
    return Error(Code::kInvalidArgument, "The state of sample %d has %zu values; expected %zu", sample, state.size(), StateFloats(sample));
  const size_t rows = static_cast<size_t>(offsets_[static_cast<size_t>(sample) + 1] - offsets_[static_cast<size_t>(sample)]);
  const float* from = state.data();
  for (const KeptView& kept : stops_[static_cast<size_t>(stop_)].kept) {
    const size_t floats = static_cast<size_t>(kept.view.width) * rows;
    std::memcpy(state_[static_cast<size_t>(sample)].as<float>() + static_cast<size_t>(kept.column) * rows, from, floats * sizeof(float));
    from += floats;
  }
  set_[static_cast<size_t>(sample)] = true;
  --missing_states_;
  return Status::Ok();
}

// Of a lazy model: this block's weights come, the last one's go.
Status Calibration::LoadBlock(int block, const Progress& progress) {
  if (!model_->lazy() || block == loaded_block_) return Status::Ok();
  const Plan& plan = model_->plan();
  LOWBIT_RETURN_IF_ERROR(model_->LoadWeights(WeightsOfRange(plan, plan.blocks[static_cast<size_t>(block)]), {progress.cancel, nullptr}));
  loaded_block_ = block;
  return Status::Ok();
}

// What has changed since the stop before, row blocks on the pool.
void Calibration::Save(int sample, const StopPoint& stop, int rows) {
  float* state = state_[static_cast<size_t>(sample)].as<float>();
  model_->pool().Run((rows + kCopyRows - 1) / kCopyRows, [&](int task, int) {
    for (const KeptView& kept : stop.kept) {
      if (!kept.fresh) continue;
      const size_t width = static_cast<size_t>(kept.view.width);
      float* area = state + static_cast<size_t>(kept.column) * static_cast<size_t>(rows);
      for (int r = task * kCopyRows; r < std::min(rows, (task + 1) * kCopyRows); ++r)
        std::memcpy(area + static_cast<size_t>(r) * width, executor_->Row(kept.view, r), width * sizeof(float));
    }
  });
}

void Calibration::Restore(int sample, const StopPoint& stop, int rows) {
  const float* state = state_[static_cast<size_t>(sample)].as<float>();
  model_->pool().Run((rows + kCopyRows - 1) / kCopyRows, [&](int task, int) {
    for (const KeptView& kept : stop.kept) {
      const size_t width = static_cast<size_t>(kept.view.width);
      const float* area = state + static_cast<size_t>(kept.column) * static_cast<size_t>(rows);
      for (int r = task * kCopyRows; r < std::min(rows, (task + 1) * kCopyRows); ++r)
        std::memcpy(executor_->Row(kept.view, r), area + static_cast<size_t>(r) * width, width * sizeof(float));
    }
  });
}

// Every sample from one stop (the start of the model if null) to where the state of the next is taken, and on to its linear op if
// there is a Hessian to feed.
Status Calibration::AdvanceSamples(const StopPoint* from, const StopPoint& to, const Progress& progress) {
  const Plan& plan = model_->plan();
  const int samples = static_cast<int>(state_.size());
  for (int s = 0; s < samples; ++s) {
    const int rows = offsets_[static_cast<size_t>(s) + 1] - offsets_[static_cast<size_t>(s)];
    Batch batch;
    batch.rows = rows;
    batch.tokens = tokens_.data() + offsets_[static_cast<size_t>(s)];
    batch.segments.push_back({0, 0, rows, 0});
    LOWBIT_RETURN_IF_ERROR(executor_->Begin(batch));
    if (from != nullptr) Restore(s, *from, rows);
    const int first = from != nullptr ? from->resume : plan.prologue.begin;
    if (!to.saved && statistics_.empty()) continue;
    LOWBIT_RETURN_IF_ERROR(executor_->Run({first, to.resume}, &cache_, progress.cancel));
    if (to.saved) Save(s, to, rows);
    if (!statistics_.empty()) LOWBIT_RETURN_IF_ERROR(executor_->Run({to.resume, to.linear}, &cache_, progress.cancel));
    for (Statistics& statistics : statistics_) LOWBIT_RETURN_IF_ERROR(AddRows(to, rows, &statistics));
    progress.Report(s + 1, samples);
  }
  return Status::Ok();
}

// The rows of the current sample that one Hessian of the stop is over.
Status Calibration::AddRows(const StopPoint& stop, int rows, Statistics* statistics) {
  const int expert = statistics->input.expert;
  const View& view = statistics->input.view;
  int count = rows;
  if (expert >= 0 && stop.down) {
    LOWBIT_ASSIGN_OR_RETURN(count, executor_->RunExpertUp(stop.linear, expert, rows));
  } else if (expert >= 0) {
    count = executor_->GatherExpert(stop.linear, expert, rows);
  }
  if (count == 0) return Status::Ok();
  return statistics->hessian.Add(executor_->Row(view, 0), executor_->Stride(view), count, model_->kernels(), model_->pool());
}

Result<CalibrationStop> Calibration::Advance(bool hessian, const Progress& progress) {
  if (failed_) return Error(Code::kInvalidArgument, "The calibration failed or was aborted earlier; start a new one");
  if (missing_states_ > 0) return Error(Code::kInvalidArgument, "The calibration waits for the states of %d samples", missing_states_);
  if (finished_ || stops_.empty()) return Error(Code::kInvalidArgument, "The calibration has already finished its last block");
  const Plan& plan = model_->plan();
  stop_weights_.clear();
  statistics_.clear();
  const StopPoint& to = stops_[static_cast<size_t>(stop_ + 1)];
  CalibrationStop stop;
  stop.block = to.block;
  if (to.end() && to.block == static_cast<int>(plan.blocks.size()) - 1) {
    finished_ = stop.finished = true;  // nothing reads the last block's output
    ++stop_;
    if (model_->lazy()) model_->DropWeights(WeightsOfRange(plan, plan.blocks.back()));
    return stop;
  }

  for (StopInput& input : StopInputs(plan, to)) {
    stop.weights.insert(stop.weights.end(), input.weights.begin(), input.weights.end());
    if (!hessian) continue;
    const char* name = plan.weights[static_cast<size_t>(input.weights[0])].name.c_str();
    LOWBIT_ASSIGN_OR_RETURN(Hessian h, Hessian::Create(input.view.width, name, bf16_, weights_));
    statistics_.push_back({std::move(input), std::move(h), {}});
  }
  Status status = LoadBlock(to.block, progress);
  if (status.ok()) status = AdvanceSamples(saved_ < 0 ? nullptr : &stops_[static_cast<size_t>(saved_)], to, progress);
  if (!status.ok()) {
    failed_ = true;
    return status;
  }
  ++stop_;
  if (to.saved && model_->lazy() && saved_ < 0) model_->DropWeights(WeightsOfRange(plan, plan.prologue));
  if (to.saved) saved_ = stop_;
  if (to.end()) {
    if (model_->lazy()) model_->DropWeights(WeightsOfRange(plan, plan.blocks[static_cast<size_t>(to.block)]));
    return stop;
  }
  for (Statistics& statistics : statistics_) {
    statistics.hessian.Finish(model_->pool());
    stop.tokens += statistics.hessian.tokens();
    stop.dropped_rows += statistics.hessian.dropped_rows();
  }
  stop_weights_ = stop.weights;
  return stop;
}

Result<HessianView> Calibration::HessianOf(int weight, const std::vector<SolveRequest>& requests) {
  if (std::find(stop_weights_.begin(), stop_weights_.end(), weight) == stop_weights_.end())
    return Error(Code::kInvalidArgument, "Weight %d does not belong to the current calibration stop", weight);
  for (Statistics& statistics : statistics_) {
    const std::vector<int>& weights = statistics.input.weights;
    const auto reads = [&](int w) { return std::find(weights.begin(), weights.end(), w) != weights.end(); };
    if (!reads(weight)) {
      statistics.factors = {};
      continue;
    }
    // A factor is as large as the Hessian: it stays only where another solve wants it.
    const auto users = std::count_if(requests.begin(), requests.end(), [&](const SolveRequest& r) { return reads(r.weight); });
    return HessianView{statistics.hessian.data(), statistics.hessian.k(), statistics.hessian.tokens(),
                       users > 1 ? &statistics.factors : nullptr};
  }
  return HessianView();
}

void Calibration::DropFactors() {
  for (Statistics& statistics : statistics_) statistics.factors = {};
}

Result<std::vector<Solved>> Calibration::Solve(const std::vector<SolveRequest>& requests, const Progress& progress) {
  std::vector<Solved> solved;
  for (const SolveRequest& request : requests) {
    if (progress.cancelled()) return Error(Code::kCancelled, "The operation was aborted");
    LOWBIT_ASSIGN_OR_RETURN(const HessianView view, HessianOf(request.weight, requests));
    LOWBIT_ASSIGN_OR_RETURN(Solved one, SolveAndReplace(*model_, request, view));
    solved.push_back(std::move(one));
    progress.Report(static_cast<int64_t>(solved.size()), static_cast<int64_t>(requests.size()));
  }
  DropFactors();
  return solved;
}

Result<std::vector<Solved>> Calibration::Try(Trials& trials, const std::vector<SolveRequest>& requests, const Progress& progress) {
  std::vector<Solved> solved;
  for (const SolveRequest& request : requests) {
    if (progress.cancelled()) return Error(Code::kCancelled, "The operation was aborted");
    LOWBIT_ASSIGN_OR_RETURN(const HessianView view, HessianOf(request.weight, requests));
    LOWBIT_ASSIGN_OR_RETURN(Solved one, trials.Add(request, view));
    solved.push_back(std::move(one));
    progress.Report(static_cast<int64_t>(solved.size()), static_cast<int64_t>(requests.size()));
  }
  DropFactors();
  return solved;
}

}  // namespace lowbit
