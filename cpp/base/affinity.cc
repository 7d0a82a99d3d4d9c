// base/affinity: sched_setaffinity behind affinity.h.
#include "base/affinity.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace lowbit {

#if defined(__linux__)
namespace {

// What the user allowed (taskset, a cpuset) is a border for us: read once, before any thread of ours narrowed its own mask.
const cpu_set_t& Allowed() {
  static const cpu_set_t mask = [] {
    cpu_set_t m;
    CPU_ZERO(&m);
    if (sched_getaffinity(0, sizeof(m), &m) != 0) CPU_ZERO(&m);
    return m;
  }();
  return mask;
}

}  // namespace

int CurrentCpu() { return sched_getcpu(); }

int AllowedCpus() { return CPU_COUNT(&Allowed()); }

void AvoidCpu(int cpu) {
  cpu_set_t mask = Allowed();
  if (cpu < 0 || cpu >= CPU_SETSIZE) return;
  CPU_CLR(cpu, &mask);
  if (CPU_COUNT(&mask) == 0) return;
  // A refusal (a cpuset that changed meanwhile) costs speed at most.
  (void)pthread_setaffinity_np(pthread_self(), sizeof(mask), &mask);
}
#else
int CurrentCpu() { return -1; }
int AllowedCpus() { return 0; }
void AvoidCpu(int) {}
#endif

}  // namespace lowbit
