// kernel/neon: y = x W^T for up to kSmallRows int8 rows (decode). Bound by reading the weights once, front to back.
// Included by neon/affine_small.cc (SDOT) and neon_i8mm/affine_small.cc (USDOT), into an anonymous namespace each.
//
// Four weight rows at a time: a register is 4 rows x 4 columns, the lanes of a sum are outputs, so there is no horizontal add; the
// activations of a sub-block stay in 2 (one row) to 8 registers and are taken by lane. Up to four activation rows go together; more
// take a panel again, from cache. No prefetch: the stream goes forward, which the hardware sees.
//
// Vector instructions on paper, one row, per sub-block (512 weights): 32 dots, 0-7 x 32 to unpack (codes.h), 16-20 for the scales.
// 4 bits: about 84, that is 0.16 per weight; with loads and loop control GCC 12 makes it 0.29 (read in the disassembly). 8 bits: 52
// with USDOT, 84 with SDOT, which must make the codes signed.
// Speed was never measured: the developers have no ARM machine.
#pragma once

#include "kernel/kernel.h"
#include "kernel/neon/dot.h"
#include "kernel/simd/planes.h"
#include "kernel/simd/units.h"

namespace lowbit {
namespace {

constexpr int kRowsTogether = 4;
// Stands for the bias of sub-blocks that do not begin an activation group.
constexpr int32_t kNoBias[kRowsTogether] = {};

struct SmallArgs {
  const PackedView& w;
  const QuantizedRows& x;
  const PanelLayout layout;
  float* y;
  size_t ldy;
  bool accumulate;
};

// Activation registers of one sub-block: for one row, columns 0-15 and 16-31; for more, one per quad with a dword per row.
template <int kRows>
struct Activations {
  int8x16_t v[kRows == 1 ? 2 : 8];

