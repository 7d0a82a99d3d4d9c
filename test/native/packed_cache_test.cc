// test/native: the arena, and the packed-weight cache against damage and forgery. The model is three weights: an act-order GPTQ one,
// a Q4_0 one and a bf16 head that is the embedding, too.
#include "engine/packed_cache.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/half.h"
#include "base/hash.h"
#include "check.h"
#include "engine/weights.h"
#include "kernel/kernel.h"

using namespace lowbit;

namespace {

constexpr int kRows = 48, kColumns = 96, kVocabulary = 40;

struct Fixture {
  std::filesystem::path folder;
  ModelSpec spec;
  Pool pool{2};

  Fixture() {
    folder = std::filesystem::temp_directory_path() / ("lowbit_cache_test_" + std::to_string(reinterpret_cast<uintptr_t>(this)));
    std::filesystem::create_directories(folder);
    std::mt19937 random(3);
    std::string bytes;
    const auto tensor = [&](const char* name, const char* dtype, std::vector<int64_t> shape, size_t size, auto&& byte) {
      TensorEntry entry;
      entry.name = name;
      entry.dtype = dtype;
      entry.shape = std::move(shape);
      entry.offset = bytes.size();
      entry.bytes = size;
      for (size_t i = 0; i < size; ++i) bytes.push_back(static_cast<char>(byte(i)));
      spec.tensors.push_back(entry);
    };
    const auto any = [&](size_t) { return random() & 0x3f; };  // no exponent of all ones in any 16-bit type
    tensor("embed", "BF16", {kVocabulary, kColumns}, kVocabulary * kColumns * 2, any);
    tensor("q4", "Q4_0", {kColumns, kRows * 2}, kColumns * kRows * 2 / 32 * 18, any);
    tensor("qweight", "I32", {kColumns / 8, kRows}, kColumns / 8 * kRows * 4, any);
    tensor("qzeros", "I32", {3, kRows / 8}, 3 * kRows / 8 * 4, any);
    tensor("scales", "F16", {3, kRows}, 3 * kRows * 2, any);
    tensor("g_idx", "I32", {kColumns}, kColumns * 4, [](size_t i) { return i % 4 == 0 ? i / 4 % 3 : 0; });
    std::ofstream(folder / "model", std::ios::binary) << bytes;
    spec.files = {(folder / "model").string()};
    WeightSource embed, q4, gptq;
    embed.tensor = 0;
    q4.tensor = 1;
    gptq.qweight = 2;
    gptq.qzeros = 3;
    gptq.scales = 4;
    gptq.g_idx = 5;
    gptq.bits = 4;
    gptq.group_size = 32;
    spec.weights = {embed, q4, gptq};
    spec.plan.weights = {{"embed", kVocabulary, kColumns}, {"q4", kColumns, kRows * 2}, {"gptq", kRows, kColumns}};
    for (const int weight : {2, 1, 0}) {  // execution order: not that of the list
      Op op;
      op.kind = OpKind::kLinear;
      op.outputs.resize(1);
      op.outputs[0].weight = weight;
      spec.plan.ops.push_back(op);
    }
    std::filesystem::last_write_time(folder / "model", std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  }
  ~Fixture() { std::filesystem::remove_all(folder); }

  std::string cache() const { return (folder / "model.lowbit-packed").string(); }
  std::vector<Tensor> Tensors() const { return OpenTensors(spec.files, spec.tensors).value(); }
  Result<LoadedWeights> Load(bool cached) {
    spec.packed_cache = cached ? cache() : "";
    return LoadWeights(spec, spec.plan, Tensors(), *RefKernels(), pool, {});
  }
};

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void WriteAll(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

bool SameWeights(const std::vector<Part>& a, const std::vector<Part>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    const PackedView &v = a[i].view, &w = b[i].view;
    if (v.n != w.n || v.k != w.k || v.kind != w.kind || v.bits != w.bits || v.group_size != w.group_size || v.affine != w.affine ||
        v.meta != w.meta || v.panel_bytes != w.panel_bytes || a[i].permutation != b[i].permutation || a[i].kind != b[i].kind ||
        a[i].stored_bytes != b[i].stored_bytes || std::memcmp(v.data, w.data, a[i].bytes()) != 0)
      return false;
  }
  return true;
}

// Views inside the arena, one after the other, and permutations that are some: what kernels rely on.
bool Safe(const CachedWeights& weights) {
  size_t total = 0;
  for (const Part& part : weights.parts) {
    if (part.view.data < weights.arena.data() || part.bytes() > weights.arena.size() ||
        static_cast<size_t>(part.view.data - weights.arena.data()) > weights.arena.size() - part.bytes())
      return false;
    if (part.view.panel_bytes != PackedPanelBytes(part.view)) return false;
    std::vector<int32_t> sorted = part.permutation;
    std::sort(sorted.begin(), sorted.end());
    for (size_t i = 0; i < sorted.size(); ++i)
      if (sorted[i] != static_cast<int32_t>(i)) return false;
    if (!sorted.empty() && sorted.size() != static_cast<size_t>(part.view.k)) return false;
    total += part.bytes();
  }
  return total == weights.arena.size();
}

// Byte positions in the header, see packed_cache.cc.
constexpr size_t kHeaderBytes = 88, kTableBytesAt = 48, kTableChecksumAt = 56, kHeaderChecksumAt = 80;

// Makes the checksums of header and table right again, as a forger would.
void Reseal(std::string& bytes) {
  uint64_t table_bytes;
  std::memcpy(&table_bytes, &bytes[kTableBytesAt], 8);
  if (table_bytes <= bytes.size() - kHeaderBytes) {
    const uint64_t table = Hash64(&bytes[kHeaderBytes], static_cast<size_t>(table_bytes), 0);
    std::memcpy(&bytes[kTableChecksumAt], &table, 8);
  }
  const uint64_t header = Hash64(bytes.data(), kHeaderChecksumAt, 0);
  std::memcpy(&bytes[kHeaderChecksumAt], &header, 8);
}

}  // namespace

LOWBIT_TEST(arena_lies_in_execution_order) {
  Fixture f;
  EXPECT(ExecutionOrder(f.spec.plan) == (std::vector<int>{2, 1, 0}));
  const Result<LoadedWeights> loaded = f.Load(false);
  if (!EXPECT(loaded.ok())) return;
  const std::vector<Part>& parts = loaded.value().parts;
  EXPECT(loaded.value().cache.state == CacheState::kOff);
  EXPECT(parts[2].view.data == loaded.value().arena.data());
  EXPECT(parts[1].view.data == parts[2].view.data + parts[2].bytes());
  EXPECT(parts[0].view.data == parts[1].view.data + parts[1].bytes());
  EXPECT(!parts[2].permutation.empty());
  // what the arena holds is what the packers make by themselves
  const std::vector<Tensor> tensors = f.Tensors();
  const Result<Part> alone = PackGguf("q4", DType::kQ4_0, tensors[1].data, kColumns, kRows * 2, {});
  EXPECT(alone.ok() && std::memcmp(alone.value().view.data, parts[1].view.data, parts[1].bytes()) == 0);
}

LOWBIT_TEST(packed_cache_round_trip_and_states) {
  Fixture f;
  const Result<LoadedWeights> plain = f.Load(false);
  if (!EXPECT(plain.ok())) return;
  const auto state = [&] {
    const Result<LoadedWeights> loaded = f.Load(true);
    if (!EXPECT(loaded.ok())) return CacheState::kOff;
    EXPECT(SameWeights(loaded.value().parts, plain.value().parts));
    EXPECT(loaded.value().cache.note.empty() ==
           (loaded.value().cache.state == CacheState::kHit || loaded.value().cache.state == CacheState::kWritten));
    return loaded.value().cache.state;
  };
  EXPECT(state() == CacheState::kWritten);
  EXPECT(state() == CacheState::kHit);
  EXPECT(!std::filesystem::exists(f.cache() + ".tmp"));
  // touched, content unchanged
  std::filesystem::last_write_time(f.folder / "model", std::filesystem::file_time_type::clock::now());
  EXPECT(state() == CacheState::kHit);
  // copied: another inode
  const std::string model = ReadAll(f.spec.files[0]);
  std::filesystem::remove(f.folder / "model");
  WriteAll(f.spec.files[0], model);
  EXPECT(state() == CacheState::kHit);
  // one byte of the arena, of the table, of the header; one byte less, one more; an empty file
  const std::string good = ReadAll(f.cache());
  const auto damaged = [&](std::string bytes) {
    WriteAll(f.cache(), bytes);
    const bool stale = state() == CacheState::kStale;
    return stale && state() == CacheState::kHit;
  };
  for (const size_t at : {good.size() - 1, size_t(4096), size_t(100), size_t(20), size_t(0)}) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    EXPECT(damaged(bytes));
  }
  EXPECT(damaged(good.substr(0, good.size() - 1)));
  EXPECT(damaged(good + '\0'));
  EXPECT(damaged(""));
  // other options, other layout of the model
  f.spec.weights[0].round_bits = 4;
  const Result<LoadedWeights> rounded = f.Load(true);
  EXPECT(rounded.ok() && rounded.value().cache.state == CacheState::kStale);
  EXPECT(rounded.ok() && rounded.value().parts[0].view.bits == 4);
}

