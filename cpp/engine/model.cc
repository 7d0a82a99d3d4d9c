// engine/model: from the typed tensor table to packed weights.
#include "engine/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

#include "base/config.h"
#include "base/cpu.h"
#include "base/half.h"
#include "kernel/chooser.h"

namespace lowbit {
namespace {

// GGUF llama files store row 2i+p of a head where Hugging Face has row p*half + i (p = 0, 1): packed row -> file row.
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

template <typename T>
Result<std::span<const T>> Words(const Tensor& t, std::vector<T>* copy) {
  // safetensors offsets need not be aligned to the element; a misaligned tensor is copied.
  if (reinterpret_cast<uintptr_t>(t.data) % alignof(T) == 0)
    return std::span<const T>(reinterpret_cast<const T*>(t.data), t.bytes / sizeof(T));
  copy->resize(t.bytes / sizeof(T));
  std::memcpy(copy->data(), t.data, t.bytes);
  return std::span<const T>(*copy);
}

Result<Part> LoadWeight(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source) {
  const auto tensor = [&](int index) -> const Tensor& { return tensors[static_cast<size_t>(index)]; };
  const char* name = shape.name.c_str();
  LOWBIT_ASSIGN_OR_RETURN(const RowMap map, RotaryRowMap(name, shape.n, source.rope_heads));
  if (source.tensor >= 0) {
    const Tensor& t = tensor(source.tensor);
    LOWBIT_RETURN_IF_ERROR(CheckShape(t, {shape.n, shape.k}));
    switch (t.dtype) {
      case DType::kF32:
      case DType::kF16:
      case DType::kBF16:
        return PackDense(t.name.c_str(), t.dtype, t.data, shape.n, shape.k, map);
      case DType::kF64:
      case DType::kI8:
      case DType::kU8:
      case DType::kI16:
      case DType::kI32:
      case DType::kI64:
        return Error(Code::kCorruptFile,
                     "%s: tensor %s has type %s, which cannot hold weights; expected F32, F16, BF16 or a GGUF block type",
                     t.file->path().c_str(), t.name.c_str(), Info(t.dtype).name);
      default:
        return PackGguf(t.name.c_str(), t.dtype, t.data, shape.n, shape.k, map);
    }
  }
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
  std::vector<int32_t> copy_w, copy_z, copy_g;
  LOWBIT_ASSIGN_OR_RETURN(g.qweight, Words<int32_t>(qw, &copy_w));
  LOWBIT_ASSIGN_OR_RETURN(g.qzeros, Words<int32_t>(qz, &copy_z));
  if (source.g_idx >= 0) {
    LOWBIT_RETURN_IF_ERROR(CheckShape(tensor(source.g_idx), {g.k}));
    LOWBIT_ASSIGN_OR_RETURN(g.g_idx, Words<int32_t>(tensor(source.g_idx), &copy_g));
  }
  g.scales = std::span<const uint8_t>(sc.data, sc.bytes);
  g.scales_dtype = sc.dtype;
  return PackGptq(name, g, map);
}

Result<std::vector<float>> LoadVector(const std::vector<Tensor>& tensors, const VectorShape& shape, const VectorSource& source) {
  const Tensor& t = tensors[static_cast<size_t>(source.tensor)];
  LOWBIT_RETURN_IF_ERROR(CheckShape(t, {shape.length}));
  std::vector<float> file(static_cast<size_t>(shape.length));
  for (size_t i = 0; i < file.size(); ++i) {
    uint16_t half;
    if (t.dtype == DType::kF32) {
      std::memcpy(&file[i], t.data + 4 * i, 4);
    } else if (t.dtype == DType::kF16 || t.dtype == DType::kBF16) {
      std::memcpy(&half, t.data + 2 * i, 2);
      file[i] = t.dtype == DType::kF16 ? HalfToFloat(half) : Bfloat16ToFloat(half);
    } else {
      return Error(Code::kUnsupported, "%s: tensor %s has type %s; norm weights and biases must be F32, F16 or BF16",
                   t.file->path().c_str(), t.name.c_str(), Info(t.dtype).name);
    }
    if (!std::isfinite(file[i]))
      return Error(Code::kCorruptFile, "%s: tensor %s holds a NaN or infinity at element %zu", t.file->path().c_str(), t.name.c_str(), i);
  }
  LOWBIT_ASSIGN_OR_RETURN(const RowMap map, RotaryRowMap(t.name.c_str(), shape.length, source.rope_heads));
  std::vector<float> values(file.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = file[map.empty() ? i : static_cast<size_t>(map[i])] + source.addend;
  return values;
}

Status CheckIndices(const ModelSpec& spec) {
  const int count = static_cast<int>(spec.tensors.size());
  const auto bad = [&](int index, bool optional) { return index >= count || index < (optional ? -1 : 0); };
  if (spec.weights.size() != spec.plan.weights.size() || spec.vectors.size() != spec.plan.vectors.size())
    return Error(Code::kInvalidArgument, "The plan and its sources differ in number");
  for (const WeightSource& w : spec.weights) {
    const bool dense = w.tensor >= 0;
    if (dense ? bad(w.tensor, false) : bad(w.qweight, false) || bad(w.qzeros, false) || bad(w.scales, false) || bad(w.g_idx, true))
      return Error(Code::kInvalidArgument, "A weight of the plan names a tensor that is not in the table");
  }
  for (const VectorSource& v : spec.vectors)
    if (bad(v.tensor, false)) return Error(Code::kInvalidArgument, "A vector of the plan names a tensor that is not in the table");
  return Status::Ok();
}

}  // namespace

std::shared_ptr<Pool> SharedPool(int threads) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<Pool>> pools;
  std::lock_guard<std::mutex> lock(mutex);
  std::weak_ptr<Pool>& slot = pools[threads];
  std::shared_ptr<Pool> pool = slot.lock();
  if (pool == nullptr) slot = pool = std::make_shared<Pool>(threads);
  return pool;
}

Result<std::shared_ptr<Model>> Model::Load(ModelSpec spec, const Progress& progress) {
  LOWBIT_RETURN_IF_ERROR(ValidatePlan(spec.plan));
  LOWBIT_RETURN_IF_ERROR(CheckIndices(spec));
  std::shared_ptr<Model> model(new Model());
  LOWBIT_ASSIGN_OR_RETURN(model->kernels_, ChooseKernels(ForcedIsa()));
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<Tensor> tensors, OpenTensors(spec.files, spec.tensors));
  model->pool_ = SharedPool(spec.threads > 0 ? spec.threads : UsableCores());
  model->fast_ = spec.fast;
  model->plan_ = std::move(spec.plan);

