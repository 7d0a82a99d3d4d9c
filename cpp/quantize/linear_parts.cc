// quantize/linear_parts: see linear_parts.h.
#include "quantize/linear_parts.h"

#include <algorithm>

namespace lowbit {
namespace {

constexpr int kTaskRows = 16;  // rows of the output per task

float Value(const AffineCodes& codes, size_t line, int column, int k) {
  const size_t grid = line * codes.groups + codes.GroupOf(column);
  const float code = codes.codes[line * k + column], scale = codes.scales[grid];
  switch (codes.affine) {
    case AffineKind::kMinimum:
      return scale * code + codes.seconds[grid];
    case AffineKind::kZeroPoint:
      return scale * (code - codes.seconds[grid]);
    case AffineKind::kSymmetric:
      break;
  }
  return scale * (code - static_cast<float>(1 << (codes.bits - 1)));
}

template <typename Fn>
void ForRows(int rows, Pool& pool, const Fn& fn) {
  pool.Run((rows + kTaskRows - 1) / kTaskRows, [&](int task, int) {
    for (int r = task * kTaskRows; r < std::min(rows, (task + 1) * kTaskRows); ++r) fn(size_t(r));
  });
}

}  // namespace

void DequantizeCodes(const AffineCodes& codes, int n, int k, std::span<float> out, Pool& pool) {
  ForRows(codes.Rows(n), pool, [&](size_t line) {
    const size_t row = codes.rows.empty() ? line : codes.rows[line];
    for (int c = 0; c < k; ++c) out[row * k + c] = Value(codes, line, c, k);
  });
}

void DequantizeParts(const LinearParts& parts, std::span<float> out, Pool& pool) {
  for (const AffineCodes& codes : parts.affine) DequantizeCodes(codes, parts.n, parts.k, out, pool);
  const size_t k = parts.k, rank = parts.low_rank.rank;
  ForRows(parts.n, pool, [&](size_t row) {
    float* line = out.data() + row * k;
    if (!parts.sparse.row_offsets.empty())
      for (int32_t i = parts.sparse.row_offsets[row]; i < parts.sparse.row_offsets[row + 1]; ++i)
        line[parts.sparse.columns[i]] += parts.sparse.values[i];
    for (size_t i = 0; i < rank; ++i) {
      const float b = parts.low_rank.b[row * rank + i];
      const float* a = parts.low_rank.a.data() + i * k;
      for (size_t c = 0; c < k; ++c) line[c] += b * a[c];
    }
    if (!parts.input_scale.empty())
      for (size_t c = 0; c < k; ++c) line[c] *= parts.input_scale[c];
  });
}

LinearParts FromQuantized(QuantizedLinear q) {
  LinearParts parts;
  parts.n = q.n;
  parts.k = q.k;
  AffineCodes codes;
  codes.bits = q.bits;
  codes.group_size = q.group_size;
  codes.groups = q.groups;
  codes.g_idx = std::move(q.g_idx);
  codes.affine = q.sym ? AffineKind::kSymmetric : AffineKind::kZeroPoint;
  codes.codes = std::move(q.codes);
  codes.scales = std::move(q.scales);
  if (!q.sym) codes.seconds.assign(q.zeros.begin(), q.zeros.end());
  parts.affine.push_back(std::move(codes));
  parts.error = q.error;
  parts.damp_percent = q.damp_percent;
  parts.dead_columns = q.dead_columns;
  parts.fallbacks = std::move(q.fallbacks);
  return parts;
}

Result<QuantizedLinear> AsGptq(const char* name, const LinearParts& parts) {
  const char* reason = nullptr;
  if (parts.affine.size() != 1 || !parts.affine[0].rows.empty())
    reason = "rows of several widths";
  else if (!parts.input_scale.empty())
    reason = "a scale of its inputs";
  else if (parts.low_rank.rank > 0)
    reason = "a low-rank part";
  else if (!parts.sparse.row_offsets.empty())
    reason = "single weights beside its codes";
  else if (parts.affine[0].affine == AffineKind::kMinimum)
    reason = "minima in place of integer zero points";
  else if (parts.affine[0].group_size % 32 != 0 && parts.affine[0].group_size != parts.k)
    reason = "groups of 16 columns";
  else if (parts.affine[0].bits == 5 || parts.affine[0].bits == 6)
    reason = "codes of 5 or 6 bits";
  if (reason != nullptr)
    return Error(Code::kUnsupported, "A GPTQ checkpoint has no place for %s of %s: write lowbit's own container (format 'lowbit')", reason,
                 name);
  const AffineCodes& codes = parts.affine[0];
  QuantizedLinear q;
  q.n = parts.n;
  q.k = parts.k;
  q.bits = codes.bits;
  q.group_size = codes.group_size;
  q.groups = codes.groups;
  q.sym = codes.affine == AffineKind::kSymmetric;
  q.codes = codes.codes;
  q.scales = codes.scales;
  q.g_idx = codes.g_idx;
  q.zeros.assign(codes.scales.size(), static_cast<uint8_t>(1 << (codes.bits - 1)));
  for (size_t i = 0; i < codes.seconds.size(); ++i) q.zeros[i] = static_cast<uint8_t>(codes.seconds[i]);
  q.error = parts.error;
  q.damp_percent = parts.damp_percent;
  q.dead_columns = parts.dead_columns;
  q.fallbacks = parts.fallbacks;
  return q;
}

double StoredBits(const LinearParts& parts) {
  double bits = 32.0 * static_cast<double>(parts.input_scale.size());
  for (const AffineCodes& codes : parts.affine) {
    bits += 32.0 * static_cast<double>(codes.rows.size() + codes.g_idx.size());
    bits += codes.bits * static_cast<double>(codes.codes.size());
    if (codes.coded.bits > 0) {
      bits += 2.0 * codes.coded.bits * static_cast<double>(codes.coded.scale_codes.size());
      bits += 4.0 * 16 * static_cast<double>(codes.coded.scale_step.size());
    } else {
      bits += 16.0 * static_cast<double>(codes.scales.size());
      bits += (codes.affine == AffineKind::kZeroPoint ? codes.bits : 16.0) * static_cast<double>(codes.seconds.size());
    }
  }
  bits += 16.0 * static_cast<double>(parts.low_rank.a.size() + parts.low_rank.b.size());
  bits += 32.0 * static_cast<double>(parts.sparse.row_offsets.size() + parts.sparse.values.size());  // f16 value and u16 column
  return bits;
}

}  // namespace lowbit
