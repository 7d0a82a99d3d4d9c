// base/dtype: the table behind dtype.h.
#include "base/dtype.h"

#include <string>

namespace lowbit {
namespace {

constexpr DTypeInfo kInfos[] = {
#define LOWBIT_DTYPE(name, values, bytes) {#name, values, bytes},
#include "base/dtype.def"
#undef LOWBIT_DTYPE
};

}  // namespace

const DTypeInfo& Info(DType dtype) { return kInfos[static_cast<size_t>(dtype)]; }

Result<DType> ParseDType(std::string_view name) {
  std::string known;
  for (size_t i = 0; i < sizeof(kInfos) / sizeof(kInfos[0]); ++i) {
    if (name == kInfos[i].name) return static_cast<DType>(i);
    known += known.empty() ? "" : ", ";
    known += kInfos[i].name;
  }
  return Error(Code::kUnsupported, "Element type %s is not supported; known types are %s", std::string(name).c_str(), known.c_str());
}

}  // namespace lowbit
