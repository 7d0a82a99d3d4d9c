// kernel/: the arithmetic, one table of functions per instruction set.
// Tables are chosen once at start (chooser.cc); every fast table is tested against ref/ on the same inputs.
// ISA translation units include only this header, part/packed.h, base/half.h and intrinsics, and put everything into an
// anonymous namespace: an inline function of a std:: header compiled with wider instructions could otherwise be the copy
// that the linker keeps for the whole program (CI checks that they export no weak symbol).
#pragma once

#include <cstddef>
#include <cstdint>

#include "part/packed.h"

namespace lowbit {

// Groups of activations whose largest magnitude is below this are quantised to zeros.
constexpr float kLeastMagnitude = 0x1p-119f;
// Rows of one tile of packed activations for the exact path.
constexpr int kRowTile = 8;
// Most rows that affine_small takes.
constexpr int kSmallRows = 16;
// Columns that one pass of the prefill GEMM of kernel/ref unpacks; a multiple of every group it is used with is not required.
constexpr int kGemmColumns = 1024;
// Bytes of scratch one thread needs for affine_gemm, and floats for unpacked panels of the exact path.
constexpr size_t kGemmScratchBytes = size_t(256) << 10;

// Activations quantised to int8, symmetric, one scale per row and `group` columns (a multiple of 32; k padded to 32 with zeros).
// Rows are in tiles of `tile` rows (the last may be shorter), dword-interleaved, so that one base pointer and constant
// offsets reach every row of a tile:
//   q     [tile][k_padded/4][rows of the tile]{4 x int8}
//   scale, scale_sum (= scale * sum of the group's q), bias [tile][groups][rows of the tile]
//   bias  = -zero_code * sum(q): where the int32 accumulator starts when the weight kind is kSymmetric
struct QuantizedRows {
  int m = 0, k = 0, k_padded = 0;
  int group = 0;   // columns per scale
  int groups = 0;  // ceil(k_padded / group)
  int tile = 0;    // rows per tile: m for affine_small, gemm_tile of the table for affine_gemm
  int8_t* q = nullptr;
  float* scale = nullptr;
  float* scale_sum = nullptr;
  int32_t* bias = nullptr;
  // For weights with group_size 16: the sums of both 16-column halves, [tile][2*groups_of_32][rows]; null otherwise.
  float* half_scale_sum = nullptr;
  int32_t* half_bias = nullptr;
};

struct KernelTable {
  const char* name;  // IsaName
  int gemm_tile;     // rows per tile that affine_gemm wants
  // With accumulate, affine_gemm adds the whole sum to y at once where k is at most this, and affine_small always unless this is 0.
  int gemm_pass = 0;

  // ---- exact path -------------------------------------------------------------------------------------------------
  // c[m][n] = (accumulate ? c : 0) + A B, f32. A: element (row i, step s) at a[(i/kRowTile)*a_tile_stride +
  // s*a_line_stride + i%kRowTile] (a whole tile of kRowTile floats must be readable). B: element (step s, column j) at
  // b[(j/16)*b_panel_stride + s*b_line_stride + j%16] (whole 16-float lines must be readable; no alignment needed).
  // k steps; strides in floats. Exactly m x n floats of c are written. Fixed summation order in s for given k, whatever m.
  void (*gemm_f32)(const float* a, size_t a_tile_stride, size_t a_line_stride, const float* b, size_t b_panel_stride, size_t b_line_stride,
                   int m, int n, int k, float* c, size_t ldc, bool accumulate);
  // Dequantises columns [k0, k0+kc) of one panel to out[kc][16] (affine: k0 a multiple of 32). Exact: the f32 value of w.
  void (*unpack_panel)(const PackedView& w, int panel, int k0, int kc, float* out);
  // x[rows][ldx] -> tiles of kRowTile rows: out[(tile*k + s)*kRowTile + i]; missing rows of the last tile are zero.
  void (*pack_rows)(const float* x, size_t ldx, int rows, int k, float* out);
  // y[0..n) (+)= W x for one row x[k] and a dense weight, panels [panel0, panel1), reading the weights once; y points at column 0.
  // The order of summation is fixed, but not that of gemm_f32.
  void (*dense_gemv)(const PackedView& w, const float* x, float* y, int panel0, int panel1, bool accumulate);

  // y[m][ldy] (+)= x W^T for rows x[m][ldx] and single weights, panels [panel0, panel1); y points at column 0. Each row is summed on its
  // own, weight by weight in rising columns.
  void (*sparse_few)(const SparseView& w, const float* x, size_t ldx, int m, float* y, size_t ldy, int panel0, int panel1, bool accumulate);

