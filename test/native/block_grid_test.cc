// test/native: part/gguf_encode and quantize/block_grid - writing GGUF blocks and choosing their grids. The reference is DecodeGguf, which
// shares nothing with the encoder and is itself tested against the Python package gguf (gguf_test.cc).
#include "quantize/block_grid.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernel/chooser.h"
#include "part/gguf_encode.h"
#include "part/part.h"
#include "quantize/method.h"

using namespace lowbit;

namespace {

constexpr DType kTypes[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

std::vector<float> Weights(int n, int k, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> w(size_t(n) * k);
  for (size_t i = 0; i < w.size(); ++i) {
    float sum = -3;
    for (int j = 0; j < 6; ++j) sum += static_cast<float>(random()) / 4294967296.0f;
    w[i] = 0.05f * sum * (i % 97 == 0 ? 4.0f : 1.0f);
  }
  return w;
}

// X^T X of correlated inputs whose columns differ in size.
std::vector<float> Correlated(int k, int tokens) {
  const std::vector<float> noise = Weights(tokens, k, 5);
  std::vector<float> x(noise.size()), h(size_t(k) * k, 0.0f);
  for (int t = 0; t < tokens; ++t)
    for (int c = 0; c < k; ++c) x[size_t(t) * k + c] = (noise[size_t(t) * k + c] + noise[size_t(t) * k]) * (c % 7 == 0 ? 30.0f : 5.0f);
  for (int t = 0; t < tokens; ++t)
    for (int i = 0; i < k; ++i)
      for (int j = 0; j < k; ++j) h[size_t(i) * k + j] += x[size_t(t) * k + i] * x[size_t(t) * k + j];
  return h;
}

Result<QuantizedLinear> Solve(Method method, DType type, const std::vector<float>& w, int n, int k, const HessianView& hessian,
                              double mse) {
  QuantizeOptions options;
  options.block_type = type;
  options.mse = mse;
  options.hessian_mse = options.desc_act = options.refit_scales = options.row_guard = options.static_groups = method == Method::kGptq;
  options.sweeps = method == Method::kGptq ? 2 : 0;
  Pool pool(2);
  return Quantize(method, "w", w, n, k, hessian, options, *RefKernels(), pool);
}

// Blocks decode to exactly what the solve optimised.
void ExpectSameValues(const QuantizedLinear& q) {
  std::vector<float> expected(size_t(q.n) * q.k), decoded(expected.size());
  Dequantize(q, expected);
  const Result<std::vector<uint8_t>> blocks = BlocksOf("w", q);
  if (!EXPECT(blocks.ok())) return;
  EXPECT(DecodeGguf(q.block_type, blocks.value().data(), static_cast<int64_t>(decoded.size()), decoded.data()).ok());
  size_t wrong = 0;
  for (size_t i = 0; i < decoded.size(); ++i) wrong += !(decoded[i] == expected[i]);
  EXPECT(wrong == 0);
}

}  // namespace

LOWBIT_TEST(BlocksHoldWhatRoundingChose) {
  const int n = 5, k = 512;
  const std::vector<float> w = Weights(n, k, 1);
  for (const DType type : kTypes) {
    double error[2];
    for (const double mse : {0.0, 2.0}) {
      const Result<QuantizedLinear> q = Solve(Method::kRtn, type, w, n, k, {}, mse);
      if (!EXPECT(q.ok())) continue;
      ExpectSameValues(q.value());
      error[mse > 0] = q.value().error;
    }
    EXPECT(error[1] <= error[0]);  // the search never loses
    const int bits = FindBlockType(type)->bits;
    // Symmetric groups of 32 of Gaussian weights have 2.3 * 4^-bits (rtn_test.cc); these have heavier tails.
    EXPECT(error[1] < 4 * std::pow(4.0, -bits));
    EXPECT(error[1] > 0);
  }
}

LOWBIT_TEST(GptqOnBlockGridsBeatsRounding) {
  const int n = 50, k = 256;
  const std::vector<float> w = Weights(n, k, 2);
  std::vector<float> h = Correlated(k, 600);
  for (int c = 0; c < k; ++c) h[size_t(9) * k + c] = h[size_t(c) * k + 9] = 0;  // a dead column
  const HessianView hessian{h.data(), k, 600};
  for (const DType type : kTypes) {
    const Result<QuantizedLinear> rounded = Solve(Method::kRtn, type, w, n, k, hessian, 2);
    const Result<QuantizedLinear> solved = Solve(Method::kGptq, type, w, n, k, hessian, 2);
    if (!EXPECT(rounded.ok() && solved.ok())) continue;
    EXPECT(solved.value().error < 0.8 * rounded.value().error);
    EXPECT(solved.value().dead_columns == 1);
    ExpectSameValues(solved.value());
  }
}

// Values that lie on a grid of the type come back bit for bit: both signs of the longer side, a whole range, and rows of zeros.
LOWBIT_TEST(BlockGridsFindTheirOwnValues) {
  for (const float sign : {1.0f, -1.0f}) {
    std::vector<float> w(64, 0.0f);
    for (int c = 0; c < 32; ++c) w[c] = sign * 0.125f * static_cast<float>(c % 16 - 8);
    for (const DType type : {DType::kQ4_0, DType::kQ5_0, DType::kQ4_1}) {
      const Result<QuantizedLinear> q = Solve(Method::kRtn, type, w, 1, 64, {}, 0);
      if (!EXPECT(q.ok())) continue;
      EXPECT(q.value().error == 0);
      ExpectSameValues(q.value());
    }
  }
}

// Blocks made by hand from the format's tables.
LOWBIT_TEST(BlocksByHand) {
  std::vector<uint8_t> codes(32), zeros = {7}, out;
  for (int c = 0; c < 32; ++c) codes[c] = static_cast<uint8_t>(c % 16);
  const std::vector<float> scales = {0.5f};
  BlockCodes source;
  source.n = 1;
  source.k = 32;
  source.codes = codes;
  source.scales = scales;
  source.zeros = zeros;
  EXPECT(EncodeBlocks("w", DType::kQ4_0, source, &out).ok());
  EXPECT(out.size() == 18 && out[0] == 0x00 && out[1] == 0xb8);      // -0.5
  for (int j = 0; j < 16; ++j) EXPECT(out[2 + j] == (15 - j) * 17);  // 15 - code in both nibbles
  zeros[0] = 8;
  EXPECT(EncodeBlocks("w", DType::kQ4_0, source, &out).ok());
  EXPECT(out[1] == 0x38);
  for (int j = 0; j < 16; ++j) EXPECT(out[2 + j] == j * 17);
  codes[3] = 16;
  EXPECT_ERROR(EncodeBlocks("w", DType::kQ4_0, source, &out), Code::kInternal, "cannot store");
  codes[3] = 3;
  zeros[0] = 9;
  EXPECT_ERROR(EncodeBlocks("w", DType::kQ4_0, source, &out), Code::kInternal, "cannot store");
  zeros[0] = 8;
  const std::vector<float> odd = {0.1f};
  source.scales = odd;
  EXPECT_ERROR(EncodeBlocks("w", DType::kQ4_0, source, &out), Code::kInternal, "cannot store");
  source.scales = {};
  EXPECT_ERROR(EncodeBlocks("w", DType::kQ4_0, source, &out), Code::kInvalidArgument, "sizes");
  source.k = 33;
  EXPECT_ERROR(EncodeBlocks("w", DType::kQ4_0, source, &out), Code::kInvalidArgument, "33 columns");
  EXPECT_ERROR(EncodeBlocks("w", DType::kQ2_K, source, &out), Code::kInvalidArgument, "not written");
}

LOWBIT_TEST(DenseTypesOfGguf) {
  const std::vector<float> values = {1.0f, -0.333333343f, 70000.0f};
  std::vector<uint8_t> out;
  EXPECT(EncodeDense("w", DType::kF32, values, &out).ok() && out.size() == 12);
  EXPECT(EncodeDense("w", DType::kBF16, values, &out).ok() && out[1] == 0x3f && out[0] == 0x80);
  EXPECT_ERROR(EncodeDense("w", DType::kF16, values, &out), Code::kUnsupported, "70000");
  EXPECT_ERROR(EncodeDense("w", DType::kI32, values, &out), Code::kInvalidArgument, "I32");
}

LOWBIT_TEST(BlockTypesAreRefusedByName) {
  const std::vector<float> w = Weights(1, 64, 3);
  EXPECT_ERROR(Solve(Method::kRtn, DType::kQ4_K, w, 1, 64, {}, 0).status(), Code::kInvalidArgument, "multiple of 256");
  EXPECT_ERROR(Solve(Method::kRtn, DType::kQ2_K, w, 1, 64, {}, 0).status(), Code::kInvalidArgument, "not written");
}
