// part/container: the affine part of a lowbit container (docs/formats.md, "lowbit container") -> panels, straight from the mapped file.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/half.h"
#include "part/bit_stream.h"
#include "part/lanes.h"
#include "part/layout.h"
#include "part/packer.h"

namespace lowbit {
namespace {

constexpr float kLargestHalf = 65504.0f;

float RoundToHalf(float value) { return HalfToFloat(FloatToHalf(std::clamp(value, -kLargestHalf, kLargestHalf))); }

Status CheckCount(const char* name, const char* what, size_t received, size_t expected) {
  if (received == expected) return Status::Ok();
  return Error(Code::kCorruptFile, "The %s of %s take %zu bytes where its shape needs %zu; get the files again or quantise the model again",
               what, name, received, expected);
}

class ContainerCodes final : public Packer {
 public:
  ContainerCodes(const char* name, const ContainerAffine& t) : Packer(name), t_(t) {}

  Status Prepare() {
    LOWBIT_RETURN_IF_ERROR(CheckPackShape(name(), t_.n, t_.k));
    if (t_.bits < 1 || t_.bits > 8) return Error(Code::kCorruptFile, "A part of %s has %d bits; expected 1 to 8", name(), t_.bits);
    const bool whole_row = t_.group_size >= t_.k;
    if (!whole_row && t_.group_size != 16 && (t_.group_size < kSubBlock || t_.group_size % kSubBlock != 0))
      return Error(Code::kCorruptFile, "A part of %s has groups of %d columns; expected 16, a multiple of 32 or whole rows", name(),
                   t_.group_size);
    const size_t n = static_cast<size_t>(t_.n), k = static_cast<size_t>(t_.k);
    group_size_ = whole_row ? k : static_cast<size_t>(t_.group_size);
    groups_ = (k + group_size_ - 1) / group_size_;
    row_bytes_ = StreamBytes(k, t_.bits);
    LOWBIT_RETURN_IF_ERROR(CheckCount(name(), "codes", t_.codes.size(), n * row_bytes_));
    if (t_.scale_bits > 0) {
      if (t_.scale_bits > 8 || t_.affine != AffineKind::kMinimum)
        return Error(Code::kCorruptFile, "A part of %s has coded scales of %d bits without minima; expected 1 to 8 bits and minima", name(),
                     t_.scale_bits);
      const size_t coded = n * StreamBytes(groups_, t_.scale_bits);
      LOWBIT_RETURN_IF_ERROR(CheckCount(name(), "scale codes", t_.scale_codes.size(), coded));
      LOWBIT_RETURN_IF_ERROR(CheckCount(name(), "zero codes", t_.zero_codes.size(), coded));
      LOWBIT_RETURN_IF_ERROR(CheckCount(name(), "steps of scales", t_.tiles.size(), (n + 15) / 16 * groups_ * 8));
    } else {
      LOWBIT_RETURN_IF_ERROR(CheckCount(name(), "scales", t_.scales.size(), n * groups_ * 2));
      const size_t seconds = t_.affine == AffineKind::kSymmetric ? 0
                             : t_.affine == AffineKind::kMinimum ? n * groups_ * 2
                                                                 : n * StreamBytes(groups_, t_.bits);
      LOWBIT_RETURN_IF_ERROR(CheckCount(name(), t_.affine == AffineKind::kMinimum ? "minima" : "zero points", t_.seconds.size(), seconds));
    }
    part_.kind = PartKind::kAffine;
    part_.view.kind = PackedKind::kAffine;
    part_.view.n = t_.n;
    part_.view.k = t_.k;
    part_.view.bits = t_.bits;
    part_.view.group_size = whole_row ? static_cast<int>((k + kSubBlock - 1) / kSubBlock * kSubBlock) : t_.group_size;
    part_.view.affine = t_.affine;
    part_.view.meta = MetaKind::kF16;
    part_.view.panel_bytes = PackedPanelBytes(part_.view);
    part_.stored_bytes = t_.codes.size() + t_.scales.size() + t_.seconds.size() + t_.scale_codes.size() + t_.zero_codes.size() +
                         t_.tiles.size() + 4 * (t_.rows.size() + t_.g_idx.size());
    LOWBIT_RETURN_IF_ERROR(ReadRows());
    return ReadOrder();
  }

  Status Pack(int panel0, int panel1, uint8_t* panels) const override {
    const AffineLayout layout(part_.view);
    const size_t k = static_cast<size_t>(t_.k), padded = layout.sub_blocks * kSubBlock;
    std::vector<uint8_t> codes(kPanelRows * padded), stored(k);
    std::vector<float> scales(kPanelRows * groups_), seconds(kPanelRows * groups_);
    for (int p = panel0; p < panel1; ++p, panels += part_.view.panel_bytes) {
      const size_t row0 = static_cast<size_t>(p) * kPanelRows, rows = std::min<size_t>(kPanelRows, static_cast<size_t>(t_.n) - row0);
      std::fill(codes.begin(), codes.end(), uint8_t{0});
      std::fill(scales.begin(), scales.end(), 0.0f);
      std::fill(seconds.begin(), seconds.end(), 0.0f);
      for (size_t r = 0; r < rows; ++r) {
        uint8_t* row = codes.data() + r * padded;
        const uint8_t* stream = t_.codes.data() + (row0 + r) * row_bytes_;
        if (part_.permutation.empty()) {
          ReadStream(stream, k, t_.bits, row);
        } else {
          ReadStream(stream, k, t_.bits, stored.data());
          for (size_t j = 0; j < k; ++j) row[j] = stored[static_cast<size_t>(part_.permutation[j])];
        }
        LOWBIT_RETURN_IF_ERROR(ReadScales(row0 + r, scales.data() + r * groups_, seconds.data() + r * groups_));
      }
      for (size_t s = 0; s < layout.sub_blocks; ++s) {
        uint32_t quads[8][kPanelRows];
        for (size_t r = 0; r < kPanelRows; ++r)
          for (size_t t = 0; t < 8; ++t) std::memcpy(&quads[t][r], codes.data() + r * padded + s * kSubBlock + 4 * t, 4);
        StoreSubBlock(quads, t_.bits, panels + layout.SubBlockOffset(s));
      }
      for (size_t g = 0; g < groups_; ++g) {
        float of_scale[kPanelRows], of_second[kPanelRows];
        for (size_t r = 0; r < kPanelRows; ++r) {
          of_scale[r] = scales[r * groups_ + g];
          of_second[r] = seconds[r * groups_ + g];
        }
        StoreRecord(part_.view, of_scale, of_second, panels + layout.RecordOffset(g));
      }
    }
    return Status::Ok();
  }

