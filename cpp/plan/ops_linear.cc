// plan/: the linear op: grouping of products, preparation of the input rows, and the stealable region that computes panels.
#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>

#include "plan/executor.h"
#include "plan/scratch.h"

namespace lowbit {
namespace {

// y[m][columns) of one product, from prepared rows. y points at column 0 of the product.
struct PanelJob {
  const KernelTable& kernels;
  const LinearRun& run;
  const Product& product;
  const QuantizedRows& quantized;
  const float* packed;  // f32 tiles of kRowTile rows, or bf16 panels
  const float* x;       // the rows themselves and the distance between them: few rows of dense or sparse weights; else null
  size_t ldx;
  int m;
  uint8_t* scratch;

  // Few rows of sparse weights that go with those of integers: one region for both.
  bool Rides() const { return run.form == InputForm::kInt8Rows && x != nullptr && product.sparse.lines != nullptr; }

  bool AddsAtOnce() const {
    if (run.form == InputForm::kSparse) return x != nullptr;
    const bool whole = m <= kSmallRows ? kernels.gemm_pass > 0 : run.k <= kernels.gemm_pass;
    return run.form == InputForm::kInt8Rows && product.bias == nullptr && whole && !Rides();
  }

  // accumulate: only where AddsAtOnce.
  void Compute(int panel0, int panel1, float* y, size_t ldy, bool accumulate) const {
    const PackedView& w = product.w;
    if (run.form == InputForm::kInt8Rows) {
      if (m <= kSmallRows)
        kernels.affine_small(w, quantized, y, ldy, panel0, panel1, accumulate);
      else
        kernels.affine_gemm(w, quantized, y, ldy, panel0, panel1, accumulate, scratch);
      if (Rides()) kernels.sparse_few(product.sparse, x, ldx, m, y, ldy, panel0, panel1, true);
    } else if (run.form == InputForm::kSparse) {
      if (x != nullptr)
        kernels.sparse_few(product.sparse, x, ldx, m, y, ldy, panel0, panel1, accumulate);
      else
        MultiplySparse(kernels, product, packed, m, panel0, panel1, y, ldy, scratch);
    } else if (x != nullptr) {
      // Panel by panel, so that the weights are read from memory once; row by row, so that a row's result does not depend on
      // how many rows share the step.
      for (int p = panel0; p < panel1; ++p)
        for (int r = 0; r < m; ++r)
          kernels.dense_gemv(w, x + static_cast<size_t>(r) * ldx, y + static_cast<size_t>(r) * ldy, p, p + 1, false);
    } else if (run.form == InputForm::kBf16Rows) {
      MultiplyBf16(kernels, w, reinterpret_cast<const uint16_t*>(packed), m, panel0, panel1, y, ldy, scratch);
    } else {
      Unpacked(panel0, panel1, y, ldy);
    }
    if (product.bias == nullptr) return;
    const int column0 = panel0 * kPanelRows, columns = std::min(w.n, panel1 * kPanelRows) - column0;
    for (int r = 0; r < m; ++r) {
      float* row = y + static_cast<size_t>(r) * ldy + column0;
      kernels.add(row, product.bias + column0, row, static_cast<size_t>(columns));
    }
  }

