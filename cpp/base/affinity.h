// base/affinity: which CPUs a thread may run on. Linux; elsewhere the functions do nothing and say so in what they return.
#pragma once

namespace lowbit {

// The CPU the calling thread runs on at this moment, or -1 where the system does not tell.
int CurrentCpu();

// CPUs the process may use, as its affinity mask said when this was first called; 0 where masks are not supported.
int AllowedCpus();

// Lets the calling thread run on every allowed CPU but `cpu`, so that it never waits for the thread that runs there. Does
// nothing when cpu is negative or no other CPU is allowed.
void AvoidCpu(int cpu);

}  // namespace lowbit
