// base/cpu: what this processor and this process may use.
#pragma once

#include <string>

namespace lowbit {

// Instruction sets a kernel table exists for, slowest first. "ref" is portable C++.
enum class Isa { kRef = 0, kNeon, kNeonI8mm, kAvx2, kAvxVnni, kAvx512, kAmx };
constexpr int kIsas = 7;
const char* IsaName(Isa isa);  // "ref", "neon", "neon-i8mm", "avx2", "avxvnni", "avx512", "amx"

struct CpuFeatures {
  bool avx2 = false;         // AVX2 + FMA + F16C, and the OS saves ymm state
  bool avx512 = false;       // F, BW, DQ, VL and the OS saves zmm state
  bool avx512_vnni = false;  // vpdpbusd zmm
  bool avx512_bf16 = false;  // vdpbf16ps zmm
  bool avx_vnni = false;     // vpdpbusd ymm without AVX-512
  bool amx_bf16 = false;     // as amx_int8, and tdpbf16ps
  bool amx_int8 = false;     // tiles and tdpbusd, and Linux has given this process the tile state
  bool arm_dotprod = false;  // sdot, udot
  bool arm_i8mm = false;     // smmla, usdot
  std::string name;          // brand string, for reports
};

// Detected once, by cpuid and xgetbv (the state the OS saves counts, not only what the chip has); on ARM by what Linux and macOS
// report. Asks Linux for the AMX tile state where the processor has one: a process must, before its first tile instruction.
const CpuFeatures& Cpu();

// Physical cores this process may run on: affinity mask and cgroup CPU quota (rounded up) considered. At least 1.
int UsableCores();

}  // namespace lowbit