 private:
  Status ReadRows() {
    if (t_.rows.empty()) return Status::Ok();
    LOWBIT_RETURN_IF_ERROR(CheckCount(name(), "row numbers", t_.rows.size() * 4, static_cast<size_t>(t_.n) * 4));
    int32_t last = -1;
    for (size_t i = 0; i < t_.rows.size(); ++i) {
      const int32_t row = static_cast<int32_t>(WordAt(reinterpret_cast<const uint8_t*>(t_.rows.data()) + 4 * i));
      if (row <= last || row >= t_.all_rows)
        return Error(Code::kCorruptFile, "Row number %zu of a part of %s is %d; they must rise and stay below %d", i, name(), row,
                     t_.all_rows);
      part_.rows.push_back(last = row);
    }
    return Status::Ok();
  }

  // Columns group by group; groups hold group_size columns each, the last what is left.
  Status ReadOrder() {
    if (t_.g_idx.empty()) return Status::Ok();
    const size_t k = static_cast<size_t>(t_.k);
    LOWBIT_RETURN_IF_ERROR(CheckCount(name(), "group numbers", t_.g_idx.size() * 4, k * 4));
    std::vector<size_t> group(k), sizes(groups_);
    for (size_t j = 0; j < k; ++j) {
      group[j] = WordAt(reinterpret_cast<const uint8_t*>(t_.g_idx.data()) + 4 * j);
      if (group[j] >= groups_)
        return Error(Code::kCorruptFile, "Column %zu of a part of %s is in group %zu of %zu", j, name(), group[j], groups_);
      ++sizes[group[j]];
    }
    for (size_t g = 0; g < groups_; ++g)
      if (sizes[g] != std::min(group_size_, k - g * group_size_))
        return Error(Code::kCorruptFile, "Group %zu of a part of %s has %zu columns where its groups have %zu", g, name(), sizes[g],
                     group_size_);
    part_.permutation.resize(k);
    std::iota(part_.permutation.begin(), part_.permutation.end(), 0);
    std::stable_sort(part_.permutation.begin(), part_.permutation.end(),
                     [&](int32_t a, int32_t b) { return group[static_cast<size_t>(a)] < group[static_cast<size_t>(b)]; });
    return Status::Ok();
  }

  float Half(std::span<const uint8_t> values, size_t i) const { return HalfToFloat(HalfWordAt(values.data() + 2 * i)); }

  Status ReadScales(size_t row, float* scales, float* seconds) const {
    std::vector<uint8_t> codes(2 * groups_);
    if (t_.scale_bits > 0) {
      const size_t bytes = StreamBytes(groups_, t_.scale_bits);
      ReadStream(t_.scale_codes.data() + row * bytes, groups_, t_.scale_bits, codes.data());
      ReadStream(t_.zero_codes.data() + row * bytes, groups_, t_.scale_bits, codes.data() + groups_);
    } else if (t_.affine == AffineKind::kZeroPoint) {
      ReadStream(t_.seconds.data() + row * StreamBytes(groups_, t_.bits), groups_, t_.bits, codes.data());
    }
    for (size_t g = 0; g < groups_; ++g) {
      if (t_.scale_bits > 0) {
        const size_t tile = (row / 16 * groups_ + g) * 4;
        scales[g] = RoundToHalf(Half(t_.tiles, tile) * (static_cast<float>(codes[g]) - Half(t_.tiles, tile + 1)));
        const float zero = Half(t_.tiles, tile + 2) * (static_cast<float>(codes[groups_ + g]) - Half(t_.tiles, tile + 3));
        seconds[g] = RoundToHalf(-scales[g] * zero);
      } else {
        scales[g] = Half(t_.scales, row * groups_ + g);
        seconds[g] = t_.affine == AffineKind::kMinimum     ? Half(t_.seconds, row * groups_ + g)
                     : t_.affine == AffineKind::kZeroPoint ? static_cast<float>(codes[g])
                                                           : 0.0f;
      }
      if (!std::isfinite(scales[g]) || !std::isfinite(seconds[g]))
        return Error(Code::kCorruptFile, "Row %zu of a part of %s has a scale or minimum that is not finite; get the files again", row,
                     name());
    }
    return Status::Ok();
  }

  const ContainerAffine t_;
  size_t group_size_ = 0, groups_ = 0, row_bytes_ = 0;
};

}  // namespace

Result<std::unique_ptr<Packer>> ContainerPacker(const char* name, const ContainerAffine& tensors) {
  auto packer = std::make_unique<ContainerCodes>(name, tensors);
  LOWBIT_RETURN_IF_ERROR(packer->Prepare());
  return std::unique_ptr<Packer>(std::move(packer));
}

}  // namespace lowbit
