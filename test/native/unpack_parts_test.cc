// test/native: packed parts unpack to the numbers they were packed from; what files of other formats have no place for is named.
#include "quantize/unpack_parts.h"

#include <cstring>
#include <random>

#include "check.h"
#include "kernel/kernel.h"
#include "quantize/gptq_tensors.h"
#include "quantize/pack_parts.h"
#include "random_parts.h"

using namespace lowbit;
using lowbit_test::RandomCodes;
using lowbit_test::RandomLinear;

namespace {

Result<LinearParts> ThereAndBack(const LinearParts& linear, Pool& pool) {
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<Part> parts, PackParts("w", linear));
  return UnpackParts("w", linear.n, linear.k, parts, RefKernels()->unpack_panel, pool);
}

LinearParts OneGrid(int n, int k, int bits, int group_size, AffineKind kind) {
  std::mt19937 random(11);
  LinearParts linear;
  linear.n = n;
  linear.k = k;
  linear.affine.push_back(RandomCodes(random, {}, n, k, bits, group_size, kind));
  return linear;
}

}  // namespace

LOWBIT_TEST(UnpackedPartsAreThoseThatWerePacked) {
  Pool pool(2);
  std::vector<LinearParts> samples = {
      RandomLinear({37, 96, 32, 0, true, false, false, false}, 1), RandomLinear({100, 64, 64, 5, false, false, false, false}, 2),
      RandomLinear({50, 160, 16, 0, false, true, false, true}, 3), RandomLinear({75, 256, 32, 9, true, true, true, true}, 4),
      RandomLinear({33, 80, 80, 0, false, false, true, false}, 5)};
  for (int bits = 1; bits <= 8; ++bits)
    for (const AffineKind kind : {AffineKind::kSymmetric, AffineKind::kMinimum, AffineKind::kZeroPoint})
      samples.push_back(OneGrid(19, 72, bits, 32, kind));
  LinearParts ordered = OneGrid(20, 80, 4, 32, AffineKind::kZeroPoint);
  for (int j = 0; j < ordered.k; ++j) ordered.affine[0].g_idx.push_back((ordered.k - 1 - j) / 32);
  samples.push_back(ordered);
  for (const LinearParts& linear : samples) {
    const auto back = ThereAndBack(linear, pool);
    if (!EXPECT(back.ok() && back.value().affine.size() == linear.affine.size())) continue;
    const LinearParts& b = back.value();
    EXPECT(b.n == linear.n && b.k == linear.k && b.input_scale == linear.input_scale);
    for (size_t i = 0; i < linear.affine.size(); ++i) {
      const AffineCodes &from = linear.affine[i], &to = b.affine[i];
      EXPECT(to.bits == from.bits && to.group_size == from.group_size && to.groups == from.groups && to.affine == from.affine);
      EXPECT(to.rows == from.rows && to.g_idx == from.g_idx && to.codes == from.codes);
      EXPECT(to.scales == from.scales && to.seconds == from.seconds);
    }
    EXPECT(b.low_rank.rank == linear.low_rank.rank && b.low_rank.a == linear.low_rank.a && b.low_rank.b == linear.low_rank.b);
    EXPECT(b.sparse.columns == linear.sparse.columns && b.sparse.values == linear.sparse.values);
    if (!linear.sparse.columns.empty()) EXPECT(b.sparse.row_offsets == linear.sparse.row_offsets);
  }
}

LOWBIT_TEST(DensePartsHaveNoCodes) {
  Pool pool(1);
  const std::vector<float> rows(16 * 32, 1.0f);
  std::vector<Part> parts;
  parts.push_back(std::move(PackDense("w", DType::kF32, reinterpret_cast<const uint8_t*>(rows.data()), 16, 32, {}).value()));
  EXPECT_ERROR(UnpackParts("w", 16, 32, parts, RefKernels()->unpack_panel, pool).status(), Code::kUnsupported, "is dense");
}

LOWBIT_TEST(MisfitsAreNamed) {
  const auto grid = [](int bits, AffineKind kind) { return OneGrid(32, 64, bits, 32, kind); };
  for (const int bits : {2, 3, 4, 8}) EXPECT(GptqMisfit(grid(bits, AffineKind::kSymmetric)).empty());
  EXPECT(GptqMisfit(OneGrid(32, 64, 4, 16, AffineKind::kZeroPoint)).empty());  // narrow groups are only unusual
  EXPECT(GptqMisfit(grid(5, AffineKind::kSymmetric)) == "codes of 5 bits (2, 3, 4 and 8 are possible)");
  EXPECT(GptqMisfit(grid(4, AffineKind::kMinimum)) == "minima in place of integer zero points");
  EXPECT(GptqMisfit(OneGrid(33, 64, 4, 32, AffineKind::kSymmetric)) == "33 rows and 64 columns of 4 bits, which do not fill 32-bit words");
  EXPECT(GptqMisfit(RandomLinear({64, 64, 32, 0, true, false, false, false}, 1)) == "rows of several widths");
  EXPECT(GptqMisfit(RandomLinear({64, 64, 32, 2, false, false, false, false}, 1)) == "a low-rank part");
  EXPECT(GptqMisfit(RandomLinear({64, 64, 32, 0, false, true, false, false}, 1)) == "single weights beside its codes");
  EXPECT(GptqMisfit(RandomLinear({64, 64, 32, 0, false, false, true, false}, 1)) == "a scale of its inputs");
  LinearParts linear = grid(3, AffineKind::kZeroPoint);
  linear.affine[0].seconds[0] = 0;
  linear.affine[0].seconds[1] = 8;
  EXPECT(GptqMisfit(linear) == "zero points from 0 to 8, which no version holds together");
  EXPECT(ContainerMisfit(linear) == "a zero point of 8, which 3 bits do not hold");
  linear = grid(4, AffineKind::kMinimum);
  EXPECT(ContainerMisfit(linear).empty());
  linear.affine[0].seconds[3] = 0.1f;
  EXPECT(ContainerMisfit(linear) == "minima that f16 does not hold exactly");
  linear.affine[0].scales[3] = 0.1f;
  EXPECT(ContainerMisfit(linear) == "scales that f16 does not hold exactly");
  linear = grid(4, AffineKind::kSymmetric);
  linear.affine[0].scales[5] = 1e-9f;
  EXPECT(GptqMisfit(linear) == "scales that f16 does not hold exactly");
}
