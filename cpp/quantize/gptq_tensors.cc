// quantize/gptq_tensors: see gptq_tensors.h.
#include "quantize/gptq_tensors.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"
#include "base/status.h"
#include "part/pack_common.h"

namespace lowbit {
namespace {

bool AllFitHalf(const std::vector<float>& values) { return std::all_of(values.begin(), values.end(), FitsHalf); }

StoredTensor Empty(const char* part, DType dtype, std::vector<int64_t> shape) {
  StoredTensor t;
  t.part = part;
  t.dtype = dtype;
  size_t bytes = static_cast<size_t>(Info(dtype).block_bytes);
  for (const int64_t side : shape) bytes *= static_cast<size_t>(side);
  t.shape = std::move(shape);
  t.bytes.resize(bytes);
  return t;
}

std::span<int32_t> Words(StoredTensor& t) { return {reinterpret_cast<int32_t*>(t.bytes.data()), t.bytes.size() / sizeof(int32_t)}; }

}  // namespace

std::string ContainerMisfit(const LinearParts& linear) {
  for (const AffineCodes& a : linear.affine) {
    if (!AllFitHalf(a.scales)) return "scales that f16 does not hold exactly";
    if (a.affine == AffineKind::kMinimum && !AllFitHalf(a.seconds)) return "minima that f16 does not hold exactly";
    if (a.affine == AffineKind::kZeroPoint && !a.seconds.empty()) {
      const float largest = *std::max_element(a.seconds.begin(), a.seconds.end());
      if (largest >= static_cast<float>(1 << a.bits))
        return Format("a zero point of %g, which %d bits do not hold", static_cast<double>(largest), a.bits);
    }
  }
  return "";
}

std::string GptqMisfit(const LinearParts& linear) {
  if (linear.affine.size() != 1 || !linear.affine[0].rows.empty()) return "rows of several widths";
  if (!linear.input_scale.empty()) return "a scale of its inputs";
  if (linear.low_rank.rank > 0) return "a low-rank part";
  if (!linear.sparse.row_offsets.empty()) return "single weights beside its codes";
  const AffineCodes& a = linear.affine[0];
  if (a.affine == AffineKind::kMinimum) return "minima in place of integer zero points";
  if (a.bits != 2 && a.bits != 3 && a.bits != 4 && a.bits != 8) return Format("codes of %d bits (2, 3, 4 and 8 are possible)", a.bits);
  if (linear.n * static_cast<int64_t>(a.bits) % 32 != 0 || linear.k * static_cast<int64_t>(a.bits) % 32 != 0)
    return Format("%d rows and %d columns of %d bits, which do not fill 32-bit words", linear.n, linear.k, a.bits);
  if (!AllFitHalf(a.scales)) return "scales that f16 does not hold exactly";
  if (!a.seconds.empty()) {
    // Version 1 begins at 1, version 2 ends at 2^bits - 1; one file has one version.
    const auto [least, largest] = std::minmax_element(a.seconds.begin(), a.seconds.end());
    if (*least < 1 && *largest >= static_cast<float>(1 << a.bits))
      return Format("zero points from %g to %g, which no version holds together", static_cast<double>(*least),
                    static_cast<double>(*largest));
  }
  return "";
}

std::vector<StoredTensor> GptqTensors(const LinearParts& linear, int zero_offset) {
  const AffineCodes& a = linear.affine[0];
  const int64_t n = linear.n, k = linear.k, groups = a.groups;
  const size_t rows = static_cast<size_t>(n), count = static_cast<size_t>(groups);
  std::vector<StoredTensor> tensors;
  tensors.push_back(Empty("qweight", DType::kI32, {k * a.bits / 32, n}));
  tensors.push_back(Empty("qzeros", DType::kI32, {groups, n * a.bits / 32}));
  tensors.push_back(Empty("scales", DType::kF16, {groups, n}));
  tensors.push_back(Empty("g_idx", DType::kI32, {k}));
  std::vector<uint8_t> zeros(rows * count, static_cast<uint8_t>(1 << (a.bits - 1)));
  for (size_t i = 0; i < a.seconds.size(); ++i) zeros[i] = static_cast<uint8_t>(a.seconds[i]);
  WriteGptqWords(linear.n, linear.k, a.bits, a.groups, zero_offset, a.codes, zeros, Words(tensors[0]), Words(tensors[1]));
  for (size_t r = 0; r < rows; ++r)
    for (size_t g = 0; g < count; ++g) {
      const uint16_t half = FloatToHalf(a.scales[r * count + g]);
      std::memcpy(tensors[2].bytes.data() + 2 * (g * rows + r), &half, sizeof(half));
    }
  for (int j = 0; j < linear.k; ++j) Words(tensors[3])[static_cast<size_t>(j)] = a.GroupOf(j);
  return tensors;
}

}  // namespace lowbit
