// kernel/avxvnni: AVX2 plus vpdpbusd on 8 lanes (Alder Lake, Zen 5 and later), which spares processors without AVX-512 the detour
// over 16-bit sums.
// LOWBIT_AVXVNNI is defined when this file is compiled for the instruction set; otherwise the room compiles to nothing but a
// null table. The tests and the bench compile the same files a second time with LOWBIT_AVXVNNI_EVEX: vpdpbusd is then that of
// AVX-512 VNNI and VL, so that processors with that instruction, but not this one, can run them.
#pragma once

#include "kernel/avx2/lanes.h"

#if defined(LOWBIT_AVX2) && (defined(__AVXVNNI__) || defined(LOWBIT_AVXVNNI_EVEX))
#define LOWBIT_AVXVNNI 1
#endif
