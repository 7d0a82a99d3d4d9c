// kernel/chooser: the ordered list of kernel tables and what each needs from the processor.
#include "kernel/chooser.h"

#include "kernel/self_check.h"

namespace lowbit {

#ifndef LOWBIT_HAVE_AVX2
const KernelTable* Avx2Kernels() { return nullptr; }
#endif
#ifndef LOWBIT_HAVE_AVXVNNI
const KernelTable* AvxVnniKernels() { return nullptr; }
#endif
#ifndef LOWBIT_HAVE_AVX512
const KernelTable* Avx512Kernels() { return nullptr; }
#endif
#ifndef LOWBIT_HAVE_AVX512BF16
void AddAvx512Bf16(KernelTable*) {}
#endif
#ifndef LOWBIT_HAVE_NEON
const KernelTable* NeonKernels() { return nullptr; }
#endif
#ifndef LOWBIT_HAVE_NEON_I8MM
const KernelTable* NeonI8mmKernels() { return nullptr; }
#endif

namespace {

constexpr const char* kNotBuilt = "not compiled into this binary";

// A copy of the table with the bf16 products added, where this processor has them.
KernelTable WithBf16(const KernelTable* table) {
  KernelTable with = *table;
  if (Cpu().avx512_bf16) AddAvx512Bf16(&with);
  return with;
}

const KernelTable* Avx512Table() {
  static const KernelTable table = WithBf16(Avx512Kernels());
  return &table;
}

const KernelTable* AmxTable() {
  static const KernelTable table = [] {
    KernelTable with = WithBf16(AmxKernels());
    if (Cpu().avx512_bf16 && Cpu().amx_bf16) AddAmxBf16(&with);
    return with;
  }();
  return &table;
}

// Why a table cannot run here; empty when it can.
std::string Reason(Isa isa) {
  const CpuFeatures& cpu = Cpu();
  switch (isa) {
    case Isa::kAmx: {
      if (AmxKernels() == nullptr) return kNotBuilt;
      if (!cpu.amx_int8) return "this processor or operating system does not offer AMX-INT8 tiles and AVX-512 VNNI";
      static const bool right = GemmIsRight(*AmxKernels()) && (AmxTable()->gemm_bf16 == nullptr || Bf16GemmIsRight(*AmxTable()));
      if (!right) return "its products came out wrong on this processor";
      return "";
    }
    case Isa::kAvx512:
      if (Avx512Kernels() == nullptr) return kNotBuilt;
      if (!cpu.avx512) return "this processor or operating system does not offer AVX-512 F, BW, DQ and VL";
      if (!cpu.avx512_vnni) return "this processor does not offer AVX-512 VNNI";
      return "";
    case Isa::kAvxVnni:
      if (AvxVnniKernels() == nullptr) return kNotBuilt;
      if (!cpu.avx2) return "this processor or operating system does not offer AVX2, FMA and F16C";
      if (!cpu.avx_vnni) return "this processor does not offer AVX-VNNI";
      return "";
    case Isa::kAvx2:
      if (Avx2Kernels() == nullptr) return kNotBuilt;
      if (!cpu.avx2) return "this processor or operating system does not offer AVX2, FMA and F16C";
      return "";
    case Isa::kNeonI8mm:
      if (NeonI8mmKernels() == nullptr) return kNotBuilt;
      if (!cpu.arm_i8mm) return "this processor or operating system does not offer the ARM 8-bit matrix extension (i8mm)";
      return "";
    case Isa::kNeon:
      if (NeonKernels() == nullptr) return kNotBuilt;
      if (!cpu.arm_dotprod) return "this processor or operating system does not offer ARM dot products (dotprod)";
      return "";
    case Isa::kRef:
      return "";
  }
  return "";
}

const KernelTable* Table(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return AmxTable();
    case Isa::kAvx512:
      return Avx512Table();
    case Isa::kAvxVnni:
      return AvxVnniKernels();
    case Isa::kAvx2:
      return Avx2Kernels();
    case Isa::kNeonI8mm:
      return NeonI8mmKernels();
    case Isa::kNeon:
      return NeonKernels();
    case Isa::kRef:
      return RefKernels();
  }
  return RefKernels();
}

}  // namespace

// Always 32, chosen for accuracy: the massive activations of a first token set the scale of their whole group, and the wider
// the group, the more neighbours one of them rounds to zero, whatever the weight format. Wider groups would save prefill
// the scaling of each sub-block.
int ActivationGroup(const PackedView&) { return kSubBlock; }

std::vector<KernelCandidate> KernelCandidates() {
  std::vector<KernelCandidate> candidates;
  for (int i = kIsas - 1; i >= 0; --i) {  // Isa is ordered slowest first
    const Isa isa = static_cast<Isa>(i);
    std::string reason = Reason(isa);
    const bool usable = reason.empty();
    candidates.push_back({isa, usable, std::move(reason)});
  }
  return candidates;
}

Result<const KernelTable*> ChooseKernels(const std::string& forced) {
  std::string names, reasons;
  bool known = forced.empty();
  for (const KernelCandidate& candidate : KernelCandidates()) {
    const std::string name = IsaName(candidate.isa);
    if (candidate.usable && (forced.empty() || forced == name)) return Table(candidate.isa);
    known = known || forced == name;
    names += (names.empty() ? "" : ", ") + name;
    reasons += (reasons.empty() ? "" : "; ") + name + ": " + (candidate.usable ? "usable" : candidate.reason);
  }
  if (!known)
    return Error(Code::kInvalidArgument, "Expected one of %s for the kernel instruction set but received %s", names.c_str(),
                 forced.c_str());
  return Error(Code::kUnsupported, "Kernels for %s cannot run here (%s); choose a usable one or leave the choice to lowbit", forced.c_str(),
               reasons.c_str());
}

}  // namespace lowbit
