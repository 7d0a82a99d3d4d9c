// engine/lazy_weights: see lazy_weights.h.
#include "engine/lazy_weights.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>

#include "engine/source.h"

namespace lowbit {
namespace {

// Packed bytes of one task, as in weights.cc: all threads work to the end and progress is prompt.
constexpr size_t kTaskBytes = size_t(1) << 20;

Status OutOfMemory(const char* name) {
  return Error(Code::kOutOfMemory, "Memory ran out while loading %s; close other programs or use fewer threads", name);
}

// All panels of a packer on all threads. to(panel, worker): where panels from `panel` on go. The rows that a task has read are given back.
template <typename To>
Status PackPanels(const Packer& packer, const Tensor& t, int rows, bool in_order, Pool& pool, const Progress& progress, const To& to) {
  // Rows of other panels are read too where rows are mapped: bring all of them in at once then. Reading a page of a mapping that the
  // disk refuses would kill the process; asking for it first makes that an error.
  const auto failed = [&] {
    return Error(Code::kIo, "Cannot read tensor %s from %s: the device reports an error, or the file became shorter", packer.name(),
                 t.file->path().c_str());
  };
  if (!in_order && !t.file->Populate(t.data, t.bytes)) return failed();
  const size_t row_bytes = t.bytes / static_cast<size_t>(rows);
  const int panels = PanelCount(packer.part().view);
  const int step = static_cast<int>(std::clamp<size_t>(kTaskBytes / packer.part().view.panel_bytes, 1, static_cast<size_t>(panels)));
  const int tasks = (panels + step - 1) / step, batch = 64 * pool.threads();
  std::mutex mutex;
  int failed_task = tasks;
  Status failure;
  for (int begin = 0; begin < tasks; begin += batch) {
    if (progress.cancelled()) return Error(Code::kCancelled, "The operation was aborted");
    pool.Run(std::min(batch, tasks - begin), [&](int i, int worker) {
      const int first = (begin + i) * step, last = std::min(panels, first + step);
      const size_t row0 = std::min<size_t>(static_cast<size_t>(first) * kPanelRows, static_cast<size_t>(rows));
      const size_t row1 = std::min<size_t>(static_cast<size_t>(last) * kPanelRows, static_cast<size_t>(rows));
      const uint8_t* from = t.data + row0 * row_bytes;
      Status status;
      try {  // nothing may escape into the pool
        if (in_order && row1 > row0 && !t.file->Populate(from, (row1 - row0) * row_bytes)) status = failed();
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
  t.file->DontNeed(t.data, t.bytes);
  return failure;
}

// Whether consecutive panels read consecutive bytes of the tensor.
bool RowsInOrder(const WeightSource& source) { return source.rope_heads == 0 && !source.transposed; }

// Rows `rows` of the transpose of a float tensor [k, n], one after the other.
void GatherColumns(const Tensor& from, const std::vector<int32_t>& rows, size_t n, size_t k, uint8_t* to) {
  const size_t size = from.bytes / (n * k);
  for (size_t c = 0; c < k; ++c)
    for (size_t i = 0; i < rows.size(); ++i)
      std::memcpy(to + (i * k + c) * size, from.data + (c * n + static_cast<size_t>(rows[i])) * size, size);
}

}  // namespace

Status LazyWeights::Check(const Plan& plan, Pool& pool, const Progress& progress) const {
  try {
    std::vector<std::unique_ptr<Packer>> packers;
    size_t total = 0, panel = 0;
    for (size_t w = 0; w < sources_.size(); ++w) {
      if (sources_[w].tensor < 0 || sources_[w].round_bits != 0)
        return Error(Code::kUnsupported, "Weight %s is quantised already, and only dense weights are loaded block by block",
                     plan.weights[w].name.c_str());
      LOWBIT_ASSIGN_OR_RETURN(std::unique_ptr<Packer> packer, SourcePacker(tensors_, plan.weights[w], sources_[w], kernels_));
      total += packer->part().bytes();
      panel = std::max(panel, packer->part().view.panel_bytes);
      packers.push_back(std::move(packer));
    }
    const size_t room = std::max(panel, kTaskBytes);
    LOWBIT_ASSIGN_OR_RETURN(const Block scratch,
                            Block::Allocate(room * static_cast<size_t>(pool.threads()), MemoryClass::kScratch, "the check of the weights"));
    size_t done = 0;
    for (size_t w = 0; w < packers.size(); ++w) {
      // Packers expect zeros only where they write none, and nobody reads these panels.
      const auto to = [&](int, int worker) { return scratch.data() + static_cast<size_t>(worker) * room; };
      LOWBIT_RETURN_IF_ERROR(
          PackPanels(*packers[w], TensorOf(static_cast<int>(w)), plan.weights[w].n, RowsInOrder(sources_[w]), pool, progress, to));
      done += packers[w]->part().bytes();
      packers[w].reset();  // some hold a map of the rows
      progress.Report(static_cast<int64_t>(done), static_cast<int64_t>(total));
    }
    return Status::Ok();
  } catch (const std::bad_alloc&) {
    return OutOfMemory("the weights");
  }
}

Result<Part> LazyWeights::Load(const WeightShape& shape, int weight, Pool& pool, const Progress& progress) const {
  const WeightSource& source = sources_[static_cast<size_t>(weight)];
  try {
    LOWBIT_ASSIGN_OR_RETURN(const std::unique_ptr<Packer> packer, SourcePacker(tensors_, shape, source, kernels_));
    const size_t panel = packer->part().view.panel_bytes;
    LOWBIT_ASSIGN_OR_RETURN(Block block, Block::Allocate(packer->part().bytes(), MemoryClass::kWeights, shape.name.c_str()));
    const auto to = [&](int first, int) { return block.data() + static_cast<size_t>(first) * panel; };
    LOWBIT_RETURN_IF_ERROR(PackPanels(*packer, TensorOf(weight), shape.n, RowsInOrder(source), pool, progress, to));
    Part part = packer->Finish(block.data());
    part.storage = std::move(block);
    return part;
  } catch (const std::bad_alloc&) {
    return OutOfMemory(shape.name.c_str());
  }
}

Result<Part> LazyWeights::LoadRows(const WeightShape& shape, int weight, const std::vector<int32_t>& rows, Pool& pool) const {
  const WeightSource& source = sources_[static_cast<size_t>(weight)];
  try {
    LOWBIT_ASSIGN_OR_RETURN(const RowMap map, RotaryRowMap(shape.name.c_str(), shape.n, source.rope_heads));
    const Tensor& from = TensorOf(weight);
    const size_t row_bytes = from.bytes / static_cast<size_t>(shape.n);
    // The rows as a small tensor of their own, so that every type of weight works without knowing of this.
    LOWBIT_ASSIGN_OR_RETURN(const Block bytes, Block::Allocate(rows.size() * row_bytes, MemoryClass::kScratch, shape.name.c_str()));
    if (source.transposed) {
      // Its shape was checked with all weights; it has no rotary order.
      if (!from.file->Populate(from.data, from.bytes))
        return Error(Code::kIo, "Cannot read tensor %s from %s: the device reports an error, or the file became shorter", from.name.c_str(),
                     from.file->path().c_str());
      GatherColumns(from, rows, static_cast<size_t>(shape.n), static_cast<size_t>(shape.k), bytes.data());
    }
    for (size_t i = 0; i < rows.size() && !source.transposed; ++i) {
      const size_t row = static_cast<size_t>(map.empty() ? rows[i] : map[static_cast<size_t>(rows[i])]);
      const uint8_t* at = from.data + row * row_bytes;
      if (!from.file->Populate(at, row_bytes))
        return Error(Code::kIo, "Cannot read tensor %s from %s: the device reports an error, or the file became shorter", from.name.c_str(),
                     from.file->path().c_str());
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
