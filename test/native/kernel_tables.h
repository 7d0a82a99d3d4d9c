// test/native: what the tests of the kernel tables share: the tables of this machine (AMX in emulation among them), comparison that
// fails on NaN, random values.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "amx_emulated.h"
#include "check.h"
#include "kernel/chooser.h"

#ifdef LOWBIT_HAVE_AVXVNNI_EVEX
namespace lowbit {
const KernelTable* AvxVnniEvexKernels();  // kernel/avxvnni in the encoding of AVX-512
}
#endif

namespace lowbit_test {

using lowbit::KernelTable;

constexpr double kEps = 1.0 / 16777216;
constexpr float kGuard = -12345.0f;

inline bool HasEmulatedAmx() { return lowbit::Cpu().avx512_vnni && lowbit::Avx512Kernels() != nullptr && EmulatedAmxKernels() != nullptr; }

inline std::vector<const KernelTable*> Tables() {
  std::vector<const KernelTable*> tables;
  for (const lowbit::KernelCandidate& candidate : lowbit::KernelCandidates()) {
    if (candidate.usable) tables.push_back(lowbit::ChooseKernels(lowbit::IsaName(candidate.isa)).value());
  }
  if (HasEmulatedAmx()) tables.push_back(EmulatedAmxKernels());
#ifdef LOWBIT_HAVE_AVXVNNI_EVEX
  if (lowbit::Cpu().avx512 && lowbit::Cpu().avx512_vnni) tables.push_back(lowbit::AvxVnniEvexKernels());
#endif
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
