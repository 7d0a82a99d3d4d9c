// bench/load: speed of the packers (part/packer.h), in GB of file bytes per second on one thread, one JSON line per format and shape.
// Every sample is taken right after a memcpy of the same bytes, so that a busy neighbour hits both; `of_memcpy` is the median over the
// pairs. "warm" packs into memory that was touched before, "fresh" into a new huge-page block, whose pages the system has to clear.
// Usage: lowbit_load_bench [format]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/alloc.h"
#include "kernel/chooser.h"
#include "part/packer.h"

using namespace lowbit;

namespace {

constexpr size_t kSourceBytes = size_t(96) << 20;  // more than the last-level cache of one core

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A weight of one format over random bytes that are valid in it.
struct Subject {
  std::string name;
  DType dtype = DType::kF32;
  int gptq_bits = 0, head_bits = 0;
  bool act_order = false;

  size_t Bytes(int n, int k) const {
    const size_t count = static_cast<size_t>(n) * static_cast<size_t>(k);
    if (gptq_bits > 0) return count * static_cast<size_t>(gptq_bits) / 8;
    return count / static_cast<size_t>(Info(dtype).block_values) * static_cast<size_t>(Info(dtype).block_bytes);
  }
};

struct GptqSide {
  std::vector<int32_t> qzeros, g_idx;
  std::vector<uint16_t> scales;
};

Result<std::unique_ptr<Packer>> MakePacker(const Subject& subject, const uint8_t* source, const GptqSide& side, int n, int k) {
  if (subject.gptq_bits > 0) {
    GptqTensors t;
    t.n = n;
    t.k = k;
    t.bits = subject.gptq_bits;
    t.group_size = 128;
    t.qweight = {reinterpret_cast<const int32_t*>(source), subject.Bytes(n, k) / 4};
    t.qzeros = side.qzeros;
    t.scales = {reinterpret_cast<const uint8_t*>(side.scales.data()), side.scales.size() * 2};
    t.g_idx = side.g_idx;
    return GptqPacker("w", t, {});
  }
  const bool dense = Info(subject.dtype).block_values == 1;
  Result<std::unique_ptr<Packer>> packer =
      dense ? DensePacker("w", subject.dtype, source, n, k, {}) : GgufPacker("w", subject.dtype, source, n, k, {});
  if (!packer.ok() || subject.head_bits == 0) return packer;
  return RequantizingPacker("w", std::move(packer.value()), subject.head_bits, ChooseKernels("").value()->unpack_panel);
}

GptqSide MakeSide(const Subject& subject, int n, int k) {
  GptqSide side;
  if (subject.gptq_bits == 0) return side;
  const size_t groups = static_cast<size_t>(k + 127) / 128,
               zeros = groups * static_cast<size_t>(n) * static_cast<size_t>(subject.gptq_bits) / 32;
  side.qzeros.assign(zeros, subject.gptq_bits == 4 ? static_cast<int32_t>(0x88888888u) : static_cast<int32_t>(0x80808080u));
  side.scales.assign(groups * static_cast<size_t>(n), 0x2000);
  for (int c = 0; subject.act_order && c < k; ++c) side.g_idx.push_back(c % static_cast<int>(groups));
  return side;
}

void Measure(const Subject& subject, int n, int k, const Block& source, const Block& copy, std::mt19937& random) {
  const size_t bytes = subject.Bytes(n, k), count = source.size() / bytes;
  // random fields, but no exponent of all ones in any f16, bf16 or f32
  for (size_t i = 0; i < source.size(); ++i) source.data()[i] = static_cast<uint8_t>(random()) & 0x3b;
  const GptqSide side = MakeSide(subject, n, k);
  std::vector<std::unique_ptr<Packer>> packers;
  for (size_t i = 0; i < count; ++i) {
    Result<std::unique_ptr<Packer>> packer = MakePacker(subject, source.data() + i * bytes, side, n, k);
    if (!packer.ok()) {
      std::printf("{\"format\":\"%s\",\"error\":\"%s\"}\n", subject.name.c_str(), packer.status().message().c_str());
      return;
    }
    packers.push_back(std::move(packer.value()));
  }
  const size_t packed = packers[0]->part().bytes();
  Result<Block> warm = Block::Allocate(packed * count, MemoryClass::kScratch, "bench");
  if (!warm.ok()) return;
  const auto pack = [&](const Block& to) {
    const double start = Now();
    for (size_t i = 0; i < count; ++i) (void)packers[i]->Pack(0, PanelCount(packers[i]->part().view), to.data() + i * packed);
    return Now() - start;
  };
  (void)pack(warm.value());
  std::vector<double> speed, ratio, fresh;
  for (int sample = 0; sample < 7; ++sample) {
    const double start = Now();
    std::memcpy(copy.data(), source.data(), count * bytes);
    const double memcpy_seconds = Now() - start, seconds = pack(warm.value());
    Result<Block> cold = Block::Allocate(packed * count, MemoryClass::kScratch, "bench");
    if (!cold.ok()) return;
    speed.push_back(static_cast<double>(count * bytes) / seconds / 1e9);
    ratio.push_back(memcpy_seconds / seconds);
    fresh.push_back(static_cast<double>(count * bytes) / pack(cold.value()) / 1e9);
  }
  std::printf("{\"format\":\"%s\",\"n\":%d,\"k\":%d,\"gb_per_s_warm\":%.2f,\"gb_per_s_fresh\":%.2f,\"of_memcpy\":%.3f}\n",
              subject.name.c_str(), n, k, Median(speed), Median(fresh), Median(ratio));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Subject> subjects;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                            DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K})
    subjects.push_back({Info(dtype).name, dtype});
  for (const int bits : {2, 3, 4, 8}) {
    Subject subject;
    subject.name = "GPTQ" + std::to_string(bits);
    subject.gptq_bits = bits;
    subjects.push_back(subject);
  }
  Subject act_order;
  act_order.name = "GPTQ4 act-order";
  act_order.gptq_bits = 4;
  act_order.act_order = true;
  subjects.push_back(act_order);
  for (const int bits : {8, 4}) {
    Subject head;
    head.name = "BF16 head to " + std::to_string(bits) + " bits";
    head.dtype = DType::kBF16;
    head.head_bits = bits;
    subjects.push_back(head);
  }
  Result<Block> source = Block::Allocate(kSourceBytes, MemoryClass::kScratch, "bench");
  Result<Block> copy = Block::Allocate(kSourceBytes, MemoryClass::kScratch, "bench");
  if (!source.ok() || !copy.ok()) return 1;
  std::mt19937 random(1);
  for (const Subject& subject : subjects) {
    if (argc > 1 && subject.name.find(argv[1]) == std::string::npos) continue;
    Measure(subject, 1536, 768, source.value(), copy.value(), random);
    Measure(subject, 2048, 8192, source.value(), copy.value(), random);
  }
  return 0;
}
