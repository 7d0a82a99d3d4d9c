// engine/weights: packing into the arena, and the decision between packing and the cache.
#include "engine/weights.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>

#include "engine/container_source.h"
#include "engine/packed_cache.h"
#include "engine/source.h"

namespace lowbit {
namespace {

// Packed bytes of one task: small enough that all threads work to the end and progress and cancellation are prompt.
constexpr size_t kTaskBytes = size_t(1) << 20;

struct Task {
  size_t unit;
  int panel0, panel1;
};

// What is packed as one matrix: a weight, or an affine part of one.
struct Unit {
  std::unique_ptr<Packer> packer;
  size_t weight;
  int codes = -1;     // of a part behind the first: its tensor of codes
  size_t offset = 0;  // in the arena
};

Status OutOfMemory(const char* name) {
  return Error(Code::kOutOfMemory, "Memory ran out while loading %s; close other programs or use a smaller model", name);
}

// Keeps what must live until the last panel is packed.
class ArenaPacker {
 public:
  ArenaPacker(const ModelSpec& spec, const Plan& plan, const std::vector<Tensor>& tensors, const KernelTable& kernels, Pool& pool)
      : spec_(spec), plan_(plan), tensors_(tensors), kernels_(kernels), pool_(pool) {}

  // Makes the packers (some read scales to choose a format) and lays out the arena.
  Status Prepare(const std::vector<int>& order) {
    const size_t count = spec_.weights.size();
    std::vector<std::vector<Unit>> units(count);
    std::vector<Status> failures(count);
    pool_.Run(static_cast<int>(count), [&](int i, int) {
      const size_t w = static_cast<size_t>(i);
      try {  // nothing may escape into the pool
        failures[w] = MakeUnits(w, &units[w]);
      } catch (const std::bad_alloc&) {
        failures[w] = OutOfMemory(plan_.weights[w].name.c_str());
      }
    });
    for (const Status& failure : failures) LOWBIT_RETURN_IF_ERROR(failure);
    for (const int weight : order)
      for (Unit& unit : units[static_cast<size_t>(weight)]) {
        const Part& part = unit.packer->part();
        unit.offset = bytes_;
        bytes_ += part.bytes() + RowBytes(part);
        const int panels = PanelCount(part.view);
        const int step = static_cast<int>(std::clamp<size_t>(kTaskBytes / part.view.panel_bytes, 1, static_cast<size_t>(panels)));
        for (int p = 0; p < panels; p += step) tasks_.push_back({units_.size(), p, std::min(panels, p + step)});
        units_.push_back(std::move(unit));
      }
    left_ = std::make_unique<std::atomic<int>[]>(units_.size());
    for (const Task& task : tasks_) left_[task.unit].fetch_add(1, std::memory_order_relaxed);
    return Status::Ok();
  }

  size_t bytes() const { return bytes_; }

  // packed(bytes) is told about progress on the calling thread.
  Status Pack(const Block& arena, const Progress& progress, const std::function<void(size_t)>& packed) {
    // Batches, so that progress is reported by the engine's own thread and other models get at the pool in between.
    const size_t batch = 64 * static_cast<size_t>(pool_.threads());
    size_t done = 0;
    for (size_t begin = 0; begin < tasks_.size(); begin += batch) {
      if (progress.cancelled()) return Error(Code::kCancelled, "Loading was aborted");
      const size_t end = std::min(tasks_.size(), begin + batch);
      pool_.Run(static_cast<int>(end - begin), [&](int c, int) { PackTask(arena, begin + static_cast<size_t>(c)); });
      if (failed_task_ != SIZE_MAX) return failure_;
      for (size_t i = begin; i < end; ++i) done += TaskBytes(tasks_[i]);
      packed(done);
    }
    return Status::Ok();
  }

  Status Finish(const Block& arena, const std::vector<int>& order, LoadedWeights* loaded) {
    loaded->parts.resize(spec_.weights.size());
    std::vector<std::vector<Part>> others(spec_.weights.size());
    bool any = false;
    for (Unit& unit : units_) {
      Part part = unit.packer->Finish(arena.data() + unit.offset);
      if (!part.rows.empty()) {
        uint8_t* behind = arena.data() + unit.offset + part.bytes();
        std::memcpy(behind, part.rows.data(), part.rows.size() * sizeof(int32_t));
        part.rows_behind = reinterpret_cast<const int32_t*>(behind);
      }
      if (unit.codes >= 0) {
        others[unit.weight].push_back(std::move(part));
        continue;
      }
      if (IsSecondCopy(spec_.weights, unit.weight)) part.stored_bytes = 0;
      loaded->parts[unit.weight] = std::move(part);
    }
    for (size_t w = 0; w < others.size(); ++w) {
      LOWBIT_ASSIGN_OR_RETURN(std::vector<Part> added, AddedParts(tensors_, plan_.weights[w], spec_.weights[w]));
      for (Part& part : added) others[w].push_back(std::move(part));
      any = any || !others[w].empty();
    }
    if (!any) return Status::Ok();
    loaded->others = std::move(others);
    return GatherAdded(order, loaded);
  }

