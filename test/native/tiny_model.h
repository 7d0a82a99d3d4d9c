// test/native: a small llama with random weights of a chosen type, loaded through the front door, and what tests of generation ask
// it. Wide enough for every block type (256 columns), with grouped queries.
#pragma once

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/half.h"
#include "check.h"
#include "engine/context.h"
#include "engine/model.h"

namespace lowbit_test {

constexpr int kVocab = 272, kHidden = 256, kHeads = 8, kKvHeads = 2, kHeadDim = 32, kFfn = 512, kBlocks = 2;
// The embedding of this token overflows: on the exact path, a sequence that reads it fails.
constexpr int kPoison = 271;

inline void PutHalf(std::vector<uint8_t>* bytes, float value) {
  const uint16_t half = lowbit::FloatToHalf(value);
  bytes->push_back(static_cast<uint8_t>(half));
  bytes->push_back(static_cast<uint8_t>(half >> 8));
}

// Random weights of standard deviation about 1/sqrt(k), in the layout of the file.
inline std::vector<uint8_t> RandomWeight(std::mt19937& random, const std::string& dtype, int n, int k) {
  std::vector<uint8_t> bytes;
  const auto codes = [&](int count) {
    for (int i = 0; i < count; ++i) bytes.push_back(static_cast<uint8_t>(random()));
  };
  const float scale = 1 / std::sqrt(static_cast<float>(k));
  const int64_t values = int64_t(n) * k;
  if (dtype == "Q4_0" || dtype == "Q4_1" || dtype == "Q8_0") {
    for (int64_t i = 0; i < values / 32; ++i) {
      PutHalf(&bytes, scale / (dtype == "Q8_0" ? 74.0f : 4.6f));
      if (dtype == "Q4_1") PutHalf(&bytes, -scale * 7.5f / 4.6f);
      codes(dtype == "Q8_0" ? 32 : 16);
    }
  } else if (dtype == "Q4_K") {
    for (int64_t i = 0; i < values / 256; ++i) {
      PutHalf(&bytes, scale / (4.6f * 32));
      PutHalf(&bytes, scale * 7.5f / (4.6f * 32));
      codes(140);
    }
  } else if (dtype == "Q6_K") {
    for (int64_t i = 0; i < values / 256; ++i) {
      codes(208);
      PutHalf(&bytes, scale / (18.0f * 74));
    }
  } else {  // F32 or BF16
    std::normal_distribution<float> normal(0, scale);
    for (int64_t i = 0; i < values; ++i) {
      const float value = normal(random);
      uint32_t word;
      std::memcpy(&word, &value, 4);
      for (int byte = dtype == "F32" ? 0 : 2; byte < 4; ++byte) bytes.push_back(static_cast<uint8_t>(word >> 8 * byte));
    }
  }
  return bytes;
}

inline std::shared_ptr<lowbit::Model> TinyModel(const std::string& dtype, bool fast, int threads, int window = 0) {
  using namespace lowbit;
  static int serial = 0;
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("lowbit-tiny-" + std::to_string(std::random_device{}()) + "-" + std::to_string(serial++));
  std::mt19937 random(11);
  std::vector<uint8_t> bytes;
  ModelSpec spec;
  spec.files = {file.string()};
  spec.fast = fast;
  spec.threads = threads;
  Plan& plan = spec.plan;
  plan.vocab_size = kVocab;
  plan.hidden_size = kHidden;
  plan.max_seq_len = 2048;
  const int q = kHeads * kHeadDim, kv = kKvHeads * kHeadDim;
  plan.buffers = {{"x", kHidden}, {"normed", kHidden}, {"qkv", q + 2 * kv}, {"mixed", q}, {"ffn", 2 * kFfn}, {"logits", kVocab}};
  const auto typed = [&](const std::string& type, int n, int k) {
    WeightSource source;
    source.tensor = static_cast<int>(spec.tensors.size());
    const std::vector<uint8_t> data = RandomWeight(random, type, n, k);
    spec.tensors.push_back({"w" + std::to_string(source.tensor), 0, type, {n, k}, bytes.size(), data.size()});
    bytes.insert(bytes.end(), data.begin(), data.end());
    plan.weights.push_back({"w" + std::to_string(source.tensor), n, k, -1});
    spec.weights.push_back(source);
    return static_cast<int>(plan.weights.size()) - 1;
  };
  const auto weight = [&](int n, int k) { return typed(dtype, n, k); };
  const int embedding = typed("F32", kVocab, kHidden), head = weight(kVocab, kHidden);
  const float large = 3e38f;
  for (size_t i = 0; i < kHidden; ++i) std::memcpy(bytes.data() + (size_t(kPoison) * kHidden + i) * 4, &large, 4);
  const size_t norm_at = bytes.size();
  for (int i = 0; i < kHidden; ++i) bytes.insert(bytes.end(), {0, 0, 0x80, 0x3f});
  VectorSource norm_source;
  norm_source.tensor = static_cast<int>(spec.tensors.size());
  spec.tensors.push_back({"norm", 0, "F32", {kHidden}, norm_at, bytes.size() - norm_at});
  plan.vectors = {{"norm", kHidden}};
  spec.vectors = {norm_source};
  RopeTable rope;
  for (int i = 0; i < kHeadDim / 2; ++i) rope.inverse_frequencies.push_back(std::pow(1e4, -2.0 * i / kHeadDim));
  plan.ropes = {rope};

  const auto op = [&](OpKind kind, View in, View out) -> Op& {
    Op o;
    o.kind = kind;
    o.in = in;
    o.out = out;
    plan.ops.push_back(o);
    return plan.ops.back();
  };
  const View x = {0, 0, kHidden}, normed = {1, 0, kHidden};
  const auto norm = [&] {
    Op& o = op(OpKind::kRmsNorm, x, normed);
    o.group = kHidden;
    o.factor = 1e-5f;
  };
  op(OpKind::kEmbed, {}, x).index = embedding;
  plan.ops.back().factor = 16;
  plan.prologue = {0, 1};
  for (int b = 0; b < kBlocks; ++b) {
    const int begin = static_cast<int>(plan.ops.size());
    norm();
    const int wq = weight(q, kHidden), wk = weight(kv, kHidden), wv = weight(kv, kHidden);
    op(OpKind::kLinear, normed, {}).outputs = {{wq, {2, 0, q}, false}, {wk, {2, q, kv}, false}, {wv, {2, q + kv, kv}, false}};
    for (int part = 0; part < 2; ++part) {
      Op& o = op(OpKind::kRope, {2, part * q, part == 0 ? q : kv}, {});
      o.n_heads = part == 0 ? kHeads : kKvHeads;
      o.head_dim = kHeadDim;
    }
    plan.caches.push_back({kKvHeads, kHeadDim});
    Op& attention = op(OpKind::kAttention, {2, 0, q}, {3, 0, q});
    attention.in2 = {2, q, kv};
    attention.in3 = {2, q + kv, kv};
    attention.index = b;
    attention.factor = 1 / std::sqrt(static_cast<float>(kHeadDim));
    attention.n_heads = kHeads;
    attention.n_kv_heads = kKvHeads;
    attention.head_dim = kHeadDim;
    attention.window = window;
    op(OpKind::kLinear, {3, 0, q}, {}).outputs = {{weight(kHidden, q), x, true}};
    norm();
    const int gate = weight(kFfn, kHidden), up = weight(kFfn, kHidden);
    op(OpKind::kLinear, normed, {}).outputs = {{gate, {4, 0, kFfn}, false}, {up, {4, kFfn, kFfn}, false}};
    op(OpKind::kGlu, {4, 0, kFfn}, {4, 0, kFfn}).in2 = {4, kFfn, kFfn};
    op(OpKind::kLinear, {4, 0, kFfn}, {}).outputs = {{weight(kHidden, kFfn), x, true}};
    plan.blocks.push_back({begin, static_cast<int>(plan.ops.size())});
  }
  plan.epilogue.begin = static_cast<int>(plan.ops.size());
  norm();
  op(OpKind::kLinear, normed, {}).outputs = {{head, {5, 0, kVocab}, false}};
  plan.epilogue.end = static_cast<int>(plan.ops.size());
  plan.logits = {5, 0, kVocab};

  std::ofstream(file, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  auto model = Model::Load(std::move(spec), {});
  std::filesystem::remove(file);
  Check(model.ok(), __FILE__, __LINE__, "the tiny model: " + model.status().message());
  return model.ok() ? model.value() : nullptr;
}

inline std::vector<int32_t> RandomTokens(uint32_t seed, int count) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(random() % (kVocab - 1)));
  return tokens;
}

// The logits behind one more token: equal bits here mean equal bits in the whole key/value store, up to accident.
inline std::vector<float> Fingerprint(lowbit::Context& context, int sequence) {
  std::vector<float> logits(kVocab);
  lowbit::StepRequest request;
  request.sequence = sequence;
  request.tokens = {7};
  request.logits = logits.data();
  const int length = context.length(sequence);
  EXPECT(context.Step(request, {}).ok());
  context.Truncate(sequence, length);
  return logits;
}

}  // namespace lowbit_test
