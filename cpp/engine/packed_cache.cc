// engine/packed_cache: the format behind packed_cache.h.
#include "engine/packed_cache.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <map>
#include <set>
#include <type_traits>

#include "base/hash.h"

namespace lowbit {
namespace {

static_assert(std::endian::native == std::endian::little, "the records below are written as they lie in memory");

constexpr char kMagic[8] = {'L', 'O', 'W', 'B', 'I', 'T', 'P', 'K'};
constexpr uint32_t kFormatVersion = 1;
constexpr size_t kArenaAlignment = 4096;
// Bytes of the arena under one checksum: they are still in the second-level cache when they are checked after they were read.
constexpr size_t kChunk = size_t(512) << 10;

struct Header {
  char magic[8];
  uint32_t format_version;
  uint32_t layout_version;
  uint64_t structure;     // CacheKey
  uint64_t content;       // HashSources
  uint64_t arena_offset;  // a multiple of kArenaAlignment
  uint64_t arena_bytes;
  uint64_t table_bytes;     // from the end of the header: files, weights, permutations, checksums
  uint64_t table_checksum;  // Hash64 with seed 0
  uint32_t files;
  uint32_t weights;
  uint32_t trusted;          // 1: equal identities of the files mean equal content
  uint32_t reserved;         // 0
  uint64_t header_checksum;  // of the bytes before
};
static_assert(sizeof(Header) == 88 && std::is_trivially_copyable_v<Header>);

struct FileRecord {
  uint64_t size, modified, changed, inode;
};

// In the order of the arena, where the weights follow one another without gaps.
struct WeightRecord {
  uint32_t weight;  // number in the plan
  int32_t n, k, bits, group_size;
  uint8_t kind, affine, meta, reserved;
  uint64_t bytes;         // of its panels
  uint64_t stored_bytes;  // Part::stored_bytes
  uint64_t permutation;   // entries: 0 or k
};
static_assert(sizeof(WeightRecord) == 48 && std::is_trivially_copyable_v<WeightRecord>);

Status Refuse(const std::string& path, const char* why) { return Error(Code::kCorruptFile, "%s %s", path.c_str(), why); }

Status CannotRead(const std::string& path) {
  return Error(Code::kIo, "Cannot read %s: the disk fails, or the file became shorter", path.c_str());
}

template <typename T>
void Put(std::vector<uint8_t>& bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const uint8_t* from = reinterpret_cast<const uint8_t*>(&value);
  bytes.insert(bytes.end(), from, from + sizeof(T));
}

// Takes records from the front of a table; ok() turns false when it is too short.
class Cursor {
 public:
  explicit Cursor(const std::vector<uint8_t>& bytes) : at_(bytes.data()), left_(bytes.size()) {}
  template <typename T>
  T Take() {
    T value = {};
    const void* from = Bytes(sizeof(T));
    if (from != nullptr) std::memcpy(&value, from, sizeof(T));
    return value;
  }
  const void* Bytes(size_t size) {
    if (size > left_) {
      ok_ = false;
      return nullptr;
    }
    const void* from = at_;
    at_ += size;
    left_ -= size;
    return from;
  }
  bool ok() const { return ok_; }
  size_t left() const { return left_; }

