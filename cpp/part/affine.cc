// part/affine: codes, scales and zero points or minima as plain arrays -> affine panels (packed.h).
// The readers of file formats (gguf_blocks.cc, gptq_words.cc) do not come through here: they pack straight from their words.
#include <cmath>
#include <cstring>

#include "part/layout.h"
#include "part/pack_common.h"
#include "part/part.h"

namespace lowbit {
namespace {

Status CheckSource(const char* name, const AffineSource& source, size_t groups) {
  const size_t n = static_cast<size_t>(source.n), k = static_cast<size_t>(source.k);
  const bool symmetric = source.affine == AffineKind::kSymmetric;
  if (source.codes.size() != n * k) {
    return Error(Code::kInvalidArgument, "Expected %zu codes for %s but received %zu", n * k, name, source.codes.size());
  }
  if (source.scales.size() != n * groups) {
    return Error(Code::kInvalidArgument, "Expected %zu scales for %s but received %zu", n * groups, name, source.scales.size());
  }
  if (source.seconds.size() != (symmetric ? 0 : n * groups)) {
    return Error(Code::kInvalidArgument, "Expected %zu zero points or minima for %s but received %zu", symmetric ? 0 : n * groups, name,
                 source.seconds.size());
  }
  uint8_t all = 0;
  for (const uint8_t code : source.codes) all |= code;
  if (all >> source.bits != 0) {
    return Error(Code::kInvalidArgument, "Expected integers between 0 and %d for the codes of %s but received a larger one",
                 (1 << source.bits) - 1, name);
  }
  for (const auto& [values, what] : {std::pair{source.scales, "scale"}, std::pair{source.seconds, "zero point or minimum"}}) {
    for (size_t i = 0; i < values.size(); ++i) {
      const double value = static_cast<double>(values[i]);
      if (!std::isfinite(values[i])) {
        return Error(Code::kInvalidArgument, "Expected finite number for %s %zu of %s but received %g", what, i, name, value);
      }
      if (!source.meta_f32 && !FitsHalf(values[i])) {
        return Error(Code::kInvalidArgument,
                     "Expected number that f16 holds exactly for %s %zu of %s but received %.9g; round it or ask for f32 scales", what, i,
                     name, value);
      }
    }
  }
  // kernels fold scale * zero into one product per group; only an integer zero of the code range keeps that exact
  if (source.affine == AffineKind::kZeroPoint) {
    for (size_t i = 0; i < source.seconds.size(); ++i) {
      const float zero = source.seconds[i];
      if (!(zero >= 0 && zero <= static_cast<float>(1 << source.bits)) || zero != std::floor(zero)) {
        return Error(Code::kInvalidArgument, "Expected integer between 0 and %d for zero point %zu of %s but received %g", 1 << source.bits,
                     i, name, static_cast<double>(zero));
      }
    }
  }
  return Status::Ok();
}

}  // namespace

Result<Part> PackAffine(const char* name, const AffineSource& source) {
  LOWBIT_RETURN_IF_ERROR(CheckPackShape(name, source.n, source.k));
  if (source.bits < 1 || source.bits > 8) {
    return Error(Code::kInvalidArgument, "Expected integer between 1 and 8 for bits of %s but received %d", name, source.bits);
  }
  const bool whole_row = source.group_size >= source.k;
  if (!whole_row && source.group_size != 16 && (source.group_size < kSubBlock || source.group_size % kSubBlock != 0)) {
    return Error(Code::kInvalidArgument, "Expected 16, a multiple of 32 or at least the %d columns for group_size of %s but received %d",
                 source.k, name, source.group_size);
  }
  const size_t n = static_cast<size_t>(source.n), k = static_cast<size_t>(source.k);
  const size_t group_size = static_cast<size_t>(source.group_size), groups = whole_row ? 1 : (k + group_size - 1) / group_size;
  LOWBIT_RETURN_IF_ERROR(CheckSource(name, source, groups));

  Part part;
  part.kind = PartKind::kAffine;
  part.view.kind = PackedKind::kAffine;
  part.view.n = source.n;
  part.view.k = source.k;
  part.view.bits = source.bits;
  part.view.group_size = whole_row ? (source.k + kSubBlock - 1) / kSubBlock * kSubBlock : source.group_size;
  part.view.affine = source.affine;
  part.view.meta = source.meta_f32 ? MetaKind::kF32 : MetaKind::kF16;
  LOWBIT_RETURN_IF_ERROR(AllocatePanels(name, part));
  // minima cost as much as scales in a file, zero points as much as a code
  const size_t bits = static_cast<size_t>(source.bits), scale_bits = source.meta_f32 ? 32 : 16;
  const size_t second_bits = source.affine == AffineKind::kSymmetric ? 0 : source.affine == AffineKind::kMinimum ? scale_bits : bits;
  part.stored_bytes = (n * k * bits + 7) / 8 + (n * groups * (scale_bits + second_bits) + 7) / 8;

  const AffineLayout layout(part.view);
  for (size_t row0 = 0; row0 < n; row0 += kPanelRows) {
    uint8_t* panel = part.storage.data() + row0 / kPanelRows * part.view.panel_bytes;
    const size_t rows = n - row0 < kPanelRows ? n - row0 : kPanelRows;
    for (size_t s = 0; s < layout.sub_blocks; ++s) {
      uint32_t quads[8][kPanelRows] = {};
      const size_t columns = k - s * kSubBlock < kSubBlock ? k - s * kSubBlock : kSubBlock;
      for (size_t r = 0; r < rows; ++r) {
        uint32_t words[8] = {};
        std::memcpy(words, source.codes.data() + (row0 + r) * k + s * kSubBlock, columns);
        for (int t = 0; t < 8; ++t) quads[t][r] = words[t];
      }
      StoreSubBlock(quads, source.bits, panel + layout.SubBlockOffset(s));
    }
    for (size_t g = 0; g < groups; ++g) {
      float scales[kPanelRows] = {}, seconds[kPanelRows] = {};
      for (size_t r = 0; r < rows; ++r) {
        scales[r] = source.scales[(row0 + r) * groups + g];
        if (!source.seconds.empty()) seconds[r] = source.seconds[(row0 + r) * groups + g];
      }
      StoreRecord(part.view, scales, seconds, panel + layout.RecordOffset(g));
    }
  }
  return part;
}

}  // namespace lowbit
