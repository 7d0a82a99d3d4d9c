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
