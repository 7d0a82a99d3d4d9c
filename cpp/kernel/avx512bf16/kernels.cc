// kernel/avx512bf16: what AVX512_BF16 adds to the table of kernel/avx512. Compiled apart, because that table also runs on
// processors without these instructions.
#include "kernel/avx512/lanes.h"

#if defined(LOWBIT_AVX512) && defined(__AVX512BF16__)
#include "kernel/avx512bf16/internal.h"

namespace lowbit {

void AddAvx512Bf16(KernelTable* table) {
  table->gemm_bf16 = avx512bf16::GemmBf16;
  table->pack_rows_bf16 = avx512bf16::PackRowsBf16;
  table->pack_columns_bf16 = avx512bf16::PackColumnsBf16;
  table->unpack_panel_bf16 = avx512bf16::UnpackPanelBf16;
  table->f16_lines_to_bf16 = avx512bf16::F16LinesToBf16;
}

}  // namespace lowbit
#else
#include "kernel/kernel.h"

namespace lowbit {

void AddAvx512Bf16(KernelTable*) {}

}  // namespace lowbit
#endif