  LOWBIT_INLINE void Read(const int8_t* q, size_t rows) {
    if constexpr (kRows > 1) {
      LOWBIT_UNROLL(8)
      for (int t = 0; t < 8; ++t) v[t] = LoadRowQuads<kRows>(q + static_cast<size_t>(4 * t) * rows);
    } else if (rows == 1) {
      v[0] = vld1q_s8(q);
      v[1] = vld1q_s8(q + 16);
    } else {
      int32_t quads[8];
      for (size_t t = 0; t < 8; ++t) std::memcpy(&quads[t], q + 4 * t * rows, 4);
      v[0] = vreinterpretq_s8_s32(vld1q_s32(quads));
      v[1] = vreinterpretq_s8_s32(vld1q_s32(quads + 4));
    }
  }
};

template <int kBits, int kRows, int kQuad>
LOWBIT_INLINE void DotQuad(Int (&dots)[kRows], const uint8_t* lines, const Activations<kRows>& x) {
  Codes codes = QuadCodes<kBits>(lines, kQuad);
  if constexpr (DotCentre(kBits) != 0) codes = veorq_u8(codes, vdupq_n_u8(DotCentre(kBits)));
  if constexpr (kRows == 1) {
    dots[0] = DotLane<kQuad % 4>(dots[0], codes, x.v[kQuad / 4]);
  } else {
    dots[0] = DotLane<0>(dots[0], codes, x.v[kQuad]);
    dots[1] = DotLane<1>(dots[1], codes, x.v[kQuad]);
    if constexpr (kRows > 2) dots[2] = DotLane<2>(dots[2], codes, x.v[kQuad]);
    if constexpr (kRows > 3) dots[3] = DotLane<3>(dots[3], codes, x.v[kQuad]);
  }
}

// All 32 columns, or columns 16 * kFlush .. + 15 for halves. The lane of a dot is an immediate, so the quads are written out.
template <int kBits, int kRows, bool kHalves, int kFlush>
LOWBIT_INLINE void DotQuads(Int (&dots)[kRows], const uint8_t* lines, const Activations<kRows>& x) {
  if constexpr (kHalves) {
    DotQuad<kBits, kRows, 4 * kFlush>(dots, lines, x);
    DotQuad<kBits, kRows, 4 * kFlush + 1>(dots, lines, x);
    DotQuad<kBits, kRows, 4 * kFlush + 2>(dots, lines, x);
    DotQuad<kBits, kRows, 4 * kFlush + 3>(dots, lines, x);
  } else {
    DotQuad<kBits, kRows, QuadOrder<kBits>(0)>(dots, lines, x);
    DotQuad<kBits, kRows, QuadOrder<kBits>(1)>(dots, lines, x);
    DotQuad<kBits, kRows, QuadOrder<kBits>(2)>(dots, lines, x);
    DotQuad<kBits, kRows, QuadOrder<kBits>(3)>(dots, lines, x);
    DotQuad<kBits, kRows, QuadOrder<kBits>(4)>(dots, lines, x);
    DotQuad<kBits, kRows, QuadOrder<kBits>(5)>(dots, lines, x);
    DotQuad<kBits, kRows, QuadOrder<kBits>(6)>(dots, lines, x);
    DotQuad<kBits, kRows, QuadOrder<kBits>(7)>(dots, lines, x);
  }
}

// What one sub-block (or half of it) adds to 4 outputs of kRows rows.
struct Flush {
  Record record;       // scales of the weight
  const float* scale;  // of the activations, one per row
  const float* offset;
  const int32_t* bias;
  MetaKind meta;
  bool zero_point, starts;  // starts: this sub-block begins an activation group and carries its corrections
};

template <int kBits, int kRows, bool kOffsets, bool kHalves, int kFlush>
LOWBIT_INLINE void AddQuads(float (*sums)[kPanelRows], const uint8_t* lines, int row0, const Activations<kRows>& x, const Flush& flush) {
  constexpr int kCentre = DotCentre(kBits);
  Int dots[kRows];
  LOWBIT_UNROLL(4)
  for (int i = 0; i < kRows; ++i) dots[i] = !kOffsets && kCentre == 0 ? SetInt(flush.bias[i]) : ZeroInt();
  DotQuads<kBits, kRows, kHalves, kFlush>(dots, lines, x);
  const Float scales = LoadScales(flush.record, flush.meta, row0);
  LOWBIT_UNROLL(4)
  for (int i = 0; i < kRows; ++i) {
    float* sum = sums[i] + row0;
    Store(sum, Fma(ToFloat(dots[i]), vmulq_n_f32(scales, flush.scale[i]), Load(sum)));
  }
  if constexpr (kOffsets) {
    if (!flush.starts) return;
    Float offsets = LoadOffsets(flush.record, flush.meta, flush.zero_point, row0, scales);
    if constexpr (kCentre != 0) offsets = Fma(scales, Set(static_cast<float>(kCentre)), offsets);
    LOWBIT_UNROLL(4)
    for (int i = 0; i < kRows; ++i) Store(sums[i] + row0, vfmaq_n_f32(Load(sums[i] + row0), offsets, flush.offset[i]));
  }
}

// Rows [row0, row0 + kRows) of x, panels [panel0, panel1).
template <int kBits, int kRows, bool kOffsets, bool kHalves>
void SmallPanels(const SmallArgs& args, int row0, int panel0, int panel1) {
  const PackedView& w = args.w;
  const QuantizedRows& x = args.x;
  const PanelLayout& layout = args.layout;
  const size_t rows = static_cast<size_t>(x.m), first = static_cast<size_t>(row0);
  const int run = x.group / kSubBlock, unit_groups = layout.unit_groups, group_blocks = layout.group_blocks;
  for (int panel = panel0; panel < panel1; ++panel) {
    alignas(64) float sums[kRows][kPanelRows] = {};
    const int8_t* q = x.q + 4 * first;
    const uint8_t* codes = w.data + static_cast<size_t>(panel) * w.panel_bytes;
    Flush flush{};
    flush.meta = w.meta;
    flush.zero_point = layout.zero_point;
    flush.scale = x.scale + first;
    const float* offset = (kHalves ? x.half_scale_sum : x.scale_sum) + first;
    const int32_t* bias = (kHalves ? x.half_bias : x.bias) + first;
    for (int left = layout.blocks, left_in_run = run; left > 0;) {
      Record record = UnitAt(layout, codes).record;
      codes += layout.meta_bytes;
      for (int group = unit_groups; group > 0 && left > 0; --group, record.at += layout.step) {
        int blocks = left < group_blocks ? left : group_blocks;
        left -= blocks;
        for (; blocks > 0; --blocks) {
          Activations<kRows> activations;
          activations.Read(q, rows);
          flush.starts = left_in_run == run;
          flush.record = record;
          flush.offset = offset;
          flush.bias = flush.starts ? bias : kNoBias;
          LOWBIT_UNROLL(1)
          for (int r = 0; r < kPanelRows; r += kLanes)
            AddQuads<kBits, kRows, kOffsets, kHalves, 0>(sums, codes + 4 * r, r, activations, flush);
          if constexpr (kHalves) {
            flush.record = HalfOf(layout.record_bytes, record, 1);
            flush.offset = offset + rows;
            flush.bias = bias + rows;
            LOWBIT_UNROLL(1)
            for (int r = 0; r < kPanelRows; r += kLanes)
              AddQuads<kBits, kRows, kOffsets, kHalves, 1>(sums, codes + 4 * r, r, activations, flush);
          }
          q += 32 * rows;
          codes += 64 * kBits;
          if (--left_in_run > 0 && blocks > 1) continue;
          flush.scale += rows;
          offset += kHalves ? 2 * rows : rows;
          bias += kHalves ? 2 * rows : rows;
          left_in_run = run;
        }
      }
    }
    float* y = args.y + first * args.ldy + static_cast<size_t>(panel) * kPanelRows;
    for (int i = 0; i < kRows; ++i, y += args.ldy) {
      for (int r = 0; r < kPanelRows; r += kLanes) {
        const int count = w.n - panel * kPanelRows - r;
        const Float sum = Load(sums[i] + r);
        if (count >= kLanes)
          Store(y + r, args.accumulate ? Add(sum, Load(y + r)) : sum);
        else if (count > 0)
          Store(y + r, args.accumulate ? Add(sum, Load(y + r, First{count})) : sum, First{count});
      }
    }
  }
}

using SmallFunction = void (*)(const SmallArgs&, int, int, int);

template <int kBits, int kRows>
LOWBIT_INLINE SmallFunction SmallForKind(bool offsets, bool halves) {
  if (halves) return offsets ? SmallPanels<kBits, kRows, true, true> : SmallPanels<kBits, kRows, false, true>;
  return offsets ? SmallPanels<kBits, kRows, true, false> : SmallPanels<kBits, kRows, false, false>;
}

template <int kBits>
LOWBIT_INLINE SmallFunction SmallForRows(int rows, bool offsets, bool halves) {
  switch (rows) {
    case 1:
      return SmallForKind<kBits, 1>(offsets, halves);
    case 2:
      return SmallForKind<kBits, 2>(offsets, halves);
    case 3:
      return SmallForKind<kBits, 3>(offsets, halves);
    default:
      return SmallForKind<kBits, 4>(offsets, halves);
  }
}

SmallFunction SmallFor(int bits, int rows, bool offsets, bool halves) {
  switch (bits) {
    case 1:
      return SmallForRows<1>(rows, offsets, halves);
    case 2:
      return SmallForRows<2>(rows, offsets, halves);
    case 3:
      return SmallForRows<3>(rows, offsets, halves);
    case 4:
      return SmallForRows<4>(rows, offsets, halves);
    case 5:
      return SmallForRows<5>(rows, offsets, halves);
    case 6:
      return SmallForRows<6>(rows, offsets, halves);
    case 7:
      return SmallForRows<7>(rows, offsets, halves);
    default:
      return SmallForRows<8>(rows, offsets, halves);
  }
}

LOWBIT_INLINE void Small(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  const SmallArgs args{w, x, LayoutOf(w), y, ldy, accumulate};
  const bool offsets = w.affine != AffineKind::kSymmetric;
  const bool halves = args.layout.halves;
  if (x.m <= kRowsTogether) return SmallFor(w.bits, x.m, offsets, halves)(args, 0, panel0, panel1);
  const int whole = x.m / kRowsTogether * kRowsTogether;
  const SmallFunction four = SmallFor(w.bits, kRowsTogether, offsets, halves);
  const SmallFunction rest = whole < x.m ? SmallFor(w.bits, x.m - whole, offsets, halves) : nullptr;
  for (int panel = panel0; panel < panel1; ++panel) {
    for (int row = 0; row < whole; row += kRowsTogether) four(args, row, panel, panel + 1);
    if (rest != nullptr) rest(args, whole, panel, panel + 1);
  }
}

}  // namespace
}  // namespace lowbit
