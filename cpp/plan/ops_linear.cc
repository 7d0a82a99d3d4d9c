// plan/: the linear and embed ops. A linear op is a list of products, one for each part of each output; products that
// read the input in the same form (packed f32 rows, or int8 rows with the same zero code) share that form and one parallel
// region, so that q, k and v, or gate and up, run as one matrix product.
#include <algorithm>
#include <cstring>

#include "plan/executor.h"
#include "plan/scratch.h"

namespace lowbit {

struct Executor::Product {
  const Part* part;
  View out;
  const float* bias;  // added by the first part of an output, or null
  bool accumulate;
  View in;
  bool fast;      // integer kernels
  bool bf16;      // bf16 kernels
  int zero_code;  // of the int8 rows, fast only

  bool SameInput(const Product& other) const {
    return fast == other.fast && bf16 == other.bf16 && zero_code == other.zero_code &&
           (part->view.group_size == 16) == (other.part->view.group_size == 16) &&
           ActivationGroup(part->view) == ActivationGroup(other.part->view) && part->permutation == other.part->permutation;
  }
};

Status Executor::Linear(const Op& op, int rows) {
  std::vector<Product> products;
  for (const LinearOutput& o : op.outputs) {
    const int bias = plan_.weights[static_cast<size_t>(o.weight)].bias;
    bool first = true;
    for (const Part& part : bindings_.weights[static_cast<size_t>(o.weight)]) {
      Product p;
      p.part = &part;
      p.out = o.out;
      p.bias = first && bias >= 0 ? bindings_.vectors[static_cast<size_t>(bias)].data() : nullptr;
      p.accumulate = o.accumulate || !first;
      p.in = op.in;
      p.fast = fast_ && part.view.kind == PackedKind::kAffine;
      p.bf16 = bf16_ && !p.fast;
      p.zero_code = p.fast && part.view.affine == AffineKind::kSymmetric ? 1 << (part.view.bits - 1) : 0;
      products.push_back(p);
      first = false;
    }
    if (first) return Error(Code::kInternal, "Weight %s has no parts", plan_.weights[static_cast<size_t>(o.weight)].name.c_str());
  }

  for (size_t begin = 0; begin < products.size();) {
    // A run must not hold two parts of one output: both would add to the same columns at the same time.
    size_t end = begin + 1;
    while (end < products.size() && products[end].SameInput(products[begin]) && products[end].out.offset != products[end - 1].out.offset)
      ++end;
    if (products[begin].fast)
      PrepareFast(products[begin], rows);
    else
      PrepareExact(products[begin], rows);

    struct Chunk {
      const Product* product;
      int panel0, panel1;
    };
    std::vector<Chunk> chunks;
    int panels = 0;
    for (size_t i = begin; i < end; ++i) panels += (products[i].part->view.n + kPanelRows - 1) / kPanelRows;
    // About eight chunks per thread even out a busy neighbour; three panels are one register block of the kernels.
    const int blocks = std::max(1, panels / (3 * 8 * pool_.threads()));
    const int step = 3 * std::min(blocks, 64);
    for (size_t i = begin; i < end; ++i) {
      const int count = (products[i].part->view.n + kPanelRows - 1) / kPanelRows;
      for (int p = 0; p < count; p += step) chunks.push_back({&products[i], p, std::min(count, p + step)});
    }
    pool_.Run(static_cast<int>(chunks.size()), [&](int c, int worker) {
      const Chunk& chunk = chunks[static_cast<size_t>(c)];
      ComputePanels(*chunk.product, rows, chunk.panel0, chunk.panel1, worker);
    });
    begin = end;
  }
  return Status::Ok();
}

// Input rows in packed column order: the view itself, or a gathered copy for act-order weights.
const float* Executor::InputRows(const Product& product, int rows, size_t* stride) {
  const std::vector<int32_t>& permutation = product.part->permutation;
  *stride = Stride(product.in);
  if (permutation.empty()) return Row(product.in, 0);
  const size_t k = permutation.size();
  for (int r = 0; r < rows; ++r) {
    const float* from = Row(product.in, r);
    float* to = permuted_ + static_cast<size_t>(r) * k;
    for (size_t j = 0; j < k; ++j) to[j] = from[permutation[j]];
  }
  *stride = k;
  return permuted_;
}

void Executor::PrepareExact(const Product& first, int rows) {
  size_t ldx;
  const float* x = InputRows(first, rows, &ldx);
  first_row_ = x;
  if (first.bf16) return PackBf16(x, ldx, rows, first.part->view.k);
  const int k = first.part->view.k, tiles = (rows + kRowTile - 1) / kRowTile;
  const auto pack = [&](int tile) {
    const int r = tile * kRowTile;
    kernels_.pack_rows(x + static_cast<size_t>(r) * ldx, ldx, std::min(kRowTile, rows - r), k,
                       packed_rows_ + static_cast<size_t>(r) * static_cast<size_t>(k));
  };
  if (tiles < 4) {
    for (int t = 0; t < tiles; ++t) pack(t);
  } else {
    pool_.Run(tiles, [&](int t, int) { pack(t); });
  }
}

void Executor::PrepareFast(const Product& first, int rows) {
  size_t ldx;
  const float* x = InputRows(first, rows, &ldx);
  QuantizedRows& q = quantized_;
  q.m = rows;
  q.k = first.part->view.k;
  q.k_padded = (q.k + kSubBlock - 1) / kSubBlock * kSubBlock;
  q.group = ActivationGroup(first.part->view);
  q.groups = (q.k_padded + q.group - 1) / q.group;
  q.tile = rows <= kSmallRows ? rows : kernels_.gemm_tile;
  QuantizedRows form = q;
  if (first.part->view.group_size != 16) {
    form.half_scale_sum = nullptr;
    form.half_bias = nullptr;
  }
  const int tiles = (rows + q.tile - 1) / q.tile;
  if (tiles < 4) {
    kernels_.quantize_rows(x, ldx, form, first.zero_code, 0, rows);
  } else {
    pool_.Run(tiles, [&](int t, int) {
      kernels_.quantize_rows(x, ldx, form, first.zero_code, t * form.tile, std::min(rows, (t + 1) * form.tile));
    });
  }
}

void Executor::ComputePanels(const Product& product, int rows, int panel0, int panel1, int worker) {
  const PackedView& w = product.part->view;
  float* y = Row(product.out, 0);
  const size_t ldy = Stride(product.out);
  const int column0 = panel0 * kPanelRows, column1 = std::min(w.n, panel1 * kPanelRows);
  bool accumulate = product.accumulate;
  if (product.bias != nullptr) {
    for (int r = 0; r < rows; ++r) {
      float* row = y + static_cast<size_t>(r) * ldy;
      if (accumulate)
        kernels_.add(row + column0, product.bias + column0, row + column0, static_cast<size_t>(column1 - column0));
      else
        std::memcpy(row + column0, product.bias + column0, static_cast<size_t>(column1 - column0) * sizeof(float));
    }
    accumulate = true;
  }
  uint8_t* scratch = scratch_.data() + static_cast<size_t>(worker) * thread_scratch_;
  if (product.fast) {
    QuantizedRows form = quantized_;
    if (rows <= kSmallRows)
      kernels_.affine_small(w, form, y, ldy, panel0, panel1, accumulate);
    else
      kernels_.affine_gemm(w, form, y, ldy, panel0, panel1, accumulate, scratch);
    return;
  }
  if (product.bf16) return MultiplyBf16(w, rows, panel0, panel1, y, ldy, accumulate, scratch);
  if (rows == 1 && w.kind != PackedKind::kAffine) {
    kernels_.dense_gemv(w, first_row_, y, panel0, panel1, accumulate);
    return;
  }
  float* unpacked = reinterpret_cast<float*>(scratch);
  const size_t k = static_cast<size_t>(w.k);
  for (int p = panel0; p < panel1; p += static_cast<int>(kExactPanels)) {
    const int panels = std::min(static_cast<int>(kExactPanels), panel1 - p);
    const int columns = std::min(w.n - p * kPanelRows, panels * kPanelRows);
    for (size_t k0 = 0; k0 < k; k0 += kExactColumns) {
      const size_t kc = std::min(kExactColumns, k - k0);
      for (int i = 0; i < panels; ++i)
        kernels_.unpack_panel(w, p + i, static_cast<int>(k0), static_cast<int>(kc), unpacked + static_cast<size_t>(i) * kc * kPanelRows);
      kernels_.gemm_f32(packed_rows_ + k0 * kRowTile, k * kRowTile, kRowTile, unpacked, kc * kPanelRows, kPanelRows, rows, columns,
                        static_cast<int>(kc), y + p * kPanelRows, ldy, accumulate || k0 > 0);
    }
  }
}

Status Executor::Embed(const Op& op, int rows) {
  const std::vector<Part>& parts = bindings_.weights[static_cast<size_t>(op.index)];
  const size_t width = static_cast<size_t>(op.out.width);
  for (const Part& part : parts)
    if (!part.permutation.empty()) return Error(Code::kUnsupported, "The embedding must not have permuted columns");
  // One token's row is a lane of its panel; unpacking the panel costs 16 rows but keeps a single copy of a table that
  // tied models also use as head.
  const auto embed = [&](int r, float* panel) {
    const int token = batch_.tokens[r];
    float* to = Row(op.out, r);
    for (size_t i = 0; i < parts.size(); ++i) {
      const PackedView& w = parts[i].view;
      for (size_t k0 = 0; k0 < width; k0 += kExactColumns) {
        const size_t kc = std::min(kExactColumns, width - k0);
        kernels_.unpack_panel(w, token / kPanelRows, static_cast<int>(k0), static_cast<int>(kc), panel);
        for (size_t j = 0; j < kc; ++j) {
          const float value = op.factor * panel[j * kPanelRows + static_cast<size_t>(token % kPanelRows)];
          to[k0 + j] = i == 0 ? value : to[k0 + j] + value;
        }
      }
    }
  };
  pool_.Run(rows, [&](int r, int worker) {
    embed(r, reinterpret_cast<float*>(scratch_.data() + static_cast<size_t>(worker) * thread_scratch_));
  });
  return Status::Ok();
}

}  // namespace lowbit
