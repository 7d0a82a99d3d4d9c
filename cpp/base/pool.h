// base/pool: the one thread pool of the process.
//
// A parallel region is a function and a number of chunks. Chunks are claimed one by one and the caller works too. Idle
// workers spin for tens of microseconds (by time) and then park.
//
// Other programs share the cores, so a worker may be taken off its core at any moment and come back milliseconds later, while a
// region of a decode step lasts microseconds. There are therefore two kinds of regions:
//   Run           every chunk runs exactly once; the region ends when all have returned. A worker that was stopped inside a
//                 chunk is waited for: for long work, and for work that cannot be done twice.
//   RunStealable  a worker computes a chunk into memory of its own and then commits it; the caller, when nothing is left to
//                 claim, computes chunks that are overdue once more, and whoever is first commits. A region is then never
//                 slower than the caller alone, whatever happens to the workers.
// Workers keep off the CPU that the caller runs on (base/affinity), because a worker in front of its own caller helps nobody. And
// where another program takes a core, a worker can hold the last free one while its caller waits: a caller that notices that
// it is being stopped works alone for a while, so that the system has a core to put it on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>

namespace lowbit {

// A copy of plain data that another thread may be writing, word by word, each word read exactly once. The words of the copy may
// belong to different writes: a stealable task checks that they make sense together before it uses them as bounds.
template <typename T>
T RacingCopy(const T& from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(uint32_t) == 0 && alignof(T) >= alignof(uint32_t));
  uint32_t words[sizeof(T) / sizeof(uint32_t)];
  for (size_t i = 0; i < sizeof(T) / sizeof(uint32_t); ++i)
    words[i] = __atomic_load_n(reinterpret_cast<const uint32_t*>(&from) + i, __ATOMIC_RELAXED);
  T copy;
  std::memcpy(&copy, words, sizeof(T));
  return copy;
}

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

  static constexpr size_t kTaskBytes = 512;
  static constexpr int kMaxStealableChunks = 2048;

  // Task is plain data of at most kTaskBytes with two members:
  //   bool Compute(int chunk, int worker, bool direct) const
  //     direct: only this thread computes this chunk; it may write its result in place and return false.
  //     otherwise it writes to memory of `worker` alone and returns true: Commit is wanted.
  //   void Commit(int chunk, int worker) const
  //     publishes what Compute(chunk, worker, false) left in the memory of `worker`. Called at most once per chunk.
  // Results must be the same whoever computes. chunks <= kMaxStealableChunks.
  //
  // A worker may still be inside Compute of a region that has ended, reading what has changed meanwhile; its result is dropped.
  // So everything a task points to must stay mapped, and Compute must stay within its bounds whatever it reads there, until
  // Quiesce() has returned. Reentrant as Run is.
  template <typename Task>
  void RunStealable(int chunks, const Task& task) {
    static_assert(std::is_trivially_copyable_v<Task> && sizeof(Task) <= kTaskBytes);
    RunStealable(
        chunks, &task, sizeof(Task),
        [](const void* t, int chunk, int worker, bool direct) { return static_cast<const Task*>(t)->Compute(chunk, worker, direct); },
        [](const void* t, int chunk, int worker) { static_cast<const Task*>(t)->Commit(chunk, worker); });
  }

  // Waits until no worker is inside a chunk of a region that has ended. Before memory that stealable tasks point to is freed.
  void Quiesce();

  // Chunks that a caller computed because a worker was overdue, since the pool was made: for tests and diagnosis.
  int64_t stolen() const;

 private:
  using Compute = bool (*)(const void* task, int chunk, int worker, bool direct);
  using Commit = void (*)(const void* task, int chunk, int worker);
  void RunStealable(int chunks, const void* task, size_t bytes, Compute compute, Commit commit);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lowbit
