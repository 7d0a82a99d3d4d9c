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

// Most columns that a sample has to keep at any stop.
int WidestState(const Plan& plan) {
  int widest = plan.hidden_size;
  for (const OpRange& block : plan.blocks)
    for (int i = block.begin; i < block.end; ++i) {
      if (plan.ops[static_cast<size_t>(i)].kind != OpKind::kLinear) continue;
      int columns = 0;
      for (const View& v : LiveViews(plan, i, block.end)) columns += v.width;
      widest = std::max(widest, columns);
    }
  return widest;
}

Result<Solved> SolveAndReplace(Model& model, int weight, Method method, const HessianView& hessian, const QuantizeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const WeightShape& shape = model.plan().weights[static_cast<size_t>(weight)];
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<float> dense, model.DenseWeight(weight));
  Solved solved;
  LOWBIT_ASSIGN_OR_RETURN(solved.linear,
                          Quantize(method, shape.name.c_str(), dense, shape.n, shape.k, hessian, options, model.kernels(), model.pool()));
  LOWBIT_ASSIGN_OR_RETURN(Part part, PackQuantized(shape.name.c_str(), solved.linear));
  model.ReplaceWeight(weight, std::move(part));
  solved.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return solved;
}

}  // namespace

Result<std::unique_ptr<Calibration>> Calibration::Create(std::shared_ptr<Model> model, std::vector<int32_t> tokens,
                                                         std::vector<int32_t> offsets) {
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
  LOWBIT_ASSIGN_OR_RETURN(c->cache_, KvCache::Create(plan.caches, 1, longest, /*f16=*/false));
  LOWBIT_ASSIGN_OR_RETURN(c->executor_,
                          Executor::Create(plan, model->bindings(), model->kernels(), model->pool(), /*fast=*/false, longest, 1));
  c->model_ = std::move(model);
  c->tokens_ = std::move(tokens);
  c->offsets_ = std::move(offsets);
  // Room for the widest state of any stop, once: page faults of a new block at every stop cost a fifth of the whole run.
  const size_t columns = static_cast<size_t>(WidestState(c->model_->plan()));
  for (size_t s = 0; s + 1 < c->offsets_.size(); ++s) {
    const size_t rows = static_cast<size_t>(c->offsets_[s + 1] - c->offsets_[s]);
    LOWBIT_ASSIGN_OR_RETURN(Block block, Block::Allocate(rows * columns * sizeof(float), MemoryClass::kScratch, "calibration activations"));
    c->state_.push_back(std::move(block));
  }
  return c;
}

void Calibration::Save(int sample, const std::vector<View>& views, int rows) {
  float* to = state_[static_cast<size_t>(sample)].as<float>();
  for (int r = 0; r < rows; ++r)
    for (const View& v : views) {
      std::memcpy(to, executor_->Row(v, r), static_cast<size_t>(v.width) * sizeof(float));
      to += v.width;
    }
}

void Calibration::Restore(int sample, const std::vector<View>& views, int rows) {
  const float* from = state_[static_cast<size_t>(sample)].as<float>();
  for (int r = 0; r < rows; ++r)
    for (const View& v : views) {
      std::memcpy(executor_->Row(v, r), from, static_cast<size_t>(v.width) * sizeof(float));
      from += v.width;
    }
}

// Every sample through ops [op_, next), from its saved state to its new one.
Status Calibration::AdvanceSamples(int next, const std::vector<View>& live, bool first, const Progress& progress) {
  const Plan& plan = model_->plan();
  const int samples = static_cast<int>(state_.size());
  for (int s = 0; s < samples; ++s) {
    const int rows = offsets_[static_cast<size_t>(s) + 1] - offsets_[static_cast<size_t>(s)];
    Batch batch;
    batch.rows = rows;
    batch.tokens = tokens_.data() + offsets_[static_cast<size_t>(s)];
    batch.segments.push_back({0, 0, rows, 0});
    LOWBIT_RETURN_IF_ERROR(executor_->Begin(batch));
    if (first)
      LOWBIT_RETURN_IF_ERROR(executor_->Run(plan.prologue, &cache_, progress.cancel));
    else
      Restore(s, live_, rows);
    LOWBIT_RETURN_IF_ERROR(executor_->Run({op_, next}, &cache_, progress.cancel));
    if (hessian_ != nullptr) {
      const View& in = plan.ops[static_cast<size_t>(next)].in;
      LOWBIT_RETURN_IF_ERROR(hessian_->Add(executor_->Row(in, 0), executor_->Stride(in), rows, model_->kernels(), model_->pool()));
    }
    Save(s, live, rows);
    progress.Report(s + 1, samples);
  }
  return Status::Ok();
}

Result<CalibrationStop> Calibration::Advance(bool hessian, const Progress& progress) {
  if (failed_) return Error(Code::kInvalidArgument, "The calibration failed or was aborted earlier; start a new one");
  const Plan& plan = model_->plan();
  const int n_blocks = static_cast<int>(plan.blocks.size());
  CalibrationStop stop;
  stop_weights_.clear();
  hessian_.reset();
  const bool first = block_ < 0;
  if (first || op_ == plan.blocks[static_cast<size_t>(block_)].end) {
    if (block_ + 1 >= n_blocks) return Error(Code::kInvalidArgument, "The calibration has already finished its last block");
    ++block_;
    op_ = plan.blocks[static_cast<size_t>(block_)].begin;
  }
  const OpRange block = plan.blocks[static_cast<size_t>(block_)];
  stop.block = block_;

  // A stop stands in front of a linear op, which is the first op to run now.
  int next = stopped_ ? op_ + 1 : op_;
  while (next < block.end && plan.ops[static_cast<size_t>(next)].kind != OpKind::kLinear) ++next;
  const bool at_end = next == block.end;
  if (at_end && block_ == n_blocks - 1) {  // nothing reads the last block's output
    op_ = block.end;
    stopped_ = false;
    stop.finished = true;
    return stop;
  }

  const std::vector<View> live = LiveViews(plan, next, block.end);
  const Op* linear = at_end ? nullptr : &plan.ops[static_cast<size_t>(next)];
  if (linear != nullptr && hessian) {
    LOWBIT_ASSIGN_OR_RETURN(Hessian h,
                            Hessian::Create(linear->in.width, plan.weights[static_cast<size_t>(linear->outputs[0].weight)].name.c_str()));
    hessian_ = std::make_unique<Hessian>(std::move(h));
  }
  const Status status = AdvanceSamples(next, live, first, progress);
  if (!status.ok()) {
    failed_ = true;
    return status;
  }
  live_ = live;
  op_ = next;
  stopped_ = linear != nullptr;
  if (hessian_ != nullptr) {
    hessian_->Finish();
    stop.tokens = hessian_->tokens();
    stop.dropped_rows = hessian_->dropped_rows();
  }
  if (linear != nullptr)
    for (const LinearOutput& o : linear->outputs) stop.weights.push_back(o.weight);
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
