// base/pool: claiming, committing, spinning and parking.
//
// A region is identified by an epoch. One 64-bit word holds {epoch:32, next:16, chunks:16}: claiming a chunk and checking
// that it still belongs to the region one knows are a single compare-and-swap, so a late worker can never run a chunk of a
// newer region with an older region's function. What a region runs lies in a slot that workers copy before they claim: a
// claim that succeeds proves that the region was still open after the copy was made.
//
// Stealable regions have a word per chunk, {epoch, kOpen | kCommitting | kDone}. Whoever moves it from kOpen to kCommitting
// publishes its result; everybody else's is dropped.
#include "base/pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "base/affinity.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace lowbit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxChunks = 0xffff;
constexpr size_t kTaskWords = Pool::kTaskBytes / sizeof(uint64_t);

// How long an idle worker watches for the next region before it parks. Ops of one step follow each other within
// microseconds; longer spinning would take a core from the event loop or another process.
constexpr auto kSpin = std::chrono::microseconds(40);

// The caller waits for an overdue chunk as long as a chunk of this region takes, but within these limits, before it computes it
// once more.
constexpr auto kLeastPatience = std::chrono::microseconds(2), kMostPatience = std::chrono::microseconds(500);

// The caller's chunks of a region take about the same time; one that takes a millisecond longer was interrupted by the system. When
// interruptions make up this part of a window of parallel work, workers rest; twice as long each time it happens again.
constexpr auto kInterruption = std::chrono::milliseconds(1), kWindow = std::chrono::milliseconds(40);
constexpr double kMostInterrupted = 0.3;
constexpr auto kLeastRest = std::chrono::milliseconds(50), kMostRest = std::chrono::milliseconds(800);

// A caller that the system moved to another CPU is often moved back at once. Workers that made room for it meanwhile would hold
// the core it came from; they wait this long.
constexpr auto kSettled = std::chrono::milliseconds(20);

constexpr uint64_t kOpen = 0, kCommitting = 1, kDone = 2;
uint64_t ChunkWord(uint32_t epoch, uint64_t state) { return static_cast<uint64_t>(epoch) << 2 | state; }

void Relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

struct Pool::State {
  using Fn = std::function<void(int, int)>;