 private:
  // Low-rank and sparse parts are small: each in a block of its own, they would lie in small pages, whose ends stop the prefetchers.
  static Status GatherAdded(const std::vector<int>& order, LoadedWeights* loaded) {
    std::vector<Part*> parts;
    size_t bytes = 0;
    const auto lines = [](const Part& part) { return (part.storage.size() + 63) / 64 * 64; };
    for (const int weight : order)
      for (Part& part : loaded->others[static_cast<size_t>(weight)]) {
        if (part.storage.data() == nullptr) continue;
        parts.push_back(&part);
        bytes += lines(part);
      }
    LOWBIT_ASSIGN_OR_RETURN(loaded->added, Block::Allocate(bytes, MemoryClass::kWeights, "the low-rank and sparse parts"));
    uint8_t* to = loaded->added.data();
    for (Part* part : parts) {
      const size_t size = lines(*part);
      part->MoveStorage(to);
      to += size;
    }
    return Status::Ok();
  }

  // In whole lines, so that the next matrix begins at one.
  static size_t RowBytes(const Part& part) { return (part.rows.size() * sizeof(int32_t) + 63) / 64 * 64; }

  Status MakeUnits(size_t w, std::vector<Unit>* units) const {
    const WeightShape& shape = plan_.weights[w];
    LOWBIT_ASSIGN_OR_RETURN(std::unique_ptr<Packer> first, SourcePacker(tensors_, shape, spec_.weights[w], kernels_));
    units->push_back({std::move(first), w});
    LOWBIT_ASSIGN_OR_RETURN(std::vector<OtherPacker> others, OtherPackers(tensors_, shape, spec_.weights[w]));
    for (OtherPacker& other : others) units->push_back({std::move(other.packer), w, other.codes});
    return Status::Ok();
  }

  size_t TaskBytes(const Task& task) const {
    return static_cast<size_t>(task.panel1 - task.panel0) * units_[task.unit].packer->part().view.panel_bytes;
  }

  void PackTask(const Block& arena, size_t index) {
    const Task& task = tasks_[index];
    const Unit& unit = units_[task.unit];
    Status status;
    try {
      uint8_t* to = arena.data() + unit.offset + static_cast<size_t>(task.panel0) * unit.packer->part().view.panel_bytes;
      status = unit.packer->Pack(task.panel0, task.panel1, to);
    } catch (const std::bad_alloc&) {
      status = OutOfMemory(plan_.weights[unit.weight].name.c_str());
    }
    if (!status.ok()) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (index < failed_task_) {  // the first one in order, whatever the threads do
        failed_task_ = index;
        failure_ = status;
      }
      return;
    }
    GiveBack(task);
  }

  // The file pages behind packed panels. Rows of dense and GGUF tensors lie one after the other; words and transposed rows of a panel may
  // lie everywhere.
  void GiveBack(const Task& task) {
    const Unit& unit = units_[task.unit];
    const size_t w = unit.weight;
    const WeightSource& source = spec_.weights[w];
    const bool last = left_[task.unit].fetch_sub(1, std::memory_order_acq_rel) == 1;
    if (source.tensor >= 0 && !source.transposed) {
      const Tensor& t = tensors_[static_cast<size_t>(source.tensor)];
      const size_t rows = static_cast<size_t>(plan_.weights[w].n), row_bytes = t.bytes / rows;
      const size_t begin = static_cast<size_t>(task.panel0) * kPanelRows,
                   end = std::min(rows, static_cast<size_t>(task.panel1) * kPanelRows);
      t.file->DontNeed(t.data + begin * row_bytes, (end - begin) * row_bytes);
    } else if (last) {
      const int codes = unit.codes >= 0 || source.parts.empty() ? unit.codes : source.parts.front().codes;
      for (const int t : {source.tensor, source.qweight, source.qzeros, source.scales, codes}) {
        if (t < 0) continue;
        const Tensor& words = tensors_[static_cast<size_t>(t)];
        words.file->DontNeed(words.data, words.bytes);
      }
    }
  }