// The same size and modification time, another content: the change time tells, and where a file system has none, its clock.
LOWBIT_TEST(packed_cache_notices_another_content) {
  Fixture f;
  EXPECT(f.Load(true).ok());
  const auto time = std::filesystem::last_write_time(f.folder / "model");
  std::string model = ReadAll(f.spec.files[0]);
  model[5] = static_cast<char>(model[5] ^ 1);
  WriteAll(f.spec.files[0], model);
  std::filesystem::last_write_time(f.folder / "model", time);
  const Result<LoadedWeights> again = f.Load(true);
  if (!EXPECT(again.ok())) return;
  EXPECT(again.value().cache.state == CacheState::kStale);
  EXPECT(again.value().cache.note.find("was made from other contents") != std::string::npos);
  EXPECT(SameWeights(again.value().parts, f.Load(false).value().parts));
}

LOWBIT_TEST(packed_cache_that_cannot_be_written) {
  Fixture f;
  f.spec.packed_cache = (f.folder / "model" / "inside").string();  // a file is no folder
  Result<LoadedWeights> loaded = LoadWeights(f.spec, f.spec.plan, f.Tensors(), *RefKernels(), f.pool, {});
  EXPECT(loaded.ok() && loaded.value().cache.state == CacheState::kFailed);
  EXPECT(loaded.ok() && loaded.value().cache.note.find("Cannot write") != std::string::npos);
  // another writer holds the lock
  {
    const Result<AtomicFile> other = AtomicFile::Create(f.cache());
    EXPECT(other.ok());
    loaded = f.Load(true);
    EXPECT(loaded.ok() && loaded.value().cache.state == CacheState::kFailed);
    EXPECT(loaded.ok() && loaded.value().cache.note.find("another process or load is writing it") != std::string::npos);
  }
  EXPECT(!std::filesystem::exists(f.cache() + ".tmp"));
  loaded = f.Load(true);
  EXPECT(loaded.ok() && loaded.value().cache.state == CacheState::kWritten);
}

