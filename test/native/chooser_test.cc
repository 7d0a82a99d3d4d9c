// test/native: kernel/chooser - the order, the reasons, the forced choice.
#include "kernel/chooser.h"

#include <cstring>

#include "check.h"

using namespace lowbit;

LOWBIT_TEST(chooser_lists_every_isa_fastest_first) {
  const std::vector<KernelCandidate> candidates = KernelCandidates();
  if (!EXPECT(candidates.size() == size_t(kIsas))) return;
  for (int i = 0; i < kIsas; ++i) {
    const KernelCandidate& candidate = candidates[size_t(i)];
    EXPECT(candidate.isa == static_cast<Isa>(kIsas - 1 - i));
    EXPECT(candidate.usable == candidate.reason.empty());
  }
  EXPECT(candidates.back().isa == Isa::kRef && candidates.back().usable);
}

// A table is usable exactly when it was built and the processor has what it needs.
LOWBIT_TEST(chooser_agrees_with_the_processor) {
  const std::vector<KernelCandidate> candidates = KernelCandidates();
  const struct {
    Isa isa;
    const KernelTable* table;
    bool offered;
  } expected[] = {{Isa::kAmx, AmxKernels(), Cpu().amx_int8},           {Isa::kAvx512, Avx512Kernels(), Cpu().avx512 && Cpu().avx512_vnni},
                  {Isa::kAvxVnni, AvxVnniKernels(), Cpu().avx_vnni},   {Isa::kAvx2, Avx2Kernels(), Cpu().avx2},
                  {Isa::kNeonI8mm, NeonI8mmKernels(), Cpu().arm_i8mm}, {Isa::kNeon, NeonKernels(), Cpu().arm_dotprod}};
  for (const auto& [isa, table, offered] : expected) {
    const KernelCandidate& candidate = candidates[size_t(kIsas - 1 - static_cast<int>(isa))];
    EXPECT(candidate.isa == isa);
    EXPECT(candidate.usable == (table != nullptr && offered));
    if (table == nullptr) EXPECT(candidate.reason == "not compiled into this binary");
    if (table != nullptr) EXPECT(std::strcmp(table->name, IsaName(isa)) == 0);
  }
}

LOWBIT_TEST(chooser_picks_the_first_usable) {
  const Result<const KernelTable*> chosen = ChooseKernels("");
  if (!EXPECT(chosen.ok())) return;
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    EXPECT(std::strcmp(chosen.value()->name, IsaName(candidate.isa)) == 0);
    break;
  }
}

LOWBIT_TEST(chooser_obeys_a_forced_name) {
  for (const KernelCandidate& candidate : KernelCandidates()) {
    const Result<const KernelTable*> chosen = ChooseKernels(IsaName(candidate.isa));
    if (candidate.usable) {
      EXPECT(chosen.ok() && std::strcmp(chosen.value()->name, IsaName(candidate.isa)) == 0);
    } else {
      EXPECT_ERROR(chosen.status(), Code::kUnsupported, std::string(IsaName(candidate.isa)) + ": " + candidate.reason);
      EXPECT_ERROR(chosen.status(), Code::kUnsupported, "ref: usable");
    }
  }
  EXPECT_ERROR(ChooseKernels("sse9").status(), Code::kInvalidArgument,
               "Expected one of amx, avx512, avxvnni, avx2, neon-i8mm, neon, ref for the kernel instruction set but received sse9");
  EXPECT_ERROR(ChooseKernels("AVX2").status(), Code::kInvalidArgument, "received AVX2");
}

// Every table that is built is complete: a missing entry would be a call to address zero later.
LOWBIT_TEST(chooser_tables_are_complete) {
  for (const KernelTable* table :
       {RefKernels(), NeonKernels(), NeonI8mmKernels(), Avx2Kernels(), AvxVnniKernels(), Avx512Kernels(), AmxKernels()}) {
    if (table == nullptr) continue;
    EXPECT(table->name != nullptr && table->gemm_tile >= 1);
    EXPECT(table->gemm_f32 && table->unpack_panel && table->pack_rows && table->dense_gemv && table->quantize_rows && table->affine_small &&
           table->affine_gemm);
    EXPECT(table->rms_norm && table->add && table->silu_mul && table->gelu_tanh_mul && table->softcap && table->rope_half);
    EXPECT(table->exp_sum && table->max && table->scale && table->f32_to_f16 && table->f16_to_f32 && table->all_finite);
  }
}

// The kernels' activations are in groups of 32 for every weight format (chooser.cc says why).
LOWBIT_TEST(chooser_activation_group) {
  PackedView view;
  view.kind = PackedKind::kAffine;
  for (const int group_size : {16, 32, 64, 128, 4096}) {
    view.group_size = group_size;
    EXPECT(ActivationGroup(view) == 32);
  }
}
