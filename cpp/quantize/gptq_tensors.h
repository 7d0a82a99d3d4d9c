// quantize/gptq_tensors: a linear as the four tensors of a GPTQ checkpoint (docs/formats.md, "GPTQ checkpoints"), and what of it such a
// file cannot hold. For conversions, which round nothing; solves come through AsGptq.
#pragma once

#include <string>
#include <vector>

#include "quantize/container_tensors.h"
#include "quantize/linear_parts.h"

namespace lowbit {

// What a GPTQ checkpoint has no exact place for, as the object of "has": "minima in place of zero points". Empty: it holds everything, of
// one version or the other (zero points decide which).
std::string GptqMisfit(const LinearParts& linear);

// The same of a lowbit container.
std::string ContainerMisfit(const LinearParts& linear);

// qweight, qzeros, scales, g_idx. The linear fits; zero points less zero_offset lie within `bits` bits.
std::vector<StoredTensor> GptqTensors(const LinearParts& linear, int zero_offset);

}  // namespace lowbit
