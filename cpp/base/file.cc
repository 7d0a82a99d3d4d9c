// base/file: pread and friends, and their Windows counterparts.
#include "base/file.h"

#include <algorithm>
#include <chrono>
#include <utility>

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#endif

namespace lowbit {

uint64_t WallClockNs() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept { *this = std::move(other); }

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(target_, other.target_);
  std::swap(temporary_, other.temporary_);
  return *this;
}

AtomicFile::~AtomicFile() { Abandon(); }

namespace {
constexpr size_t kLargestTransfer = size_t(64) << 20;  // systems cut longer ones short
}

#if defined(_WIN32)

namespace {

std::wstring Wide(const std::string& text) {
  const int length = MultiByteToWideChar(CP_UTF8, 0, text.c_str(), -1, nullptr, 0);
  std::wstring wide(static_cast<size_t>(length > 0 ? length : 1), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, text.c_str(), -1, wide.data(), length);
  return wide;
}

Status Failure(const char* what, const std::string& path) {
  return Error(Code::kIo, "Cannot %s %s (Windows error %lu)", what, path.c_str(), GetLastError());
}

HANDLE OpenHandle(const std::string& path) {
  return CreateFileW(Wide(path).c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr, OPEN_EXISTING,
                     FILE_ATTRIBUTE_NORMAL, nullptr);
}

}  // namespace

Result<FileIdentity> IdentifyFile(const std::string& path, intptr_t open_file) {
  BY_HANDLE_FILE_INFORMATION info;
  if (GetFileInformationByHandle(reinterpret_cast<HANDLE>(open_file), &info) == 0) return Failure("look at", path);
  constexpr uint64_t kUnixEpoch = 116444736000000000u;  // in 100 ns since 1601
  const uint64_t modified = static_cast<uint64_t>(info.ftLastWriteTime.dwHighDateTime) << 32 | info.ftLastWriteTime.dwLowDateTime;
  FileIdentity identity;
  identity.size = static_cast<uint64_t>(info.nFileSizeHigh) << 32 | info.nFileSizeLow;
  identity.modified = (modified - kUnixEpoch) * 100;
  identity.inode = static_cast<uint64_t>(info.nFileIndexHigh) << 32 | info.nFileIndexLow;
  return identity;
}

Result<FileIdentity> IdentifyFile(const std::string& path) {
  const HANDLE handle = OpenHandle(path);
  if (handle == INVALID_HANDLE_VALUE) return Failure("open", path);
  Result<FileIdentity> identity = IdentifyFile(path, reinterpret_cast<intptr_t>(handle));
  CloseHandle(handle);
  return identity;
}

Result<AtomicFile> AtomicFile::Create(const std::string& target) {
  AtomicFile file;
  file.target_ = target;
  const std::string temporary = target + ".tmp";
  const HANDLE handle =
      CreateFileW(Wide(temporary).c_str(), GENERIC_WRITE | DELETE, 0, nullptr, CREATE_ALWAYS, FILE_ATTRIBUTE_NORMAL, nullptr);
  if (handle == INVALID_HANDLE_VALUE) {
    if (GetLastError() == ERROR_SHARING_VIOLATION)
      return Error(Code::kIo, "Cannot write %s: another process or load is writing it", temporary.c_str());
    return Failure("write", temporary);
  }
  file.handle_ = reinterpret_cast<intptr_t>(handle);
  file.temporary_ = temporary;
  return file;
}

Status AtomicFile::Append(const void* data, size_t size) {
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  while (size > 0) {
    DWORD done = 0;
    const DWORD wanted = static_cast<DWORD>(std::min(size, kLargestTransfer));
    if (!WriteFile(reinterpret_cast<HANDLE>(handle_), bytes, wanted, &done, nullptr) || done == 0) return Failure("write", temporary_);
    bytes += done;
    size -= done;
  }
  return Status::Ok();
}

Status AtomicFile::Commit() {
  if (!FlushFileBuffers(reinterpret_cast<HANDLE>(handle_))) return Failure("write", temporary_);
  CloseHandle(reinterpret_cast<HANDLE>(handle_));
  handle_ = -1;
  if (!MoveFileExW(Wide(temporary_).c_str(), Wide(target_).c_str(), MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH)) {
    const Status failure = Failure("replace", target_);
    DeleteFileW(Wide(temporary_).c_str());
    return failure;
  }
  return Status::Ok();
}

