// engine/model: a model from its parts: vectors here, weights in weights.cc.
#include "engine/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>

#include "base/config.h"
#include "base/cpu.h"
#include "base/half.h"
#include "engine/source.h"
#include "engine/weights.h"
#include "kernel/chooser.h"

namespace lowbit {
namespace {

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
    if (!w.parts.empty()) {
      bool wrong = bad(w.input_scale, true);
      for (const PartTensors& p : w.parts) {
        const bool affine = p.kind == PartKind::kAffine, low_rank = p.kind == PartKind::kLowRank, sparse = p.kind == PartKind::kSparse;
        for (const int t : {p.scales, p.seconds, p.scale_codes, p.zero_codes, p.tiles, p.rows, p.g_idx}) wrong = wrong || bad(t, true);
        wrong = wrong || bad(p.codes, !affine) || bad(p.a, !low_rank) || bad(p.b, !low_rank) || bad(p.row_offsets, !sparse) ||
                bad(p.columns, !sparse) || bad(p.values, !sparse);
      }
      if (wrong) return Error(Code::kInvalidArgument, "A part of a weight of the plan names a tensor that is not in the table");
      continue;
    }
    const bool dense = w.tensor >= 0;
    if (dense ? bad(w.tensor, false)
              : bad(w.qweight, false) || bad(w.qzeros, w.layout.has_value()) || bad(w.scales, false) || bad(w.g_idx, true))
      return Error(Code::kInvalidArgument, "A weight of the plan names a tensor that is not in the table");
  }
  for (const VectorSource& v : spec.vectors)
    if (bad(v.tensor, false)) return Error(Code::kInvalidArgument, "A vector of the plan names a tensor that is not in the table");
  return Status::Ok();
}

Status CheckRows(const WeightShape& shape, int begin, int end) {
  if (begin >= 0 && end >= begin && end <= shape.n) return Status::Ok();
  return Error(Code::kInvalidArgument, "Rows %d to %d are not among the %d of %s", begin, end, shape.n, shape.name.c_str());
}

// Whether rows of a weight are panels that follow one another.
bool Sliceable(const std::vector<Part>& parts) { return parts.size() == 1 && parts[0].panelled() && parts[0].rows.empty(); }

// The part over the same bytes, which stay those of `part`.
Part Borrowed(const Part& part) {
  Part view;
  view.kind = part.kind;
  view.view = part.view;
  view.inner = part.inner;
  view.sparse = part.sparse;
  view.permutation = part.permutation;
  view.rows = part.rows;
  view.input_scale = part.input_scale;
  view.stored_bytes = part.stored_bytes;
  return view;
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
  for (size_t i = 0; i < spec.weights.size(); ++i) {
    const WeightShape& shape = model->plan_.weights[i];
    if (!IsSecondCopy(spec.weights, i)) model->parameters_ += static_cast<int64_t>(shape.n) * shape.k;
  }
  for (const VectorShape& v : model->plan_.vectors) model->parameters_ += v.length;
  if (spec.lazy) {
    model->bindings_.weights.resize(spec.weights.size());
    model->lazy_ = std::make_unique<LazyWeights>(tensors, std::move(spec.weights), *model->kernels_);
    LOWBIT_RETURN_IF_ERROR(model->lazy_->Check(model->plan_, *model->pool_, progress));
    return model;
  }
  LOWBIT_ASSIGN_OR_RETURN(LoadedWeights loaded,
                          lowbit::LoadWeights(spec, model->plan_, tensors, *model->kernels_, *model->pool_, progress));
  model->arena_ = std::move(loaded.arena);
  model->added_ = std::move(loaded.added);
  model->packed_cache_ = std::move(loaded.cache);
  for (size_t i = 0; i < spec.weights.size(); ++i) {
    std::vector<Part> parts;
    parts.push_back(std::move(loaded.parts[i]));
    if (!loaded.others.empty())
      for (Part& other : loaded.others[i]) parts.push_back(std::move(other));
    model->bindings_.weights.push_back(std::move(parts));
  }
  return model;
}

