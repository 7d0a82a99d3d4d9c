// engine/lazy_weights: see lazy_weights.h.
#include "engine/lazy_weights.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <new>

#include "engine/container_source.h"
#include "engine/source.h"

namespace lowbit {
namespace {

// Packed bytes of one task, as in weights.cc: all threads work to the end and progress is prompt.
constexpr size_t kTaskBytes = size_t(1) << 20;

Status OutOfMemory(const char* name) {
  return Error(Code::kOutOfMemory, "Memory ran out while loading %s; close other programs or use fewer threads", name);
}

// Reading a page of a mapping that the disk refuses would kill the process; asking for it first makes that an error.
Status Unreadable(const Tensor& t) {
  return Error(Code::kIo, "Cannot read tensor %s from %s: the device reports an error, or the file became shorter", t.name.c_str(),
               t.file->path().c_str());
}

Status Populate(const std::vector<const Tensor*>& tensors) {
  for (const Tensor* t : tensors)
    if (!t->file->Populate(t->data, t->bytes)) return Unreadable(*t);
  return Status::Ok();
}

void GiveBack(const std::vector<const Tensor*>& tensors) {
  for (const Tensor* t : tensors) t->file->DontNeed(t->data, t->bytes);
}

// Panels [panel0, panel1) of a packer on all threads. to(panel, worker): where panels from `panel` on go. in_order: panels read the first
// tensor row by row, which has so many rows; what a task has read is given back. Otherwise the tensors are in memory.
template <typename To>
Status PackPanels(const Packer& packer, const Tensor& t, int rows, bool in_order, int panel0, int panel1, Pool& pool,
                  const Progress& progress, const To& to) {
  const size_t row_bytes = t.bytes / static_cast<size_t>(rows);
  const int panels = panel1 - panel0;
  const int step = static_cast<int>(std::clamp<size_t>(kTaskBytes / packer.part().view.panel_bytes, 1, static_cast<size_t>(panels)));
  const int tasks = (panels + step - 1) / step, batch = 64 * pool.threads();
  std::mutex mutex;
  int failed_task = tasks;
  Status failure;
  for (int begin = 0; begin < tasks; begin += batch) {
    if (progress.cancelled()) return Error(Code::kCancelled, "The operation was aborted");
    pool.Run(std::min(batch, tasks - begin), [&](int i, int worker) {
      const int first = panel0 + (begin + i) * step, last = std::min(panel1, first + step);
      const size_t row0 = std::min<size_t>(static_cast<size_t>(first) * kPanelRows, static_cast<size_t>(rows));
      const size_t row1 = std::min<size_t>(static_cast<size_t>(last) * kPanelRows, static_cast<size_t>(rows));
      const uint8_t* from = t.data + row0 * row_bytes;
      Status status;
      try {  // nothing may escape into the pool
        if (in_order && row1 > row0 && !t.file->Populate(from, (row1 - row0) * row_bytes)) status = Unreadable(t);
        if (status.ok()) status = packer.Pack(first, last, to(first, worker));
      } catch (const std::bad_alloc&) {
        status = OutOfMemory(packer.name());
      }
      if (in_order) t.file->DontNeed(from, (row1 - row0) * row_bytes);
      if (status.ok()) return;
      std::lock_guard<std::mutex> lock(mutex);
      if (begin + i < failed_task) {  // the first one in order, whatever the threads do
        failed_task = begin + i;
        failure = status;
      }
    });
    if (failed_task < tasks) break;
  }
  return failure;
}

// Whether consecutive panels read consecutive bytes of one tensor and nothing else.
bool RowsInOrder(const WeightSource& source) { return source.tensor >= 0 && source.rope_heads == 0 && !source.transposed; }

// All parts but the first of a weight in parts, each with bytes of its own.
Result<std::vector<Part>> OtherParts(const std::vector<Tensor>& tensors, const WeightShape& shape, const WeightSource& source) {
  LOWBIT_ASSIGN_OR_RETURN(std::vector<OtherPacker> packers, OtherPackers(tensors, shape, source));
  std::vector<Part> parts;
  for (OtherPacker& other : packers) {
    LOWBIT_ASSIGN_OR_RETURN(Part part, PackWhole(std::move(other.packer)));
    parts.push_back(std::move(part));
  }
  LOWBIT_ASSIGN_OR_RETURN(std::vector<Part> added, AddedParts(tensors, shape, source));
  for (Part& part : added) parts.push_back(std::move(part));
  return parts;
}

// Rows `rows` of the transpose of a float tensor [k, n], one after the other.
void GatherColumns(const Tensor& from, const std::vector<int32_t>& rows, size_t n, size_t k, uint8_t* to) {
  const size_t size = from.bytes / (n * k);
  for (size_t c = 0; c < k; ++c)
    for (size_t i = 0; i < rows.size(); ++i)
      std::memcpy(to + (i * k + c) * size, from.data + (c * n + static_cast<size_t>(rows[i])) * size, size);
}

}  // namespace

std::vector<const Tensor*> LazyWeights::TensorsOf(int weight) const {
  const WeightSource& source = sources_[static_cast<size_t>(weight)];
  std::vector<const Tensor*> tensors;
  const auto add = [&](std::initializer_list<int> indices) {
    for (const int index : indices)
      if (index >= 0) tensors.push_back(&tensors_[static_cast<size_t>(index)]);
  };
  for (const PartTensors& part : source.parts) {
    add({part.codes, part.scales, part.seconds, part.scale_codes, part.zero_codes, part.tiles, part.rows, part.g_idx});
    add({part.a, part.b, part.row_offsets, part.columns, part.values});
  }
  if (!source.parts.empty())
    add({source.input_scale});
  else if (source.tensor >= 0)
    add({source.tensor});
  else
    add({source.qweight, source.qzeros, source.scales, source.g_idx});
  return tensors;
}

Status LazyWeights::Check(const Plan& plan, Pool& pool, const Progress& progress) const {
  try {
    size_t total = 0, done = 0;
    for (size_t w = 0; w < sources_.size(); ++w) {
      if (sources_[w].round_bits != 0)
        return Error(Code::kUnsupported, "Weight %s is to be rounded, and lazy weights are as stored", plan.weights[w].name.c_str());
      for (const Tensor* t : TensorsOf(static_cast<int>(w))) total += t->bytes;
    }
    for (size_t w = 0; w < sources_.size(); ++w) {
      const std::vector<const Tensor*> tensors = TensorsOf(static_cast<int>(w));
      const bool in_order = RowsInOrder(sources_[w]);
      if (!in_order) LOWBIT_RETURN_IF_ERROR(Populate(tensors));
      LOWBIT_ASSIGN_OR_RETURN(const std::unique_ptr<Packer> packer, SourcePacker(tensors_, plan.weights[w], sources_[w], kernels_));
      const int panels = PanelCount(packer->part().view);
      const size_t room = std::max(packer->part().view.panel_bytes, kTaskBytes);
      LOWBIT_ASSIGN_OR_RETURN(const Block scratch, Block::Allocate(room * static_cast<size_t>(pool.threads()), MemoryClass::kScratch,
                                                                   "the check of the weights"));
      // Packers expect zeros only where they write none, and nobody reads these panels.
      const auto to = [&](int, int worker) { return scratch.data() + static_cast<size_t>(worker) * room; };
      LOWBIT_RETURN_IF_ERROR(PackPanels(*packer, *tensors[0], packer->part().view.n, in_order, 0, panels, pool, progress, to));
      if (InParts(static_cast<int>(w))) LOWBIT_RETURN_IF_ERROR(OtherParts(tensors_, plan.weights[w], sources_[w]).status());
      GiveBack(tensors);
      for (const Tensor* t : tensors) done += t->bytes;
      progress.Report(static_cast<int64_t>(done), static_cast<int64_t>(total));
    }
    return Status::Ok();
  } catch (const std::bad_alloc&) {
    return OutOfMemory("the weights");
  }
}

Result<std::vector<Part>> LazyWeights::Load(const WeightShape& shape, int weight, Pool& pool, const Progress& progress) const {
  return LoadPanels(shape, weight, 0, -1, pool, progress);
}

Result<std::vector<Part>> LazyWeights::LoadRange(const WeightShape& shape, int weight, int begin, int end, Pool& pool,
                                                 const Progress& progress) const {
  const bool all = begin == 0 && end == shape.n;
  if (!all && InParts(weight))
    return Error(Code::kInvalidArgument, "%s is stored in parts, of which only all rows can be had at once", shape.name.c_str());
  LOWBIT_ASSIGN_OR_RETURN(std::vector<Part> parts,
                          LoadPanels(shape, weight, begin / kPanelRows, all ? -1 : (end + kPanelRows - 1) / kPanelRows, pool, progress));
  if (!all) parts[0].view.n = end - begin;
  return parts;
}

Result<std::vector<Part>> LazyWeights::LoadPanels(const WeightShape& shape, int weight, int panel0, int panel1, Pool& pool,
                                                  const Progress& progress) const {
  const WeightSource& source = sources_[static_cast<size_t>(weight)];
  try {
    const std::vector<const Tensor*> tensors = TensorsOf(weight);
    const bool in_order = RowsInOrder(source);
    if (!in_order) LOWBIT_RETURN_IF_ERROR(Populate(tensors));
    LOWBIT_ASSIGN_OR_RETURN(const std::unique_ptr<Packer> packer, SourcePacker(tensors_, shape, source, kernels_));
    if (panel1 < 0) panel1 = PanelCount(packer->part().view);  // all of them: of a part, those of its rows
    const size_t panel = packer->part().view.panel_bytes;
    LOWBIT_ASSIGN_OR_RETURN(Block block,
                            Block::Allocate(static_cast<size_t>(panel1 - panel0) * panel, MemoryClass::kWeights, shape.name.c_str()));
    const auto to = [&](int first, int) { return block.data() + static_cast<size_t>(first - panel0) * panel; };
    LOWBIT_RETURN_IF_ERROR(PackPanels(*packer, *tensors[0], packer->part().view.n, in_order, panel0, panel1, pool, progress, to));
    std::vector<Part> parts;
    parts.push_back(packer->Finish(block.data()));
    parts[0].storage = std::move(block);
    if (InParts(weight)) {
      LOWBIT_ASSIGN_OR_RETURN(std::vector<Part> others, OtherParts(tensors_, shape, source));
      for (Part& other : others) parts.push_back(std::move(other));
    }
    GiveBack(tensors);
    return parts;
  } catch (const std::bad_alloc&) {
    return OutOfMemory(shape.name.c_str());
  }
}

Result<Part> LazyWeights::LoadRows(const WeightShape& shape, int weight, const std::vector<int32_t>& rows, Pool& pool) const {
  const WeightSource& source = sources_[static_cast<size_t>(weight)];
  try {
    if (source.tensor < 0)
      return Error(Code::kUnsupported, "%s is quantised, and rows are taken from dense weights and GGUF blocks only", shape.name.c_str());
    LOWBIT_ASSIGN_OR_RETURN(const RowMap map, RotaryRowMap(shape.name.c_str(), shape.n, source.rope_heads));
    const Tensor& from = tensors_[static_cast<size_t>(source.tensor)];
    const size_t row_bytes = from.bytes / static_cast<size_t>(shape.n);
    // The rows as a small tensor of their own, so that every type of weight works without knowing of this.
    LOWBIT_ASSIGN_OR_RETURN(const Block bytes, Block::Allocate(rows.size() * row_bytes, MemoryClass::kScratch, shape.name.c_str()));
    if (source.transposed) {
      // Its shape was checked with all weights; it has no rotary order.
      if (!from.file->Populate(from.data, from.bytes)) return Unreadable(from);
      GatherColumns(from, rows, static_cast<size_t>(shape.n), static_cast<size_t>(shape.k), bytes.data());
    }
    for (size_t i = 0; i < rows.size() && !source.transposed; ++i) {
      const size_t row = static_cast<size_t>(map.empty() ? rows[i] : map[static_cast<size_t>(rows[i])]);
      const uint8_t* at = from.data + row * row_bytes;
      if (!from.file->Populate(at, row_bytes)) return Unreadable(from);
      std::memcpy(bytes.data() + i * row_bytes, at, row_bytes);
    }
    from.file->DontNeed(from.data, from.bytes);
    Tensor some = from;
    some.shape = {static_cast<int64_t>(rows.size()), shape.k};
    some.data = bytes.data();
    some.bytes = rows.size() * row_bytes;
    WeightShape some_shape = shape;
    some_shape.n = static_cast<int>(rows.size());
    WeightSource some_source;
    some_source.tensor = 0;
    LOWBIT_ASSIGN_OR_RETURN(const std::unique_ptr<Packer> packer, SourcePacker({some}, some_shape, some_source, kernels_));
    LOWBIT_ASSIGN_OR_RETURN(Block block, Block::Allocate(packer->part().bytes(), MemoryClass::kWeights, shape.name.c_str()));
    const int panels = PanelCount(packer->part().view);
    std::mutex mutex;
    Status failure;
    pool.Run(panels, [&](int p, int) {
      const Status status = packer->Pack(p, p + 1, block.data() + static_cast<size_t>(p) * packer->part().view.panel_bytes);
      if (status.ok()) return;
      std::lock_guard<std::mutex> lock(mutex);
      failure = status;
    });
    LOWBIT_RETURN_IF_ERROR(failure);
    Part part = packer->Finish(block.data());
    part.storage = std::move(block);
    return part;
  } catch (const std::bad_alloc&) {
    return OutOfMemory(shape.name.c_str());
  }
}

std::vector<int> WeightsOfRange(const Plan& plan, OpRange range) {
  std::vector<int> weights;
  const auto add = [&](int weight) {
    if (std::find(weights.begin(), weights.end(), weight) == weights.end()) weights.push_back(weight);
  };
  for (int i = range.begin; i < range.end; ++i) {
    const Op& op = plan.ops[static_cast<size_t>(i)];
    if (op.kind == OpKind::kEmbed || op.kind == OpKind::kEmbedPosition || op.kind == OpKind::kRoute) add(op.index);
    for (const LinearOutput& output : op.outputs) add(output.weight);
    for (const Expert& expert : op.experts)
      for (const int weight : {expert.gate, expert.up, expert.down}) add(weight);
  }
  return weights;
}

}  // namespace lowbit
