// test/native: the thread pool. Also built under ThreadSanitizer.
#include "base/pool.h"

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "check.h"

using lowbit::Pool;

// Every chunk exactly once, for more chunks than threads, fewer, one and none, and beyond the 16-bit ticket.
LOWBIT_TEST(PoolRunsEveryChunkOnce) {
  for (int threads : {1, 2, 3, 8}) {
    Pool pool(threads);
    EXPECT(pool.threads() == threads);
    for (int chunks : {0, 1, 2, 7, 1000, 70000}) {
      std::vector<std::atomic<int>> counts(static_cast<size_t>(chunks));
      std::atomic<int> bad_worker{0};
      pool.Run(chunks, [&](int chunk, int worker) {
        counts[static_cast<size_t>(chunk)].fetch_add(1);
        if (worker < 0 || worker >= threads) bad_worker.fetch_add(1);
      });
      int wrong = 0;
      for (auto& c : counts) wrong += c.load() != 1;
      EXPECT(wrong == 0);
      EXPECT(bad_worker.load() == 0);
    }
  }
}

// Writes of all chunks are visible to the caller when Run returns; regions follow each other without a pause, so late
// workers meet newer regions.
LOWBIT_TEST(PoolPublishesResults) {
  Pool pool(4);
  std::vector<int> values(37);
  for (int round = 1; round <= 20000; ++round) {
    pool.Run(37, [&](int chunk, int) { values[static_cast<size_t>(chunk)] = round + chunk; });
    int sum = std::accumulate(values.begin(), values.end(), 0);
    if (!EXPECT(sum == 37 * round + 36 * 37 / 2)) break;
  }
}

// No two threads run chunks of one region under the same worker number at the same time.
LOWBIT_TEST(PoolWorkerNumbersAreExclusive) {
  Pool pool(4);
  std::atomic<int> active[4] = {};
  std::atomic<int> clashes{0};
  for (int round = 0; round < 2000; ++round)
    pool.Run(16, [&](int, int worker) {
      if (active[worker].fetch_add(1) != 0) clashes.fetch_add(1);
      active[worker].fetch_sub(1);
    });
  EXPECT(clashes.load() == 0);
}

// A region inside a region, and regions of two callers, run to completion on the calling threads.
LOWBIT_TEST(PoolIsReentrant) {
  Pool pool(3);
  std::atomic<int> inner{0};
  pool.Run(10, [&](int, int) { pool.Run(5, [&](int, int) { inner.fetch_add(1); }); });
  EXPECT(inner.load() == 50);

  std::atomic<int> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int round = 0; round < 500; ++round) pool.Run(8, [&](int, int) { total.fetch_add(1); });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT(total.load() == 4 * 500 * 8);
}

LOWBIT_TEST(PoolStopsWhileIdle) {
  for (int i = 0; i < 200; ++i) {
    Pool pool(4);
    if (i % 2 == 0) pool.Run(4, [](int, int) {});
  }
  EXPECT(true);
}

namespace {

// A chunk of a stealable region: the squares of [16 chunk, 16 chunk + 16), through memory of the worker.
struct Squares {
  int64_t* out;
  int64_t (*scratch)[16];
  int64_t first;

  bool Compute(int chunk, int worker, bool direct) const {
    int64_t* to = direct ? out + 16 * chunk : scratch[worker];
    for (int i = 0; i < 16; ++i) to[i] = (first + 16 * chunk + i) * (first + 16 * chunk + i);
    return !direct;
  }
  void Commit(int chunk, int worker) const {
    for (int i = 0; i < 16; ++i) out[16 * chunk + i] = scratch[worker][i];
  }
};

int WrongSquares(const std::vector<int64_t>& out, int64_t first) {
  int wrong = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t v = first + static_cast<int64_t>(i);
    wrong += out[i] != v * v;
  }
  return wrong;
}

// What the threads of a region with a stopped worker tell each other.
struct Stage {
  std::atomic<bool> claimed{false};  // a worker is inside a chunk
  std::atomic<bool> release{false};  // and may go on
  std::atomic<int> commits{0};
  int64_t scratch[2][4] = {};
  int64_t out[8][4] = {};
};

