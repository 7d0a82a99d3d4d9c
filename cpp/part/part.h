// part/part: one term of a compressed linear layer, y = sum of part(x) + bias.
// A part holds packed bytes (part/packed.h) and an optional order of the input columns. It does not compute: kernel/ does.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/alloc.h"
#include "base/status.h"
#include "part/packed.h"
#include "tensor/tensor.h"

namespace lowbit {

enum class PartKind : uint8_t {
#define LOWBIT_PART(id, name) id,
#include "part/parts.def"
#undef LOWBIT_PART
};
const char* PartKindName(PartKind kind);

inline int PanelCount(const PackedView& view) { return (view.n + kPanelRows - 1) / kPanelRows; }

struct Part {
  PartKind kind = PartKind::kDense;
  PackedView view;    // kDense, kAffine: the matrix; kLowRank: B [n, rank]; kSparse: n and k only, no panels
  PackedView inner;   // kLowRank: A [rank, k], the part being B A
  SparseView sparse;  // kSparse
  Block storage;      // of a part that owns its bytes; empty when they lie in the arena of a model
  // Packed column j holds column permutation[j] of the weight (act-order with scattered groups); empty = identity. Not for kLowRank,
  // kSparse.
  std::vector<int32_t> permutation;
  // Row i of the part is output row rows[i] of the weight, ascending; empty = row i. Not for kLowRank and kSparse.
  std::vector<int32_t> rows;
  // A copy of rows behind the panels, where a step that streams those finds it in cache; null: there is none.
  const int32_t* rows_behind = nullptr;
  // The part multiplies x[j] * input_scale[j], j a column of the weight (AWQ, SmoothQuant); empty = ones.
  std::vector<float> input_scale;
  // Bytes as a file would store them (codes, scales, zeros; no padding): for bits per weight.
  size_t stored_bytes = 0;

