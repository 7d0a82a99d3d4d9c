// engine/source: shapes and types of the tensors of a weight checked against the plan, and the packer that fits them.
#include "engine/source.h"

#include <algorithm>
#include <string>

#include "engine/container_source.h"

namespace lowbit {

Result<RowMap> RotaryRowMap(const char* name, int n, int heads) {
  if (heads <= 0) return RowMap();
  if (n % heads != 0 || (n / heads) % 2 != 0)
    return Error(Code::kInvalidArgument, "Tensor %s has %d rows, which do not split into %d heads of even size", name, n, heads);
  const int dim = n / heads, half = dim / 2;
  RowMap map(static_cast<size_t>(n));
  for (int h = 0; h < heads; ++h)
    for (int p = 0; p < 2; ++p)
      for (int i = 0; i < half; ++i) map[static_cast<size_t>(h * dim + p * half + i)] = h * dim + 2 * i + p;
  return map;
}

Status CheckShape(const Tensor& t, std::initializer_list<int64_t> shape) {
  bool same = t.shape.size() == shape.size() && std::equal(shape.begin(), shape.end(), t.shape.begin());
  if (same) return Status::Ok();
  std::string have, want;
  for (int64_t d : t.shape) have += (have.empty() ? "" : ", ") + std::to_string(d);
  for (int64_t d : shape) want += (want.empty() ? "" : ", ") + std::to_string(d);
  return Error(Code::kCorruptFile, "%s: tensor %s has shape [%s] where the model needs [%s]", t.file->path().c_str(), t.name.c_str(),
               have.c_str(), want.c_str());
}

namespace {

// The words of an I32 tensor. They need not be aligned, as safetensors promises nothing; the packer reads them byte-wise.
std::span<const int32_t> Words(const Tensor& t) { return {reinterpret_cast<const int32_t*>(t.data), t.bytes / sizeof(int32_t)}; }

Status CheckWords(const Tensor& t) {
  if (t.dtype == DType::kI32) return Status::Ok();
  return Error(Code::kCorruptFile, "%s: tensor %s has type %s where packed codes have I32", t.file->path().c_str(), t.name.c_str(),
               Info(t.dtype).name);
}

// AWQ and compressed-tensors: which sizes the tensors must have is the packer's business.
Result<std::unique_ptr<Packer>> WordsPacker(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source,
                                            const RowMap& map) {
  const auto tensor = [&](int index) -> const Tensor& { return tensors[static_cast<size_t>(index)]; };
  WordTensors words;
  words.n = shape.n;
  words.k = shape.k;
  words.bits = source.bits;
  words.group_size = source.group_size;
  words.layout = *source.layout;
  LOWBIT_RETURN_IF_ERROR(CheckWords(tensor(source.qweight)));
  words.codes = Words(tensor(source.qweight));
  if (source.qzeros >= 0) {
    const Tensor& zeros = tensor(source.qzeros);
    if (zeros.dtype == DType::kI8) {
      words.byte_zeros = {reinterpret_cast<const int8_t*>(zeros.data), zeros.bytes};
    } else {
      LOWBIT_RETURN_IF_ERROR(CheckWords(zeros));
      words.zeros = Words(zeros);
    }
  }
  if (source.g_idx >= 0) {
    LOWBIT_RETURN_IF_ERROR(CheckWords(tensor(source.g_idx)));
    words.g_idx = Words(tensor(source.g_idx));
  }
  words.scales = {tensor(source.scales).data, tensor(source.scales).bytes};
  words.scales_dtype = tensor(source.scales).dtype;
  return WordPacker(shape.name.c_str(), words, map);
}

Result<std::unique_ptr<Packer>> StoredPacker(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source) {
  const auto tensor = [&](int index) -> const Tensor& { return tensors[static_cast<size_t>(index)]; };
  const char* name = shape.name.c_str();
  if (!source.parts.empty()) return FirstPartPacker(tensors, shape, source);
  LOWBIT_ASSIGN_OR_RETURN(const RowMap map, RotaryRowMap(name, shape.n, source.rope_heads));
  if (source.tensor >= 0) {
    const Tensor& t = tensor(source.tensor);
    const bool transposed = source.transposed;
    LOWBIT_RETURN_IF_ERROR(transposed ? CheckShape(t, {shape.k, shape.n}) : CheckShape(t, {shape.n, shape.k}));
    switch (t.dtype) {
      case DType::kF32:
      case DType::kF16:
      case DType::kBF16:
        return transposed ? TransposedPacker(t.name.c_str(), t.dtype, t.data, shape.n, shape.k, map)
                          : DensePacker(t.name.c_str(), t.dtype, t.data, shape.n, shape.k, map);
      case DType::kF64:
      case DType::kI8:
      case DType::kU8:
      case DType::kI16:
      case DType::kU16:
      case DType::kI32:
      case DType::kI64:
        return Error(Code::kCorruptFile,
                     "%s: tensor %s has type %s, which cannot hold weights; expected F32, F16, BF16 or a GGUF block type",
                     t.file->path().c_str(), t.name.c_str(), Info(t.dtype).name);
      default:
        if (transposed)
          return Error(Code::kUnsupported, "%s: tensor %s has type %s, whose blocks cannot be read transposed; expected F32, F16 or BF16",
                       t.file->path().c_str(), t.name.c_str(), Info(t.dtype).name);
        return GgufPacker(t.name.c_str(), t.dtype, t.data, shape.n, shape.k, map);
    }
  }
  if (source.layout.has_value()) return WordsPacker(tensors, shape, source, map);
  GptqTensors g;
  g.n = shape.n;
  g.k = shape.k;
  g.bits = source.bits;
  g.group_size = source.group_size;
  g.zero_offset = source.zero_offset;
  if (g.bits != 2 && g.bits != 3 && g.bits != 4 && g.bits != 8)
    return Error(Code::kUnsupported, "%s: GPTQ with %d bits is not supported; use 2, 3, 4 or 8", name, g.bits);
  if (g.group_size <= 0) return Error(Code::kInvalidArgument, "%s: the GPTQ group size must be positive", name);
  const int64_t groups = (static_cast<int64_t>(g.k) + g.group_size - 1) / g.group_size;
  const Tensor &qw = tensor(source.qweight), &qz = tensor(source.qzeros), &sc = tensor(source.scales);
  LOWBIT_RETURN_IF_ERROR(CheckShape(qw, {static_cast<int64_t>(g.k) * g.bits / 32, g.n}));
  LOWBIT_RETURN_IF_ERROR(CheckShape(qz, {groups, static_cast<int64_t>(g.n) * g.bits / 32}));
  LOWBIT_RETURN_IF_ERROR(CheckShape(sc, {groups, g.n}));
  std::vector<const Tensor*> words = {&qw, &qz};
  if (source.g_idx >= 0) words.push_back(&tensor(source.g_idx));
  for (const Tensor* t : words)
    if (t->dtype != DType::kI32)
      return Error(Code::kCorruptFile, "%s: tensor %s has type %s where a GPTQ checkpoint has I32", t->file->path().c_str(),
                   t->name.c_str(), Info(t->dtype).name);
  g.qweight = Words(qw);
  g.qzeros = Words(qz);
  if (source.g_idx >= 0) {
    LOWBIT_RETURN_IF_ERROR(CheckShape(tensor(source.g_idx), {g.k}));
    g.g_idx = Words(tensor(source.g_idx));
  }
  g.scales = std::span<const uint8_t>(sc.data, sc.bytes);
  g.scales_dtype = sc.dtype;
  return GptqPacker(name, g, map);
}

}  // namespace

Result<std::unique_ptr<Packer>> SourcePacker(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source,
                                             const KernelTable& kernels) {
  Result<std::unique_ptr<Packer>> stored = StoredPacker(tensors, shape, source);
  if (!stored.ok() || source.round_bits == 0) return stored;
  if (!source.parts.empty())
    return Error(Code::kUnsupported, "%s is stored in parts and cannot be rounded to %d bits; leave lmHeadBits out", shape.name.c_str(),
                 source.round_bits);
  return RequantizingPacker(shape.name.c_str(), std::move(stored.value()), source.round_bits, kernels.unpack_panel);
}

}  // namespace lowbit