// Stands for a worker that the system stops in the middle of its first chunk, until the region is long over.
struct Stopped {
  Stage* stage;

  bool Compute(int chunk, int worker, bool direct) const {
    if (worker == 1) {
      stage->claimed.store(true);
      while (!stage->release.load()) std::this_thread::yield();
    } else if (direct) {
      while (!stage->claimed.load()) std::this_thread::yield();
    }
    int64_t* to = direct ? stage->out[chunk] : stage->scratch[worker];
    for (int i = 0; i < 4; ++i) to[i] = 10 * chunk + i;
    return !direct;
  }
  void Commit(int chunk, int worker) const {
    stage->commits.fetch_add(1);
    for (int i = 0; i < 4; ++i) stage->out[chunk][i] = stage->scratch[worker][i];
  }
};

}  // namespace

LOWBIT_TEST(PoolStealableRunsEveryChunk) {
  for (int threads : {1, 2, 3, 8}) {
    Pool pool(threads);
    int64_t scratch[8][16];
    for (int chunks : {0, 1, 2, 7, Pool::kMaxStealableChunks}) {
      std::vector<int64_t> out(static_cast<size_t>(16 * chunks), -1);
      pool.RunStealable(chunks, Squares{out.data(), scratch, chunks});
      EXPECT(WrongSquares(out, chunks) == 0);
    }
    pool.Quiesce();
  }
}

// The caller finishes a region whose worker is stopped, and what the worker brings afterwards is dropped.
LOWBIT_TEST(PoolStealsFromAStoppedWorker) {
  Pool pool(2);
  Stage stage;
  pool.RunStealable(8, Stopped{&stage});
  EXPECT(pool.stolen() == 1);
  EXPECT(stage.commits.load() == 1);
  int wrong = 0;
  for (int c = 0; c < 8; ++c)
    for (int i = 0; i < 4; ++i) wrong += stage.out[c][i] != 10 * c + i;
  EXPECT(wrong == 0);

  // The pool works on without that worker, and neither newer regions nor their memory are touched when it comes back.
  std::vector<int64_t> out(16 * 40);
  int64_t scratch[2][16];
  pool.RunStealable(40, Squares{out.data(), scratch, 3});
  EXPECT(WrongSquares(out, 3) == 0);
  for (auto& row : stage.out)
    for (int64_t& v : row) v = -7;
  stage.release.store(true);
  pool.Quiesce();
  for (auto& row : stage.out)
    for (int64_t v : row) wrong += v != -7;
  EXPECT(wrong == 0);
  EXPECT(stage.commits.load() == 1);
}

// Many short regions of both kinds with more runnable threads than cores, so that workers are stopped everywhere.
LOWBIT_TEST(PoolSurvivesPreemption) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> hogs;
  for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i)
    hogs.emplace_back([&] {
      while (!stop.load(std::memory_order_relaxed)) {
      }
    });
  {
    Pool pool(4);
    int64_t scratch[4][16];
    std::vector<int64_t> out(16 * 24);
    int wrong = 0;
    for (int round = 0; round < 3000 && wrong == 0; ++round) {
      pool.RunStealable(24, Squares{out.data(), scratch, round});
      wrong += WrongSquares(out, round);
      std::fill(out.begin(), out.end(), -1);
      if (round % 64 != 0) continue;
      std::atomic<int> runs{0};
      pool.Run(9, [&](int, int) { runs.fetch_add(1); });
      wrong += runs.load() != 9;
    }
    EXPECT(wrong == 0);
    pool.Quiesce();
  }
  stop.store(true);
  for (std::thread& hog : hogs) hog.join();
}

// Inside a region, and beside another caller's, a stealable region runs on its caller alone.
LOWBIT_TEST(PoolStealableIsReentrant) {
  Pool pool(3);
  std::atomic<int> wrong{0};
  pool.Run(6, [&](int, int) {
    std::vector<int64_t> out(16 * 5);
    int64_t scratch[3][16];
    pool.RunStealable(5, Squares{out.data(), scratch, 9});
    wrong.fetch_add(WrongSquares(out, 9));
  });
  EXPECT(wrong.load() == 0);
}
