// kernel/chooser: which kernel table runs on this machine, and why the others do not.
#pragma once

#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/status.h"
#include "kernel/kernel.h"

namespace lowbit {

struct KernelCandidate {
  Isa isa;
  bool usable;
  std::string reason;  // empty when usable
};

// Fastest first.
std::vector<KernelCandidate> KernelCandidates();

// The fastest usable table; `forced` ("ref", "avx2", "avxvnni", "avx512", or empty) picks one. UNSUPPORTED with every candidate's
// reason when the forced one cannot run here, INVALID_ARGUMENT for an unknown name.
Result<const KernelTable*> ChooseKernels(const std::string& forced);

}  // namespace lowbit
