// bench/native: speed of the kernel tables against ceilings measured in the same run, one JSON line per result.
// Every kernel sample is taken right after a sample of its ceiling (a read loop over the same bytes, or a loop of register-only
// products), so that a busy neighbour hits both; `ratio` is the median over the pairs, `best` the best sample of each.
// Decode weights rotate through more memory than the last-level cache holds. One thread.
// Usage: kernel_bench [avx512|avx2|ref] [gemv|gemm|f32|unpack|quantize]; both filters are optional.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/alloc.h"
#include "base/cpu.h"
#include "base/half.h"
#include "kernel/kernel.h"
#include "part/part.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define LOWBIT_X86 1
#endif

#ifdef LOWBIT_HAVE_AVXVNNI_EVEX
namespace lowbit {
const KernelTable* AvxVnniEvexKernels();  // kernel/avxvnni in the encoding of AVX-512, for processors without the other
}
#endif

using namespace lowbit;

namespace {

constexpr double kShortestSample = 2e-3;  // seconds
constexpr size_t kRotatingBytes = size_t(160) << 20;

// Seconds of processor time of this thread where the system counts it: being preempted is then no part of a sample.
double Now() {
#ifdef CLOCK_THREAD_CPUTIME_ID
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
#else
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
}

// ---- ceilings: each returns the work done (bytes, or multiply-adds)
struct Ceilings {
  double (*read)(const uint8_t* p, size_t bytes);
  double (*int8)(long rounds);
  double (*fma)(long rounds);
};

volatile uint64_t sink;

double ReadPortable(const uint8_t* p, size_t bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i + 64 <= bytes; i += 64) {
    uint64_t words[8];
    std::memcpy(words, p + i, 64);
    for (const uint64_t w : words) sum ^= w;
  }
  sink = sum;
  return static_cast<double>(bytes);
}

#ifdef LOWBIT_X86
#define LOWBIT_KEEP(v) asm volatile("" : "+v"(v))

__attribute__((target("avx512f"))) double Read512(const uint8_t* p, size_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (size_t i = 0; i + 256 <= bytes; i += 256) {
    a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(p + i + 64));
    c = _mm512_xor_si512(c, _mm512_loadu_si512(p + i + 128));
    d = _mm512_xor_si512(d, _mm512_loadu_si512(p + i + 192));
  }
  a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
  LOWBIT_KEEP(a);
  return static_cast<double>(bytes);
}

__attribute__((target("avx2"))) double Read256(const uint8_t* p, size_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a;
  for (size_t i = 0; i + 64 <= bytes; i += 64) {
    a = _mm256_xor_si256(a, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i)));
    b = _mm256_xor_si256(b, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 32)));
  }
  a = _mm256_xor_si256(a, b);
  LOWBIT_KEEP(a);
  return static_cast<double>(bytes);
}

// A loop of kSums independent sums, which hide the latency of `step` on every known core; a macro, because a template would not
// inherit the target of its caller. `work` is the multiply-adds of a step.
#define LOWBIT_RATE(name, isa, Vector, kSums, one, step, work) \
  __attribute__((target(isa))) double name(long rounds) {      \
    Vector sums[kSums], x = one, w = x;                        \
    _Pragma("GCC unroll 12") for (auto& sum : sums) sum = x;   \
    LOWBIT_KEEP(x);                                            \
    LOWBIT_KEEP(w);                                            \
    for (long i = 0; i < rounds; ++i) {                        \
      _Pragma("GCC unroll 12") for (auto& sum : sums) {        \
        sum = step;                                            \
        LOWBIT_KEEP(sum);                                      \
      }                                                        \
    }                                                          \
    return static_cast<double>(rounds) * kSums * work;         \
  }

LOWBIT_RATE(Int8Rate512, "avx512f,avx512vnni", __m512i, 12, _mm512_set1_epi8(1), _mm512_dpbusd_epi32(sum, w, x), 64)
LOWBIT_RATE(FmaRate512, "avx512f", __m512, 12, _mm512_set1_ps(1e-8f), _mm512_fmadd_ps(w, x, sum), 16)
LOWBIT_RATE(FmaRate256, "avx2,fma", __m256, 12, _mm256_set1_ps(1e-8f), _mm256_fmadd_ps(w, x, sum), 8)
#ifdef LOWBIT_HAVE_AVXVNNI_EVEX
LOWBIT_RATE(Int8RateVnni256, "avx512f,avx512vl,avx512vnni", __m256i, 12, _mm256_set1_epi8(1), _mm256_dpbusd_epi32(sum, w, x), 32)
#else
LOWBIT_RATE(Int8RateVnni256, "avx2,avxvnni", __m256i, 12, _mm256_set1_epi8(1), _mm256_dpbusd_avx_epi32(sum, w, x), 32)
#endif

