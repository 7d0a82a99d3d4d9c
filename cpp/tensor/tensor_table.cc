// tensor/: the typed tensor table against the mapped bytes.
#include <utility>

#include "tensor/tensor.h"

namespace lowbit {
namespace {

// Element count of a shape, or -1 when a dimension is negative or the product exceeds what any file could hold.
int64_t CheckedElements(const std::vector<int64_t>& shape) {
  constexpr int64_t kLimit = int64_t(1) << 48;
  int64_t count = 1;
  for (int64_t d : shape) {
    if (d < 0 || d > kLimit) return -1;
    if (d != 0 && count > kLimit / d) return -1;
    count *= d;
  }
  return count;
}

}  // namespace

int64_t Tensor::elements() const { return CheckedElements(shape); }

Result<std::vector<Tensor>> OpenTensors(const std::vector<std::string>& paths, const std::vector<TensorEntry>& entries) {
  std::vector<std::shared_ptr<MappedFile>> files;
  files.reserve(paths.size());
  for (const std::string& path : paths) {
    LOWBIT_ASSIGN_OR_RETURN(std::shared_ptr<MappedFile> file, MappedFile::Open(path));
    files.push_back(std::move(file));
  }
  std::vector<Tensor> tensors;
  tensors.reserve(entries.size());
  for (const TensorEntry& entry : entries) {
    const char* name = entry.name.c_str();
    if (entry.file < 0 || entry.file >= static_cast<int>(files.size()))
      return Error(Code::kInvalidArgument, "Tensor %s names file number %d of %zu", name, entry.file, files.size());
    const std::shared_ptr<MappedFile>& file = files[static_cast<size_t>(entry.file)];
    const char* path = file->path().c_str();
    LOWBIT_ASSIGN_OR_RETURN(const DType dtype, ParseDType(entry.dtype));
    const DTypeInfo& info = Info(dtype);
    const int64_t elements = CheckedElements(entry.shape);
    const int64_t row = entry.shape.empty() ? 1 : entry.shape.back();
    if (elements < 0 || row % info.block_values != 0)
      return Error(Code::kCorruptFile, "%s: the shape of tensor %s is impossible for type %s", path, name, info.name);
    const uint64_t expected = static_cast<uint64_t>(elements / info.block_values) * static_cast<uint64_t>(info.block_bytes);
    if (expected != entry.bytes)
      return Error(Code::kCorruptFile, "%s: tensor %s should have %llu bytes by its shape and type %s but has %llu", path, name,
                   static_cast<unsigned long long>(expected), info.name, static_cast<unsigned long long>(entry.bytes));
    if (entry.offset > file->size() || entry.bytes > file->size() - entry.offset)
      return Error(Code::kCorruptFile, "%s: tensor %s reaches beyond the end of the file; the file is truncated, fetch it again", path,
                   name);
    Tensor tensor;
    tensor.name = entry.name;
    tensor.dtype = dtype;
    tensor.shape = entry.shape;
    tensor.data = file->data() + entry.offset;
    tensor.bytes = static_cast<size_t>(entry.bytes);
    tensor.file = file;
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace lowbit
