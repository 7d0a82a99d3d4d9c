// bench/tools: how fast this machine reads memory right now. For every line on the input, a number of threads, it reads a buffer that no
// cache holds with that many threads and prints bytes per second. Ends with its input. No part of lowbit; built by run/bandwidth.mjs.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define LOWBIT_X86 1
#endif

namespace {

// Beyond the last-level cache of a server socket's slice; small enough for a small machine.
constexpr size_t kBytes = size_t(256) << 20;
constexpr int kPasses = 3;
constexpr int kMaxThreads = 256;

uint64_t ReadPortable(const uint64_t* p, size_t words) {
  uint64_t a = 0, b = 0, c = 0, d = 0;
  for (size_t i = 0; i + 4 <= words; i += 4) {
    a ^= p[i];
    b ^= p[i + 1];
    c ^= p[i + 2];
    d ^= p[i + 3];
  }
  return a ^ b ^ c ^ d;
}

#ifdef LOWBIT_X86
__attribute__((target("avx2"))) uint64_t ReadAvx2(const uint64_t* p, size_t words) {
  __m256i sums[4] = {};
  for (size_t i = 0; i + 16 <= words; i += 16) {
    for (int j = 0; j < 4; ++j) sums[j] = _mm256_xor_si256(sums[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i) + j));
  }
  const __m256i sum = _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
  return static_cast<uint64_t>(_mm256_extract_epi64(sum, 0) ^ _mm256_extract_epi64(sum, 1) ^ _mm256_extract_epi64(sum, 2) ^
                               _mm256_extract_epi64(sum, 3));
}
#endif

uint64_t Read(const uint64_t* p, size_t words) {
#ifdef LOWBIT_X86
  if (__builtin_cpu_supports("avx2")) return ReadAvx2(p, words);
#endif
  return ReadPortable(p, words);
}

double Measure(const std::vector<uint64_t>& buffer, int threads) {
  const size_t words = buffer.size() / static_cast<size_t>(threads) / 16 * 16;
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  const auto work = [&](int thread) {
    for (int pass = 0; pass < kPasses; ++pass) {
      sums[static_cast<size_t>(thread) * 8] ^= Read(buffer.data() + static_cast<size_t>(thread) * words, words);
    }
  };
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
  work(0);
  for (std::thread& other : others) other.join();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  volatile uint64_t sink = 0;
  for (const uint64_t sum : sums) sink = sink ^ sum;
  return static_cast<double>(words * 8 * static_cast<size_t>(threads)) * kPasses / seconds;
}

}  // namespace

int main() {
  const std::vector<uint64_t> buffer(kBytes / 8, 0x5851f42d4c957f2d);
  char line[32];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    const long threads = std::strtol(line, nullptr, 10);
    std::printf("%.0f\n", threads < 1 || threads > kMaxThreads ? 0.0 : Measure(buffer, static_cast<int>(threads)));
    std::fflush(stdout);
  }
  return 0;
}