// Mapped weights stay when the file is deleted or replaced, and what is discarded takes nothing else along.
LOWBIT_TEST(packed_cache_mapped_or_copied) {
  Fixture f;
  const Result<LoadedWeights> plain = f.Load(false);
  if (!EXPECT(plain.ok() && f.Load(true).ok())) return;
  const std::vector<Tensor> tensors = f.Tensors();
  const CacheKey key = MakeCacheKey(f.spec, f.spec.plan, tensors);
  const auto hash = [&] { return HashSources(f.spec, tensors, f.pool); };
  const auto read = [&](CachePlacement placement) {
    return ReadPackedCache(f.cache(), key, f.spec.plan, ExecutionOrder(f.spec.plan), hash, placement, f.pool, {});
  };
  Result<CachedWeights> mapped = read(CachePlacement::kMapped), copied = read(CachePlacement::kCopied),
                        best = read(CachePlacement::kFastest);
  if (!EXPECT(mapped.ok() && copied.ok() && best.ok())) return;
  EXPECT(mapped.value().arena.mapped() && !copied.value().arena.mapped());
  std::filesystem::remove(f.cache());
  WriteAll(f.cache(), "another file");
  for (const Result<CachedWeights>* weights : {&mapped, &copied, &best}) {
    EXPECT(Safe(weights->value()));
    EXPECT(SameWeights(weights->value().parts, plain.value().parts));
  }
  for (Result<CachedWeights>* weights : {&mapped, &copied}) {
    const Part& first = weights->value().parts[2];
    weights->value().arena.Discard(first.view.data, first.bytes());
    for (const size_t other : {0, 1}) {
      const Part& part = weights->value().parts[other];
      EXPECT(std::memcmp(part.view.data, plain.value().parts[other].view.data, part.bytes()) == 0);
    }
  }
}

