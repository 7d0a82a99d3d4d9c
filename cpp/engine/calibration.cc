// engine/calibration: stops, saved state, solving.
#include "engine/calibration.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace lowbit {
namespace {

// The packed form of a quantised linear, for the passes that follow. With scattered groups (act-order) the columns are
// laid out group by group and the part remembers their order.
Result<Part> PackQuantized(const char* name, const QuantizedLinear& q) {
  const size_t n = static_cast<size_t>(q.n), k = static_cast<size_t>(q.k), groups = static_cast<size_t>(q.groups);
  std::vector<int32_t> order;
  std::vector<uint8_t> codes;
  if (!q.g_idx.empty()) {
    order.resize(k);
    for (size_t j = 0; j < k; ++j) order[j] = static_cast<int32_t>(j);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return q.g_idx[static_cast<size_t>(a)] < q.g_idx[static_cast<size_t>(b)]; });
    codes.resize(n * k);
    for (size_t r = 0; r < n; ++r)
      for (size_t j = 0; j < k; ++j) codes[r * k + j] = q.codes[r * k + static_cast<size_t>(order[j])];
  }
  std::vector<float> zeros;
  const bool centred = std::all_of(q.zeros.begin(), q.zeros.end(), [&](uint8_t z) { return z == 1 << (q.bits - 1); });
  if (!centred) zeros.assign(q.zeros.begin(), q.zeros.end());
  AffineSource source;
  source.n = q.n;
  source.k = q.k;
  source.bits = q.bits;
  source.group_size = q.group_size;
  source.affine = centred ? AffineKind::kSymmetric : AffineKind::kZeroPoint;
  source.codes = order.empty() ? std::span<const uint8_t>(q.codes) : std::span<const uint8_t>(codes);
  source.scales = q.scales;
  source.seconds = zeros;
  LOWBIT_ASSIGN_OR_RETURN(Part part, PackAffine(name, source));
  part.permutation = std::move(order);
  part.stored_bytes = (n * k * static_cast<size_t>(q.bits) + 7) / 8 + n * groups * 2 + (n * groups * static_cast<size_t>(q.bits) + 7) / 8;
  return part;
}

constexpr int kCopyRows = 32;  // rows per task when states are saved and restored: about 100 KB

Result<Solved> SolveAndReplace(Model& model, int weight, Method method, const HessianView& hessian, const QuantizeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const WeightShape& shape = model.plan().weights[static_cast<size_t>(weight)];
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<float> dense, model.DenseWeight(weight));
  Solved solved;
  LOWBIT_ASSIGN_OR_RETURN(solved.linear,
                          Quantize(method, shape.name.c_str(), dense, shape.n, shape.k, hessian, options, model.kernels(), model.pool()));
  LOWBIT_ASSIGN_OR_RETURN(Part part, PackQuantized(shape.name.c_str(), solved.linear));
  std::vector<Part> parts;
  parts.push_back(std::move(part));
  model.ReplaceWeight(weight, std::move(parts));
  solved.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return solved;
}

}  // namespace

Result<std::unique_ptr<Calibration>> Calibration::Create(std::shared_ptr<Model> model, std::vector<int32_t> tokens,
                                                         std::vector<int32_t> offsets, CalibrationPrecision precision,
                                                         TokenWeights weights) {
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
  const bool fast = precision == CalibrationPrecision::kFast;
  LOWBIT_ASSIGN_OR_RETURN(c->cache_, KvCache::Create(plan.caches, 1, longest, /*f16=*/fast));
  LOWBIT_ASSIGN_OR_RETURN(c->executor_, Executor::Create(plan, model->bindings(), model->kernels(), model->pool(), fast, longest, 1));
  c->weights_ = weights;
  c->bf16_ = fast && model->kernels().gemm_bf16 != nullptr;
  if (c->bf16_) c->executor_->UseBf16();
  c->model_ = std::move(model);
  c->tokens_ = std::move(tokens);
  c->offsets_ = std::move(offsets);
  // Room for the widest state of any stop, once: page faults of a new block at every stop cost a fifth of the whole run.
  int widest;
  c->stops_ = PlanStops(c->model_->plan(), &widest);
  const size_t columns = static_cast<size_t>(widest);
  for (size_t s = 0; s + 1 < c->offsets_.size(); ++s) {
    const size_t rows = static_cast<size_t>(c->offsets_[s + 1] - c->offsets_[s]);
    LOWBIT_ASSIGN_OR_RETURN(Block block, Block::Allocate(rows * columns * sizeof(float), MemoryClass::kScratch, "calibration activations"));
    c->state_.push_back(std::move(block));
  }
  return c;
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
    LOWBIT_RETURN_IF_ERROR(executor_->Run({first, to.resume}, &cache_, progress.cancel));
    Save(s, to, rows);
    if (hessian_ != nullptr) {
      LOWBIT_RETURN_IF_ERROR(executor_->Run({to.resume, to.linear}, &cache_, progress.cancel));
      const View& in = plan.ops[static_cast<size_t>(to.linear)].in;
      LOWBIT_RETURN_IF_ERROR(hessian_->Add(executor_->Row(in, 0), executor_->Stride(in), rows, model_->kernels(), model_->pool()));
    }
    progress.Report(s + 1, samples);
  }
  return Status::Ok();
}

