// tensor/: mapping of whole files.
#include <utility>

#include "tensor/tensor.h"

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#endif

namespace lowbit {

#if defined(_WIN32)

Result<std::shared_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  const int length = MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, nullptr, 0);
  std::wstring wide(static_cast<size_t>(length > 0 ? length : 1), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, wide.data(), length);
  HANDLE handle =
      CreateFileW(wide.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  if (handle == INVALID_HANDLE_VALUE) return Error(Code::kIo, "Cannot open %s (Windows error %lu)", path.c_str(), GetLastError());
  LARGE_INTEGER size;
  if (!GetFileSizeEx(handle, &size)) {
    CloseHandle(handle);
    return Error(Code::kIo, "Cannot read the size of %s", path.c_str());
  }
  std::shared_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  file->size_ = static_cast<size_t>(size.QuadPart);
  const Result<FileIdentity> identity = IdentifyFile(path, reinterpret_cast<intptr_t>(handle));
  if (!identity.ok()) {
    CloseHandle(handle);
    return identity.status();
  }
  file->identity_ = identity.value();
  if (file->size_ > 0) {
    HANDLE mapping = CreateFileMappingW(handle, nullptr, PAGE_READONLY, 0, 0, nullptr);
    if (mapping != nullptr) {
      file->data_ = static_cast<const uint8_t*>(MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0));
      CloseHandle(mapping);  // the view keeps the mapping alive
    }
    if (file->data_ == nullptr) {
      CloseHandle(handle);
      return Error(Code::kIo, "Cannot map %s (Windows error %lu)", path.c_str(), GetLastError());
    }
  }
  CloseHandle(handle);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) UnmapViewOfFile(data_);
}

bool MappedFile::Populate(const uint8_t*, size_t) const { return true; }

size_t MappedFile::HugePageBytes() const { return 0; }

void MappedFile::DontNeed(const uint8_t*, size_t) const {}

#else

Result<std::shared_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not stop us
  if (fd < 0) return Error(Code::kIo, "Cannot open %s: %s", path.c_str(), std::strerror(errno));
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return Error(Code::kIo, "Cannot map %s: it is not a regular file", path.c_str());
  }
  std::shared_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  file->size_ = static_cast<size_t>(info.st_size);
  const Result<FileIdentity> identity = IdentifyFile(path, fd);
  if (!identity.ok()) {
    close(fd);
    return identity.status();
  }
  file->identity_ = identity.value();
  if (file->size_ > 0) {
    void* p = mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
      const int reason = errno;
      close(fd);
      return Error(Code::kIo, "Cannot map %s: %s", path.c_str(), std::strerror(reason));
    }
    file->data_ = static_cast<const uint8_t*>(p);
  }
  close(fd);  // the mapping keeps the file open
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

bool MappedFile::Populate(const uint8_t* begin, size_t size) const {
#if defined(MADV_POPULATE_READ)
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(begin) / page * page, last = reinterpret_cast<uintptr_t>(begin) + size;
  while (madvise(reinterpret_cast<void*>(first), last - first, MADV_POPULATE_READ) != 0) {
    if (errno == EINVAL) return true;  // an older kernel
    if (errno != EINTR && errno != EAGAIN) return false;
  }
#else
  (void)begin;
  (void)size;
#endif
  return true;
}

size_t MappedFile::HugePageBytes() const {
  size_t bytes = 0;
#if defined(__linux__)
  // A block of lines per mapping: "first-last permissions ..." in hexadecimal, then "Name: value kB".
  std::ifstream maps("/proc/self/smaps");
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data_);
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long first, last;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &first, &last) == 2) ours = first >= begin && first < begin + size_;
    unsigned long kilobytes;
    if (ours && std::sscanf(line.c_str(), "FilePmdMapped: %lu", &kilobytes) == 1) bytes += size_t(kilobytes) << 10;
  }
#endif
  return bytes;
}

void MappedFile::DontNeed(const uint8_t* begin, size_t size) const {
  // Only whole pages inside the range; clean file pages come back from disk if they are read after all.
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
  const uintptr_t last = reinterpret_cast<uintptr_t>(begin + size) / page * page;
  if (last > first) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

#endif

}  // namespace lowbit
