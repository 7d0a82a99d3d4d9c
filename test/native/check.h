// test/native: a tiny test harness, so that engine internals can be tested without a framework download.
// Every LOWBIT_TEST in the linked files runs; a failed EXPECT prints where and what and the run exits non-zero.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace lowbit_test {

struct Case {
  const char* name;
  void (*run)();
};

inline std::vector<Case>& Cases() {
  static std::vector<Case> cases;
  return cases;
}

inline int& Failures() {
  static int failures = 0;
  return failures;
}

struct Register {
  Register(const char* name, void (*run)()) { Cases().push_back({name, run}); }
};

inline bool Check(bool ok, const char* file, int line, const std::string& text) {
  if (!ok) {
    ++Failures();
    if (Failures() <= 50) std::printf("  FAILED %s:%d: %s\n", file, line, text.c_str());
  }
  return ok;
}

}  // namespace lowbit_test

#define LOWBIT_TEST(name)                                                   \
  static void name();                                                       \
  static const ::lowbit_test::Register lowbit_register_##name(#name, name); \
  static void name()

#define EXPECT(condition) ::lowbit_test::Check(static_cast<bool>(condition), __FILE__, __LINE__, #condition)

// |actual - expected| <= tolerance, absolute; NaN and infinity fail.
#define EXPECT_NEAR(actual, expected, tolerance)                                                                                     \
  do {                                                                                                                               \
    const double lowbit_a = (actual), lowbit_e = (expected), lowbit_t = (tolerance);                                                 \
    ::lowbit_test::Check(std::fabs(lowbit_a - lowbit_e) <= lowbit_t, __FILE__, __LINE__,                                             \
                         std::string(#actual " = ") + std::to_string(lowbit_a) + ", expected " + std::to_string(lowbit_e) + " +- " + \
                             std::to_string(lowbit_t));                                                                              \
  } while (0)

// The Status (or Result) is an error with this code whose message contains the text.
#define EXPECT_ERROR(status_expr, expected_code, text)                                                                               \
  do {                                                                                                                               \
    const ::lowbit::Status lowbit_s = (status_expr);                                                                                 \
    ::lowbit_test::Check(!lowbit_s.ok() && lowbit_s.code() == (expected_code) && lowbit_s.message().find(text) != std::string::npos, \
                         __FILE__, __LINE__,                                                                                         \
                         std::string(#status_expr " gave: ") + ::lowbit::CodeName(lowbit_s.code()) + " " + lowbit_s.message());      \
  } while (0)