  // What the open region runs: an exclusive function, or a stealable task. Atomic words, because a late worker may read them
  // while the next region writes them; it never uses what it read then.
  struct Slot {
    std::atomic<const Fn*> fn{nullptr};
    std::atomic<Compute> compute{nullptr};
    std::atomic<Commit> commit{nullptr};
    std::atomic<uint32_t> words{0};
    std::atomic<uint64_t> task[kTaskWords];
  };
  struct Job {
    const Fn* fn = nullptr;
    Compute compute = nullptr;
    Commit commit = nullptr;
    alignas(16) uint64_t task[kTaskWords];
  };
  struct alignas(64) Member {
    std::atomic<bool> inside{false};  // between reading a ticket and having left the region
  };

  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) std::atomic<int> left{0};  // chunks not yet finished
  alignas(64) std::atomic<uint32_t> epoch{0};
  std::atomic<int> sleepers{0};
  std::atomic<int> caller_cpu{-1};
  std::atomic<bool> stop{false};
  Slot slot;
  std::unique_ptr<std::atomic<uint64_t>[]> chunks;  // stealable regions: one word per chunk
  std::mutex park_mutex;
  std::condition_variable park;
  std::atomic<bool> open{false};  // a thread has a region open
  std::atomic<int64_t> stolen{0};
  bool place = false;  // keep workers off the caller's CPU
  // Of the thread that has a region open: where it was seen last, since when; what its last window of parallel work was like, and until
  // when workers rest.
  int seen_cpu = -1;
  Clock::time_point seen_since{};
  Clock::duration parallel{}, interrupted{}, rest = kLeastRest;
  Clock::time_point rest_until{};
  std::unique_ptr<Member[]> members;
  std::vector<std::thread> workers;

  // The next chunk of region `e`; false when none is left. job: the region's slot, copied before the claim.
  bool Claim(uint32_t e, bool copy, Job* job, int* chunk) {
    uint64_t t = ticket.load(std::memory_order_acquire);
    for (;;) {
      const uint32_t next = static_cast<uint32_t>(t >> 16) & 0xffff, count = static_cast<uint32_t>(t) & 0xffff;
      if (static_cast<uint32_t>(t >> 32) != e || next >= count) return false;
      if (copy) {
        job->fn = slot.fn.load(std::memory_order_relaxed);
        job->compute = slot.compute.load(std::memory_order_relaxed);
        job->commit = slot.commit.load(std::memory_order_relaxed);
        const uint32_t words = std::min<uint32_t>(slot.words.load(std::memory_order_relaxed), kTaskWords);
        for (uint32_t i = 0; i < words; ++i) job->task[i] = slot.task[i].load(std::memory_order_relaxed);
      }
      if (!ticket.compare_exchange_weak(t, t + (1u << 16), std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      *chunk = static_cast<int>(next);
      return true;
    }
  }

  // Takes the right to publish the chunk; false when somebody else had it.
  bool Win(uint32_t e, int chunk) {
    uint64_t expected = ChunkWord(e, kOpen);
    return chunks[static_cast<size_t>(chunk)].compare_exchange_strong(expected, ChunkWord(e, kCommitting), std::memory_order_acq_rel,
                                                                      std::memory_order_relaxed);
  }

  void Finish(uint32_t e, int chunk) {
    chunks[static_cast<size_t>(chunk)].store(ChunkWord(e, kDone), std::memory_order_relaxed);
    left.fetch_sub(1, std::memory_order_release);
  }

  void Join(uint32_t e, int worker) {
    Job job;
    int chunk;
    // Copied again for each chunk only while the region has not been seen: after one success the copy is known to be whole.
    for (bool copy = true; Claim(e, copy, &job, &chunk); copy = false) {
      if (job.fn != nullptr) {
        (*job.fn)(chunk, worker);
        left.fetch_sub(1, std::memory_order_release);
      } else if (job.compute(job.task, chunk, worker, false) && Win(e, chunk)) {
        job.commit(job.task, chunk, worker);
        Finish(e, chunk);
      }
    }
  }

  void Work(int worker) {
    std::atomic<bool>& inside = members[static_cast<size_t>(worker)].inside;
    uint32_t seen = 0;
    int avoided = -1;
    for (;;) {
      uint32_t e;
      auto deadline = Clock::now() + kSpin;
      int polls = 0;
      while ((e = epoch.load(std::memory_order_acquire)) == seen) {
        Relax();
        if (++polls % 32 != 0 || Clock::now() < deadline) continue;
        std::unique_lock<std::mutex> lock(park_mutex);
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        park.wait(lock, [&] { return epoch.load(std::memory_order_seq_cst) != seen; });
        sleepers.fetch_sub(1, std::memory_order_relaxed);
        deadline = Clock::now() + kSpin;
      }
      seen = e;
      if (stop.load(std::memory_order_acquire)) return;
      if (place) {
        const int cpu = caller_cpu.load(std::memory_order_relaxed);
        if (cpu != avoided) AvoidCpu(avoided = cpu);
      }
      inside.store(true, std::memory_order_seq_cst);
      Join(e, worker);
      inside.store(false, std::memory_order_release);
    }
  }

  void Announce(uint32_t e) {
    epoch.store(e, std::memory_order_seq_cst);
    if (sleepers.load(std::memory_order_seq_cst) == 0) return;
    {
      std::lock_guard<std::mutex> lock(park_mutex);
    }  // a worker between its check and its wait holds this lock
    park.notify_all();
  }

  // Tells workers which CPU to keep off.
  void Place(Clock::time_point now) {
    const int cpu = CurrentCpu(), current = caller_cpu.load(std::memory_order_relaxed);
    if (cpu != seen_cpu) {
      seen_cpu = cpu;
      seen_since = now;
    }
    if (cpu != current && (current < 0 || now - seen_since > kSettled)) caller_cpu.store(cpu, std::memory_order_relaxed);
  }

  // Adds a region that took `total` and of which the caller lost `lost`; decides at the end of a window.
  void Observe(Clock::time_point now, Clock::duration total, Clock::duration lost) {
    parallel += total;
    interrupted += lost;
    if (parallel < kWindow) return;
    if (interrupted > std::chrono::duration_cast<Clock::duration>(parallel * kMostInterrupted)) {
      rest_until = now + rest;
      rest = std::min<Clock::duration>(2 * rest, kMostRest);
    } else {
      rest = kLeastRest;
    }
    parallel = interrupted = {};
  }

  // Opens a region whose slot has been written.
  uint32_t Open(int count, Clock::time_point now) {
    if (place) Place(now);
    left.store(count, std::memory_order_relaxed);
    const uint32_t e = epoch.load(std::memory_order_relaxed) + 1;
    ticket.store(static_cast<uint64_t>(e) << 32 | static_cast<uint32_t>(count), std::memory_order_release);
    Announce(e);
    return e;
  }

  void RunExclusive(int count, const Fn& fn, Clock::time_point start) {
    slot.fn.store(&fn, std::memory_order_relaxed);
    slot.words.store(0, std::memory_order_relaxed);
    const uint32_t e = Open(count, start);
    Job job;
    for (int chunk; Claim(e, false, &job, &chunk);) {
      fn(chunk, 0);
      left.fetch_sub(1, std::memory_order_release);
    }
    for (int polls = 0; left.load(std::memory_order_acquire) != 0; ++polls) {
      if (polls < 500)
        Relax();
      else
        std::this_thread::yield();  // the last chunk's worker may be off its core: give ours away
    }
  }
};

Pool::Pool(int threads) : state_(std::make_unique<State>()) {
  const int count = std::clamp(threads, 1, 256);
  State& s = *state_;
  s.place = count > 1 && AllowedCpus() >= count;
  s.members = std::make_unique<State::Member[]>(static_cast<size_t>(count));
  s.chunks = std::make_unique<std::atomic<uint64_t>[]>(count > 1 ? kMaxStealableChunks : 0);
  s.workers.reserve(static_cast<size_t>(count - 1));
  for (int i = 1; i < count; ++i) s.workers.emplace_back([&s, i] { s.Work(i); });
}

Pool::~Pool() {
  state_->stop.store(true, std::memory_order_release);
  state_->Announce(state_->epoch.load() + 1);
  for (std::thread& worker : state_->workers) worker.join();
}

int Pool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

int64_t Pool::stolen() const { return state_->stolen.load(std::memory_order_relaxed); }

void Pool::Run(int chunks, const std::function<void(int, int)>& fn) {
  State& s = *state_;
  if (chunks <= 1 || s.workers.empty() || s.open.exchange(true, std::memory_order_acquire)) {
    for (int i = 0; i < chunks; ++i) fn(i, 0);
    return;
  }
  const Clock::time_point start = Clock::now();
  if (start < s.rest_until) {
    for (int i = 0; i < chunks; ++i) fn(i, 0);
    s.open.store(false, std::memory_order_release);
    return;
  }
  for (int base = 0; base < chunks; base += kMaxChunks) {
    const int count = std::min(chunks - base, kMaxChunks);
    if (count == chunks) {
      s.RunExclusive(count, fn, start);
      break;
    }
    s.RunExclusive(count, [&](int chunk, int worker) { fn(base + chunk, worker); }, start);
  }
  s.open.store(false, std::memory_order_release);
}

void Pool::RunStealable(int count, const void* task, size_t bytes, Compute compute, Commit commit) {
  State& s = *state_;
  if (count <= 1 || s.workers.empty() || s.open.exchange(true, std::memory_order_acquire)) {
    for (int i = 0; i < count; ++i)
      if (compute(task, i, 0, true)) commit(task, i, 0);
    return;
  }
  const Clock::time_point start = Clock::now();
  if (start < s.rest_until) {
    for (int i = 0; i < count; ++i)
      if (compute(task, i, 0, true)) commit(task, i, 0);
    s.open.store(false, std::memory_order_release);
    return;
  }
  s.slot.fn.store(nullptr, std::memory_order_relaxed);
  s.slot.compute.store(compute, std::memory_order_relaxed);
  s.slot.commit.store(commit, std::memory_order_relaxed);
  const size_t words = (bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t);
  for (size_t i = 0; i < words; ++i) {
    uint64_t word = 0;
    std::memcpy(&word, static_cast<const uint8_t*>(task) + i * sizeof(word), std::min(sizeof(word), bytes - i * sizeof(word)));
    s.slot.task[i].store(word, std::memory_order_relaxed);
  }
  s.slot.words.store(static_cast<uint32_t>(words), std::memory_order_relaxed);
  const uint32_t next = s.epoch.load(std::memory_order_relaxed) + 1;
  for (int i = 0; i < count; ++i) s.chunks[static_cast<size_t>(i)].store(ChunkWord(next, kOpen), std::memory_order_relaxed);
  const uint32_t e = s.Open(count, start);

  State::Job unused;
  int mine = 0;
  Clock::time_point drained = start;
  Clock::duration longest{};
  for (int chunk; s.Claim(e, false, &unused, &chunk); ++mine) {
    // Nobody else computes what the caller claimed, so its word needs no race.
    if (compute(task, chunk, 0, true)) commit(task, chunk, 0);
    s.Finish(e, chunk);
    const Clock::time_point now = Clock::now();
    longest = std::max(longest, now - drained);
    drained = now;
  }
  const auto per_chunk = mine > 0 ? (drained - start) / mine : Clock::duration::zero();
  const auto patience = std::clamp<Clock::duration>(per_chunk, kLeastPatience, kMostPatience);
  bool waited = false;
  for (int polls = 0; s.left.load(std::memory_order_acquire) != 0; ++polls) {
    Relax();
    if (!waited) {
      waited = polls % 16 == 15 && Clock::now() - drained >= patience;
      continue;
    }
    bool any = false;
    for (int i = 0; i < count && s.left.load(std::memory_order_acquire) != 0; ++i) {
      if (s.chunks[static_cast<size_t>(i)].load(std::memory_order_relaxed) != ChunkWord(e, kOpen)) continue;
      any = true;
      const bool wanted = compute(task, i, 0, false);
      if (!s.Win(e, i)) continue;
      if (wanted) commit(task, i, 0);
      s.Finish(e, i);
      s.stolen.fetch_add(1, std::memory_order_relaxed);
    }
    if (!any && polls > 2000) std::this_thread::yield();  // a worker was stopped while it commits
  }
  const Clock::duration usual = mine > 1 ? (drained - start - longest) / (mine - 1) : longest;
  s.Observe(drained, drained - start, longest - usual > kInterruption ? longest - usual : Clock::duration::zero());
  s.open.store(false, std::memory_order_release);
}

void Pool::Quiesce() {
  State& s = *state_;
  for (size_t i = 1; i <= s.workers.size(); ++i) {
    const std::atomic<bool>& inside = s.members[i].inside;
    for (int polls = 0; inside.load(std::memory_order_acquire); ++polls) {
      if (polls < 500)
        Relax();
      else
        std::this_thread::yield();
    }
  }
}

}  // namespace lowbit
