// plan/executor: memory, dispatch and the element-wise ops.
#include "plan/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "plan/scratch.h"

namespace lowbit {
namespace {

size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

// Touching fewer floats than this in one op is not worth waking a worker (about 2 us of work).
constexpr int64_t kMinParallelFloats = 16384;

bool Uses(const Op& op, int buffer) {
  const auto is = [&](const View& v) { return v.buffer == buffer; };
  switch (op.kind) {
    case OpKind::kEmbed:
    case OpKind::kEmbedPosition:
      return is(op.out);
    case OpKind::kExperts:
      return is(op.in) || is(op.in2) || is(op.out) || is(op.gathered) || is(op.gate) || is(op.up) || is(op.gated) || is(op.product);
    case OpKind::kRmsNorm:
    case OpKind::kLayerNorm:
    case OpKind::kActivation:
    case OpKind::kCopy:
    case OpKind::kRoute:
      return is(op.in) || is(op.out);
    case OpKind::kLinear:
      if (is(op.in)) return true;
      return std::any_of(op.outputs.begin(), op.outputs.end(), [&](const LinearOutput& o) { return is(o.out); });
    case OpKind::kRope:
    case OpKind::kSoftcap:
      return is(op.in);
    case OpKind::kAttention:
      return is(op.in) || is(op.in2) || is(op.in3) || is(op.out);
    case OpKind::kGlu:
    case OpKind::kAdd:
      return is(op.in) || is(op.in2) || is(op.out);
  }
  return true;
}

}  // namespace

Result<std::unique_ptr<Executor>> Executor::Create(const Plan& plan, const Bindings& bindings, const KernelTable& kernels, Pool& pool,
                                                   bool fast, int max_rows, int epilogue_rows) {
  std::unique_ptr<Executor> e(new Executor(plan, bindings, kernels, pool, fast));
  e->max_rows_ = max_rows;
  e->epilogue_rows_ = std::min(epilogue_rows, max_rows);

  size_t total = 0;
  std::vector<size_t> offsets;
  for (int b = 0; b < static_cast<int>(plan.buffers.size()); ++b) {
    bool in_blocks = b == plan.residual;
    for (int i = 0; i < plan.epilogue.begin && !in_blocks; ++i) in_blocks = Uses(plan.ops[static_cast<size_t>(i)], b);
    const size_t rows = static_cast<size_t>(in_blocks ? max_rows : e->epilogue_rows_);
    offsets.push_back(total);
    // One spare line: row tiles are read in whole SIMD registers.
    total += RoundUp(rows * static_cast<size_t>(plan.buffers[static_cast<size_t>(b)].width) + 64, 64);
  }
  LOWBIT_ASSIGN_OR_RETURN(e->buffers_, Block::Allocate(total * sizeof(float), MemoryClass::kScratch, "activation buffers"));
  for (size_t offset : offsets) e->base_.push_back(e->buffers_.as<float>() + offset);

  size_t k_max = 1;
  for (const WeightShape& w : plan.weights) k_max = std::max(k_max, static_cast<size_t>(w.k));
  const size_t k_pad = RoundUp(k_max, kSubBlock), rows = RoundUp(static_cast<size_t>(max_rows), kRowTile) + 64;
  const size_t groups = k_pad / kSubBlock;
  const size_t permuted = RoundUp(rows * k_max * 4, 64), packed = RoundUp(rows * k_max * 4, 64);
  const size_t codes = RoundUp(rows * k_pad, 64), per_group = RoundUp(rows * groups * 4, 64);
  LOWBIT_ASSIGN_OR_RETURN(e->shared_, Block::Allocate(permuted + packed + codes + 10 * per_group, MemoryClass::kScratch, "linear scratch"));
  uint8_t* p = e->shared_.data();
  const auto take = [&](size_t bytes) {
    uint8_t* at = p;
    p += bytes;
    return at;
  };
  e->permuted_ = reinterpret_cast<float*>(take(permuted));
  e->packed_rows_ = reinterpret_cast<float*>(take(packed));
  e->quantized_.q = reinterpret_cast<int8_t*>(take(codes));
  e->quantized_.scale = reinterpret_cast<float*>(take(per_group));
  e->quantized_.scale_sum = reinterpret_cast<float*>(take(per_group));
  e->quantized_.bias = reinterpret_cast<int32_t*>(take(per_group));
  e->quantized_.half_scale_sum = reinterpret_cast<float*>(take(2 * per_group));
  e->quantized_.half_bias = reinterpret_cast<int32_t*>(take(2 * per_group));
  e->wide_bias_ = reinterpret_cast<int32_t*>(take(per_group));
  e->wide_half_bias_ = reinterpret_cast<int32_t*>(take(2 * per_group));

  e->linear_result_ = std::max({kGemmScratchBytes, kExactPanels * kExactColumns * kPanelRows * sizeof(float), k_pad * sizeof(float)});
  const size_t result = std::max(kPrivateFloats, static_cast<size_t>(max_rows) * kExactPanels * kPanelRows);
  size_t per_thread = e->linear_result_ + result * sizeof(float);
  size_t partials = 0;
  for (const Op& op : plan.ops) {
    if (op.kind != OpKind::kAttention) continue;
    per_thread = std::max({per_thread, AttentionScratch(op).bytes, FewScratchFloats(op) * sizeof(float)});
    partials = std::max(partials, static_cast<size_t>(op.n_kv_heads) * FewPartialFloats(op));
  }
  constexpr size_t kBlocks = static_cast<size_t>(kFewItems) * (kFewBlocks + 1);  // a window may begin inside a block
  LOWBIT_ASSIGN_OR_RETURN(e->partials_, Block::Allocate(kBlocks * partials * sizeof(float), MemoryClass::kScratch, "attention blocks"));
  LOWBIT_ASSIGN_OR_RETURN(e->few_blocks_, Block::Allocate((kBlocks + 1) * sizeof(FewBlock), MemoryClass::kScratch, "attention blocks"));
  LOWBIT_ASSIGN_OR_RETURN(e->attend_items_,
                          Block::Allocate(Pool::kMaxStealableChunks * sizeof(AttendItem), MemoryClass::kScratch, "attention blocks"));
  e->thread_scratch_ = RoundUp(per_thread, 4096);
  LOWBIT_ASSIGN_OR_RETURN(
      e->scratch_, Block::Allocate(e->thread_scratch_ * static_cast<size_t>(pool.threads()), MemoryClass::kScratch, "thread scratch"));
  e->cosines_.resize(plan.ropes.size());
  e->sines_.resize(plan.ropes.size());
  for (int i = 0; i < static_cast<int>(plan.ops.size()); ++i) {
    e->planned_inputs_.push_back(ProducedRows(plan, i));
    const OpKind kind = plan.ops[static_cast<size_t>(i)].kind;
    if (i >= plan.epilogue.begin) continue;
    if (kind == OpKind::kAttention || kind == OpKind::kRope || kind == OpKind::kEmbed || kind == OpKind::kEmbedPosition)
      e->head_begin_ = i + 1;
  }
  e->head_inputs_ = LiveViews(plan, e->head_begin_, plan.epilogue.begin);
  LOWBIT_RETURN_IF_ERROR(e->Prepare());
  return e;
}

Status Executor::Prepare() {
  pool_.Quiesce();  // a late worker may still read the old list
  int inner = 0;
  for (const Op& op : plan_.ops)
    if (op.kind == OpKind::kLinear) inner = std::max(inner, InnerWidth(op));
  for (const Op& op : plan_.ops)
    for (const Expert& expert : op.experts) inner = std::max({inner, InnerWidth(ExpertUp(op, expert)), InnerWidth(ExpertDown(op, expert))});
  if (inner > inner_width_) {
    const size_t floats = RoundUp(static_cast<size_t>(max_rows_) * static_cast<size_t>(inner) + 64, 64);
    LOWBIT_ASSIGN_OR_RETURN(inner_, Block::Allocate(floats * sizeof(float), MemoryClass::kScratch, "inner rows of low-rank parts"));
    inner_width_ = inner;
  }
  linears_.resize(plan_.ops.size());
  experts_.resize(plan_.ops.size());
  for (size_t i = 0; i < plan_.ops.size(); ++i) {
    if (plan_.ops[i].kind == OpKind::kExperts) LOWBIT_RETURN_IF_ERROR(PrepareExperts(plan_.ops[i], &experts_[i]));
    if (plan_.ops[i].kind != OpKind::kLinear) continue;
    LOWBIT_RETURN_IF_ERROR(PrepareLinear(plan_.ops[i], &linears_[i]));
    linears_[i].input = InputRowFor(linears_[i], planned_inputs_[i]);
  }
  generation_ = bindings_.generation;
  return Status::Ok();
}

void Executor::UseBf16() {
  bf16_ = true;
  generation_ = ~uint64_t{0};  // the forms of the linear ops change
}

Status Executor::Begin(const Batch& batch) {
  if (batch.rows < 1 || batch.rows > max_rows_) return Error(Code::kInternal, "A batch of %d rows exceeds %d", batch.rows, max_rows_);
  if (generation_ != bindings_.generation) LOWBIT_RETURN_IF_ERROR(Prepare());
  batch_ = batch;
  std::vector<int32_t> positions(static_cast<size_t>(batch.rows));
  for (const Segment& s : batch.segments)
    for (int i = 0; i < s.count; ++i) positions[static_cast<size_t>(s.row + i)] = s.past + i;
  // Calibration begins the same positions again and again.
  if (positions.size() <= positions_.size() && std::equal(positions.begin(), positions.end(), positions_.begin())) return Status::Ok();
  positions_ = std::move(positions);
  for (size_t t = 0; t < plan_.ropes.size(); ++t) {
    const RopeTable& rope = plan_.ropes[t];
    const size_t half = rope.inverse_frequencies.size();
    cosines_[t].resize(static_cast<size_t>(batch.rows) * half);
    sines_[t].resize(static_cast<size_t>(batch.rows) * half);
    for (int r = 0; r < batch.rows; ++r)
      for (size_t i = 0; i < half; ++i) {
        const double angle = positions_[static_cast<size_t>(r)] * rope.inverse_frequencies[i];
        cosines_[t][static_cast<size_t>(r) * half + i] = static_cast<float>(std::cos(angle) * rope.scale);
        sines_[t][static_cast<size_t>(r) * half + i] = static_cast<float>(std::sin(angle) * rope.scale);
      }
  }
  return Status::Ok();
}

Status Executor::Run(OpRange range, KvCache* cache, const std::atomic<bool>* cancel) { return RunOps(range, batch_.rows, cache, cancel); }

int Executor::NextStop(int op) const {
  const size_t next = static_cast<size_t>(op) + 1;
  return next < linears_.size() && linears_[next].input != InputRow::kStored ? op + 2 : op + 1;
}

void Executor::MoveRow(int begin, int from, int to) {
  if (from == to) return;
  const auto move = [&](const View& view) {
    std::memmove(Row(view, to), Row(view, from), static_cast<size_t>(view.width) * sizeof(float));
  };
  if (begin == head_begin_)
    for (const View& view : head_inputs_) move(view);
  else
    move({plan_.residual, 0, plan_.hidden_size});
}

Status Executor::RunHead(int begin, int rows, const std::atomic<bool>* cancel) {
  return RunOps({begin, plan_.epilogue.end}, rows, nullptr, cancel);
}

Status Executor::RunOps(OpRange range, int rows, KvCache* cache, const std::atomic<bool>* cancel) {
  for (int i = range.begin; i < range.end; ++i) {
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return Error(Code::kCancelled, "The operation was aborted");
    if (const int next = NextStop(i); next == i + 2 && next <= range.end) {
      LOWBIT_RETURN_IF_ERROR(Linear(linears_[static_cast<size_t>(i) + 1], rows, &plan_.ops[static_cast<size_t>(i)]));
      ++i;
    } else {
      LOWBIT_RETURN_IF_ERROR(RunOp(i, rows, cache));
    }
  }
  return Status::Ok();
}

void Executor::ForRows(int rows, const std::function<void(int, int)>& fn) {
  const int chunks = std::min(rows, pool_.threads() * 4);
  const int step = (rows + chunks - 1) / chunks;
  pool_.Run((rows + step - 1) / step, [&](int chunk, int) { fn(chunk * step, std::min(rows, (chunk + 1) * step)); });
}

Status Executor::RunOp(int index, int rows, KvCache* cache) {
  const Op& op = plan_.ops[static_cast<size_t>(index)];
  const auto for_rows = [&](int width, const std::function<void(int, int)>& fn) {
    if (static_cast<int64_t>(rows) * width < kMinParallelFloats)
      fn(0, rows);
    else
      ForRows(rows, fn);
  };
  switch (op.kind) {
    case OpKind::kEmbed:
    case OpKind::kEmbedPosition:
      return Embed(op, rows);
    case OpKind::kLinear:
      return Linear(linears_[static_cast<size_t>(index)], rows, nullptr);
    case OpKind::kAttention:
      return Attention(op, cache);
    case OpKind::kRmsNorm:
    case OpKind::kLayerNorm:
    case OpKind::kGlu:
    case OpKind::kActivation:
    case OpKind::kAdd:
      for_rows(op.out.width, [&](int begin, int end) {
        for (int r = begin; r < end; ++r) ComputeRow(op, r, Row(op.out, r));
      });
      return Status::Ok();
    case OpKind::kRoute:
      return Route(op, rows);
    case OpKind::kExperts:
      return Experts(index, rows);
    case OpKind::kCopy:
      for_rows(op.out.width, [&](int begin, int end) {
        for (int r = begin; r < end; ++r)
          for (int h = 0; h < op.n_heads; ++h) {
            float* to = Row(op.out, r) + static_cast<size_t>(h) * static_cast<size_t>(op.out_stride);
            std::memcpy(to, Row(op.in, r) + static_cast<size_t>(h) * static_cast<size_t>(op.in_stride),
                        static_cast<size_t>(op.width) * sizeof(float));
            std::fill_n(to + op.width, op.zeros, 0.0f);
          }
      });
      return Status::Ok();
    case OpKind::kRope: {
      const size_t half = plan_.ropes[static_cast<size_t>(op.index)].inverse_frequencies.size();
      const float* cosines = cosines_[static_cast<size_t>(op.index)].data();
      const float* sines = sines_[static_cast<size_t>(op.index)].data();
      for_rows(op.in.width, [&](int begin, int end) {
        std::vector<float> pairs(op.interleaved ? 2 * half : 0);
        for (int r = begin; r < end; ++r)
          for (int h = 0; h < op.n_heads; ++h) {
            float* head = Row(op.in, r) + h * op.head_dim + op.offset;
            if (op.interleaved) {
              for (size_t i = 0; i < 2 * half; ++i) pairs[i / 2 + (i % 2) * half] = head[i];
              std::copy(pairs.begin(), pairs.end(), head);
            }
            kernels_.rope_half(head, cosines + static_cast<size_t>(r) * half, sines + static_cast<size_t>(r) * half, half);
          }
      });
      return Status::Ok();
    }
    case OpKind::kSoftcap:
      for_rows(op.in.width, [&](int begin, int end) {
        for (int r = begin; r < end; ++r) kernels_.softcap(Row(op.in, r), static_cast<size_t>(op.in.width), op.factor);
      });
      return Status::Ok();
  }
  return Error(Code::kInternal, "Unknown op in a validated plan");
}

}  // namespace lowbit