// What AVX2 needs for 32 products at best: vpmaddubsw and vpaddw.
__attribute__((target("avx2"))) inline __m256i MultiplyAdd256(__m256i sum, __m256i& w, __m256i x) {
  LOWBIT_KEEP(w);  // or the compiler would multiply once for all sums
  __m256i product = _mm256_maddubs_epi16(w, x);
  LOWBIT_KEEP(product);
  return _mm256_add_epi16(sum, product);
}
LOWBIT_RATE(Int8Rate256, "avx2", __m256i, 10, _mm256_set1_epi8(1), MultiplyAdd256(sum, w, x), 32)
#endif

// Kernels and the ceilings of their instruction set; ref has none of its own and is compared with nothing but memory bandwidth.
struct Subject {
  const KernelTable* table;
  Ceilings ceilings;
};

std::vector<Subject> Subjects() {
  std::vector<Subject> subjects;
#ifdef LOWBIT_X86
  if (Cpu().avx512 && Cpu().avx512_vnni && Avx512Kernels() != nullptr)
    subjects.push_back({Avx512Kernels(), {Read512, Int8Rate512, FmaRate512}});
#ifdef LOWBIT_HAVE_AVXVNNI_EVEX
  if (Cpu().avx512 && Cpu().avx512_vnni) subjects.push_back({AvxVnniEvexKernels(), {Read256, Int8RateVnni256, FmaRate256}});
#endif
  if (Cpu().avx2 && Avx2Kernels() != nullptr) subjects.push_back({Avx2Kernels(), {Read256, Int8Rate256, FmaRate256}});
#endif
  subjects.push_back({RefKernels(), {ReadPortable, nullptr, nullptr}});
  return subjects;
}

// Pairs of samples; `work` is what one call of `kernel` does, in the unit of the ceiling.
void Measure(const Subject& subject, const std::string& problem, const char* unit, double factor, double work, int samples,
             const std::function<double()>& ceiling, const std::function<void()>& kernel) {
  std::vector<double> rates, ceilings, ratios;
  kernel();  // warm up
  // work per second over calls that together take long enough for the clock
  const auto rate_of = [](const std::function<double()>& call) {
    const double start = Now();
    double done = 0, elapsed = 0;
    while (elapsed < kShortestSample) {
      done += call();
      elapsed = Now() - start;
    }
    return done / elapsed;
  };
  for (int i = 0; i < samples; ++i) {
    const double limit = ceiling ? rate_of(ceiling) : 0;
    const double rate = rate_of([&] {
      kernel();
      return work;
    });
    rates.push_back(rate);
    ceilings.push_back(limit);
    ratios.push_back(ceiling ? rate / limit : 0);
  }
  const auto median = [](std::vector<double> v) {
    std::nth_element(v.begin(), v.begin() + long(v.size() / 2), v.end());
    return v[v.size() / 2];
  };
  const auto best = [](const std::vector<double>& v) { return *std::max_element(v.begin(), v.end()); };
  std::printf("{\"isa\":\"%s\",\"problem\":\"%s\",\"unit\":\"%s\",\"median\":%.2f,\"best\":%.2f", subject.table->name, problem.c_str(),
              unit, median(rates) * factor, best(rates) * factor);
  if (ceiling)
    std::printf(",\"ceiling_best\":%.2f,\"ratio\":%.3f,\"ratio_of_best\":%.3f", best(ceilings) * factor, median(ratios),
                best(rates) / best(ceilings));
  std::printf(",\"samples\":%d,\"cpu\":\"%s\"}\n", samples, Cpu().name.c_str());
  std::fflush(stdout);
}

struct Format {
  const char* name;
  int bits, group;
  AffineKind kind;
  DType blocks = DType::kF32;  // a GGUF type whose scales are coded
};
constexpr Format kFormats[] = {{"q4_0", 4, 32, AffineKind::kSymmetric},
                               {"q4_1", 4, 32, AffineKind::kMinimum},
                               {"q8_0", 8, 32, AffineKind::kSymmetric},
                               {"g128", 4, 128, AffineKind::kZeroPoint},
                               {"3 bit g128", 3, 128, AffineKind::kZeroPoint},
                               {"2 bit g128", 2, 128, AffineKind::kZeroPoint},
                               {"8 bit g128", 8, 128, AffineKind::kSymmetric},
                               {"6 bit g16", 6, 16, AffineKind::kSymmetric},
                               {"q4_k", 4, 32, AffineKind::kMinimum, DType::kQ4_K},
                               {"q6_k", 6, 16, AffineKind::kSymmetric, DType::kQ6_K}};

struct Shape {
  int n, k;
};