LOWBIT_TEST(packed_cache_mutants_are_refused_or_safe) {
  Fixture f;
  if (!EXPECT(f.Load(true).ok())) return;
  const std::vector<Tensor> tensors = f.Tensors();
  const CacheKey key = MakeCacheKey(f.spec, f.spec.plan, tensors);
  const std::vector<int> order = ExecutionOrder(f.spec.plan);
  const std::string good = ReadAll(f.cache());
  const auto hash = [&] { return HashSources(f.spec, tensors, f.pool); };
  uint64_t table_bytes;
  std::memcpy(&table_bytes, &good[kTableBytesAt], 8);
  const size_t front = kHeaderBytes + static_cast<size_t>(table_bytes);
  std::mt19937 random(9);
  int accepted = 0, refused = 0;
  for (int mutant = 0; mutant < 3000; ++mutant) {
    std::string bytes = good;
    const int changes = 1 + static_cast<int>(random() % 3);
    for (int c = 0; c < changes; ++c) {
      const size_t at = random() % 16 == 0 ? random() % bytes.size() : random() % front;
      const uint32_t extremes[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, static_cast<uint32_t>(random())};
      if (random() % 2 == 0)
        bytes[at] = static_cast<char>(random());
      else
        std::memcpy(&bytes[std::min(at / 4 * 4, bytes.size() - 4)], &extremes[random() % 6], 4);
    }
    if (random() % 8 == 0) bytes.resize(random() % bytes.size());
    const bool sealed = bytes.size() >= kHeaderBytes && random() % 4 != 0;
    if (sealed) Reseal(bytes);
    WriteAll(f.cache(), bytes);
    const Result<CachedWeights> read = ReadPackedCache(f.cache(), key, f.spec.plan, order, hash,
                                                       mutant % 2 == 0 ? CachePlacement::kMapped : CachePlacement::kCopied, f.pool, {});
    if (read.ok()) {
      ++accepted;
      EXPECT(Safe(read.value()));
      const bool padding_only = bytes.size() == good.size() && bytes.compare(0, front, good, 0, front) == 0 &&
                                bytes.compare(4096, std::string::npos, good, 4096, std::string::npos) == 0;
      EXPECT(sealed || padding_only);
    } else {
      ++refused;
      EXPECT(read.status().code() == Code::kCorruptFile || read.status().code() == Code::kIo);
    }
  }
  EXPECT(accepted > 0 && refused > 1000);
}

LOWBIT_TEST(hash64_sees_every_bit) {
  std::vector<uint8_t> bytes(200, 0);
  const uint64_t empty = Hash64(bytes.data(), 0, 0);
  std::vector<uint64_t> seen = {empty};
  for (size_t size : {1, 7, 8, 63, 64, 65, 128, 200}) {
    const uint64_t zero = Hash64(bytes.data(), size, 0);
    seen.push_back(zero);
    seen.push_back(Hash64(bytes.data(), size, 1));
    for (size_t bit = 0; bit < size * 8; ++bit) {
      bytes[bit / 8] = static_cast<uint8_t>(1u << bit % 8);
      seen.push_back(Hash64(bytes.data(), size, 0));
      bytes[bit / 8] = 0;
    }
  }
  std::sort(seen.begin(), seen.end());
  EXPECT(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
  const char text[] = "lowbit packs weights once and reads them back as they lie in memory, 64 bytes and more.";
  EXPECT(Hash64(text, sizeof(text), 7) == 0x19086e5e824ac896u);
}
