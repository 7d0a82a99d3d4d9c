// binding/: reads SampleSpec of lib/native.ts.
#pragma once

#include "engine/sampler.h"
#include "fields.h"

namespace lowbit {

SampleOptions ReadSampling(Fields fields);

}  // namespace lowbit
