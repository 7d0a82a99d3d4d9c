// test/native: runs every registered case, or those whose name contains the argument. The last line is the count that CI reads.
#include <cstring>

#include "check.h"

int main(int argc, char** argv) {
  int passed = 0, failed = 0;
  for (const lowbit_test::Case& test : lowbit_test::Cases()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
    const int before = lowbit_test::Failures();
    test.run();
    const bool ok = lowbit_test::Failures() == before;
    (ok ? passed : failed)++;
    std::printf("%s %s\n", ok ? "ok    " : "FAILED", test.name);
    std::fflush(stdout);
  }
  std::printf("native: %d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