  // Of kDense and kAffine: the panels, which may lie in an arena.
  size_t bytes() const { return static_cast<size_t>(PanelCount(view)) * view.panel_bytes; }
  // Whether the part is a matrix in panels; otherwise it owns its bytes.
  bool panelled() const { return kind == PartKind::kDense || kind == PartKind::kAffine; }
  // Copies the bytes of `storage` to `to`, which has storage.size() bytes from a 64-byte boundary and stays the caller's, and frees it.
  void MoveStorage(uint8_t* to);
};

// Where row i of the packed matrix comes from: empty = row i. Used to undo the rotary row order of GGUF llama files.
using RowMap = std::vector<int32_t>;

// The Pack functions allocate a Block of their own; part/packer.h packs into memory of the caller.

// ---- dense.cc
// w [n, k] row-major in dtype F32, F16 or BF16. Values must be finite: CORRUPT_FILE naming `name` otherwise.
Result<Part> PackDense(const char* name, DType dtype, const uint8_t* rows, int n, int k, const RowMap& map);

// ---- affine.cc
// Neutral description of an affine matrix, before packing. codes [n, k] one byte each; scales, seconds [n, groups].
struct AffineSource {
  int n = 0, k = 0, bits = 0;
  int group_size = 0;  // 16, a multiple of 32, or >= k for the whole row
  AffineKind affine = AffineKind::kSymmetric;
  bool meta_f32 = false;  // false: scales and seconds must be exactly representable in f16
  std::span<const uint8_t> codes;
  std::span<const float> scales;
  std::span<const float> seconds;  // minimum or zero point; empty for kSymmetric
};
Result<Part> PackAffine(const char* name, const AffineSource& source);

// ---- container.cc: an affine part of a lowbit container as its file has it (docs/formats.md, "lowbit container"); sizes in bytes, no
// alignment. n rows, of all_rows of the linear.
struct ContainerAffine {
  int n = 0, k = 0, bits = 0, group_size = 0, all_rows = 0;
  AffineKind affine = AffineKind::kSymmetric;
  int scale_bits = 0;                // > 0: scales and minima are codes (scale_codes, zero_codes, tiles), else scales and seconds
  std::span<const uint8_t> codes;    // [n] bit streams of k codes (part/bit_stream.h)
  std::span<const uint8_t> scales;   // [n, groups] f16
  std::span<const uint8_t> seconds;  // kMinimum: [n, groups] f16; kZeroPoint: [n] bit streams of groups zero points
  std::span<const uint8_t> scale_codes, zero_codes;  // [n] bit streams of groups codes
  std::span<const uint8_t> tiles;                    // [ceil(n / 16), groups, 4] f16: scale step, scale zero, zero step, zero zero
  std::span<const int32_t> rows;                     // [n] or empty
  std::span<const int32_t> g_idx;                    // [k] or empty
};

// ---- low_rank.cc
// B A from a [rank, k] and b [n, rank], row-major f16, finite (CORRUPT_FILE naming `name` otherwise); 1 <= rank <= min(n, k).
Result<Part> PackLowRank(const char* name, int n, int k, int rank, const uint8_t* a, const uint8_t* b);

// ---- sparse.cc
// Compressed rows (CSR): row_offsets [n + 1] from 0 to the number of values, not falling; columns below k, rising within a row; values
// f16, finite, one for each column. None of them need be aligned. CORRUPT_FILE naming `name` otherwise; UNSUPPORTED for k > kSparseColumns.
Result<Part> PackSparse(const char* name, int n, int k, std::span<const int32_t> row_offsets, std::span<const int32_t> columns,
                        const uint8_t* values);
// The weights row by row, in rising columns: the inverse of PackSparse.
struct SparseWeight {
  int32_t row, column;
  float value;
};
std::vector<SparseWeight> SparseWeightsOf(const SparseView& view);

// ---- sum.cc
// [n][k] row-major, in the order of the weight: what the parts of one linear add up to, input_scale included. unpack is
// KernelTable::unpack_panel.
using UnpackPanel = void (*)(const PackedView& w, int panel, int k0, int kc, float* out);
std::vector<float> SumOfParts(std::span<const Part> parts, int n, int k, UnpackPanel unpack);

// Bytes of one panel / of the whole packed matrix for this format (view.n, k, kind, bits, group_size, affine, meta).
size_t PackedPanelBytes(const PackedView& format);
size_t PackedBytes(const PackedView& format);

// INVALID_ARGUMENT naming `name` unless the format is one that packed.h describes (what a file says of a packed weight is not trusted).
Status CheckFormat(const char* name, const PackedView& format);

// Scalar decoding straight from the layout, slow and obvious: the reference every kernel is tested against.
// CodeAt: affine only. WeightAt: any kind, in packed column order.
int CodeAt(const PackedView& view, int row, int column);
float WeightAt(const PackedView& view, int row, int column);

// ---- gguf_blocks.cc, gguf_decode.cc: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL TQ1_0 TQ2_0 [n, k] ->
// affine part.
// Scales of K-quants are products that f16 cannot hold; those parts keep both factors (MetaKind::kCoded).
Result<Part> PackGguf(const char* name, DType dtype, const uint8_t* rows, int n, int k, const RowMap& map);
// Decodes `count` values (a multiple of the block) of one row to float; used for 1-D tensors and as test reference.
Status DecodeGguf(DType dtype, const uint8_t* blocks, int64_t count, float* out);

// ---- gptq_words.cc: Hugging Face GPTQ tensors -> affine part (layout: docs/formats.md, "GPTQ").
struct GptqTensors {
  int n = 0, k = 0, bits = 0;        // bits 2, 3, 4, 8
  int group_size = 0;                // > 0
  int zero_offset = 0;               // added to a stored zero: 1 for v1 files, 0 for v2
  std::span<const int32_t> qweight;  // [k*bits/32, n]
  std::span<const int32_t> qzeros;   // [groups, n*bits/32]
  std::span<const uint8_t> scales;   // [groups, n] in scales_dtype
  DType scales_dtype = DType::kF16;
  std::span<const int32_t> g_idx;  // [k] or empty (k / group_size)
};
Result<Part> PackGptq(const char* name, const GptqTensors& tensors, const RowMap& map);

// ---- affine_words.cc: AWQ ("GEMM") and compressed-tensors ("pack-quantized") tensors -> affine part (layouts: docs/formats.md).
enum class WordLayout : uint8_t {
  kAwq,     // 4 bits: words hold eight rows of one column, zeros likewise, scales [groups, n]
  kStream,  // words run along the columns of a row, a stream of bits; zeros run down the rows of a group; scales [n, groups]
  kPadded,  // as kStream, but a word holds 32 / bits whole values and its last bits nothing
};
struct WordTensors {
  int n = 0, k = 0, bits = 0;  // bits 1 to 8; kAwq: 4
  int group_size = 0;          // > 0
  WordLayout layout = WordLayout::kAwq;
  std::span<const int32_t> codes;      // kAwq [k, n/8], else [n, words of k values]
  std::span<const int32_t> zeros;      // kAwq [groups, n/8], else [words of n values, groups]; empty: 2^(bits-1)
  std::span<const int8_t> byte_zeros;  // instead of zeros, [n, groups]: zero point minus 2^(bits-1)
  std::span<const uint8_t> scales;     // as the layout says, or a single one for the whole matrix
  DType scales_dtype = DType::kF16;
  std::span<const int32_t> g_idx;  // [k]; empty or all -1: k / group_size
};
Result<Part> PackWords(const char* name, const WordTensors& tensors, const RowMap& map);

// The inverse, for writing: codes [n, k], zeros [n, groups] -> qweight and qzeros words (zero_offset subtracted).
void WriteGptqWords(int n, int k, int bits, int groups, int zero_offset, std::span<const uint8_t> codes, std::span<const uint8_t> zeros,
                    std::span<int32_t> qweight, std::span<int32_t> qzeros);

}  // namespace lowbit
