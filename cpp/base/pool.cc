// base/pool: claiming, spinning and parking.
//
// A region is identified by an epoch. One 64-bit word holds {epoch:32, next:16, chunks:16}: claiming a chunk and checking
// that it still belongs to the region one knows are a single compare-and-swap, so a late worker can never run a chunk of a
// newer region with an older region's function.
#include "base/pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace lowbit {
namespace {

constexpr int kMaxChunks = 0xffff;

// How long an idle worker watches for the next region before it parks. Ops of one step follow each other within
// microseconds; longer spinning would take a core from the event loop or another process.
constexpr auto kSpin = std::chrono::microseconds(40);

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

  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) std::atomic<int> left{0};  // chunks not yet finished
  alignas(64) std::atomic<uint32_t> epoch{0};
  std::atomic<int> sleepers{0};
  std::atomic<const Fn*> fn{nullptr};
  std::atomic<bool> stop{false};
  std::mutex park_mutex;
  std::condition_variable park;
  std::atomic<bool> open{false};  // a thread has a region open
  std::vector<std::thread> workers;

  // Runs chunks of region `e` until none is left to claim.
  void Drain(uint32_t e, int worker) {
    uint64_t t = ticket.load(std::memory_order_acquire);
    for (;;) {
      const uint32_t next = static_cast<uint32_t>(t >> 16) & 0xffff, chunks = static_cast<uint32_t>(t) & 0xffff;
      if (static_cast<uint32_t>(t >> 32) != e || next >= chunks) return;
      const Fn* f = fn.load(std::memory_order_relaxed);  // valid only if the exchange below succeeds
      if (!ticket.compare_exchange_weak(t, t + (1u << 16), std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      (*f)(static_cast<int>(next), worker);
      left.fetch_sub(1, std::memory_order_release);
      t = ticket.load(std::memory_order_acquire);
    }
  }

  void Work(int worker) {
    uint32_t seen = 0;
    for (;;) {
      uint32_t e;
      auto deadline = std::chrono::steady_clock::now() + kSpin;
      int polls = 0;
      while ((e = epoch.load(std::memory_order_acquire)) == seen) {
        Relax();
        if (++polls % 32 != 0 || std::chrono::steady_clock::now() < deadline) continue;
        std::unique_lock<std::mutex> lock(park_mutex);
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        park.wait(lock, [&] { return epoch.load(std::memory_order_seq_cst) != seen; });
        sleepers.fetch_sub(1, std::memory_order_relaxed);
        deadline = std::chrono::steady_clock::now() + kSpin;
      }
      seen = e;
      if (stop.load(std::memory_order_acquire)) return;
      Drain(e, worker);
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
};

Pool::Pool(int threads) : state_(std::make_unique<State>()) {
  const int count = std::clamp(threads, 1, 256);
  state_->workers.reserve(static_cast<size_t>(count - 1));
  for (int i = 1; i < count; ++i) state_->workers.emplace_back([s = state_.get(), i] { s->Work(i); });
}

Pool::~Pool() {
  state_->stop.store(true, std::memory_order_release);
  state_->Announce(state_->epoch.load() + 1);
  for (std::thread& worker : state_->workers) worker.join();
}

int Pool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void Pool::Run(int chunks, const std::function<void(int, int)>& fn) {
  State& s = *state_;
  if (chunks <= 1 || s.workers.empty() || s.open.exchange(true, std::memory_order_acquire)) {
    for (int i = 0; i < chunks; ++i) fn(i, 0);
    return;
  }
  for (int base = 0; base < chunks; base += kMaxChunks) {
    const int count = std::min(chunks - base, kMaxChunks);
    const State::Fn shifted = [&](int chunk, int worker) { fn(base + chunk, worker); };
    const State::Fn* f = base == 0 && count == chunks ? &fn : &shifted;
    s.fn.store(f, std::memory_order_relaxed);
    s.left.store(count, std::memory_order_relaxed);
    const uint32_t e = s.epoch.load(std::memory_order_relaxed) + 1;
    s.ticket.store(static_cast<uint64_t>(e) << 32 | static_cast<uint32_t>(count), std::memory_order_release);
    s.Announce(e);
    s.Drain(e, 0);
    for (int polls = 0; s.left.load(std::memory_order_acquire) != 0; ++polls) {
      if (polls < 500)
        Relax();
      else
        std::this_thread::yield();  // the last chunk's worker may be off its core: give ours away
    }
  }
  s.open.store(false, std::memory_order_release);
}

}  // namespace lowbit