  void Unpacked(int panel0, int panel1, float* y, size_t ldy) const {
    const PackedView& w = product.w;
    float* unpacked = reinterpret_cast<float*>(scratch);
    const size_t k = static_cast<size_t>(w.k);
    for (int p = panel0; p < panel1; p += static_cast<int>(kExactPanels)) {
      const int panels = std::min(static_cast<int>(kExactPanels), panel1 - p);
      const int columns = std::min(w.n - p * kPanelRows, panels * kPanelRows);
      for (size_t k0 = 0; k0 < k; k0 += kExactColumns) {
        const size_t kc = std::min(kExactColumns, k - k0);
        for (int i = 0; i < panels; ++i)
          kernels.unpack_panel(w, p + i, static_cast<int>(k0), static_cast<int>(kc), unpacked + static_cast<size_t>(i) * kc * kPanelRows);
        kernels.gemm_f32(packed + k0 * kRowTile, k * kRowTile, kRowTile, unpacked, kc * kPanelRows, kPanelRows, m, columns,
                         static_cast<int>(kc), y + p * kPanelRows, ldy, k0 > 0);
      }
    }
  }
};

// The stealable region of one run (base/pool.h). Chunks are panels [step*i, step*(i+1)) of one product after the other.
struct PanelTask {
  const LinearRun* run;
  const KernelTable* kernels;
  QuantizedRows quantized, wide;  // the same rows for products of zero_code and of wide_zero_code
  const float* packed;
  const float* x;
  size_t ldx;
  uint8_t* scratch;
  size_t thread_scratch, result;  // bytes per thread, and where in them a private result lies
  int m, step;

  struct Panels {
    const Product* product;
    int begin, end;
  };
  Panels Locate(int chunk) const {
    for (const Product& product : run->products) {
      const int chunks = (product.panels + step - 1) / step;
      if (chunk < chunks) return {&product, chunk * step, std::min(product.panels, (chunk + 1) * step)};
      chunk -= chunks;
    }
    return {&run->products.front(), 0, 0};
  }
  uint8_t* Scratch(int worker) const { return scratch + static_cast<size_t>(worker) * thread_scratch; }
  float* Result(int worker) const { return reinterpret_cast<float*>(Scratch(worker) + result); }
  size_t Stride() const { return static_cast<size_t>(step) * kPanelRows; }

  bool Compute(int chunk, int worker, bool direct) const {
    const Panels p = Locate(chunk);
    const PanelJob job{*kernels, *run, *p.product, p.product->wide ? wide : quantized, packed, x, ldx, m, Scratch(worker)};
    // What is added to comes from a private result, unless the kernel adds all of a product at once: the order of additions must not
    // depend on who computes.
    const bool in_place = direct && p.product->rows == nullptr && (!p.product->accumulate || job.AddsAtOnce());
    if (in_place)
      job.Compute(p.begin, p.end, p.product->y, p.product->ldy, p.product->accumulate);
    else
      job.Compute(p.begin, p.end, Result(worker) - p.begin * kPanelRows, Stride(), false);
    return !in_place;
  }
  static void Scatter(const float* from, const int32_t* columns, size_t count, bool accumulate, float* to) {
    if (accumulate)
      for (size_t c = 0; c < count; ++c) to[columns[c]] += from[c];
    else
      for (size_t c = 0; c < count; ++c) to[columns[c]] = from[c];
  }
  void Commit(int chunk, int worker) const {
    const Panels p = Locate(chunk);
    const int column0 = p.begin * kPanelRows;
    const size_t columns = static_cast<size_t>(std::min(p.product->w.n, p.end * kPanelRows) - column0);
    for (int r = 0; r < m; ++r) {
      const float* from = Result(worker) + static_cast<size_t>(r) * Stride();
      float* to = p.product->y + static_cast<size_t>(r) * p.product->ldy;
      if (p.product->rows != nullptr) {
        Scatter(from, p.product->rows + column0, columns, p.product->accumulate, to);
        continue;
      }
      to += column0;
      if (p.product->accumulate)
        kernels->add(to, from, to, columns);
      else
        std::memcpy(to, from, columns * sizeof(float));
    }
  }
};

// A product of one row that reads less than this is not worth waking a worker: about 3 us at 20 GB/s (factors of low-rank parts).
constexpr size_t kSerialBytes = size_t(64) << 10;

// Panels of one chunk. About eight chunks per thread even out a busy neighbour; a register block of the kernels is two panels
// of codes or three of floats. A single thread has nothing to share out.
int ChunkPanels(const LinearRun& run, int m, int threads) {
  const int block = run.form == InputForm::kInt8Rows ? 2 : static_cast<int>(kExactPanels);
  size_t bytes = 0;
  for (const Product& product : run.products) bytes += static_cast<size_t>(product.panels) * product.w.panel_bytes;
  const bool small = run.form != InputForm::kSparse && bytes * static_cast<size_t>(m) < kSerialBytes;
  const int even = threads == 1 || small ? run.panels : run.panels / (8 * threads);
  int step = std::max(1, std::min(even, static_cast<int>(kPrivateFloats) / kPanelRows / m) / block) * block;
  while (run.panels / step + static_cast<int>(run.products.size()) > Pool::kMaxStealableChunks) step += block;
  return step;
}

// Which rows of an output the parts before have written: a part whose rows are all new writes them, with the bias; one whose rows are
// all there adds to them.
class Coverage {
 public:
  explicit Coverage(int n) : n_(n) {}

