// engine/container_source: types and sizes of the tensors checked, then handed to the packers of part/.
#include "engine/container_source.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace lowbit {
namespace {

// Tensors of one linear by number, checked.
struct Tensors {
  const std::vector<Tensor>& all;

  Result<std::span<const uint8_t>> Bytes(int index, DType dtype) const {
    if (index < 0) return std::span<const uint8_t>();
    const Tensor& t = all[static_cast<size_t>(index)];
    if (t.dtype == dtype) return std::span<const uint8_t>(t.data, t.bytes);
    return Error(Code::kCorruptFile, "%s: tensor %s has type %s where a lowbit container has %s", t.file->path().c_str(), t.name.c_str(),
                 Info(t.dtype).name, Info(dtype).name);
  }
  // Not aligned; their readers do not rely on it.
  Result<std::span<const int32_t>> Ints(int index) const {
    LOWBIT_ASSIGN_OR_RETURN(const std::span<const uint8_t> bytes, Bytes(index, DType::kI32));
    return std::span<const int32_t>(reinterpret_cast<const int32_t*>(bytes.data()), bytes.size() / 4);
  }
};

Status WrongSize(const char* name, const char* what) {
  return Error(Code::kCorruptFile, "The %s of %s have another size than its shape needs; get the files again or quantise the model again",
               what, name);
}

Result<std::vector<float>> InputScale(const Tensors& tensors, const WeightShape& shape, int index) {
  LOWBIT_ASSIGN_OR_RETURN(const std::span<const uint8_t> bytes, tensors.Bytes(index, DType::kF32));
  std::vector<float> scale(bytes.size() / 4);
  if (index >= 0 && scale.size() != static_cast<size_t>(shape.k)) return WrongSize(shape.name.c_str(), "input scales");
  if (!scale.empty()) std::memcpy(scale.data(), bytes.data(), bytes.size());
  for (size_t j = 0; j < scale.size(); ++j)
    if (!(scale[j] > 0 && std::isfinite(scale[j])))
      return Error(Code::kCorruptFile, "Input scale %zu of %s is %g; they must be positive and finite", j, shape.name.c_str(),
                   static_cast<double>(scale[j]));
  return scale;
}

Result<std::unique_ptr<Packer>> AffinePacker(const Tensors& tensors, const WeightShape& shape, const PartTensors& part) {
  ContainerAffine t;
  t.k = shape.k;
  t.all_rows = shape.n;
  t.n = part.rows < 0 ? shape.n : part.count;
  t.bits = part.bits;
  t.group_size = part.group_size;
  t.affine = part.affine;
  t.scale_bits = part.scale_bits;
  LOWBIT_ASSIGN_OR_RETURN(t.codes, tensors.Bytes(part.codes, DType::kU8));
  LOWBIT_ASSIGN_OR_RETURN(t.scales, tensors.Bytes(part.scales, DType::kF16));
  LOWBIT_ASSIGN_OR_RETURN(t.seconds, tensors.Bytes(part.seconds, part.affine == AffineKind::kMinimum ? DType::kF16 : DType::kU8));
  LOWBIT_ASSIGN_OR_RETURN(t.scale_codes, tensors.Bytes(part.scale_codes, DType::kU8));
  LOWBIT_ASSIGN_OR_RETURN(t.zero_codes, tensors.Bytes(part.zero_codes, DType::kU8));
  LOWBIT_ASSIGN_OR_RETURN(t.tiles, tensors.Bytes(part.tiles, DType::kF16));
  LOWBIT_ASSIGN_OR_RETURN(t.rows, tensors.Ints(part.rows));
  LOWBIT_ASSIGN_OR_RETURN(t.g_idx, tensors.Ints(part.g_idx));
  return ContainerPacker(shape.name.c_str(), t);
}

Result<Part> LowRankPart(const Tensors& tensors, const WeightShape& shape, const PartTensors& part) {
  LOWBIT_ASSIGN_OR_RETURN(const std::span<const uint8_t> a, tensors.Bytes(part.a, DType::kF16));
  LOWBIT_ASSIGN_OR_RETURN(const std::span<const uint8_t> b, tensors.Bytes(part.b, DType::kF16));
  const size_t rank = static_cast<size_t>(std::max(0, part.count));
  if (a.size() != rank * static_cast<size_t>(shape.k) * 2 || b.size() != rank * static_cast<size_t>(shape.n) * 2)
    return WrongSize(shape.name.c_str(), "low-rank factors");
  return PackLowRank(shape.name.c_str(), shape.n, shape.k, part.count, a.data(), b.data());
}

Result<Part> SparsePart(const Tensors& tensors, const WeightShape& shape, const PartTensors& part) {
  LOWBIT_ASSIGN_OR_RETURN(const std::span<const int32_t> offsets, tensors.Ints(part.row_offsets));
  LOWBIT_ASSIGN_OR_RETURN(const std::span<const uint8_t> values, tensors.Bytes(part.values, DType::kF16));
  LOWBIT_ASSIGN_OR_RETURN(const std::span<const uint8_t> bytes, tensors.Bytes(part.columns, DType::kU16));
  std::vector<int32_t> columns(bytes.size() / 2);
  if (bytes.size() != values.size()) return WrongSize(shape.name.c_str(), "sparse values");
  for (size_t i = 0; i < columns.size(); ++i) {
    uint16_t column;
    std::memcpy(&column, bytes.data() + 2 * i, 2);
    columns[i] = column;
  }
  return PackSparse(shape.name.c_str(), shape.n, shape.k, offsets, columns, values.data());
}

}  // namespace

