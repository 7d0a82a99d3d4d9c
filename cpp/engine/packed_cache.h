// engine/packed_cache: a file that holds the arena of a model as it lies in memory, so that the next load maps instead of packing.
// Keyed by content, verified, safe to delete: a file that does not belong to exactly these weights, or is damaged anywhere, is refused
// and the caller packs. It is as hostile as any file: nothing in it is believed that is not checked against the plan.
// Layout, all little endian (docs/formats.md, "Packed-weight cache"): header, files, weights, permutations, checksums, padding, arena.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/pool.h"
#include "base/status.h"
#include "engine/arena.h"
#include "engine/spec.h"
#include "part/part.h"
#include "plan/plan.h"
#include "tensor/tensor.h"

namespace lowbit {

// What the cached weights depend on.
struct CacheKey {
  // Everything but the bytes: format and layout version, shapes and sources of the weights, the entries of their tensors.
  uint64_t structure = 0;
  // The files that hold the weights, as they were when they were mapped.
  std::vector<FileIdentity> files;
};

CacheKey MakeCacheKey(const ModelSpec& spec, const Plan& plan, const std::vector<Tensor>& tensors);

// Whether the files are still what they were when they were mapped.
bool FilesUnchanged(const ModelSpec& spec, const std::vector<Tensor>& tensors);

// A checksum over all bytes of the tensors that the weights come from: what decides when the identity of the files cannot, because
// they were copied, touched, or changed within the granularity of a clock.
uint64_t HashSources(const ModelSpec& spec, const std::vector<Tensor>& tensors, Pool& pool);

// Where the weights of a cache lie while they are used. Mapped: at once, shared with other processes that use the same file, and the
// system may take the pages back; but a mapping of 4 KiB pages is read more slowly than a block of huge pages, at every step.
enum class CachePlacement {
  kFastest,  // mapped where the system maps at least half of it in huge pages, else copied
  kMapped,
  kCopied,
};

struct CachedWeights {
  Arena arena;
  std::vector<Part> parts;  // one per weight of the plan
};

// Maps, checks and places the weights. `order` is the order of the arena; hash_sources is called when the identities do not decide.
// IO: there is no such file, or it cannot be read. CORRUPT_FILE: it is damaged or belongs to other weights; the message says what is
// wrong and begins with the path. OUT_OF_MEMORY for the arena, CANCELLED.
Result<CachedWeights> ReadPackedCache(const std::string& path, const CacheKey& key, const Plan& plan, const std::vector<int>& order,
                                      const std::function<uint64_t()>& hash_sources, CachePlacement placement, Pool& pool,
                                      const Progress& progress);

// Writes the file whole or not at all. `trusted`: whether key.files may stand for the content (see kClockGranularityNs).
// `written` is told how many bytes of the arena are done. IO, CANCELLED.
Status WritePackedCache(const std::string& path, const CacheKey& key, bool trusted, uint64_t content, const std::vector<int>& order,
                        const std::vector<Part>& parts, const Arena& arena, Pool& pool, const Progress& progress,
                        const std::function<void(size_t)>& written);

// A file that changed less than this before it was read may change again without its time changing. The coarsest clock of a file
// system in use is FAT's, two seconds.
constexpr uint64_t kClockGranularityNs = 2'100'000'000;

}  // namespace lowbit
