// base/pool: the one thread pool of the process.
// A parallel region is a function and a number of chunks. Chunks are claimed one by one, the caller works too, and the
// region ends when every chunk is done, not when every worker has woken up: a worker that the system took off its core
// before it claimed anything costs nothing. Idle workers spin for tens of microseconds (by time) and then park.
#pragma once

#include <functional>
#include <memory>

namespace lowbit {

class Pool {
 public:
  // `threads` counts the caller: 1 runs everything on the caller. Clamped to [1, 256].
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const;

  // Calls fn(chunk, worker) once for each chunk in [0, chunks); worker in [0, threads()) identifies the executing thread
  // and may index per-thread scratch. Returns when all calls have returned. Reentrant: a call from inside a region, or
  // while another thread has a region open, runs all its chunks on the calling thread with worker 0, so per-thread
  // scratch must belong to the caller of Run, never to the pool. fn must not throw.
  void Run(int chunks, const std::function<void(int chunk, int worker)>& fn);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lowbit
