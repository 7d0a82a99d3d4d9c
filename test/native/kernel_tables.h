// test/native: what the tests of the kernel tables share: the tables of this machine, comparison that fails on NaN, random values.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "check.h"
#include "kernel/kernel.h"

#ifdef LOWBIT_HAVE_AVXVNNI_EVEX
namespace lowbit {
const KernelTable* AvxVnniEvexKernels();  // kernel/avxvnni in the encoding of AVX-512
}
#endif

namespace lowbit_test {

using lowbit::KernelTable;

constexpr double kEps = 1.0 / 16777216;
constexpr float kGuard = -12345.0f;

inline std::vector<const KernelTable*> Tables() {
  std::vector<const KernelTable*> tables = {lowbit::RefKernels()};
  if (lowbit::Cpu().avx2 && lowbit::Avx2Kernels() != nullptr) tables.push_back(lowbit::Avx2Kernels());
  if (lowbit::Cpu().avx_vnni && lowbit::AvxVnniKernels() != nullptr) tables.push_back(lowbit::AvxVnniKernels());
#ifdef LOWBIT_HAVE_AVXVNNI_EVEX
  if (lowbit::Cpu().avx512 && lowbit::Cpu().avx512_vnni) tables.push_back(lowbit::AvxVnniEvexKernels());
#endif
  if (lowbit::Cpu().avx512 && lowbit::Cpu().avx512_vnni && lowbit::Avx512Kernels() != nullptr) tables.push_back(lowbit::Avx512Kernels());
  return tables;
}

// False for NaN and infinities.
inline bool Close(double actual, double expected, double tolerance) {
  return std::isfinite(actual) && std::fabs(actual - expected) <= tolerance;
}

// One EXPECT per matrix instead of one per element; the text names table and case.
inline void Report(bool ok, const KernelTable& t, const std::string& what) {
  Check(ok, __FILE__, __LINE__, std::string(t.name) + ": " + what);
}

inline float Uniform(std::mt19937& random) { return static_cast<float>(random()) / 4294967296.0f * 2 - 1; }

inline std::vector<float> RandomVector(std::mt19937& random, size_t count, float range = 1) {
  std::vector<float> values(count);
  for (float& value : values) value = Uniform(random) * range;
  return values;
}

}  // namespace lowbit_test