Part CodedWeights(DType dtype, Shape shape) {
  std::mt19937 random(7);
  const DTypeInfo& info = Info(dtype);
  const size_t block = static_cast<size_t>(info.block_bytes), d = dtype == DType::kQ6_K ? 208 : 0;
  std::vector<uint8_t> rows(size_t(shape.n) * size_t(shape.k / info.block_values) * block);
  for (uint8_t& byte : rows) byte = static_cast<uint8_t>(random());
  for (size_t at = d; at < rows.size(); at += block) {
    for (size_t half = at; half < at + (dtype == DType::kQ6_K ? 2 : 4); half += 2) {
      rows[half] = 0;
      rows[half + 1] = 0x14;  // 2^-10
    }
  }
  Result<Part> part = PackGguf(info.name, dtype, rows.data(), shape.n, shape.k, {});
  return part.ok() ? std::move(part.value()) : Part{};
}

Part Weights(const Format& format, Shape shape) {
  if (format.blocks != DType::kF32) return CodedWeights(format.blocks, shape);
  std::mt19937 random(7);
  const size_t n = size_t(shape.n), k = size_t(shape.k), groups = (k + size_t(format.group) - 1) / size_t(format.group);
  std::vector<uint8_t> codes(n * k);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << format.bits) - 1));
  std::vector<float> scales(n * groups), seconds(format.kind == AffineKind::kSymmetric ? 0 : scales.size());
  for (float& scale : scales) scale = static_cast<float>(random() % 64 + 1) / 4096;
  for (float& second : seconds) second = static_cast<float>(random() % (1u << format.bits));
  Result<Part> part = PackAffine(format.name, {shape.n, shape.k, format.bits, format.group, format.kind, false, codes, scales, seconds});
  return part.ok() ? std::move(part.value()) : Part{};
}

bool Fits(const Format& format, Shape shape) { return format.blocks == DType::kF32 || shape.k % kSuperBlock == 0; }

struct Activations {
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scale, scale_sum, half_scale_sum;
  std::vector<int32_t> bias, half_bias;
  QuantizedRows view;

  Activations(int m, int k, int tile) : x(size_t(m) * size_t(k)) {
    std::mt19937 random(9);
    for (float& v : x) v = static_cast<float>(random()) / 4294967296.0f - 0.5f;
    view.m = m;
    view.k = k;
    view.k_padded = (k + 31) / 32 * 32;
    view.group = 32;
    view.groups = view.k_padded / 32;
    view.tile = tile;
    q.resize(size_t(m) * size_t(view.k_padded));
    scale.resize(q.size() / 32);
    scale_sum = scale;
    bias.resize(scale.size());
    half_scale_sum.resize(q.size() / 16);
    half_bias.resize(q.size() / 16);
    view.q = q.data();
    view.scale = scale.data();
    view.scale_sum = scale_sum.data();
    view.bias = bias.data();
    view.half_scale_sum = half_scale_sum.data();
    view.half_bias = half_bias.data();
  }
};

int ZeroCode(const Format& format) { return format.kind == AffineKind::kSymmetric ? 1 << (format.bits - 1) : 0; }

std::string Name(const char* what, const char* format, int m, Shape shape) {
  return std::string(what) + " " + format + " m=" + std::to_string(m) + " " + std::to_string(shape.n) + "x" + std::to_string(shape.k);
}

void BenchGemv(const Subject& subject) {
  for (const Format& format : kFormats) {
    for (const Shape shape : {Shape{1536, 576}, Shape{4096, 4096}}) {
      if (!Fits(format, shape)) continue;
      const Part part = Weights(format, shape);
      const size_t bytes = part.bytes(), copies = kRotatingBytes / bytes + 1;
      Result<Block> arena = Block::Allocate(bytes * copies, MemoryClass::kWeights, "weights");
      if (bytes == 0 || !arena.ok()) continue;
      const uint8_t* data = arena.value().data();
      for (size_t i = 0; i < copies; ++i) std::memcpy(arena.value().data() + i * bytes, part.storage.data(), bytes);
      std::vector<float> y(size_t(shape.n) * kSmallRows);
      for (const int m : {1, 2, 4, 8}) {
        if (m > 1 && (format.bits != 4 || format.kind != AffineKind::kSymmetric)) continue;
        Activations x(m, shape.k, m);
        subject.table->quantize_rows(x.x.data(), size_t(shape.k), x.view, ZeroCode(format), 0, m);
        const auto kernel = [&] {
          PackedView view = part.view;
          for (size_t i = 0; i < copies; ++i) {
            view.data = data + i * bytes;
            subject.table->affine_small(view, x.view, y.data(), size_t(shape.n), 0, shape.n / 16, false);
          }
        };
        Measure(
            subject, Name("gemv", format.name, m, shape), "GB/s", 1e-9, double(bytes * copies), 15,
            [&] { return subject.ceilings.read(data, bytes * copies); }, kernel);
      }
    }
  }
}

