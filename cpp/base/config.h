// base/config: the only place where the engine reads the environment.
#pragma once

#include <string>

namespace lowbit {

// LOWBIT_ISA: "ref", "avx2" or "avx512" forces a kernel table; empty when unset.
std::string ForcedIsa();

}  // namespace lowbit
