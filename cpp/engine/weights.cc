// engine/weights: packing into the arena, and the decision between packing and the cache.
#include "engine/weights.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <new>

#include "engine/packed_cache.h"
#include "engine/source.h"

namespace lowbit {
namespace {

// Packed bytes of one task: small enough that all threads work to the end and progress and cancellation are prompt.
constexpr size_t kTaskBytes = size_t(1) << 20;

struct Task {
  int weight;
  int panel0, panel1;
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
    packers_.resize(count);
    std::vector<Status> failures(count);
    pool_.Run(static_cast<int>(count), [&](int i, int) {
      const size_t w = static_cast<size_t>(i);
      try {  // nothing may escape into the pool
        Result<std::unique_ptr<Packer>> packer = SourcePacker(tensors_, plan_.weights[w], spec_.weights[w], kernels_);
        if (packer.ok())
          packers_[w] = std::move(packer.value());
        else
          failures[w] = packer.status();
      } catch (const std::bad_alloc&) {
        failures[w] = OutOfMemory(plan_.weights[w].name.c_str());
      }
    });
    for (const Status& failure : failures) LOWBIT_RETURN_IF_ERROR(failure);
    offsets_.resize(count);
    left_ = std::make_unique<std::atomic<int>[]>(count);
    for (const int weight : order) {
      const Part& part = packers_[static_cast<size_t>(weight)]->part();
      offsets_[static_cast<size_t>(weight)] = bytes_;
      bytes_ += part.bytes();
      const int panels = PanelCount(part.view);
      const int step = static_cast<int>(std::clamp<size_t>(kTaskBytes / part.view.panel_bytes, 1, static_cast<size_t>(panels)));
      for (int p = 0; p < panels; p += step) tasks_.push_back({weight, p, std::min(panels, p + step)});
      left_[static_cast<size_t>(weight)] = (panels + step - 1) / step;
    }
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

  std::vector<Part> Finish(const Block& arena) {
    std::vector<Part> parts;
    for (size_t i = 0; i < packers_.size(); ++i) {
      parts.push_back(packers_[i]->Finish(arena.data() + offsets_[i]));
      if (IsSecondCopy(spec_.weights, i)) parts.back().stored_bytes = 0;
    }
    return parts;
  }

 private:
  size_t PanelBytes(int weight) const { return packers_[static_cast<size_t>(weight)]->part().view.panel_bytes; }
  size_t TaskBytes(const Task& task) const { return static_cast<size_t>(task.panel1 - task.panel0) * PanelBytes(task.weight); }

  void PackTask(const Block& arena, size_t index) {
    const Task& task = tasks_[index];
    const size_t w = static_cast<size_t>(task.weight);
    Status status;
    try {
      uint8_t* to = arena.data() + offsets_[w] + static_cast<size_t>(task.panel0) * PanelBytes(task.weight);
      status = packers_[w]->Pack(task.panel0, task.panel1, to);
    } catch (const std::bad_alloc&) {
      status = OutOfMemory(plan_.weights[w].name.c_str());
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
    const size_t w = static_cast<size_t>(task.weight);
    const WeightSource& source = spec_.weights[w];
    const bool last = left_[w].fetch_sub(1, std::memory_order_acq_rel) == 1;
    if (source.tensor >= 0 && !source.transposed) {
      const Tensor& t = tensors_[static_cast<size_t>(source.tensor)];
      const size_t rows = static_cast<size_t>(plan_.weights[w].n), row_bytes = t.bytes / rows;
      const size_t begin = static_cast<size_t>(task.panel0) * kPanelRows,
                   end = std::min(rows, static_cast<size_t>(task.panel1) * kPanelRows);
      t.file->DontNeed(t.data + begin * row_bytes, (end - begin) * row_bytes);
    } else if (last) {
      const bool parts = !source.parts.empty();
      for (const int t : {source.tensor, parts ? source.parts.front().codes : source.qweight, source.qzeros, source.scales}) {
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
  std::vector<std::unique_ptr<Packer>> packers_;
  std::vector<size_t> offsets_;
  size_t bytes_ = 0;
  std::vector<Task> tasks_;
  std::unique_ptr<std::atomic<int>[]> left_;  // tasks of each weight
  std::mutex mutex_;
  size_t failed_task_ = SIZE_MAX;
  Status failure_;
};

Status PackAll(ArenaPacker& packer, const std::vector<int>& order, const Progress& progress, const std::function<void(size_t)>& packed,
               LoadedWeights* loaded) {
  LOWBIT_RETURN_IF_ERROR(packer.Prepare(order));
  LOWBIT_ASSIGN_OR_RETURN(Block block, Block::Allocate(packer.bytes(), MemoryClass::kWeights, "the weights"));
  LOWBIT_RETURN_IF_ERROR(packer.Pack(block, progress, packed));
  loaded->parts = packer.Finish(block);
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
