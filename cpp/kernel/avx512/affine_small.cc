// kernel/avx512: y = x W^T for 1..8 int8 rows (decode). Bound by reading the weights once, front to back.
//
// Per sub-block: load `bits` lines, unpack to 8 quads of 16 rows, 8 vpdpbusd per activation row against dword broadcasts; the
// 16 lanes of a sum are 16 outputs, so there is no horizontal add. Up to four activation rows go together; five to eight
// take a panel twice, the second time from cache.
#include "kernel/avx512/lanes.h"

#ifdef LOWBIT_AVX512
#include "kernel/avx512/internal.h"
#include "kernel/simd/planes.h"
#include "kernel/simd/units.h"

namespace lowbit {
namespace {

constexpr int kRowsTogether = 4;
// Far enough to cover the latency of memory, near enough to stay in the first-level cache; spread over the sub-blocks because
// a burst of requests overruns the miss queue (measured on Zen 5: none .85-.94 of the read rate, 4 KB .95-.99, 8 KB .90).
constexpr size_t kPrefetchAhead = 4096;

struct SmallArgs {
  const PackedView& w;
  const QuantizedRows& x;
  const PanelLayout layout;
  float* y;
  size_t ldy;
  bool accumulate;
};

LOWBIT_INLINE void Prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchAhead), _MM_HINT_T0); }

// Rows [row0, row0 + kRows) of x, panels [panel0, panel1).
template <int kBits, int kRows, bool kOffsets, bool kHalves>
void SmallPanels(const SmallArgs& args, int row0, int panel0, int panel1) {
  // Few rows leave the latency of vpdpbusd exposed: even and odd quads then go to separate sums.
  constexpr bool kTwoChains = kRows <= 2 && !kHalves;
  const PackedView& w = args.w;
  const QuantizedRows& x = args.x;
  const PanelLayout& layout = args.layout;
  const bool meta_f32 = w.meta_f32, zero_point = w.affine == AffineKind::kZeroPoint;
  const size_t rows = static_cast<size_t>(x.m), quad = 4 * rows, record_bytes = layout.record_bytes, meta_bytes = layout.meta_bytes;
  const float* offset = kHalves ? x.half_scale_sum : x.scale_sum;
  const int32_t* bias = kHalves ? x.half_bias : x.bias;
  const int run = x.group / kSubBlock, unit_groups = layout.paired ? 2 : 1, group_blocks = layout.group_blocks;
  for (int panel = panel0; panel < panel1; ++panel) {
    Float sums[kRows];
    LOWBIT_UNROLL(4)
    for (int i = 0; i < kRows; ++i) sums[i] = Zero();
    const int8_t* q = x.q + 4 * row0;
    size_t record_of_x = static_cast<size_t>(row0), half_of_x = record_of_x;  // index into scale; into offset and bias for halves
    const uint8_t* codes = w.data + static_cast<size_t>(panel) * w.panel_bytes;
    for (int left = layout.blocks, left_in_run = run; left > 0;) {
      const uint8_t* record = codes;
      codes += meta_bytes;
      Prefetch(record);
      for (int group = unit_groups; group > 0 && left > 0; --group, record += record_bytes) {
        Float scales[2], offsets[2];
        LOWBIT_UNROLL(2)
        for (int h = 0; h < (kHalves ? 2 : 1); ++h) {
          const uint8_t* at = record + static_cast<size_t>(h) * record_bytes;
          scales[h] = LoadScales(at, meta_f32, 0);
          if constexpr (kOffsets) offsets[h] = LoadOffsets(at, meta_f32, zero_point, 0, scales[h]);
        }
        int blocks = left < group_blocks ? left : group_blocks;
        left -= blocks;
        do {
          LOWBIT_UNROLL(8)
          for (int line = 0; line < kBits; ++line) Prefetch(codes + 64 * line);
          Int first[kRows], second[kRows];
          LOWBIT_UNROLL(4)
          for (int i = 0; i < kRows; ++i) first[i] = second[i] = ZeroInt();
          const int8_t* q3 = q + 3 * quad;  // every quad is one addressing mode away from q, q3 or q6
          const int8_t* q6 = q3 + 3 * quad;
          const int8_t* at[8] = {q, q + quad, q + 2 * quad, q3, q + 4 * quad, q3 + 2 * quad, q6, q3 + 4 * quad};
          LOWBIT_UNROLL(8)
          for (int t = 0; t < 8; ++t) {
            const Int weights = Quad<kBits>(codes, t);
            LOWBIT_UNROLL(4)
            for (int i = 0; i < kRows; ++i) {
              Int& sum = (kHalves && t >= 4) || (kTwoChains && t % 2 == 1) ? second[i] : first[i];
              sum = _mm512_dpbusd_epi32(sum, weights, Broadcast4(at[t] + 4 * i));
            }
          }
          codes += 64 * kBits;
          q = q6 + 2 * quad;
          const bool run_ends = --left_in_run == 0 || blocks == 1;
          LOWBIT_UNROLL(4)
          for (int i = 0; i < kRows; ++i) {
            const size_t lane = static_cast<size_t>(i);
            const Float factor = Set(x.scale[record_of_x + lane]);
            if constexpr (kTwoChains) first[i] = AddInt(first[i], second[i]);
            // the corrections for a whole activation group, once
            if (!kOffsets && run_ends) first[i] = AddInt(first[i], Broadcast4(bias + half_of_x + lane));
            if (!kOffsets && kHalves && run_ends) second[i] = AddInt(second[i], Broadcast4(bias + half_of_x + rows + lane));
            sums[i] = Fma(ToFloat(first[i]), Mul(scales[0], factor), sums[i]);
            if constexpr (kHalves) sums[i] = Fma(ToFloat(second[i]), Mul(scales[1], factor), sums[i]);
            if (kOffsets && run_ends) sums[i] = Fma(offsets[0], Set(offset[half_of_x + lane]), sums[i]);
            if (kOffsets && kHalves && run_ends) sums[i] = Fma(offsets[1], Set(offset[half_of_x + rows + lane]), sums[i]);
          }
          if (run_ends) {
            record_of_x += rows;
            half_of_x += kHalves ? 2 * rows : rows;
            left_in_run = run;
          }
        } while (--blocks > 0);
      }
    }
    const int columns = w.n - panel * kPanelRows;
    const __mmask16 mask = columns >= kPanelRows ? static_cast<__mmask16>(0xffff) : Mask(First{columns});
    float* y = args.y + static_cast<size_t>(row0) * args.ldy + static_cast<size_t>(panel) * kPanelRows;
    LOWBIT_UNROLL(4)
    for (int i = 0; i < kRows; ++i, y += args.ldy) {
      const Float sum = args.accumulate ? Add(sums[i], _mm512_maskz_loadu_ps(mask, y)) : sums[i];
      _mm512_mask_storeu_ps(y, mask, sum);
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

}  // namespace

void avx512::AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  const SmallArgs args{w, x, LayoutOf(w), y, ldy, accumulate};
  const bool offsets = w.affine != AffineKind::kSymmetric;
  const int rows = x.m < kRowsTogether ? x.m : kRowsTogether, rest = x.m - rows;
  const SmallFunction small = SmallFor(w.bits, rows, offsets, args.layout.halves);
  if (rest == 0) return small(args, 0, panel0, panel1);
  const SmallFunction second = SmallFor(w.bits, rest, offsets, args.layout.halves);
  for (int panel = panel0; panel < panel1; ++panel) {
    small(args, 0, panel, panel + 1);
    second(args, rows, panel, panel + 1);
  }
}

}  // namespace lowbit
#endif
