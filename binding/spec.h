// binding/: a ModelSpec of lib/native.ts as the engine's struct.
#pragma once

#include <napi.h>

#include "base/status.h"
#include "engine/model.h"

namespace lowbit {

Status ReadModelSpec(Napi::Value value, ModelSpec* spec);

}  // namespace lowbit