void AtomicFile::Abandon() {
  if (handle_ == -1) return;
  CloseHandle(reinterpret_cast<HANDLE>(handle_));
  handle_ = -1;
  DeleteFileW(Wide(temporary_).c_str());
}

#else

namespace {

Status Failure(const char* what, const std::string& path, int reason) {
  return Error(Code::kIo, "Cannot %s %s: %s", what, path.c_str(), std::strerror(reason));
}

uint64_t Nanoseconds(const struct timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1000000000u + static_cast<uint64_t>(time.tv_nsec);
}

FileIdentity IdentityOf(const struct stat& info) {
#if defined(__APPLE__)
  const struct timespec &modified = info.st_mtimespec, &changed = info.st_ctimespec;
#else
  const struct timespec &modified = info.st_mtim, &changed = info.st_ctim;
#endif
  return {static_cast<uint64_t>(info.st_size), Nanoseconds(modified), Nanoseconds(changed), static_cast<uint64_t>(info.st_ino)};
}

}  // namespace

Result<FileIdentity> IdentifyFile(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return Failure("look at", path, errno);
  return IdentityOf(info);
}

Result<FileIdentity> IdentifyFile(const std::string& path, intptr_t open_file) {
  struct stat info;
  if (fstat(static_cast<int>(open_file), &info) != 0) return Failure("look at", path, errno);
  return IdentityOf(info);
}

Result<AtomicFile> AtomicFile::Create(const std::string& target) {
  AtomicFile file;
  file.target_ = target;
  const std::string temporary = target + ".tmp";
  // Between open and lock another writer may have moved its finished file away from this name: then the lock is on that one, and the
  // name is free again.
  for (int attempt = 0; attempt < 8; ++attempt) {
    const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (fd < 0) return Failure("write", temporary, errno);
    struct stat mine, named;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      const int reason = errno;
      close(fd);
      if (reason != EWOULDBLOCK) return Failure("lock", temporary, reason);
      return Error(Code::kIo, "Cannot write %s: another process or load is writing it", temporary.c_str());
    }
    if (fstat(fd, &mine) != 0 || !S_ISREG(mine.st_mode)) {
      close(fd);
      return Error(Code::kIo, "Cannot write %s: it is not a regular file", temporary.c_str());
    }
    if (lstat(temporary.c_str(), &named) != 0 || named.st_ino != mine.st_ino || named.st_dev != mine.st_dev) {
      close(fd);
      continue;
    }
    file.handle_ = fd;
    file.temporary_ = temporary;
    if (ftruncate(fd, 0) != 0) return Failure("write", temporary, errno);
    return file;
  }
  return Error(Code::kIo, "Cannot write %s: other processes or loads keep writing it", temporary.c_str());
}

Status AtomicFile::Append(const void* data, size_t size) {
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  while (size > 0) {
    const ssize_t done = write(static_cast<int>(handle_), bytes, std::min(size, kLargestTransfer));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return Failure("write", temporary_, done < 0 ? errno : ENOSPC);
    bytes += done;
    size -= static_cast<size_t>(done);
  }
  return Status::Ok();
}

Status AtomicFile::Commit() {
  if (fsync(static_cast<int>(handle_)) != 0) return Failure("write", temporary_, errno);
  if (std::rename(temporary_.c_str(), target_.c_str()) != 0) return Failure("replace", target_, errno);
  close(static_cast<int>(handle_));
  handle_ = -1;
  const size_t slash = target_.find_last_of('/');
  const std::string folder = slash == std::string::npos ? "." : target_.substr(0, slash + 1);
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    (void)fsync(fd);  // some file systems cannot; the file itself is complete either way
    close(fd);
  }
  return Status::Ok();
}

void AtomicFile::Abandon() {
  if (handle_ == -1) return;
  (void)unlink(temporary_.c_str());  // before the lock goes, so that nobody else's file is removed
  close(static_cast<int>(handle_));
  handle_ = -1;
}

#endif

}  // namespace lowbit
