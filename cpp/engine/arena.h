// engine/arena: the memory that holds the packed weights of a model: a block of its own, or a mapped packed-weight cache.
#pragma once

#include <memory>
#include <utility>

#include "base/alloc.h"
#include "tensor/tensor.h"

namespace lowbit {

class Arena {
 public:
  Arena() = default;
  explicit Arena(Block block) : block_(std::move(block)), data_(block_.data()), size_(block_.size()) {}
  // Bytes [offset, offset + size) of the file.
  Arena(std::shared_ptr<MappedFile> file, size_t offset, size_t size)
      : file_(std::move(file)), data_(file_->data() + offset), size_(size) {}

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  bool mapped() const { return file_ != nullptr; }

  // These bytes will not be read again; whole pages of them go back to the system.
  void Discard(const uint8_t* begin, size_t size) {
    if (mapped())
      file_->DontNeed(begin, size);
    else
      block_.Discard(begin, size);
  }

 private:
  Block block_;
  std::shared_ptr<MappedFile> file_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lowbit
