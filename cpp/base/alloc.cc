// base/alloc: mmap/VirtualAlloc behind Block.
#include "base/alloc.h"

#include <atomic>
#include <utility>

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace lowbit {
namespace {

std::atomic<size_t> g_in_use[kMemoryClasses];

constexpr size_t kHugePage = size_t(2) << 20;

size_t RoundUp(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

}  // namespace

size_t MemoryInUse(MemoryClass memory_class) { return g_in_use[static_cast<int>(memory_class)].load(std::memory_order_relaxed); }

Result<Block> Block::Allocate(size_t size, MemoryClass memory_class, const char* what) {
  Block block;
  if (size == 0) return block;
  const Status failure =
      Error(Code::kOutOfMemory, "Could not allocate %.1f MB for %s; close other programs or use a smaller model or context",
            double(size) / 1e6, what);
  if (size > (size_t(1) << 47)) return failure;
#if defined(_WIN32)
  const size_t reserved = RoundUp(size, 65536);
  void* p = VirtualAlloc(nullptr, reserved, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  if (p == nullptr) return failure;
  block.data_ = static_cast<uint8_t*>(p);
#else
  // Huge pages: with 4 KiB pages the L2 stream prefetcher stops at every page end (27-32 instead of 34-37 GB/s measured
  // on a Zen 5 server core). The range is over-reserved so that its start can be moved to a 2 MiB border.
  const bool huge = size >= 2 * kHugePage;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t reserved = RoundUp(size, huge ? kHugePage : page);
  const size_t mapped = huge ? reserved + kHugePage : reserved;
  void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return failure;
  uint8_t* begin = static_cast<uint8_t*>(p);
  if (huge) {
    uint8_t* aligned = reinterpret_cast<uint8_t*>(RoundUp(reinterpret_cast<uintptr_t>(begin), kHugePage));
    if (aligned != begin) munmap(begin, static_cast<size_t>(aligned - begin));
    uint8_t* end = begin + mapped;
    if (aligned + reserved != end) munmap(aligned + reserved, static_cast<size_t>(end - (aligned + reserved)));
    begin = aligned;
#if defined(MADV_HUGEPAGE)
    (void)madvise(begin, reserved, MADV_HUGEPAGE);
#endif
  }
  block.data_ = begin;
#endif
  block.size_ = size;
  block.reserved_ = reserved;
  block.class_ = memory_class;
  g_in_use[static_cast<int>(memory_class)].fetch_add(reserved, std::memory_order_relaxed);
  return block;
}

void Block::Release() {
  if (data_ == nullptr) return;
#if defined(_WIN32)
  VirtualFree(data_, 0, MEM_RELEASE);
#else
  munmap(data_, reserved_);
#endif
  g_in_use[static_cast<int>(class_)].fetch_sub(reserved_ - discarded_, std::memory_order_relaxed);
  data_ = nullptr;
  size_ = reserved_ = discarded_ = 0;
}

void Block::Discard(const uint8_t* begin, size_t size) {
  if (data_ == nullptr || begin < data_ || size > size_ || static_cast<size_t>(begin - data_) > size_ - size) return;
#if defined(_WIN32)
  const uintptr_t page = 4096;
#else
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
#endif
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + size) / page * page;
  if (last <= first) return;
#if defined(_WIN32)
  const bool given = VirtualFree(reinterpret_cast<void*>(first), last - first, MEM_DECOMMIT) != 0;
#elif defined(__APPLE__)
  const bool given = madvise(reinterpret_cast<void*>(first), last - first, MADV_FREE) == 0;
#else  // not munmap: another mapping could move into the hole, and Release would take it along
  const bool given = madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED) == 0;
#endif
  if (!given) return;
  discarded_ += last - first;
  g_in_use[static_cast<int>(class_)].fetch_sub(last - first, std::memory_order_relaxed);
}

Block::Block(Block&& other) noexcept { *this = std::move(other); }

Block& Block::operator=(Block&& other) noexcept {
  if (this != &other) {
    Release();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    reserved_ = std::exchange(other.reserved_, 0);
    discarded_ = std::exchange(other.discarded_, 0);
    class_ = other.class_;
  }
  return *this;
}

Block::~Block() { Release(); }

}  // namespace lowbit
