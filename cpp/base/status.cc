// base/status: formatting of error messages.
#include "base/status.h"

#include <cstdarg>
#include <cstdio>

namespace lowbit {
namespace {

std::string FormatV(const char* format, va_list args) {
  va_list copy;
  va_copy(copy, args);
  const int length = std::vsnprintf(nullptr, 0, format, copy);
  va_end(copy);
  if (length <= 0) return std::string();
  std::string text(static_cast<size_t>(length), '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, args);
  return text;
}

}  // namespace

const char* CodeName(Code code) {
  switch (code) {
    case Code::kOk:
      return "OK";
    case Code::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case Code::kUnsupported:
      return "UNSUPPORTED";
    case Code::kCorruptFile:
      return "CORRUPT_FILE";
    case Code::kIo:
      return "IO";
    case Code::kOutOfMemory:
      return "OUT_OF_MEMORY";
    case Code::kDevice:
      return "DEVICE";
    case Code::kCancelled:
      return "CANCELLED";
    case Code::kInternal:
      return "INTERNAL";
  }
  return "INTERNAL";
}

std::string Format(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = FormatV(format, args);
  va_end(args);
  return text;
}

Status Error(Code code, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = FormatV(format, args);
  va_end(args);
  return Status(code, std::move(text));
}

}  // namespace lowbit
