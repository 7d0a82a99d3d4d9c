// base/status: how every room of the engine reports failure.
// No exceptions, no abort, no stderr: a function that can fail returns Status or Result<T>.
// The message names the file, tensor or option and says what to do about it; binding/ turns it into a LowbitError.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace lowbit {

// Order and names are part of the JS API (LowbitError.code); see lib/errors.ts.
enum class Code {
  kOk = 0,
  kInvalidArgument,  // the caller can fix the call
  kUnsupported,      // valid input that this build or machine cannot handle
  kCorruptFile,      // a file contradicts itself or its format
  kIo,               // the operating system refused: missing file, no permission, disk full
  kOutOfMemory,      // an allocation or a memory budget failed
  kDevice,           // an accelerator failed
  kCancelled,        // AbortSignal or SIGINT
  kInternal,         // a bug in lowbit
};

// "INVALID_ARGUMENT", ... ; "OK" for kOk.
const char* CodeName(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  static Status Ok() { return Status(); }

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// printf-style construction, so that call sites stay one line.
#if defined(__GNUC__) || defined(__clang__)
#define LOWBIT_PRINTF(fmt_index, first) __attribute__((format(printf, fmt_index, first)))
#else
#define LOWBIT_PRINTF(fmt_index, first)
#endif
Status Error(Code code, const char* format, ...) LOWBIT_PRINTF(2, 3);
std::string Format(const char* format, ...) LOWBIT_PRINTF(1, 2);

// A value or the reason there is none. value() may be called only when ok().
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}         // NOLINT: implicit by design
  Result(Status status) : state_(std::move(status)) {}  // NOLINT: implicit by design
  bool ok() const { return std::holds_alternative<T>(state_); }
  T& value() { return std::get<T>(state_); }
  const T& value() const { return std::get<T>(state_); }
  Status status() const { return ok() ? Status::Ok() : std::get<Status>(state_); }

 private:
  std::variant<T, Status> state_;
};

#define LOWBIT_RETURN_IF_ERROR(expr)                 \
  do {                                               \
    ::lowbit::Status lowbit_status_ = (expr);        \
    if (!lowbit_status_.ok()) return lowbit_status_; \
  } while (0)

#define LOWBIT_CONCAT_INNER(a, b) a##b
#define LOWBIT_CONCAT(a, b) LOWBIT_CONCAT_INNER(a, b)
#define LOWBIT_ASSIGN_OR_RETURN(lhs, expr) LOWBIT_ASSIGN_OR_RETURN_IMPL(LOWBIT_CONCAT(lowbit_result_, __LINE__), lhs, expr)
#define LOWBIT_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return tmp.status();                \
  lhs = std::move(tmp.value())

}  // namespace lowbit