  // ---- bf16 products, f32 sums; null where the processor or this build lacks them ----------------------------------
  // Both operands are panels of 16 rows [pair][16]{2 consecutive columns}, the layout of PackedKind::kDenseBf16: element
  // (row r, column s) at p[(r/16)*stride + (s/2)*32 + (r%16)*2 + s%2], strides in values; whole lines must be readable, and a
  // padded column must be zero in both.
  // c[m][n] = (accumulate ? c : 0) + A B^T over `pairs` column pairs. Exactly m x n floats of c are written. Products are
  // exact, denormal operands and results count as zero; fixed summation order for given `pairs`, whatever m and n.
  void (*gemm_bf16)(const uint16_t* a, size_t a_stride, const uint16_t* b, size_t b_stride, int m, int n, int pairs, float* c, size_t ldc,
                    bool accumulate) = nullptr;
  // x[rows][ldx] -> panels with stride ceil(k/2)*32; missing rows of the last panel and an odd last column are zero.
  void (*pack_rows_bf16)(const float* x, size_t ldx, int rows, int k, uint16_t* out) = nullptr;
  // rows[count] of k floats each -> panels of the transpose: 16 columns of x are a panel, two consecutive rows a pair (an odd
  // last row is paired with zeros). For X^T X.
  void (*pack_columns_bf16)(const float* const* rows, int count, int k, uint16_t* out, size_t stride) = nullptr;
  // Columns [k0, k0+kc) of one panel as lines [ceil(kc/2)][16]{2}, rounded to nearest (exact for bf16 weights). k0 even (affine:
  // a multiple of 32); kc odd only at the end of the row.
  void (*unpack_panel_bf16)(const PackedView& w, int panel, int k0, int kc, uint16_t* out) = nullptr;
  // Lines of 16 f16 values, `stride` values apart, two by two -> lines [ceil(count/2)][16]{2} (an odd last one is paired with
  // zeros), rounded to nearest. Turns the keys and values of an f16 cache into operands of gemm_bf16.
  void (*f16_lines_to_bf16)(const uint16_t* lines, size_t stride, int count, uint16_t* out) = nullptr;

  // ---- fast path --------------------------------------------------------------------------------------------------
  // Quantises rows [row0, row1) of x; scale = max|x| / 127, q = round-half-even(x * (127 / max|x|)), and q = 0 where max|x| is below
  // kLeastMagnitude (127 / max|x| could overflow). zero_code = 2^(bits-1) for kSymmetric weights, else 0.
  void (*quantize_rows)(const float* x, size_t ldx, const QuantizedRows& q, int zero_code, int row0, int row1);
  // y[m][ldy] (+)= x W^T for m <= kSmallRows, panels [panel0, panel1), streaming the weights once. y points at column 0.
  // rows.tile == rows.m. rows.group is 32, as ActivationGroup() says. What a row gives does not depend on the rows beside it.
  void (*affine_small)(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate);
  // Any m; rows.tile == gemm_tile; scratch of kGemmScratchBytes, 64-byte aligned, private to the calling thread.
  void (*affine_gemm)(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                      uint8_t* scratch);

  // ---- attention over an f16 cache, for few query rows (cache/kv_cache.h has the layouts) ----------------------------
  // scores[rows][ld] = q K^T for `panels` panels of 16 keys: q[rows][head_dim], keys [panel][head_dim][16] f16.
  void (*scores_f16)(const float* q, int rows, int head_dim, const uint16_t* keys, int panels, float* scores, size_t ld,
                     const uint16_t* next);
  // out[rows][ldo] += P V, P[rows][ldp] over `keys` keys, values [key][stride] f16; dim a multiple of 16 floats per row.
  // Both sum in rising order of head_dim or key, whatever rows. `next` is what will be read after it, as many bytes: it is asked for line
  // by line meanwhile. Any address but null will do; nothing is read there.
  void (*values_f16)(const float* p, size_t ldp, int rows, int keys, const uint16_t* values, size_t stride, int dim, float* out, size_t ldo,
                     const uint16_t* next);

  // ---- vectors (f32) ----------------------------------------------------------------------------------------------
  void (*rms_norm)(const float* x, const float* weight, float* y, size_t width, float eps);  // y may be x
  void (*add)(const float* a, const float* b, float* y, size_t count);                       // y may be a or b
  void (*silu_mul)(const float* gate, const float* up, float* y, size_t count);              // y = silu(gate)*up
  void (*gelu_tanh_mul)(const float* gate, const float* up, float* y, size_t count);
  void (*softcap)(float* x, size_t count, float cap);  // x = cap*tanh(x/cap)
  // Pairs (x[i], x[i+half]) rotated by (cos[i], sin[i]); head vector of `half`*2 floats in place.
  void (*rope_half)(float* x, const float* cosines, const float* sines, size_t half);
  // e = exp(x - maximum) in place, returns the sum in a fixed order.
  float (*exp_sum)(float* x, size_t count, float maximum);
  float (*max)(const float* x, size_t count);
  void (*scale)(const float* x, float* y, size_t count, float factor);  // y may be x
  void (*f32_to_f16)(const float* x, uint16_t* y, size_t count);
  void (*f16_to_f32)(const uint16_t* x, float* y, size_t count);
  bool (*all_finite)(const float* x, size_t count);
};

const KernelTable* RefKernels();
const KernelTable* Avx2Kernels();      // null where not compiled in
const KernelTable* AvxVnniKernels();   // null where not compiled in
const KernelTable* Avx512Kernels();    // null where not compiled in
const KernelTable* AmxKernels();       // null where not compiled in
const KernelTable* NeonKernels();      // null where not compiled in
const KernelTable* NeonI8mmKernels();  // null where not compiled in
// Fills the bf16 products of a copy of the AVX-512 table; leaves them null where not compiled in.
void AddAvx512Bf16(KernelTable* table);
// Of those the product on the tiles of AMX-BF16; nothing where not compiled in.
void AddAmxBf16(KernelTable* table);

// Columns per activation scale for a weight format: 32 for group_size 16 and 32, otherwise 32 too unless the weight group
// is larger and accuracy allows (kernel/chooser.cc says why).
int ActivationGroup(const PackedView& w);

}  // namespace lowbit