  enum class Kind { kNew, kThere, kMixed };
  Kind Add(const Part& part) {
    if (whole_) return Kind::kThere;
    if (part.rows.empty()) {
      if (!rows_.empty()) return covered_ == n_ ? Kind::kThere : Kind::kMixed;
      whole_ = true;
      return Kind::kNew;
    }
    rows_.resize(static_cast<size_t>(n_));
    size_t there = 0;
    for (const int32_t row : part.rows) there += rows_[static_cast<size_t>(row)];
    if (there > 0) return there == part.rows.size() ? Kind::kThere : Kind::kMixed;
    for (const int32_t row : part.rows) rows_[static_cast<size_t>(row)] = 1;
    covered_ += static_cast<int>(part.rows.size());
    return Kind::kNew;
  }
  bool complete() const { return whole_ || covered_ == n_; }

 private:
  const int n_;
  bool whole_ = false;
  int covered_ = 0;
  std::vector<uint8_t> rows_;
};

// zero_code and wide_zero_code of a run when weights of `code` join it, the smaller first; nothing when they need another run.
std::optional<std::pair<int, int>> JoinZeroCode(const LinearRun& run, int code) {
  if (code == 0 || code == run.zero_code || code == run.wide_zero_code) return std::pair{run.zero_code, run.wide_zero_code};
  if (run.zero_code == 0) return std::pair{code, 0};
  if (run.wide_zero_code == 0) return std::pair{std::min(run.zero_code, code), std::max(run.zero_code, code)};
  return std::nullopt;
}

// Parts in the order in which they may run: what writes an output, what adds to it; low-rank parts in two steps.
enum Stage { kWrites, kAdds, kLowRankInner, kLowRankOuter, kSparseAdds };

}  // namespace

// Columns of the inner rows that an op needs: the ranks of all its low-rank parts.
int Executor::InnerWidth(const Op& op) const {
  int width = 0;
  for (const LinearOutput& o : op.outputs)
    for (const Part& part : bindings_.weights[static_cast<size_t>(o.weight)])
      if (part.kind == PartKind::kLowRank) width += part.inner.n;
  return width;
}

Status Executor::PrepareLinear(const Op& op, LinearOp* linear) const {
  struct Source {
    const Part* part;
    Stage stage;
    LinearRun run;
    Product product;
  };
  std::vector<Source> sources;
  linear->runs.clear();
  linear->biases.clear();
  // A lazy model: what is not in memory may be prepared, but not run.
  const auto absent = [&](const LinearOutput& o) { return bindings_.weights[static_cast<size_t>(o.weight)].empty(); };
  if (std::any_of(op.outputs.begin(), op.outputs.end(), absent)) return Status::Ok();
  const auto form_of = [&](const PackedView& view) {
    const bool bf16 = bf16_ || (fast_ && kernels_.gemm_bf16 != nullptr && view.kind != PackedKind::kDenseF32);
    return bf16 ? InputForm::kBf16Rows : InputForm::kF32Rows;
  };
  int inner = 0;
  for (const LinearOutput& o : op.outputs) {
    const WeightShape& shape = plan_.weights[static_cast<size_t>(o.weight)];
    Coverage coverage(shape.n);
    for (const Part& part : bindings_.weights[static_cast<size_t>(o.weight)]) {
      Source s;
      s.part = &part;
      s.run.in = op.in;
      s.run.k = part.view.k;
      s.run.permutation = part.permutation.empty() ? nullptr : &part.permutation;
      s.run.input_scale = part.input_scale.empty() ? nullptr : &part.input_scale;
      s.product.w = part.view;
      s.product.y = Row(o.out, 0);
      s.product.ldy = Stride(o.out);
      s.product.accumulate = true;
      s.product.panels = PanelCount(part.view);
      if (part.kind == PartKind::kLowRank) {
        Source a = s;
        a.stage = kLowRankInner;
        a.run.k = part.inner.k;
        a.run.form = form_of(part.inner);
        a.product.w = part.inner;
        a.product.y = inner_.as<float>() + inner;
        a.product.ldy = static_cast<size_t>(inner_width_);
        a.product.accumulate = false;
        a.product.panels = PanelCount(part.inner);
        sources.push_back(std::move(a));
        s.stage = kLowRankOuter;
        s.run.form = form_of(part.view);
        s.run.input_scale = nullptr;
        s.run.inner = inner;
        inner += part.inner.n;
        sources.push_back(std::move(s));
        continue;
      }
      if (part.kind == PartKind::kSparse) {
        s.stage = kSparseAdds;
        s.run.form = InputForm::kSparse;
        s.product.sparse = part.sparse;
        sources.push_back(std::move(s));
        continue;
      }
      if (fast_ && part.view.kind == PackedKind::kAffine) {
        s.run.form = InputForm::kInt8Rows;
        s.run.zero_code = part.view.affine == AffineKind::kSymmetric ? 1 << (part.view.bits - 1) : 0;
        s.run.group = ActivationGroup(part.view);
        s.run.halves = part.view.group_size == 16;
      } else {
        s.run.form = form_of(part.view);
      }
      if (!part.rows.empty()) s.product.rows = part.rows_behind != nullptr ? part.rows_behind : part.rows.data();
      const Coverage::Kind kind = coverage.Add(part);
      if (kind == Coverage::Kind::kMixed)
        return Error(Code::kInternal, "A part of weight %s overlaps others without covering the same rows", shape.name.c_str());
      s.stage = kind == Coverage::Kind::kNew ? kWrites : kAdds;
      if (kind == Coverage::Kind::kNew) {
        s.product.accumulate = o.accumulate;
        if (shape.bias >= 0) {
          const std::vector<float>& bias = bindings_.vectors[static_cast<size_t>(shape.bias)];
          s.product.bias = bias.data();
          if (!part.rows.empty()) {
            std::vector<float> gathered;
            for (const int32_t row : part.rows) gathered.push_back(bias[static_cast<size_t>(row)]);
            linear->biases.push_back(std::move(gathered));
            s.product.bias = linear->biases.back().data();
          }
        }
      }
      sources.push_back(std::move(s));
    }
    if (!coverage.complete()) return Error(Code::kInternal, "The parts of weight %s do not cover all of its rows", shape.name.c_str());
  }
  const auto same = [](const auto* a, const auto* b) { return a == b || (a != nullptr && b != nullptr && *a == *b); };
  for (Source& sparse : sources) {
    if (sparse.stage != kSparseAdds) continue;
    for (Source& s : sources) {
      if (s.stage != kWrites || s.run.form != InputForm::kInt8Rows || s.product.rows != nullptr || s.product.y != sparse.product.y ||
          !same(s.run.input_scale, sparse.run.input_scale))
        continue;
      s.product.sparse = sparse.product.sparse;
      sparse.run.rides = true;
    }
  }
  std::stable_sort(sources.begin(), sources.end(), [](const Source& a, const Source& b) { return a.stage < b.stage; });
  const auto same_input = [&](const LinearRun& a, const LinearRun& b) {
    const bool sparse = a.form == InputForm::kSparse;
    return a.form == b.form && a.inner == b.inner && a.group == b.group && (!sparse || a.rides == b.rides) &&
           same(a.permutation, b.permutation) && same(a.input_scale, b.input_scale) && JoinZeroCode(a, b.zero_code).has_value();
  };
  for (size_t begin = 0; begin < sources.size();) {
    LinearRun run = sources[begin].run;
    std::vector<int> zero_codes;
    size_t end = begin;
    do {
      const LinearRun& own = sources[end].run;
      std::tie(run.zero_code, run.wide_zero_code) = *JoinZeroCode(run, own.zero_code);
      run.halves = run.halves || own.halves;
      run.rides = run.rides || (own.form == InputForm::kInt8Rows && sources[end].product.sparse.lines != nullptr);
      zero_codes.push_back(own.zero_code);
      run.products.push_back(sources[end].product);
      run.panels += sources[end].product.panels;
      ++end;
      // A run must not hold two parts that add to the same columns. Those that write have columns of their own.
    } while (end < sources.size() && sources[begin].stage == sources[end].stage && same_input(run, sources[end].run) &&
             (sources[begin].stage == kWrites || sources[end].product.y != sources[end - 1].product.y));
    for (size_t i = 0; i < zero_codes.size(); ++i) run.products[i].wide = zero_codes[i] > 0 && zero_codes[i] == run.wide_zero_code;
    linear->runs.push_back(std::move(run));
    begin = end;
  }
  return Status::Ok();
}

// producer: the op before, when it is to make the input rows (InputRow).
Status Executor::Linear(const LinearOp& op, int rows, const Op* producer) {
  if (op.runs.empty()) return Error(Code::kInternal, "A linear op was run whose weights are not in memory");
  for (const LinearRun& run : op.runs) {
    PanelTask task = {};
    task.run = &run;
    task.kernels = &kernels_;
    const bool few = rows <= kSmallRows;
    if (run.form == InputForm::kSparse && run.rides && few) continue;  // done
    if (run.form == InputForm::kInt8Rows) {
      QuantizeInput(run, rows, &run == op.runs.data() ? producer : nullptr, op.input == InputRow::kProduced, &task.quantized, &task.wide);
      if (run.rides && few) task.x = InputRows(run, nullptr, 0, rows, &task.ldx);
    } else {
      PackInput(run, rows, &task.x, &task.ldx);
    }
    task.packed = packed_rows_;
    task.scratch = scratch_.data();
    task.thread_scratch = thread_scratch_;
    task.result = linear_result_;
    task.m = rows;
    task.step = ChunkPanels(run, rows, pool_.threads());
    int chunks = 0;
    for (const Product& product : run.products) chunks += (product.panels + task.step - 1) / task.step;
    RunStealable(chunks, task);
  }
  return Status::Ok();
}

// Rows [begin, end) of the input in the given order of columns, or their own: the view itself, or a copy where there is an order or
// are scales of columns.
const float* Executor::InputRows(const LinearRun& run, const std::vector<int32_t>* order, int begin, int end, size_t* stride) {
  if (run.inner >= 0) {
    *stride = static_cast<size_t>(inner_width_);
    return inner_.as<float>() + static_cast<size_t>(begin) * *stride + run.inner;
  }
  *stride = Stride(run.in);
  if (order == nullptr && run.input_scale == nullptr) return Row(run.in, begin);
  const size_t k = static_cast<size_t>(run.k);
  const float* scale = run.input_scale == nullptr ? nullptr : run.input_scale->data();
  *stride = k;
  for (int r = begin; r < end; ++r) {
    const float* from = Row(run.in, r);
    float* to = permuted_ + static_cast<size_t>(r) * k;
    if (order == nullptr) {
      for (size_t j = 0; j < k; ++j) to[j] = from[j] * scale[j];
      continue;
    }
    const int32_t* permutation = order->data();
    if (scale == nullptr)
      for (size_t j = 0; j < k; ++j) to[j] = from[permutation[j]];
    else
      for (size_t j = 0; j < k; ++j) to[j] = from[permutation[j]] * scale[permutation[j]];
  }
  return permuted_ + static_cast<size_t>(begin) * k;
}

// fn(begin, end, worker) for tiles of rows; few tiles are not worth waking a worker.
template <typename Fn>
void Executor::ForTiles(int rows, int tile, const Fn& fn) {
  const int tiles = (rows + tile - 1) / tile;
  if (tiles < 4) {
    fn(0, rows, 0);
  } else {
    pool_.Run(tiles, [&](int t, int worker) { fn(t * tile, std::min(rows, (t + 1) * tile), worker); });
  }
}

void Executor::PackInput(const LinearRun& run, int rows, const float** x, size_t* ldx) {
  const bool direct = rows <= kSmallRows && std::all_of(run.products.begin(), run.products.end(),
                                                        [](const Product& p) { return p.w.kind != PackedKind::kAffine; });
  if (direct) {
    *x = InputRows(run, run.permutation, 0, rows, ldx);
    return;
  }
  const bool bf16 = run.form == InputForm::kBf16Rows;
  const int tile = bf16 ? kPanelRows : kRowTile;
  ForTiles(rows, tile, [&](int begin, int end, int) {
    size_t stride;
    const float* from = InputRows(run, run.permutation, begin, end, &stride);
    if (bf16) {
      uint16_t* out = reinterpret_cast<uint16_t*>(packed_rows_) + static_cast<size_t>(begin / kPanelRows) * Bf16PanelStride(run.k);
      kernels_.pack_rows_bf16(from, stride, end - begin, run.k, out);
    } else {
      kernels_.pack_rows(from, stride, end - begin, run.k, packed_rows_ + static_cast<size_t>(begin) * static_cast<size_t>(run.k));
    }
  });
}

// producer: the op whose rows these are, to be computed here; keep: into their view as well. wide: the rows with the starts of
// wide_zero_code, where the run has one.
void Executor::QuantizeInput(const LinearRun& run, int rows, const Op* producer, bool keep, QuantizedRows* quantized, QuantizedRows* wide) {
  QuantizedRows& q = *quantized;
  q = quantized_;
  q.m = rows;
  q.k = run.k;
  q.k_padded = (q.k + kSubBlock - 1) / kSubBlock * kSubBlock;
  q.group = run.group;
  q.groups = (q.k_padded + q.group - 1) / q.group;
  q.tile = rows <= kSmallRows ? rows : kernels_.gemm_tile;
  if (!run.halves) {
    q.half_scale_sum = nullptr;
    q.half_bias = nullptr;
  }
  *wide = q;
  if (run.wide_zero_code > 0) {
    wide->bias = wide_bias_;
    if (run.halves) wide->half_bias = wide_half_bias_;
  }
  // Both codes are powers of two: the starts of the one are a multiple of those of the other.
  const auto widen = [&](int begin, int end) {
    const int factor = run.wide_zero_code / run.zero_code;
    const size_t groups = static_cast<size_t>(q.groups), first = static_cast<size_t>(begin) * groups;
    const size_t last = static_cast<size_t>(end) * groups;
    for (size_t i = first; i < last; ++i) wide->bias[i] = q.bias[i] * factor;
    if (!run.halves) return;
    for (size_t i = 2 * first; i < 2 * last; ++i) wide->half_bias[i] = q.half_bias[i] * factor;
  };
  ForTiles(rows, q.tile, [&](int begin, int end, int worker) {
    if (producer == nullptr) {
      size_t stride;
      const float* from = InputRows(run, run.permutation, begin, end, &stride);
      kernels_.quantize_rows(from - static_cast<size_t>(begin) * stride, stride, q, run.zero_code, begin, end);
    } else {
      for (int r = begin; r < end; ++r) {
        float* row = keep ? Row(run.in, r) : reinterpret_cast<float*>(ThreadScratch(worker));
        ComputeRow(*producer, r, row);
        kernels_.quantize_rows(row, 0, q, run.zero_code, r, r + 1);
      }
    }
    if (run.wide_zero_code > 0) widen(begin, end);
  });
}

}  // namespace lowbit