  const ModelSpec& spec_;
  const Plan& plan_;
  const std::vector<Tensor>& tensors_;
  const KernelTable& kernels_;
  Pool& pool_;
  std::vector<Unit> units_;  // in the order of the arena
  size_t bytes_ = 0;
  std::vector<Task> tasks_;
  std::unique_ptr<std::atomic<int>[]> left_;  // tasks of each unit
  std::mutex mutex_;
  size_t failed_task_ = SIZE_MAX;
  Status failure_;
};

Status PackAll(ArenaPacker& packer, const std::vector<int>& order, const Progress& progress, const std::function<void(size_t)>& packed,
               LoadedWeights* loaded) {
  LOWBIT_RETURN_IF_ERROR(packer.Prepare(order));
  LOWBIT_ASSIGN_OR_RETURN(Block block, Block::Allocate(packer.bytes(), MemoryClass::kWeights, "the weights"));
  LOWBIT_RETURN_IF_ERROR(packer.Pack(block, progress, packed));
  LOWBIT_RETURN_IF_ERROR(packer.Finish(block, order, loaded));
  loaded->arena = Arena(std::move(block));
  return Status::Ok();
}

Result<LoadedWeights> LoadThroughCache(const ModelSpec& spec, const Plan& plan, const std::vector<Tensor>& tensors, ArenaPacker& packer,
                                       Pool& pool, const Progress& progress) {
  LoadedWeights loaded;
  const std::vector<int> order = ExecutionOrder(plan);
  const CacheKey key = MakeCacheKey(spec, plan, tensors);
  const auto hash = [&] { return HashSources(spec, tensors, pool); };
  Result<CachedWeights> cached = ReadPackedCache(spec.packed_cache, key, plan, order, hash, CachePlacement::kFastest, pool, progress);
  if (cached.ok()) {
    loaded.arena = std::move(cached.value().arena);
    loaded.parts = std::move(cached.value().parts);
    loaded.cache.state = CacheState::kHit;
    return loaded;
  }
  const Status refusal = cached.status();
  if (refusal.code() == Code::kCancelled || refusal.code() == Code::kOutOfMemory) return refusal;

  // Whether the identities can be trusted depends on how long before the first byte was read the files changed.
  const uint64_t now = WallClockNs();
  const bool trusted = std::all_of(key.files.begin(), key.files.end(), [&](const FileIdentity& f) {
    const uint64_t last = std::max(f.modified, f.changed);
    return last <= now && now - last > kClockGranularityNs;
  });
  const uint64_t content = hash();
  const auto half = [&](size_t done) { progress.Report(static_cast<int64_t>(done), static_cast<int64_t>(2 * packer.bytes())); };
  LOWBIT_RETURN_IF_ERROR(PackAll(packer, order, progress, half, &loaded));
  const bool stale = refusal.code() == Code::kCorruptFile;
  loaded.cache = {stale ? CacheState::kStale : CacheState::kWritten, stale ? refusal.message() : ""};
  const Status written =
      FilesUnchanged(spec, tensors)
          ? WritePackedCache(spec.packed_cache, key, trusted, content, order, loaded.parts, loaded.arena, pool, progress,
                             [&](size_t done) { half(packer.bytes() + done); })
          : Error(Code::kIo, "Cannot write %s: the model's files changed while they were read", spec.packed_cache.c_str());
  if (written.code() == Code::kCancelled) return written;
  if (!written.ok()) loaded.cache = {CacheState::kFailed, written.message()};
  return loaded;
}

}  // namespace

const char* CacheStateName(CacheState state) {
  static constexpr const char* kNames[] = {"off", "hit", "written", "stale", "failed"};
  return kNames[static_cast<size_t>(state)];
}

std::vector<int> ExecutionOrder(const Plan& plan) {
  std::vector<int> order;
  std::vector<bool> placed(plan.weights.size(), false);
  const auto place = [&](size_t weight) {
    if (placed[weight]) return;
    placed[weight] = true;
    order.push_back(static_cast<int>(weight));
  };
  for (const Op& op : plan.ops) {
    for (const LinearOutput& output : op.outputs) place(static_cast<size_t>(output.weight));
    if (op.kind == OpKind::kRoute) place(static_cast<size_t>(op.index));
    for (const Expert& expert : op.experts)
      for (const int weight : {expert.gate, expert.up, expert.down}) place(static_cast<size_t>(weight));
  }
  for (size_t i = 0; i < plan.weights.size(); ++i) place(i);
  return order;
}

bool IsSecondCopy(const std::vector<WeightSource>& weights, size_t index) {
  const WeightSource& own = weights[index];
  if (own.round_bits == 0) return false;
  return std::any_of(weights.begin(), weights.begin() + static_cast<std::ptrdiff_t>(index), [&](const WeightSource& other) {
    return own.tensor >= 0 ? other.tensor == own.tensor : own.qweight >= 0 && other.qweight == own.qweight;
  });
}

Result<LoadedWeights> LoadWeights(const ModelSpec& spec, const Plan& plan, const std::vector<Tensor>& tensors, const KernelTable& kernels,
                                  Pool& pool, const Progress& progress) {
  ArenaPacker packer(spec, plan, tensors, kernels, pool);
  try {
    const bool parts = std::any_of(spec.weights.begin(), spec.weights.end(), [](const WeightSource& w) { return !w.parts.empty(); });
    if (!spec.packed_cache.empty() && !parts) return LoadThroughCache(spec, plan, tensors, packer, pool, progress);
    LoadedWeights loaded;
    if (!spec.packed_cache.empty())
      loaded.cache = {CacheState::kFailed, "a packed-weight cache holds one part per weight, and lowbit containers may have several"};
    const auto report = [&](size_t done) { progress.Report(static_cast<int64_t>(done), static_cast<int64_t>(packer.bytes())); };
    LOWBIT_RETURN_IF_ERROR(PackAll(packer, ExecutionOrder(plan), progress, report, &loaded));
    return loaded;
  } catch (const std::bad_alloc&) {
    return OutOfMemory("the weights");
  }
}

}  // namespace lowbit