Result<std::unique_ptr<Packer>> FirstPartPacker(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source) {
  const Tensors of{tensors};
  if (source.parts.front().kind != PartKind::kAffine)
    return Error(Code::kCorruptFile, "The first part of %s is not affine", shape.name.c_str());
  LOWBIT_ASSIGN_OR_RETURN(std::vector<float> scale, InputScale(of, shape, source.input_scale));
  LOWBIT_ASSIGN_OR_RETURN(std::unique_ptr<Packer> packer, AffinePacker(of, shape, source.parts.front()));
  packer->SetInputScale(std::move(scale));
  return packer;
}

Result<std::vector<OtherPacker>> OtherPackers(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source) {
  std::vector<OtherPacker> packers;
  if (source.parts.empty()) return packers;
  const Tensors of{tensors};
  std::vector<uint8_t> covered(static_cast<size_t>(shape.n), source.parts.front().rows < 0);
  for (size_t i = 0; i < source.parts.size(); ++i) {
    const PartTensors& from = source.parts[i];
    if (from.kind != PartKind::kAffine) continue;
    LOWBIT_ASSIGN_OR_RETURN(std::unique_ptr<Packer> packer, AffinePacker(of, shape, from));
    bool twice = from.rows < 0 && i > 0;
    for (const int32_t row : packer->part().rows) twice = covered[static_cast<size_t>(row)]++ != 0 || twice;
    if (twice) return Error(Code::kCorruptFile, "Two affine parts of %s hold the same row", shape.name.c_str());
    if (i == 0) continue;
    LOWBIT_ASSIGN_OR_RETURN(std::vector<float> scale, InputScale(of, shape, source.input_scale));
    packer->SetInputScale(std::move(scale));
    packers.push_back({std::move(packer), from.codes});
  }
  if (std::find(covered.begin(), covered.end(), 0) != covered.end())
    return Error(Code::kCorruptFile, "The affine parts of %s do not hold all of its rows", shape.name.c_str());
  return packers;
}

Result<std::vector<Part>> AddedParts(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source) {
  std::vector<Part> parts;
  const Tensors of{tensors};
  for (const PartTensors& from : source.parts) {
    if (from.kind == PartKind::kAffine) continue;
    LOWBIT_ASSIGN_OR_RETURN(Part part, from.kind == PartKind::kLowRank ? LowRankPart(of, shape, from) : SparsePart(of, shape, from));
    LOWBIT_ASSIGN_OR_RETURN(part.input_scale, InputScale(of, shape, source.input_scale));
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace lowbit
