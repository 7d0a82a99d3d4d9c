// part/requantize: any weight -> affine panels of fewer bits, rounded to nearest as they are packed: the cheaper head.
// A panel is packed in its own format into scratch memory, unpacked to f32 by the kernel that the executor uses too, and rounded per
// row and group of 32 packed columns. Scales are rounded to f16 before codes are chosen, so that the error of the scale is not added
// to that of the code.
//   8, 6 bits, symmetric: scale = max|w| / (2^(bits-1) - 1); code = round(w / scale) + 2^(bits-1)
//   5, 4 bits, minimum:   the grid spans [min, max] of the group: scale = (max - min) / (2^bits - 1), w = scale * code + minimum
// With few bits the second value is worth its 16 bits per group (docs/formats.md has the perplexities).
#include <cmath>
#include <cstring>
#include <vector>

#include "base/half.h"
#include "part/lanes.h"
#include "part/layout.h"
#include "part/pack_common.h"
#include "part/packer.h"

namespace lowbit {
namespace {

constexpr float kMaxHalf = 65504.0f;

// Adding this to |x| < 2^22 leaves round-half-even(x) in the low bits of the sum.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23

class Requantizer final : public Packer {
 public:
  Requantizer(const char* name, std::unique_ptr<Packer> source, int bits, UnpackPanel unpack)
      : Packer(name), source_(std::move(source)), unpack_(unpack) {
    const Part& from = source_->part();
    part_.kind = PartKind::kAffine;
    part_.permutation = from.permutation;
    part_.view.kind = PackedKind::kAffine;
    part_.view.n = from.view.n;
    part_.view.k = from.view.k;
    part_.view.bits = bits;
    part_.view.group_size = kSubBlock;
    part_.view.affine = bits >= 6 ? AffineKind::kSymmetric : AffineKind::kMinimum;
    part_.view.panel_bytes = PackedPanelBytes(part_.view);
    part_.stored_bytes = from.stored_bytes;  // the file is what it is
  }

  Status Pack(int panel0, int panel1, uint8_t* panels) const override {
    const AffineLayout layout(part_.view);
    const int k = part_.view.k;
    PackedView one = source_->part().view;
    std::vector<uint8_t> packed(one.panel_bytes + 64);
    uint8_t* aligned = packed.data() + (64 - reinterpret_cast<uintptr_t>(packed.data()) % 64) % 64;
    std::vector<float> values(static_cast<size_t>((k + kSubBlock - 1) / kSubBlock * kSubBlock) * kPanelRows);
    one.data = aligned;
    for (int p = panel0; p < panel1; ++p, panels += part_.view.panel_bytes) {
      std::memset(aligned, 0, one.panel_bytes);
      LOWBIT_RETURN_IF_ERROR(source_->Pack(p, p + 1, aligned));
      unpack_(one, 0, 0, k, values.data());
      const int rows = part_.view.n - p * kPanelRows < kPanelRows ? part_.view.n - p * kPanelRows : kPanelRows;
      float worst = 0;
      for (size_t s = 0; s < layout.sub_blocks; ++s) {
        const size_t begin = s * kSubBlock,
                     columns = static_cast<size_t>(k) - begin < kSubBlock ? static_cast<size_t>(k) - begin : kSubBlock;
        const float* group = values.data() + begin * kPanelRows;
        uint8_t* record = panels + layout.RecordOffset(s);
        uint8_t* lines = panels + layout.SubBlockOffset(s);
        const float limit = part_.view.affine == AffineKind::kSymmetric ? Symmetric(group, columns, rows, record, lines)
                                                                        : Minimum(group, columns, rows, record, lines);
        worst = limit > worst ? limit : worst;
      }
      if (!(worst <= kMaxHalf)) {
        return Error(
            Code::kUnsupported,
            "Tensor %s holds values whose scale or minimum f16 cannot hold near row %d, so it cannot be rounded to %d bits; pass 16 "
            "for lmHeadBits",
            name(), p * kPanelRows, part_.view.bits);
      }
    }
    return Status::Ok();
  }

 private:
  // The nearest f16 to each lane, as f32; also stored.
  static void RoundToHalf(float* lanes, uint8_t* halves) {
    uint16_t rounded[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      rounded[r] = FloatToHalf(lanes[r]);
      lanes[r] = HalfToFloat(rounded[r]);
    }
    std::memcpy(halves, rounded, sizeof(rounded));
  }

