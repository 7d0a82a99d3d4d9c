// kernel/simd: helpers shared by the ISA rooms avx2/, avx512/ and neon/. This file: the few compiler words that they need.
// Every file of simd/ is included into a translation unit compiled for one ISA, after that room's lanes.h, and defines only
// internal symbols (anonymous namespace), so the copies for different ISAs never meet at link time.
#pragma once

#if defined(_MSC_VER) && !defined(__clang__)
#if defined(_M_ARM64)
#define LOWBIT_PREFETCH(address) __prefetch(address)
#else
#define LOWBIT_PREFETCH(address) _mm_prefetch(reinterpret_cast<const char*>(address), _MM_HINT_T0)
#endif
#define LOWBIT_INLINE __forceinline
#define LOWBIT_UNROLL(count)
#define LOWBIT_PIN(vector)
#else
#define LOWBIT_PREFETCH(address) __builtin_prefetch(address)
#define LOWBIT_PRAGMA(text) _Pragma(#text)
#define LOWBIT_INLINE __attribute__((always_inline)) inline
#if defined(__clang__)
#define LOWBIT_UNROLL(count) LOWBIT_PRAGMA(unroll)
#else
#define LOWBIT_UNROLL(count) LOWBIT_PRAGMA(GCC unroll count)
#endif
// Keeps the value in a register and the operations around it apart: GCC lowers vector intrinsics to generic operators, which
// it may reassociate (a chain of 64 products becomes a tree that spills) or contract (a product and a sum become one fma).
#if defined(__aarch64__)
#define LOWBIT_PIN(vector) asm("" : "+w"(vector))
#else
#define LOWBIT_PIN(vector) asm("" : "+v"(vector))
#endif
#endif
