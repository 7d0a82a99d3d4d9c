// base/cpu: cpuid, xgetbv, what ARM systems report, affinity and cgroup quota.
// cpuid is asked directly: __builtin_cpu_supports needs a compiler runtime that cross builds lack, and does not say
// whether the operating system saves the wide registers.
#include "base/cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <set>
#include <thread>
#include <utility>

#if defined(__x86_64__) || defined(_M_X64)
#define LOWBIT_X86 1
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#elif defined(__APPLE__) && defined(__aarch64__)
#include <sys/sysctl.h>
#endif

namespace lowbit {
namespace {

#if defined(LOWBIT_X86)
struct Registers {
  uint32_t a, b, c, d;
};

Registers Cpuid(uint32_t leaf, uint32_t sub) {
  Registers r = {0, 0, 0, 0};
#if defined(_MSC_VER) && !defined(__clang__)
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(sub));
  r = {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]), static_cast<uint32_t>(out[3])};
#else
  __cpuid_count(leaf, sub, r.a, r.b, r.c, r.d);
#endif
  return r;
}

uint64_t EnabledState() {
#if defined(_MSC_VER) && !defined(__clang__)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
#endif
}

// Linux enables the 8 KB of tile data per process, on request (Documentation/arch/x86/xstate.rst); threads inherit it. Without the
// permission a tile instruction raises SIGILL. Other systems have other doors, which are not opened here.
bool RequestTileData() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

CpuFeatures Detect() {
  CpuFeatures f;
  const uint32_t max_leaf = Cpuid(0, 0).a;
  const uint32_t max_extended = Cpuid(0x80000000u, 0).a;
  if (max_extended >= 0x80000004u) {
    char brand[49] = {};
    for (uint32_t i = 0; i < 3; ++i) {
      const Registers r = Cpuid(0x80000002u + i, 0);
      std::memcpy(brand + 16 * i, &r, 16);
    }
    f.name = brand;
    while (!f.name.empty() && f.name.back() == ' ') f.name.pop_back();
  }
  if (max_leaf < 7) return f;
  const Registers one = Cpuid(1, 0), seven = Cpuid(7, 0);
  const bool osxsave = (one.c >> 27 & 1) != 0;
  const uint64_t state = osxsave ? EnabledState() : 0;
  const bool ymm = (state & 0x6) == 0x6;    // xmm and ymm
  const bool zmm = (state & 0xe6) == 0xe6;  // and opmask, zmm0-15, zmm16-31
  const bool fma = one.c >> 12 & 1, f16c = one.c >> 29 & 1;
  f.avx2 = ymm && fma && f16c && (seven.b >> 5 & 1);
  f.avx512 = zmm && f.avx2 && (seven.b >> 16 & 1) && (seven.b >> 17 & 1) && (seven.b >> 30 & 1) && (seven.b >> 31 & 1);
  f.avx512_vnni = f.avx512 && (seven.c >> 11 & 1);
  const bool tiles = (state & 0x60000) == 0x60000;  // tile configuration and tile data
  f.amx_int8 = tiles && f.avx512_vnni && (seven.d >> 24 & 1) && (seven.d >> 25 & 1) && RequestTileData();
  f.amx_bf16 = f.amx_int8 && (seven.d >> 22 & 1);
  const uint32_t max_sub = seven.a;
  if (max_sub >= 1) {
    const Registers sub = Cpuid(7, 1);
    f.avx_vnni = f.avx2 && (sub.a >> 4 & 1);
    f.avx512_bf16 = f.avx512 && (sub.a >> 5 & 1);
  }
  return f;
}
#endif

#if defined(__linux__)
// Reads one short line; empty when the file is absent.
std::string ReadLine(const std::string& path) {
  std::string line;
  if (std::FILE* file = std::fopen(path.c_str(), "r")) {
    char text[256];
    if (std::fgets(text, sizeof(text), file) != nullptr) line = text;
    std::fclose(file);
  }
  return line;
}

// Hyper-threads of one core count once: they share the execution ports that quantised kernels saturate.
int PhysicalCoresInMask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return 0;
  std::set<std::string> cores;
  int count = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    ++count;
    cores.insert(ReadLine("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list"));
  }
  if (cores.size() == 1 && cores.begin()->empty()) return count;  // no topology information
  return static_cast<int>(cores.size());
}

// cgroup v2 "quota period" in microseconds, v1 in two files; 0 = no limit.
int QuotaCores() {
  double quota = 0, period = 0;
  const std::string v2 = ReadLine("/sys/fs/cgroup/cpu.max");
  if (std::sscanf(v2.c_str(), "%lf %lf", &quota, &period) != 2) {
    quota = period = 0;
    std::sscanf(ReadLine("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").c_str(), "%lf", &quota);
    std::sscanf(ReadLine("/sys/fs/cgroup/cpu/cpu.cfs_period_us").c_str(), "%lf", &period);
  }
  if (quota <= 0 || period <= 0) return 0;
  return std::max(1, static_cast<int>(std::ceil(quota / period)));
}
#endif

#if defined(__aarch64__)
CpuFeatures Detect() {
  CpuFeatures f;
#if defined(__linux__)
  constexpr unsigned long kDotProd = 1ul << 20, kI8mm = 1ul << 13;  // HWCAP_ASIMDDP, HWCAP2_I8MM
  f.arm_dotprod = (getauxval(AT_HWCAP) & kDotProd) != 0;
  f.arm_i8mm = f.arm_dotprod && (getauxval(AT_HWCAP2) & kI8mm) != 0;
  // There is no brand string; the main identification register names implementer and part.
  unsigned long long id = 0;
  if (std::sscanf(ReadLine("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1").c_str(), "%llx", &id) == 1) {
    char text[64];
    std::snprintf(text, sizeof(text), "ARM implementer 0x%02llx part 0x%03llx", id >> 24 & 0xff, id >> 4 & 0xfff);
    f.name = text;
  }
#elif defined(__APPLE__)
  const auto has = [](const char* name) {
    int value = 0;
    size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  f.arm_dotprod = has("hw.optional.arm.FEAT_DotProd");
  f.arm_i8mm = f.arm_dotprod && has("hw.optional.arm.FEAT_I8MM");
  char brand[64] = {};
  size_t size = sizeof(brand) - 1;
  if (sysctlbyname("machdep.cpu.brand_string", brand, &size, nullptr, 0) == 0) f.name = brand;
#endif
  return f;
}
#elif !defined(LOWBIT_X86)
CpuFeatures Detect() { return CpuFeatures(); }
#endif

}  // namespace

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kRef:
      return "ref";
    case Isa::kNeon:
      return "neon";
    case Isa::kNeonI8mm:
      return "neon-i8mm";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvxVnni:
      return "avxvnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  return "ref";
}

const CpuFeatures& Cpu() {
  static const CpuFeatures features = Detect();
  return features;
}

int UsableCores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  const int in_mask = PhysicalCoresInMask();
  if (in_mask > 0) cores = in_mask;
  const int quota = QuotaCores();
  if (quota > 0) cores = std::min(cores, quota);
#endif
  return std::max(1, cores);
}

}  // namespace lowbit
