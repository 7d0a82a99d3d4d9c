// base/dtype: names and block sizes of checkpoint element types (the list is dtype.def).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace lowbit {

enum class DType : uint8_t {
#define LOWBIT_DTYPE(name, values, bytes) k##name,
#include "base/dtype.def"
#undef LOWBIT_DTYPE
};

struct DTypeInfo {
  const char* name;
  int block_values;  // elements per block, along the contiguous dimension
  int block_bytes;
};

const DTypeInfo& Info(DType dtype);

// UNSUPPORTED with the list of known names if there is no such type.
Result<DType> ParseDType(std::string_view name);

}  // namespace lowbit
