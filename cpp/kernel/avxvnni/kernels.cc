// kernel/avxvnni: the table for processors with AVX-VNNI, AVX2, FMA and F16C.
#include "kernel/avxvnni/lanes.h"

#ifdef LOWBIT_AVXVNNI
#include "kernel/avxvnni/internal.h"
#include "kernel/simd/table_x86.h"

namespace lowbit {
namespace {

#ifdef LOWBIT_AVXVNNI_EVEX
constexpr const char* kName = "avxvnni-evex";
#else
constexpr const char* kName = "avxvnni";
#endif
constexpr KernelTable kTable = X86Table(kName, avxvnni::kGemmTile, avxvnni::AffineSmall, avxvnni::AffineGemm);

}  // namespace

#ifdef LOWBIT_AVXVNNI_EVEX
const KernelTable* AvxVnniEvexKernels();  // declared by the tests and the bench, which alone have it
const KernelTable* AvxVnniEvexKernels() { return &kTable; }
#else
const KernelTable* AvxVnniKernels() { return &kTable; }
#endif

}  // namespace lowbit
#else
#include "kernel/kernel.h"

namespace lowbit {

const KernelTable* AvxVnniKernels() { return nullptr; }

}  // namespace lowbit
#endif
