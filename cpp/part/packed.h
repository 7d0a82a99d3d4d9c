// part/packed: the in-memory layout of one weight matrix, shared by every ISA ("rows in lanes").
//
// A weight is [n, k]: n output rows, k input columns. A panel is 16 rows; panels are contiguous, so a matrix is ONE
// forward stream. Rows beyond n in the last panel and columns beyond k in the last sub-block are padding (code 0, scale 0,
// dense 0). Everything is 64-byte aligned.
//
// AFFINE panel = for each scale group of the columns in order: [meta lines][sub-blocks].
//   sub-block = 32 columns x 16 rows of `bits`-bit codes = `bits` lines of 64 bytes. A group of group_size columns has
//   group_size/32 sub-blocks; the last group may be short (ceil of what is left /32). group_size == 16 is special: a
//   sub-block holds two groups (columns 0-15 and 16-31), and the meta in front of a sub-block holds both.
//   In a line, row r owns bytes 4r..4r+3 = 4 consecutive columns (a "quad"; quad t = columns 4t..4t+3 of the sub-block).
//   Codes are unsigned. bits is split into planes of 8, 4, 2, 1 bits, low bits first: 8={8} 7={4,2,1} 6={4,2} 5={4,1}
//   4={4} 3={2,1} 2={2} 1={1}; the lines of the planes follow one another:
//     plane 8: line j = quad j (j=0..7)          plane 4: line j: low nibble quad j, high nibble quad j+4 (j=0..3)
//     plane 2: line j: crumb t = quad j+2t (j=0,1; t=0..3)      plane 1: one line: bit t = quad t (t=0..7)
//
//   w = scale * (code - zero) [+ minimum]. What meta holds:
//     kSymmetric : scale only; zero = 2^(bits-1)                      Q4_0, Q5_0, Q8_0, Q3_K, Q6_K, symmetric GPTQ
//     kMinimum   : scale, minimum; w = scale*code + minimum           Q4_1, Q5_1, Q2_K, Q4_K, Q5_K
//     kZeroPoint : scale, zero (an exact integer); w = scale*(code-zero)   asymmetric GPTQ/RTN
//   Meta entries are 16 lanes of f16 or f32 (MetaKind), or of codes. One meta record per group:
//     f16 symmetric: 32 bytes; two consecutive groups share one 64-byte line, placed in front of the first of the two
//                    (second half unused when the number of groups is odd);
//     f16 minimum/zero: one line, [scale 16][second 16];
//     f32 symmetric: one line;  f32 minimum/zero: two lines, scale then second.
//   group_size 16: the record pair of both halves is in front of each sub-block: f16 symmetric one line [g0][g1];
//     f16 minimum/zero two lines (record g0, record g1); f32 symmetric two lines; f32 minimum/zero four lines. Groups are
//     counted in pairs; k is padded to 32.
//   coded (K-quants: group_size 16 or 32, k a multiple of 256, kSymmetric or kMinimum): 256 columns share super-scales, and
//     the records hold what multiplies them as int8: scale = super_scale * code, minimum = super_minimum * code, both exact
//     in f32. In front of 256 columns: one line [super-scales 16 f16][super-minima 16 f16, zeros if kSymmetric], then the
//     records of its 8 or 16 groups, [scale codes 16 int8] and, for kMinimum, [minimum codes 16 int8]. 4.625 bits per weight
//     for Q4_K and 6.625 for Q6_K, where f32 records would be 6 and 8.
//   "unit" below = what repeats along k: meta plus the sub-blocks it speaks for.
//
// DENSE panel: f32: line per column [16 f32]; f16: half a line per column [16 f16], columns padded to even;
//   bf16: line per column pair [16]{2 consecutive columns} (what vdpbf16ps reads), columns padded to even.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

// Written into files of packed weights; raise it with every change of what this header says.
constexpr uint32_t kPackedLayoutVersion = 2;

constexpr int kPanelRows = 16;
constexpr int kSubBlock = 32;     // columns
constexpr int kSuperBlock = 256;  // columns that share the super-scales of MetaKind::kCoded

enum class PackedKind : uint8_t { kAffine, kDenseF32, kDenseF16, kDenseBf16 };
enum class AffineKind : uint8_t { kSymmetric, kMinimum, kZeroPoint };
enum class MetaKind : uint8_t { kF16, kF32, kCoded };

// Plain data, so that ISA translation units can read it without emitting shared inline functions.
struct PackedView {
  const uint8_t* data = nullptr;  // panel 0
  size_t panel_bytes = 0;
  int n = 0, k = 0;
  PackedKind kind = PackedKind::kDenseF32;
  // Affine only:
  int bits = 0;
  int group_size = 0;  // 16, or a multiple of 32 (the whole row: k rounded up to 32)
  AffineKind affine = AffineKind::kSymmetric;
  MetaKind meta = MetaKind::kF16;
};

// SPARSE: single weights of a matrix [n, k], k <= kSparseColumns, in lines of 64 bytes: [columns 16 u16][values 16 f16]. A panel of 16
// rows has first its shared lines, where lane r holds a weight of row r, then lines of one row each, for what the fullest rows have
// more: padding all rows to the longest would double the bytes (measured on outliers of SpQR). A row's columns rise, through its
// shared lines and on through its own; places without a weight hold zero at the column in front of them (0 where there is none).
constexpr int kSparseColumns = 1 << 16;
constexpr size_t kSparseLine = 64;
struct SparseView {
  int n = 0;
  const int32_t* starts = nullptr;  // [panels + 1]: lines of panel p are [starts[p], starts[p + 1])
  const int32_t* shared = nullptr;  // [panels]: how many of them are shared
  const int32_t* counts = nullptr;  // [n]: weights of each row
  const uint8_t* owners = nullptr;  // [lines]: of a line that is not shared, its row within the panel
  const uint8_t* lines = nullptr;
};

}  // namespace lowbit
