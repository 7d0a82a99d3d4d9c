// base/alloc: large, aligned, accounted memory.
// Blocks come straight from mmap/VirtualAlloc: Electron's allocator kills posix_memalign of 1 GiB and more, and freed
// blocks must go back to the system on dispose. Every block is counted under one class.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"

namespace lowbit {

enum class MemoryClass { kWeights, kKvCache, kScratch };
constexpr int kMemoryClasses = 3;

// Bytes now held by Blocks of a class, over the whole process.
size_t MemoryInUse(MemoryClass memory_class);

// An owned, zero-filled, 2 MiB-aligned (small ones: page-aligned) span of bytes. Movable, not copyable.
class Block {
 public:
  Block() = default;
  Block(Block&& other) noexcept;
  Block& operator=(Block&& other) noexcept;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block();

  // OUT_OF_MEMORY if the system refuses; `what` (a tensor or buffer name) appears in the message. size 0 gives an empty block.
  static Result<Block> Allocate(size_t size, MemoryClass memory_class, const char* what);

  // Gives the whole pages inside [begin, begin + size) of this block back to the system; their bytes are lost and must not be used again.
  void Discard(const uint8_t* begin, size_t size);

  uint8_t* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  void Release();
  uint8_t* data_ = nullptr;
  size_t size_ = 0;       // as asked for
  size_t reserved_ = 0;   // what the system gave, to give back
  size_t discarded_ = 0;  // of it, given back before the end
  MemoryClass class_ = MemoryClass::kScratch;
};

}  // namespace lowbit