  for (size_t i = 0; i < spec.vectors.size(); ++i) {
    LOWBIT_ASSIGN_OR_RETURN(std::vector<float> values, LoadVector(tensors, model->plan_.vectors[i], spec.vectors[i]));
    model->bindings_.vectors.push_back(std::move(values));
  }
  // Packing one weight is serial; weights are packed in parallel, a few per thread at a time so that progress and
  // cancellation stay responsive.
  const size_t count = spec.weights.size();
  std::vector<Result<Part>> parts;
  parts.reserve(count);
  for (size_t i = 0; i < count; ++i) parts.emplace_back(Status(Code::kInternal, "not loaded"));
  const size_t batch = static_cast<size_t>(model->pool_->threads()) * 4;
  for (size_t begin = 0; begin < count; begin += batch) {
    if (progress.cancelled()) return Error(Code::kCancelled, "Loading was aborted");
    const size_t end = std::min(count, begin + batch);
    model->pool_->Run(static_cast<int>(end - begin), [&](int c, int) {
      const size_t i = begin + static_cast<size_t>(c);
      try {  // nothing may escape into the pool
        parts[i] = LoadWeight(tensors, model->plan_.weights[i], spec.weights[i]);
      } catch (const std::bad_alloc&) {
        parts[i] = Error(Code::kOutOfMemory, "Memory ran out while loading %s; close other programs or use a smaller model",
                         model->plan_.weights[i].name.c_str());
      }
      if (!parts[i].ok()) return;
      const WeightSource& s = spec.weights[i];
      for (int t : {s.tensor, s.qweight})
        if (t >= 0)
          tensors[static_cast<size_t>(t)].file->DontNeed(tensors[static_cast<size_t>(t)].data, tensors[static_cast<size_t>(t)].bytes);
    });
    for (size_t i = begin; i < end; ++i) {
      if (!parts[i].ok()) return parts[i].status();
      std::vector<Part> one;
      one.push_back(std::move(parts[i].value()));
      model->bindings_.weights.push_back(std::move(one));
    }
    progress.Report(static_cast<int64_t>(end), static_cast<int64_t>(count));
  }
  return model;
}

size_t Model::weight_bytes() const {
  size_t bytes = 0;
  for (const auto& parts : bindings_.weights)
    for (const Part& part : parts) bytes += part.bytes();
  for (const auto& v : bindings_.vectors) bytes += v.size() * sizeof(float);
  return bytes;
}

size_t Model::stored_bytes() const {
  size_t bytes = 0;
  for (const auto& parts : bindings_.weights)
    for (const Part& part : parts) bytes += part.stored_bytes;
  for (const auto& v : bindings_.vectors) bytes += v.size() * 2;
  return bytes;
}

int64_t Model::parameters() const {
  int64_t count = 0;
  for (const WeightShape& w : plan_.weights) count += static_cast<int64_t>(w.n) * w.k;
  for (const VectorShape& v : plan_.vectors) count += v.length;
  return count;
}

Result<std::vector<float>> Model::DenseWeight(int weight) const {
  const WeightShape& shape = plan_.weights[static_cast<size_t>(weight)];
  const size_t n = static_cast<size_t>(shape.n), k = static_cast<size_t>(shape.k);
  std::vector<float> dense(n * k, 0.0f);
  std::vector<float> panel(k * kPanelRows);
  for (const Part& part : bindings_.weights[static_cast<size_t>(weight)]) {
    for (size_t p = 0; p * kPanelRows < n; ++p) {
      kernels_->unpack_panel(part.view, static_cast<int>(p), 0, shape.k, panel.data());
      const size_t rows = std::min<size_t>(kPanelRows, n - p * kPanelRows);
      for (size_t j = 0; j < k; ++j) {
        const size_t column = part.permutation.empty() ? j : static_cast<size_t>(part.permutation[j]);
        for (size_t r = 0; r < rows; ++r) dense[(p * kPanelRows + r) * k + column] += panel[j * kPanelRows + r];
      }
    }
  }
  return dense;
}

void Model::ReplaceWeight(int weight, Part part) {
  pool_->Quiesce();  // a late worker may still read the old one
  ++bindings_.generation;
  std::vector<Part>& parts = bindings_.weights[static_cast<size_t>(weight)];
  parts.clear();
  parts.push_back(std::move(part));
}

}  // namespace lowbit
