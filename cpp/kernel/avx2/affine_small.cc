// kernel/avx2: y = x W^T for 1..8 int8 rows (decode). Bound by reading the weights once, front to back.
//
// A 64-byte line is two half panels: rows 0-7 and 8-15. The lanes of a sum are 8 outputs, so there is no horizontal add. Up to two
// activation rows go together (register limit); more rows take a panel again, from cache.
#include "kernel/avx2/lanes.h"

#ifdef LOWBIT_AVX2
#include "kernel/avx2/dot.h"
#include "kernel/avx2/internal.h"
#include "kernel/simd/planes.h"
#include "kernel/simd/units.h"

namespace lowbit {
namespace {

constexpr int kRowsTogether = 2;
// Far enough to cover the latency of memory, near enough to stay in the first-level cache; spread over the sub-blocks because
// a burst of requests overruns the miss queue.
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
  constexpr DotMode kMode = DotModeFor(kBits);
  constexpr bool kBias = !kOffsets && kMode != DotMode::kSigned;
  constexpr int kFlushes = kHalves ? 2 : 1, kQuads = 8 / kFlushes;
  const PackedView& w = args.w;
  const QuantizedRows& x = args.x;
  const PanelLayout& layout = args.layout;
  const bool meta_f32 = w.meta_f32, zero_point = w.affine == AffineKind::kZeroPoint;
  const size_t rows = static_cast<size_t>(x.m), quad = 4 * rows, record_bytes = layout.record_bytes, meta_bytes = layout.meta_bytes;
  const float* offset = kHalves ? x.half_scale_sum : x.scale_sum;
  const int32_t* bias = kHalves ? x.half_bias : x.bias;
  const int run = x.group / kSubBlock, unit_groups = layout.paired ? 2 : 1, group_blocks = layout.group_blocks;
  for (int panel = panel0; panel < panel1; ++panel) {
    Float sums[kRows][2];
    LOWBIT_UNROLL(2)
    for (int i = 0; i < kRows; ++i) sums[i][0] = sums[i][1] = Zero();
    const int8_t* q = x.q + 4 * row0;
    size_t record_of_x = static_cast<size_t>(row0), half_of_x = record_of_x;  // index into scale; into offset and bias for halves
    const uint8_t* codes = w.data + static_cast<size_t>(panel) * w.panel_bytes;
    for (int left = layout.blocks, left_in_run = run; left > 0;) {
      const uint8_t* record = codes;
      codes += meta_bytes;
      Prefetch(record);
      for (int group = unit_groups; group > 0 && left > 0; --group, record += record_bytes) {
        int blocks = left < group_blocks ? left : group_blocks;
        left -= blocks;
        do {
          LOWBIT_UNROLL(8)
          for (int line = 0; line < kBits; ++line) Prefetch(codes + 64 * line);
          const bool run_ends = --left_in_run == 0 || blocks == 1;
          const int8_t* q3 = q + 3 * quad;  // every quad is one addressing mode away from q, q3 or q6
          const int8_t* q6 = q3 + 3 * quad;
          const int8_t* at[8] = {q, q + quad, q + 2 * quad, q3, q + 4 * quad, q3 + 2 * quad, q6, q3 + 4 * quad};
          LOWBIT_UNROLL(2)
          for (int flush = 0; flush < kFlushes; ++flush) {
            Int totals[kRows][2];
            const auto index = [&](int t) { return kHalves ? flush * kQuads + t : QuadOrder<kBits>(t); };
            DotQuads<kMode, kQuads>(
                totals, [&](int t, int h) { return Quad<kBits>(codes + 32 * h, index(t)); },
                [&](int t, int i) { return Broadcast4(at[index(t)] + 4 * i); });
            const uint8_t* flushed = record + static_cast<size_t>(flush) * record_bytes;
            const size_t correction = half_of_x + static_cast<size_t>(flush) * rows;
            LOWBIT_UNROLL(2)
            for (int h = 0; h < 2; ++h) {
              const Float scales = LoadScales(flushed, meta_f32, 8 * h);
              Float offsets = Zero();
              if constexpr (kOffsets) {
                offsets = LoadOffsets(flushed, meta_f32, zero_point, 8 * h, scales);
                if constexpr (Centre(kMode) != 0) offsets = Fma(scales, Set(static_cast<float>(Centre(kMode))), offsets);
              }
              LOWBIT_UNROLL(2)
              for (int i = 0; i < kRows; ++i) {
                const size_t lane = static_cast<size_t>(i);
                Int total = totals[i][h];
                // the corrections for a whole activation group, once
                if (kBias && run_ends) total = AddInt(total, Broadcast4(bias + correction + lane));
                sums[i][h] = Fma(ToFloat(total), Mul(scales, Set(x.scale[record_of_x + lane])), sums[i][h]);
                if (kOffsets && run_ends) sums[i][h] = Fma(offsets, Set(offset[correction + lane]), sums[i][h]);
              }
            }
          }
          if (run_ends) {
            record_of_x += rows;
            half_of_x += static_cast<size_t>(kFlushes) * rows;
            left_in_run = run;
          }
          codes += 64 * kBits;
          q = q6 + 2 * quad;
        } while (--blocks > 0);
      }
    }
    const int columns = w.n - panel * kPanelRows;
    float* y = args.y + static_cast<size_t>(row0) * args.ldy + static_cast<size_t>(panel) * kPanelRows;
    const auto finish = [&](float* at, Float sum, auto part) { Store(at, args.accumulate ? Add(sum, Load(at, part)) : sum, part); };
    LOWBIT_UNROLL(2)
    for (int i = 0; i < kRows; ++i, y += args.ldy) {
      LOWBIT_UNROLL(2)
      for (int h = 0; h < 2; ++h) {
        const int count = columns - 8 * h;
        if (count >= kLanes)
          finish(y + 8 * h, sums[i][h], All{});
        else if (count > 0)
          finish(y + 8 * h, sums[i][h], First{count});
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

template <int kRows>
LOWBIT_INLINE SmallFunction SmallForBits(int bits, bool offsets, bool halves) {
  switch (bits) {
    case 1:
      return SmallForKind<1, kRows>(offsets, halves);
    case 2:
      return SmallForKind<2, kRows>(offsets, halves);
    case 3:
      return SmallForKind<3, kRows>(offsets, halves);
    case 4:
      return SmallForKind<4, kRows>(offsets, halves);
    case 5:
      return SmallForKind<5, kRows>(offsets, halves);
    case 6:
      return SmallForKind<6, kRows>(offsets, halves);
    case 7:
      return SmallForKind<7, kRows>(offsets, halves);
    default:
      return SmallForKind<8, kRows>(offsets, halves);
  }
}

}  // namespace

void avx2::AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  const SmallArgs args{w, x, LayoutOf(w), y, ldy, accumulate};
  const bool offsets = w.affine != AffineKind::kSymmetric, halves = args.layout.halves;
  const SmallFunction one = SmallForBits<1>(w.bits, offsets, halves), two = SmallForBits<2>(w.bits, offsets, halves);
  if (x.m <= kRowsTogether) return (x.m == 1 ? one : two)(args, 0, panel0, panel1);
  for (int panel = panel0; panel < panel1; ++panel) {
    for (int row = 0; row < x.m; row += kRowsTogether) (x.m - row == 1 ? one : two)(args, row, panel, panel + 1);
  }
}

}  // namespace lowbit
#endif
