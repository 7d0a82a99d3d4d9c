// tensor/: named views into mapped checkpoint files.
// Offsets and sizes arrive from lib/checkpoint, which parsed the header; they are checked again here because a file is
// hostile and memory safety must not depend on the caller.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/status.h"

namespace lowbit {

// A read-only mapping of a whole file.
class MappedFile {
 public:
  // IO if the file cannot be opened or mapped; the message names the path.
  static Result<std::shared_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  // As it was when it was mapped.
  const FileIdentity& identity() const { return identity_; }

  // Brings these bytes into memory and into the tables of the process. False where reading them would fail (a file cut short, a disk
  // error), as far as the system tells (Linux 5.14 and newer).
  bool Populate(const uint8_t* begin, size_t size) const;

  // How many bytes of the mapping lie in huge pages now; 0 where the system does not tell.
  size_t HugePageBytes() const;

  // Tells the system that these bytes will not be read again soon (after packing), so that resident memory holds one copy.
  void DontNeed(const uint8_t* begin, size_t size) const;

 private:
  MappedFile() = default;
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  FileIdentity identity_;
};

// shape is in PyTorch order (outermost first); the last dimension is contiguous. Block types count elements, not bytes.
struct Tensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;
  size_t bytes = 0;
  std::shared_ptr<MappedFile> file;

  int64_t elements() const;
};

// One row of the typed tensor table that lib/checkpoint hands over.
struct TensorEntry {
  std::string name;
  int file = 0;       // index into the list of paths
  std::string dtype;  // a name of dtype.def
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // bytes from the start of the file
  uint64_t bytes = 0;
};

// Maps the files and resolves every entry. CORRUPT_FILE, naming file and tensor, when an entry does not fit its file or
// its byte count does not follow from dtype and shape.
Result<std::vector<Tensor>> OpenTensors(const std::vector<std::string>& paths, const std::vector<TensorEntry>& entries);

}  // namespace lowbit
