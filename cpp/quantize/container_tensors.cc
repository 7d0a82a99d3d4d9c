// quantize/container_tensors: codes to bit streams, scales to f16, and a record for every part.
#include "quantize/container_tensors.h"

#include <cstring>
#include <utility>

#include "base/half.h"
#include "part/bit_stream.h"

namespace lowbit {
namespace {

class Writer {
 public:
  void Start(PartKind kind, int bits, int group_size, AffineKind affine, int scale_bits, int32_t flags, size_t count) {
    prefix_ = std::to_string(records_.size() / kPartRecord) + ".";
    for (const int32_t value :
         {static_cast<int32_t>(kind), bits, group_size, static_cast<int32_t>(affine), scale_bits, flags, static_cast<int32_t>(count), 0})
      records_.push_back(value);
  }

  // [rows] streams of `count` codes each.
  void Streams(const char* part, const std::vector<uint8_t>& codes, size_t rows, size_t count, int bits) {
    const size_t bytes = StreamBytes(count, bits);
    StoredTensor& t = Add(part, DType::kU8, {rows, bytes}, rows * bytes);
    for (size_t r = 0; r < rows; ++r) WriteStream(codes.data() + r * count, count, bits, t.bytes.data() + r * bytes);
  }

  void Halves(const char* part, const std::vector<float>& values, std::vector<size_t> shape) {
    StoredTensor& t = Add(part, DType::kF16, std::move(shape), values.size() * 2);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t half = FloatToHalf(values[i]);
      std::memcpy(t.bytes.data() + 2 * i, &half, 2);
    }
  }

  void Ints(const char* part, const std::vector<int32_t>& values) {
    Copy(Add(part, DType::kI32, {values.size()}, values.size() * 4), values.data());
  }

  void Columns(const std::vector<int32_t>& columns) {
    StoredTensor& t = Add("columns", DType::kU16, {columns.size()}, columns.size() * 2);
    for (size_t i = 0; i < columns.size(); ++i) {
      const uint16_t column = static_cast<uint16_t>(columns[i]);
      std::memcpy(t.bytes.data() + 2 * i, &column, 2);
    }
  }

  std::vector<StoredTensor> Finish(const std::vector<float>& input_scale) {
    std::vector<StoredTensor> all;
    prefix_.clear();
    std::swap(all, tensors_);
    Copy(Add("parts", DType::kI32, {records_.size() / kPartRecord, size_t{kPartRecord}}, records_.size() * 4), records_.data());
    if (!input_scale.empty()) Copy(Add("input_scale", DType::kF32, {input_scale.size()}, input_scale.size() * 4), input_scale.data());
    for (StoredTensor& t : all) tensors_.push_back(std::move(t));
    return std::move(tensors_);
  }

 private:
  StoredTensor& Add(const char* part, DType dtype, std::vector<size_t> shape, size_t bytes) {
    StoredTensor t;
    t.part = prefix_ + part;
    t.dtype = dtype;
    for (const size_t side : shape) t.shape.push_back(static_cast<int64_t>(side));
    t.bytes.resize(bytes);
    tensors_.push_back(std::move(t));
    return tensors_.back();
  }
  template <typename T>
  static void Copy(StoredTensor& t, const T* values) {
    if (!t.bytes.empty()) std::memcpy(t.bytes.data(), values, t.bytes.size());
  }

  std::string prefix_;
  std::vector<int32_t> records_;
  std::vector<StoredTensor> tensors_;
};

void WriteTiles(const CodedScales& coded, size_t tiles, size_t groups, Writer& writer) {
  std::vector<float> all;
  for (size_t i = 0; i < tiles * groups; ++i)
    for (const std::vector<float>* values : {&coded.scale_step, &coded.scale_zero, &coded.zero_step, &coded.zero_zero})
      all.push_back((*values)[i]);
  writer.Halves("tiles", all, {tiles, groups, 4});
}

}  // namespace

std::vector<StoredTensor> ContainerTensors(const LinearParts& linear) {
  const size_t n = static_cast<size_t>(linear.n), k = static_cast<size_t>(linear.k);
  Writer writer;
  for (const AffineCodes& a : linear.affine) {
    const size_t rows = a.rows.empty() ? n : a.rows.size(), groups = static_cast<size_t>(a.groups);
    const int32_t flags = (a.rows.empty() ? 0 : kPartHasRows) | (a.g_idx.empty() ? 0 : kPartHasOrder);
    writer.Start(PartKind::kAffine, a.bits, a.group_size, a.affine, a.coded.bits, flags, rows);
    writer.Streams("codes", a.codes, rows, k, a.bits);
    if (a.coded.bits > 0) {
      writer.Streams("scale_codes", a.coded.scale_codes, rows, groups, a.coded.bits);
      writer.Streams("zero_codes", a.coded.zero_codes, rows, groups, a.coded.bits);
      WriteTiles(a.coded, (rows + 15) / 16, groups, writer);
    } else {
      writer.Halves("scales", a.scales, {rows, groups});
      if (a.affine == AffineKind::kMinimum) writer.Halves("minima", a.seconds, {rows, groups});
      if (a.affine == AffineKind::kZeroPoint)
        writer.Streams("zeros", std::vector<uint8_t>(a.seconds.begin(), a.seconds.end()), rows, groups, a.bits);
    }
    if (!a.rows.empty()) writer.Ints("rows", a.rows);
    if (!a.g_idx.empty()) writer.Ints("g_idx", a.g_idx);
  }
  if (linear.low_rank.rank > 0) {
    const size_t rank = static_cast<size_t>(linear.low_rank.rank);
    writer.Start(PartKind::kLowRank, 0, 0, AffineKind::kSymmetric, 0, 0, rank);
    writer.Halves("a", linear.low_rank.a, {rank, k});
    writer.Halves("b", linear.low_rank.b, {n, rank});
  }
  if (!linear.sparse.columns.empty()) {
    writer.Start(PartKind::kSparse, 0, 0, AffineKind::kSymmetric, 0, 0, linear.sparse.columns.size());
    writer.Ints("row_offsets", linear.sparse.row_offsets);
    writer.Columns(linear.sparse.columns);
    writer.Halves("values", linear.sparse.values, {linear.sparse.values.size()});
  }
  return writer.Finish(linear.input_scale);
}

}  // namespace lowbit