 private:
  const uint8_t* at_;
  size_t left_;
  bool ok_ = true;
};

std::vector<int> TensorsOf(const WeightSource& source) {
  std::vector<int> indices;
  for (const int t : {source.tensor, source.qweight, source.qzeros, source.scales, source.g_idx})
    if (t >= 0) indices.push_back(t);
  return indices;
}

size_t Chunks(size_t bytes) { return (bytes + kChunk - 1) / kChunk; }

// No packed format takes more: f32, padded to whole panels and sub-blocks.
uint64_t LargestPacked(const WeightShape& shape) {
  const uint64_t rows = (static_cast<uint64_t>(shape.n) + kPanelRows - 1) / kPanelRows * kPanelRows;
  const uint64_t columns = (static_cast<uint64_t>(shape.k) + kSubBlock - 1) / kSubBlock * kSubBlock;
  return rows * columns * 4;
}

// Each of 0..k-1 once.
bool IsPermutation(const std::vector<int32_t>& order) {
  std::vector<bool> seen(order.size(), false);
  for (const int32_t column : order) {
    if (column < 0 || static_cast<size_t>(column) >= order.size() || seen[static_cast<size_t>(column)]) return false;
    seen[static_cast<size_t>(column)] = true;
  }
  return true;
}

// The weights' records and permutations as parts whose views still lack their data. A reason, or null.
const char* ReadParts(Cursor& table, const Plan& plan, const std::vector<int>& order, std::vector<Part>& parts) {
  std::vector<uint64_t> permutations;
  parts.resize(plan.weights.size());
  for (const int index : order) {
    const WeightShape& shape = plan.weights[static_cast<size_t>(index)];
    const WeightRecord record = table.Take<WeightRecord>();
    if (!table.ok() || record.weight != static_cast<uint32_t>(index) || record.n != shape.n || record.k != shape.k)
      return "lists other weights than the model has";
    Part& part = parts[static_cast<size_t>(index)];
    PackedView& view = part.view;
    view.kind = static_cast<PackedKind>(record.kind);
    view.n = record.n;
    view.k = record.k;
    if (view.kind == PackedKind::kAffine) {
      view.bits = record.bits;
      view.group_size = record.group_size;
      view.affine = static_cast<AffineKind>(record.affine);
      view.meta = static_cast<MetaKind>(record.meta);
    }
    part.kind = view.kind == PackedKind::kAffine ? PartKind::kAffine : PartKind::kDense;
    part.stored_bytes = static_cast<size_t>(record.stored_bytes);
    if (!CheckFormat(shape.name.c_str(), view).ok()) return "describes a weight in a format that does not exist";
    view.panel_bytes = PackedPanelBytes(view);
    if (record.bytes != part.bytes()) return "gives a weight a size that does not follow from its shape";
    if (record.permutation != 0 && record.permutation != static_cast<uint64_t>(record.k)) return "reorders some columns of a weight only";
    permutations.push_back(record.permutation);
  }
  for (size_t i = 0; i < order.size(); ++i) {
    const size_t count = static_cast<size_t>(permutations[i]);
    const void* from = table.Bytes(count * sizeof(int32_t));
    if (from == nullptr) return "is too short for its columns' order";
    if (count == 0) continue;
    std::vector<int32_t>& permutation = parts[static_cast<size_t>(order[i])].permutation;
    permutation.resize(count);
    std::memcpy(permutation.data(), from, count * sizeof(int32_t));
    if (!IsPermutation(permutation)) return "names a column of a weight twice or one that does not exist";
  }
  return nullptr;
}

}  // namespace

CacheKey MakeCacheKey(const ModelSpec& spec, const Plan& plan, const std::vector<Tensor>& tensors) {
  CacheKey key;
  std::vector<uint8_t> bytes;
  std::map<int, FileIdentity> files;
  Put(bytes, kPackedLayoutVersion);
  for (size_t i = 0; i < spec.weights.size(); ++i) {
    const WeightSource& s = spec.weights[i];
    const WeightShape& shape = plan.weights[i];
    for (const int value :
         {shape.n, shape.k, s.bits, s.group_size, s.zero_offset, s.rope_heads, s.round_bits, s.qweight >= 0 ? 1 : 0, s.g_idx >= 0 ? 1 : 0,
          s.qzeros >= 0 ? 1 : 0, s.layout.has_value() ? static_cast<int>(*s.layout) : -1, s.transposed ? 1 : 0})
      Put(bytes, static_cast<int32_t>(value));
    for (const int t : TensorsOf(s)) {
      const Tensor& tensor = tensors[static_cast<size_t>(t)];
      const TensorEntry& entry = spec.tensors[static_cast<size_t>(t)];
      bytes.insert(bytes.end(), tensor.name.begin(), tensor.name.end());
      Put(bytes, static_cast<uint64_t>(tensor.name.size()));
      for (const int64_t d : tensor.shape) Put(bytes, d);
      Put(bytes, static_cast<uint32_t>(tensor.dtype));
      Put(bytes, static_cast<uint64_t>(entry.offset));
      Put(bytes, static_cast<uint64_t>(entry.bytes));
      Put(bytes, static_cast<int32_t>(entry.file));
      files[entry.file] = tensor.file->identity();
    }
  }
  key.structure = Hash64(bytes.data(), bytes.size(), kFormatVersion);
  for (const auto& [file, identity] : files) key.files.push_back(identity);
  return key;
}

bool FilesUnchanged(const ModelSpec& spec, const std::vector<Tensor>& tensors) {
  std::set<const MappedFile*> files;
  for (const WeightSource& source : spec.weights)
    for (const int t : TensorsOf(source)) files.insert(tensors[static_cast<size_t>(t)].file.get());
  return std::all_of(files.begin(), files.end(), [](const MappedFile* file) {
    const Result<FileIdentity> now = IdentifyFile(file->path());
    return now.ok() && now.value() == file->identity();
  });
}

uint64_t HashSources(const ModelSpec& spec, const std::vector<Tensor>& tensors, Pool& pool) {
  struct Piece {
    const Tensor* tensor;
    size_t offset, size;
  };
  constexpr size_t kPiece = size_t(1) << 20;
  std::set<int> used;
  for (const WeightSource& source : spec.weights)
    for (const int t : TensorsOf(source)) used.insert(t);
  std::vector<Piece> pieces;
  for (const int t : used) {
    const Tensor& tensor = tensors[static_cast<size_t>(t)];
    for (size_t at = 0; at < tensor.bytes; at += kPiece) pieces.push_back({&tensor, at, std::min(kPiece, tensor.bytes - at)});
  }
  std::vector<uint64_t> hashes(pieces.size());
  pool.Run(static_cast<int>(pieces.size()), [&](int c, int) {
    const Piece& piece = pieces[static_cast<size_t>(c)];
    const uint8_t* bytes = piece.tensor->data + piece.offset;
    hashes[static_cast<size_t>(c)] = Hash64(bytes, piece.size, piece.offset);
    piece.tensor->file->DontNeed(bytes, piece.size);
  });
  return Hash64(hashes.data(), hashes.size() * sizeof(uint64_t), 1);
}

Result<CachedWeights> ReadPackedCache(const std::string& path, const CacheKey& key, const Plan& plan, const std::vector<int>& order,
                                      const std::function<uint64_t()>& hash_sources, CachePlacement placement, Pool& pool,
                                      const Progress& progress) {
  LOWBIT_ASSIGN_OR_RETURN(const std::shared_ptr<MappedFile> mapped, MappedFile::Open(path));
  const MappedFile& file = *mapped;
  Header header;
  if (file.size() < sizeof(header)) return Refuse(path, "is too short");
  if (!file.Populate(file.data(), sizeof(header))) return CannotRead(path);
  std::memcpy(&header, file.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return Refuse(path, "is not a packed-weight cache");
  if (header.format_version != kFormatVersion || header.layout_version != kPackedLayoutVersion)
    return Refuse(path, "was written by another version of lowbit");
  if (header.header_checksum != Hash64(&header, offsetof(Header, header_checksum), 0)) return Refuse(path, "has a damaged header");
  if (header.structure != key.structure || header.weights != order.size() || header.files != key.files.size())
    return Refuse(path, "belongs to another model or to other load options");

  // Sizes: bounded by the plan before anything is allocated, and by the file before anything is read.
  uint64_t largest_arena = 0, largest_permutations = 0;
  for (const WeightShape& shape : plan.weights) {
    largest_arena += LargestPacked(shape);
    largest_permutations += static_cast<uint64_t>(shape.k) * sizeof(int32_t);
  }
  if (header.arena_bytes > largest_arena) return Refuse(path, "is larger than its model could be");
  const uint64_t records = header.files * sizeof(FileRecord) + header.weights * sizeof(WeightRecord);
  const uint64_t checksums = Chunks(header.arena_bytes) * sizeof(uint64_t);
  if (header.table_bytes < records + checksums || header.table_bytes > records + checksums + largest_permutations)
    return Refuse(path, "has a table of impossible size");
  if (header.arena_offset % kArenaAlignment != 0 || header.arena_offset < sizeof(header) + header.table_bytes ||
      header.arena_offset > file.size() || file.size() - header.arena_offset != header.arena_bytes)
    return Refuse(path, "is cut short or too long");

  std::vector<uint8_t> table(static_cast<size_t>(header.table_bytes));
  if (!file.Populate(file.data(), sizeof(header) + table.size())) return CannotRead(path);
  std::memcpy(table.data(), file.data() + sizeof(header), table.size());
  if (Hash64(table.data(), table.size(), 0) != header.table_checksum) return Refuse(path, "has a damaged table");
  Cursor cursor(table);
  bool same_files = header.trusted == 1;
  for (const FileIdentity& identity : key.files) {
    const FileRecord record = cursor.Take<FileRecord>();
    same_files = same_files && FileIdentity{record.size, record.modified, record.changed, record.inode} == identity;
  }
  CachedWeights cached;
  if (const char* reason = ReadParts(cursor, plan, order, cached.parts)) return Refuse(path, reason);
  uint64_t left = header.arena_bytes;  // subtracted, as a sum of forged sizes could overflow
  for (const Part& part : cached.parts) {
    if (part.bytes() > left) return Refuse(path, "does not add up");
    left -= part.bytes();
  }
  if (left != 0 || cursor.left() != checksums) return Refuse(path, "does not add up");
  const size_t arena_bytes = static_cast<size_t>(header.arena_bytes);
  std::vector<uint64_t> expected(Chunks(header.arena_bytes));
  std::memcpy(expected.data(), cursor.Bytes(static_cast<size_t>(checksums)), static_cast<size_t>(checksums));
  if (!same_files && hash_sources() != header.content) return Refuse(path, "was made from other contents of the model's files");

  const uint8_t* from = file.data() + header.arena_offset;
  std::atomic<size_t> damaged{SIZE_MAX};
  const size_t count = expected.size(), batch = 64 * static_cast<size_t>(pool.threads());
  const auto chunk_bytes = [&](size_t chunk) { return std::min(kChunk, arena_bytes - chunk * kChunk); };
  for (size_t begin = 0; begin < count && damaged.load() == SIZE_MAX; begin += batch) {
    if (progress.cancelled()) return Error(Code::kCancelled, "Loading was aborted");
    const size_t end = std::min(count, begin + batch);
    pool.Run(static_cast<int>(end - begin), [&](int c, int) {
      const size_t chunk = begin + static_cast<size_t>(c), offset = chunk * kChunk, size = chunk_bytes(chunk);
      if (!file.Populate(from + offset, size) || Hash64(from + offset, size, chunk) != expected[chunk]) damaged = offset;
    });
    progress.Report(static_cast<int64_t>(end), static_cast<int64_t>(count));
  }
  if (placement == CachePlacement::kMapped ||
      (placement == CachePlacement::kFastest && damaged.load() == SIZE_MAX && file.HugePageBytes() >= arena_bytes / 2)) {
    cached.arena = Arena(mapped, static_cast<size_t>(header.arena_offset), arena_bytes);
  } else if (damaged.load() == SIZE_MAX) {
    LOWBIT_ASSIGN_OR_RETURN(Block block, Block::Allocate(arena_bytes, MemoryClass::kWeights, "the weights"));
    pool.Run(static_cast<int>(count), [&](int c, int) {
      const size_t chunk = static_cast<size_t>(c), offset = chunk * kChunk, size = chunk_bytes(chunk);
      std::memcpy(block.data() + offset, from + offset, size);
      file.DontNeed(from + offset, size);
    });
    cached.arena = Arena(std::move(block));
  }
  size_t offset = 0;
  for (const int index : order) {
    Part& part = cached.parts[static_cast<size_t>(index)];
    const size_t begin = offset;
    offset += part.bytes();
    if (damaged.load() < offset)
      return Error(Code::kCorruptFile, "%s is damaged at or after the start of %s", path.c_str(),
                   plan.weights[static_cast<size_t>(index)].name.c_str());
    part.view.data = cached.arena.data() + begin;
  }
  return cached;
}

Status WritePackedCache(const std::string& path, const CacheKey& key, bool trusted, uint64_t content, const std::vector<int>& order,
                        const std::vector<Part>& parts, const Arena& arena, Pool& pool, const Progress& progress,
                        const std::function<void(size_t)>& written) {
  LOWBIT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  std::vector<uint8_t> table;
  for (const FileIdentity& identity : key.files) Put(table, FileRecord{identity.size, identity.modified, identity.changed, identity.inode});
  size_t arena_bytes = 0;
  for (const int index : order) {
    const Part& part = parts[static_cast<size_t>(index)];
    WeightRecord record = {};
    record.weight = static_cast<uint32_t>(index);
    record.n = part.view.n;
    record.k = part.view.k;
    record.bits = part.view.bits;
    record.group_size = part.view.group_size;
    record.kind = static_cast<uint8_t>(part.view.kind);
    record.affine = static_cast<uint8_t>(part.view.affine);
    record.meta = static_cast<uint8_t>(part.view.meta);
    record.bytes = part.bytes();
    record.stored_bytes = part.stored_bytes;
    record.permutation = part.permutation.size();
    Put(table, record);
    arena_bytes += part.bytes();
  }
  for (const int index : order) {
    const std::vector<int32_t>& permutation = parts[static_cast<size_t>(index)].permutation;
    const uint8_t* from = reinterpret_cast<const uint8_t*>(permutation.data());
    table.insert(table.end(), from, from + permutation.size() * sizeof(int32_t));
  }
  std::vector<uint64_t> checksums(Chunks(arena_bytes));
  pool.Run(static_cast<int>(checksums.size()), [&](int c, int) {
    const size_t chunk = static_cast<size_t>(c), offset = chunk * kChunk;
    checksums[chunk] = Hash64(arena.data() + offset, std::min(kChunk, arena_bytes - offset), chunk);
  });
  for (const uint64_t checksum : checksums) Put(table, checksum);

  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.format_version = kFormatVersion;
  header.layout_version = kPackedLayoutVersion;
  header.structure = key.structure;
  header.content = content;
  header.table_bytes = table.size();
  header.table_checksum = Hash64(table.data(), table.size(), 0);
  header.arena_offset = (sizeof(header) + table.size() + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
  header.arena_bytes = arena_bytes;
  header.files = static_cast<uint32_t>(key.files.size());
  header.weights = static_cast<uint32_t>(order.size());
  header.trusted = trusted ? 1 : 0;
  header.header_checksum = Hash64(&header, offsetof(Header, header_checksum), 0);
  std::vector<uint8_t> front;
  Put(front, header);
  front.insert(front.end(), table.begin(), table.end());
  front.resize(static_cast<size_t>(header.arena_offset), 0);
  LOWBIT_RETURN_IF_ERROR(file.Append(front.data(), front.size()));
  constexpr size_t kPiece = size_t(8) << 20;
  for (size_t offset = 0; offset < arena_bytes; offset += kPiece) {
    if (progress.cancelled()) return Error(Code::kCancelled, "Loading was aborted");
    const size_t size = std::min(kPiece, arena_bytes - offset);
    LOWBIT_RETURN_IF_ERROR(file.Append(arena.data() + offset, size));
    written(offset + size);
  }
  return file.Commit();
}

}  // namespace lowbit