Result<CalibrationStop> Calibration::Advance(bool hessian, const Progress& progress) {
  if (failed_) return Error(Code::kInvalidArgument, "The calibration failed or was aborted earlier; start a new one");
  const Plan& plan = model_->plan();
  const int n_blocks = static_cast<int>(plan.blocks.size());
  stop_weights_.clear();
  hessian_.reset();
  if (block_ < 0 || ended_) {
    if (block_ + 1 >= n_blocks) return Error(Code::kInvalidArgument, "The calibration has already finished its last block");
    ++block_;
    ended_ = false;
  }
  CalibrationStop stop;
  stop.block = block_;
  const size_t next = static_cast<size_t>(stop_ + 1);
  if (next == stops_.size() || stops_[next].block != block_) {
    ended_ = true;  // blocks follow one another without a gap; nothing reads the last one's output
    stop.finished = block_ == n_blocks - 1;
    return stop;
  }

  const StopPoint& to = stops_[next];
  const Op& op = plan.ops[static_cast<size_t>(to.linear)];
  if (hessian) {
    LOWBIT_ASSIGN_OR_RETURN(
        Hessian h, Hessian::Create(op.in.width, plan.weights[static_cast<size_t>(op.outputs[0].weight)].name.c_str(), bf16_, weights_));
    hessian_ = std::make_unique<Hessian>(std::move(h));
  }
  const Status status = AdvanceSamples(stop_ < 0 ? nullptr : &stops_[static_cast<size_t>(stop_)], to, progress);
  if (!status.ok()) {
    failed_ = true;
    return status;
  }
  ++stop_;
  if (hessian_ != nullptr) {
    hessian_->Finish(model_->pool());
    stop.tokens = hessian_->tokens();
    stop.dropped_rows = hessian_->dropped_rows();
  }
  for (const LinearOutput& o : op.outputs) stop.weights.push_back(o.weight);
  stop_weights_ = stop.weights;
  return stop;
}

Result<std::vector<Solved>> Calibration::Solve(const std::vector<SolveRequest>& requests, const Progress& progress) {
  HessianView view;
  if (hessian_ != nullptr) view = {hessian_->data(), hessian_->k(), hessian_->tokens()};
  std::vector<Solved> solved;
  for (const SolveRequest& request : requests) {
    if (progress.cancelled()) return Error(Code::kCancelled, "The operation was aborted");
    if (std::find(stop_weights_.begin(), stop_weights_.end(), request.weight) == stop_weights_.end())
      return Error(Code::kInvalidArgument, "Weight %d does not belong to the current calibration stop", request.weight);
    LOWBIT_ASSIGN_OR_RETURN(Solved one, SolveAndReplace(*model_, request.weight, request.method, view, request.options));
    solved.push_back(std::move(one));
    progress.Report(static_cast<int64_t>(solved.size()), static_cast<int64_t>(requests.size()));
  }
  return solved;
}

Result<Solved> SolveWeight(Model& model, int weight, Method method, const QuantizeOptions& options) {
  if (weight < 0 || weight >= static_cast<int>(model.plan().weights.size()))
    return Error(Code::kInvalidArgument, "Weight %d is not in the plan", weight);
  return SolveAndReplace(model, weight, method, HessianView(), options);
}

}  // namespace lowbit