void BenchGemm(const Subject& subject) {
  for (const Format& format : kFormats) {
    for (const Shape shape : {Shape{1536, 576}, Shape{576, 1536}, Shape{4096, 4096}}) {
      if (!Fits(format, shape)) continue;
      const int m = 512;
      const Part part = Weights(format, shape);
      Activations x(m, shape.k, subject.table->gemm_tile);
      subject.table->quantize_rows(x.x.data(), size_t(shape.k), x.view, ZeroCode(format), 0, m);
      std::vector<float> y(size_t(shape.n) * size_t(m));
      Result<Block> scratch = Block::Allocate(kGemmScratchBytes, MemoryClass::kScratch, "scratch");
      if (part.bytes() == 0 || !scratch.ok()) continue;
      Measure(
          subject, Name("gemm", format.name, m, shape), "GOPS", 2e-9, double(m) * shape.n * shape.k, shape.n == 4096 ? 7 : 25,
          subject.ceilings.int8 == nullptr ? std::function<double()>() : [&] { return subject.ceilings.int8(10000); },
          [&] {
            subject.table->affine_gemm(part.view, x.view, y.data(), size_t(shape.n), 0, shape.n / 16, false, scratch.value().data());
          });
    }
  }
}

void BenchF32(const Subject& subject) {
  for (const int m : {1, 2, 8, 512, 1536}) {
    const int n = 1536, k = 576;
    std::vector<float> x(size_t((m + 7) / 8 * 8) * size_t(k), 0.5f), a(x.size()), b(size_t(n) * size_t(k), 0.25f), c(size_t(m) * size_t(n));
    subject.table->pack_rows(x.data(), size_t(k), m, k, a.data());
    Measure(
        subject, Name("gemm_f32", "f32", m, {n, k}), "GFLOPS", 2e-9, double(m) * n * k, m < 100 ? 60 : 15,
        subject.ceilings.fma == nullptr ? std::function<double()>() : [&] { return subject.ceilings.fma(10000); },
        [&] {
          subject.table->gemm_f32(a.data(), size_t(k) * kRowTile, kRowTile, b.data(), size_t(k) * 16, 16, m, n, k, c.data(), size_t(n),
                                  false);
        });
  }
}

// Weights per second, from the second-level cache or beyond; no ceiling.
void BenchUnpack(const Subject& subject) {
  constexpr int kUnpacked = 768;
  std::vector<float> out(size_t(kUnpacked) * 16);
  const auto run = [&](const PackedView& view, const char* name) {
    Measure(subject, Name("unpack", name, 1, {view.n, view.k}), "Gweights/s", 1e-9, double(view.n) * view.k, 40, nullptr, [&] {
      for (int panel = 0; panel < view.n / 16; ++panel) subject.table->unpack_panel(view, panel, 0, view.k, out.data());
    });
  };
  for (const Format& format : kFormats) run(Weights(format, {1536, kUnpacked}).view, format.name);
  const std::vector<uint16_t> ones(size_t(1536) * kUnpacked, 0x3c00);
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const Result<Part> part = PackDense("w", dtype, reinterpret_cast<const uint8_t*>(ones.data()), 1536, kUnpacked, {});
    if (part.ok()) run(part.value().view, dtype == DType::kF16 ? "f16" : "bf16");
  }
}

void BenchQuantize(const Subject& subject) {
  for (const int k : {576, 1536}) {
    for (const int m : {1, 512}) {
      Activations x(m, k, m == 1 ? 1 : subject.table->gemm_tile);
      Measure(subject, Name("quantize", "int8", m, {0, k}), "Gvalues/s", 1e-9, double(m) * k, 60, nullptr,
              [&] { subject.table->quantize_rows(x.x.data(), size_t(k), x.view, 8, 0, m); });
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (const Subject& subject : Subjects()) {
    const bool all = argc <= 1 || std::strcmp(argv[1], "all") == 0;
    if (all ? subject.table == RefKernels() : std::strcmp(argv[1], subject.table->name) != 0) continue;
    const auto wanted = [&](const char* what) { return argc <= 2 || std::strcmp(argv[2], what) == 0; };
    if (wanted("gemv")) BenchGemv(subject);
    if (wanted("gemm")) BenchGemm(subject);
    if (wanted("f32")) BenchF32(subject);
    if (wanted("unpack")) BenchUnpack(subject);
    if (wanted("quantize")) BenchQuantize(subject);
  }
  return 0;
}
