// kernel/amx_table: the table of AMX, which is that of AVX-512 with the prefill product on matrix tiles. Not in kernel/amx: a table made
// at run time needs a guarded static, and that a weak symbol, which units with wider instructions may not have.
#include "kernel/kernel.h"

#ifdef LOWBIT_HAVE_AMX
#include "kernel/amx/internal.h"
#endif

namespace lowbit {

#ifdef LOWBIT_HAVE_AMX
const KernelTable* AmxKernels() {
  if (Avx512Kernels() == nullptr) return nullptr;
  static const KernelTable kTable = [] {
    KernelTable table = *Avx512Kernels();
    table.name = "amx";
    table.gemm_tile = amx::kGemmTile;
    table.gemm_pass = 0;
    table.affine_gemm = amx::AffineGemm;
    return table;
  }();
  return &kTable;
}
void AddAmxBf16(KernelTable* table) { table->gemm_bf16 = amx::GemmBf16; }
#else
const KernelTable* AmxKernels() { return nullptr; }
void AddAmxBf16(KernelTable*) {}
#endif

}  // namespace lowbit