  // Codes clamp(round(w * inverse + offset), 0, 2^bits - 1) of rows below `rows`, 0 elsewhere.
  void StoreCodes(const float* group, size_t columns, int rows, const float* inverse, const float* offset, uint8_t* lines) const {
    const float top = static_cast<float>((1 << part_.view.bits) - 1);
    Lanes quads[8] = {};
    for (size_t c = 0; c < columns; ++c) {
      const float* w = group + c * kPanelRows;
      Lanes& quad = quads[c / 4];
      const size_t place = c % 4 * 8;
      for (int r = 0; r < kPanelRows; ++r) {
        float x = w[r] * inverse[r] + offset[r];
        x = x < 0 ? 0 : x;
        x = x > top ? top : x;
        x += kRounder;
        uint32_t code;
        std::memcpy(&code, &x, sizeof(code));
        quad[r] |= (code & 0xff) << place;
      }
    }
    for (int r = rows; r < kPanelRows; ++r) {
      for (Lanes& quad : quads) quad[r] = 0;
    }
    StoreSubBlock(quads, part_.view.bits, lines);
  }

  // Both return the largest magnitude that f16 has to hold.
  float Symmetric(const float* group, size_t columns, int rows, uint8_t* record, uint8_t* lines) const {
    float scale[kPanelRows] = {}, inverse[kPanelRows], offset[kPanelRows];
    for (size_t c = 0; c < columns; ++c) {
      for (int r = 0; r < kPanelRows; ++r) {
        const float magnitude = std::fabs(group[c * kPanelRows + static_cast<size_t>(r)]);
        scale[r] = magnitude > scale[r] ? magnitude : scale[r];
      }
    }
    float largest = 0;
    const float half_range = static_cast<float>(1 << (part_.view.bits - 1));
    for (int r = 0; r < kPanelRows; ++r) {
      scale[r] /= half_range - 1;
      largest = scale[r] > largest ? scale[r] : largest;
    }
    RoundToHalf(scale, record);
    for (int r = 0; r < kPanelRows; ++r) {
      inverse[r] = scale[r] > 0 ? 1 / scale[r] : 0;
      offset[r] = half_range;
    }
    StoreCodes(group, columns, rows, inverse, offset, lines);
    return largest;
  }

  float Minimum(const float* group, size_t columns, int rows, uint8_t* record, uint8_t* lines) const {
    float low[kPanelRows], high[kPanelRows], inverse[kPanelRows], offset[kPanelRows];
    std::memcpy(low, group, sizeof(low));
    std::memcpy(high, group, sizeof(high));
    for (size_t c = 1; c < columns; ++c) {
      for (int r = 0; r < kPanelRows; ++r) {
        const float w = group[c * kPanelRows + static_cast<size_t>(r)];
        low[r] = w < low[r] ? w : low[r];
        high[r] = w > high[r] ? w : high[r];
      }
    }
    float largest = 0;
    const float steps = static_cast<float>((1 << part_.view.bits) - 1);
    for (int r = 0; r < kPanelRows; ++r) {
      const float magnitude = std::fabs(low[r]), span = high[r] - low[r];
      high[r] = span / steps;
      largest = magnitude > largest ? magnitude : largest;
      largest = high[r] > largest ? high[r] : largest;
    }
    RoundToHalf(high, record);
    RoundToHalf(low, record + kPanelRows * 2);
    for (int r = 0; r < kPanelRows; ++r) {
      inverse[r] = high[r] > 0 ? 1 / high[r] : 0;
      offset[r] = -low[r] * inverse[r];
    }
    StoreCodes(group, columns, rows, inverse, offset, lines);
    return largest;
  }

  const std::unique_ptr<Packer> source_;
  const UnpackPanel unpack_;
};

}  // namespace

Result<std::unique_ptr<Packer>> RequantizingPacker(const char* name, std::unique_ptr<Packer> source, int bits, UnpackPanel unpack) {
  if (bits != 4 && bits != 5 && bits != 6 && bits != 8)
    return Error(Code::kInvalidArgument, "Expected 4, 5, 6 or 8 for the bits that %s is rounded to but received %d", name, bits);
  return std::unique_ptr<Packer>(std::make_unique<Requantizer>(name, std::move(source), bits, unpack));
}

}  // namespace lowbit