size_t Model::weight_bytes() const {
  size_t bytes = added_.size();
  for (const auto& parts : bindings_.weights)
    for (const Part& part : parts) bytes += part.panelled() ? part.bytes() : part.storage.size();
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

Result<std::vector<float>> Model::DenseRows(int weight, int begin, int end) {
  const WeightShape& shape = plan_.weights[static_cast<size_t>(weight)];
  LOWBIT_RETURN_IF_ERROR(CheckRows(shape, begin, end));
  if (begin == end) return std::vector<float>();
  // Whole panels, or all rows where only those can be had.
  const bool whole = in_memory(weight) ? !Sliceable(bindings_.weights[static_cast<size_t>(weight)]) : lazy_->InParts(weight);
  const int first = whole ? 0 : begin / kPanelRows * kPanelRows, last = whole ? shape.n : end;
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<Part> parts, RowParts(weight, first, last, Progress()));
  std::vector<float> dense = SumOfParts(parts, last - first, shape.k, kernels_->unpack_panel);
  const auto at = [&](int row) { return dense.begin() + static_cast<std::ptrdiff_t>(row - first) * shape.k; };
  dense.erase(at(end), dense.end());
  dense.erase(dense.begin(), at(begin));
  return dense;
}

Result<std::vector<Part>> Model::RowParts(int weight, int begin, int end, const Progress& progress) {
  const WeightShape& shape = plan_.weights[static_cast<size_t>(weight)];
  LOWBIT_RETURN_IF_ERROR(CheckRows(shape, begin, end));
  if (begin % kPanelRows != 0 || begin == end)
    return Error(Code::kInvalidArgument, "Rows %d to %d of %s do not begin with a panel of %d rows", begin, end, shape.name.c_str(),
                 kPanelRows);
  if (!in_memory(weight)) return lazy_->LoadRange(shape, weight, begin, end, *pool_, progress);
  const std::vector<Part>& bound = bindings_.weights[static_cast<size_t>(weight)];
  if (Sliceable(bound) && bound[0].view.n != shape.n)
    return Error(Code::kInvalidArgument, "Only some rows of %s are in memory while a calibration runs", shape.name.c_str());
  const bool all = begin == 0 && end == shape.n;
  if (!all && !Sliceable(bound))
    return Error(Code::kInvalidArgument, "%s is held in parts, of which only all rows can be had at once", shape.name.c_str());
  std::vector<Part> parts;
  for (const Part& part : bound) {
    parts.push_back(Borrowed(part));
    if (all) continue;
    parts.back().view.data += static_cast<size_t>(begin / kPanelRows) * part.view.panel_bytes;
    parts.back().view.n = end - begin;
  }
  return parts;
}

void Model::ReplaceWeight(int weight, std::vector<Part> parts) {
  pool_->Quiesce();  // a late worker may still read the old one
  ++bindings_.generation;
  std::vector<Part>& bound = bindings_.weights[static_cast<size_t>(weight)];
  for (const Part& old : bound)
    if (old.storage.data() == nullptr) arena_.Discard(old.view.data, old.bytes());
  bound = std::move(parts);
}

std::vector<Part> Model::ExchangeWeight(int weight, std::vector<Part> parts) {
  pool_->Quiesce();  // a late worker may still read the old one
  ++bindings_.generation;
  std::swap(bindings_.weights[static_cast<size_t>(weight)], parts);
  return parts;
}

Status Model::LoadWeights(const std::vector<int>& weights, const Progress& progress) {
  for (const int weight : weights) {
    if (in_memory(weight)) continue;
    LOWBIT_ASSIGN_OR_RETURN(std::vector<Part> parts, lazy_->Load(plan_.weights[static_cast<size_t>(weight)], weight, *pool_, progress));
    ReplaceWeight(weight, std::move(parts));
  }
  return Status::Ok();
}

Status Model::LoadRows(int weight, const std::vector<int32_t>& rows) {
  LOWBIT_ASSIGN_OR_RETURN(Part part, lazy_->LoadRows(plan_.weights[static_cast<size_t>(weight)], weight, rows, *pool_));
  std::vector<Part> parts;
  parts.push_back(std::move(part));
  ReplaceWeight(weight, std::move(parts));
  return Status::Ok();
}

void Model::DropWeights(const std::vector<int>& weights) {
  pool_->Quiesce();  // a late worker may still read them
  ++bindings_.generation;
  for (const int weight : weights) bindings_.weights[static_cast<size_t>(weight)].clear();
}

}  // namespace lowbit
