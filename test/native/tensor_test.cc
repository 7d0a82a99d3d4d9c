// test/native: the tensor table against hostile entries.
#include "tensor/tensor.h"

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "check.h"

using namespace lowbit;

namespace {

struct TemporaryFile {
  std::filesystem::path path;
  explicit TemporaryFile(size_t bytes) {
    path = std::filesystem::temp_directory_path() / ("lowbit_tensor_test_" + std::to_string(reinterpret_cast<uintptr_t>(this)));
    std::ofstream(path, std::ios::binary) << std::string(bytes, '\1');
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
};

Status Open(const TemporaryFile& file, const TensorEntry& entry) { return OpenTensors({file.path.string()}, {entry}).status(); }

}  // namespace

LOWBIT_TEST(TensorTableAcceptsWhatFits) {
  TemporaryFile file(100);
  const auto tensors = OpenTensors(
      {file.path.string()}, {{"a", 0, "F32", {2, 5}, 60, 40}, {"b", 0, "Q4_0", {3, 32}, 6, 54}, {"empty", 0, "F16", {0, 4}, 100, 0}});
  EXPECT(tensors.ok());
  EXPECT(tensors.value()[0].elements() == 10 && tensors.value()[0].data[39] == 1);
}

LOWBIT_TEST(TensorTableRefusesWhatDoesNot) {
  TemporaryFile file(100);
  EXPECT_ERROR(Open(file, {"late", 0, "F32", {10}, 61, 40}), Code::kCorruptFile, "tensor late reaches beyond the end");
  EXPECT_ERROR(Open(file, {"far", 0, "F32", {10}, ~uint64_t(0) - 3, 40}), Code::kCorruptFile, "reaches beyond");
  EXPECT_ERROR(Open(file, {"bytes", 0, "F32", {10}, 0, 44}), Code::kCorruptFile, "should have 40 bytes");
  EXPECT_ERROR(Open(file, {"huge", 0, "F32", {int64_t(1) << 40, int64_t(1) << 40}, 0, 0}), Code::kCorruptFile, "impossible");
  EXPECT_ERROR(Open(file, {"negative", 0, "F32", {-4}, 0, 16}), Code::kCorruptFile, "impossible");
  EXPECT_ERROR(Open(file, {"block", 0, "Q4_0", {33}, 0, 18}), Code::kCorruptFile, "impossible");
  EXPECT_ERROR(Open(file, {"type", 0, "IQ1_S", {32}, 0, 18}), Code::kUnsupported, "IQ1_S");
  EXPECT_ERROR(Open(file, {"file", 1, "F32", {1}, 0, 4}), Code::kInvalidArgument, "file number 1");
  EXPECT_ERROR(OpenTensors({"/does/not/exist.safetensors"}, {}).status(), Code::kIo, "/does/not/exist.safetensors");
  EXPECT_ERROR(OpenTensors({std::filesystem::temp_directory_path().string()}, {}).status(), Code::kIo, "not a regular file");
}
