// quantize/rtn: see rtn.h.
#include "quantize/rtn.h"

#include <algorithm>

#include "base/alloc.h"
#include "quantize/block_grid.h"
#include "quantize/grid.h"

namespace lowbit {

QuantizedLinear EmptyResult(int n, int k, const QuantizeOptions& options) {
  QuantizedLinear q;
  q.n = n;
  q.k = k;
  q.bits = options.bits;
  q.group_size = options.group_size < 0 ? k : options.group_size;
  q.groups = (k + q.group_size - 1) / q.group_size;
  q.sym = options.sym;
  q.block_type = options.block_type;
  q.codes.resize(size_t(n) * k);
  q.scales.resize(size_t(n) * q.groups);
  q.zeros.resize(size_t(n) * q.groups);
  return q;
}

Result<QuantizedLinear> QuantizeRtn(std::span<const float> w, int n, int k, const QuantizeOptions& options, const float* importance,
                                    Pool& pool) {
  QuantizedLinear q = EmptyResult(n, k, options);
  if (q.block_type != DType::kF32) {
    FitBlockGrids(w, nullptr, importance, options.mse > 0, pool, &q);
    RoundOnGrids(w, pool, &q);
    return q;
  }
  const GridRule rule{options.bits, options.sym, options.mse};
  const int tile_columns = std::min(k, q.group_size);
  const size_t task_floats = size_t(tile_columns) * kGridRows;
  LOWBIT_ASSIGN_OR_RETURN(Block scratch, Block::Allocate(task_floats * pool.threads() * sizeof(float), MemoryClass::kScratch, "RTN tiles"));
  pool.Run((n + kGridRows - 1) / kGridRows, [&](int chunk, int worker) {
    float* tile = scratch.as<float>() + worker * task_floats;
    const int row0 = chunk * kGridRows, rows = std::min(kGridRows, n - row0);
    float scale[kGridRows], zero[kGridRows], fitted[kGridRows];
    uint8_t codes[kGridRows];
    for (int group = 0; group < q.groups; ++group) {
      const int first = group * q.group_size, count = std::min(q.group_size, k - first);
      LoadTile(w.data() + size_t(row0) * k, k, rows, nullptr, first, count, tile);
      FitGrid(tile, count, rule, scale, zero, fitted, importance == nullptr ? nullptr : importance + first);
      for (int r = 0; r < rows; ++r) {
        q.scales[size_t(row0 + r) * q.groups + group] = scale[r];
        q.zeros[size_t(row0 + r) * q.groups + group] = static_cast<uint8_t>(zero[r]);
      }
      for (int c = 0; c < count; ++c) {
        float* column = tile + size_t(c) * kGridRows;
        QuantizeColumn(column, fitted, scale, zero, options.bits, codes, column);
        for (int r = 0; r < rows; ++r) q.codes[size_t(row0 + r) * k + first + c] = codes[r];
      }
    }
  });
  return q;
}

}  // namespace lowbit
