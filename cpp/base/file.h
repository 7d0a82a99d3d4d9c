// base/file: what identifies a file, and files written whole or not at all. Reading is mapping, which is tensor/'s business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/status.h"

namespace lowbit {

// What tells two states of a file apart without reading it. Times in ns since 1970; `changed` is the inode's (POSIX ctime, which no
// program can set), 0 on Windows.
struct FileIdentity {
  uint64_t size = 0, modified = 0, changed = 0, inode = 0;
  bool operator==(const FileIdentity&) const = default;
};

// IO naming the path. Follows links. The second form takes an open file: a descriptor, or a HANDLE.
Result<FileIdentity> IdentifyFile(const std::string& path);
Result<FileIdentity> IdentifyFile(const std::string& path, intptr_t open_file);

// The system clock in the unit of FileIdentity::modified.
uint64_t WallClockNs();

// Writes <target>.tmp, locked against other writers, and moves it over the target when it is complete. The lock goes with the process,
// and a .tmp that a crash left behind is written over by the next one.
class AtomicFile {
 public:
  AtomicFile() = default;
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile();  // removes the temporary file unless committed

  // IO; the message says so when another writer is at work.
  static Result<AtomicFile> Create(const std::string& target);
  Status Append(const void* data, size_t size);
  // Syncs the bytes, moves the file over the target, syncs the folder.
  Status Commit();

 private:
  void Abandon();
  intptr_t handle_ = -1;
  std::string target_, temporary_;
};

}  // namespace lowbit
