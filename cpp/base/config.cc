// base/config: environment variables.
#include "base/config.h"

#include <cstdlib>

namespace lowbit {

std::string ForcedIsa() {
  const char* value = std::getenv("LOWBIT_ISA");
  return value == nullptr ? std::string() : std::string(value);
}

}  // namespace lowbit
