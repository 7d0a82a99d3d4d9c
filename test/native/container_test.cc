// test/native: the tensors of a lowbit container give back the parts they were written from, bit for bit; damaged ones are refused.
#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <random>

#include "check.h"
#include "engine/container_source.h"
#include "kernel/kernel.h"
#include "part/bit_stream.h"
#include "quantize/container_tensors.h"
#include "quantize/pack_parts.h"
#include "random_parts.h"

using namespace lowbit;
using lowbit_test::PartsShape;
using lowbit_test::RandomLinear;
using lowbit_test::RoundHalf;

namespace {

// Stored tensors as a loaded model would see them, and their numbers by name.
struct File {
  std::vector<StoredTensor> stored;
  std::vector<Tensor> tensors;
  WeightShape shape;
  WeightSource source;

  explicit File(const LinearParts& linear) : stored(ContainerTensors(linear)), shape{"w", linear.n, linear.k, -1} { Open(); }

  StoredTensor& Find(const std::string& part) {
    return *std::find_if(stored.begin(), stored.end(), [&](const StoredTensor& t) { return t.part == part; });
  }

  void Open() {
    tensors.clear();
    source = {};
    std::map<std::string, int> numbers;
    for (const StoredTensor& s : stored) {
      numbers[s.part] = static_cast<int>(tensors.size());
      Tensor t;
      t.name = s.part;
      t.dtype = s.dtype;
      t.shape = s.shape;
      t.data = s.bytes.data();
      t.bytes = s.bytes.size();
      tensors.push_back(t);
    }
    const auto number = [&](const std::string& part) { return numbers.count(part) > 0 ? numbers[part] : -1; };
    source.input_scale = number("input_scale");
    const StoredTensor& records = Find("parts");
    for (size_t i = 0; i < records.bytes.size() / (4 * kPartRecord); ++i) {
      int32_t record[kPartRecord];
      std::memcpy(record, records.bytes.data() + i * sizeof(record), sizeof(record));
      PartTensors p;
      p.kind = static_cast<PartKind>(record[0]);
      p.bits = record[1];
      p.group_size = record[2];
      p.affine = static_cast<AffineKind>(record[3]);
      p.scale_bits = record[4];
      p.count = record[6];
      const std::string prefix = std::to_string(i) + ".";
      const struct {
        const char* name;
        int* number;
      } fields[] = {{"codes", &p.codes},
                    {"scales", &p.scales},
                    {"minima", &p.seconds},
                    {"zeros", &p.seconds},
                    {"rows", &p.rows},
                    {"scale_codes", &p.scale_codes},
                    {"tiles", &p.tiles},
                    {"zero_codes", &p.zero_codes},
                    {"g_idx", &p.g_idx},
                    {"a", &p.a},
                    {"b", &p.b},
                    {"row_offsets", &p.row_offsets},
                    {"columns", &p.columns},
                    {"values", &p.values}};
      for (const auto& field : fields)
        if (number(prefix + field.name) >= 0) *field.number = number(prefix + field.name);
      EXPECT((p.rows >= 0) == ((record[5] & kPartHasRows) != 0) && (p.g_idx >= 0) == ((record[5] & kPartHasOrder) != 0));
      source.parts.push_back(p);
    }
  }

  Result<std::vector<Part>> Load() const {
    LOWBIT_ASSIGN_OR_RETURN(Part first, PackWhole(FirstPartPacker(tensors, shape, source)));
    std::vector<Part> parts;
    parts.push_back(std::move(first));
    LOWBIT_ASSIGN_OR_RETURN(std::vector<OtherPacker> others, OtherPackers(tensors, shape, source));
    for (OtherPacker& other : others) {
      LOWBIT_ASSIGN_OR_RETURN(Part part, PackWhole(std::move(other.packer)));
      parts.push_back(std::move(part));
    }
    LOWBIT_ASSIGN_OR_RETURN(std::vector<Part> added, AddedParts(tensors, shape, source));
    for (Part& part : added) parts.push_back(std::move(part));
    return parts;
  }
};

LinearParts WithOrder(LinearParts linear) {
  AffineCodes& a = linear.affine[0];
  a.g_idx.resize(static_cast<size_t>(linear.k));
  for (int j = 0; j < linear.k; ++j) a.g_idx[static_cast<size_t>(j)] = (linear.k - 1 - j) / a.group_size;
  return linear;
}

// Scales and minima that are codes of 3 bits.
LinearParts WithCodedScales(LinearParts linear) {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> unit(0.01f, 0.1f);
  AffineCodes& a = linear.affine[0];
  CodedScales& c = a.coded;
  c.bits = 3;
  const size_t rows = a.rows.empty() ? static_cast<size_t>(linear.n) : a.rows.size(), groups = static_cast<size_t>(a.groups);
  for (size_t i = 0; i < (rows + 15) / 16 * groups; ++i) {
    c.scale_step.push_back(RoundHalf(unit(random)));
    c.scale_zero.push_back(RoundHalf(-1 - 10 * unit(random)));
    c.zero_step.push_back(RoundHalf(unit(random) * 10));
    c.zero_zero.push_back(RoundHalf(-unit(random)));
  }
  for (size_t i = 0; i < rows * groups; ++i) {
    c.scale_codes.push_back(random() % 8);
    c.zero_codes.push_back(random() % 8);
    const size_t tile = i / groups / 16 * groups + i % groups;
    a.scales[i] = RoundHalf(c.scale_step[tile] * (static_cast<float>(c.scale_codes[i]) - c.scale_zero[tile]));
    a.seconds[i] = RoundHalf(-a.scales[i] * (c.zero_step[tile] * (static_cast<float>(c.zero_codes[i]) - c.zero_zero[tile])));
  }
  return linear;
}

std::vector<LinearParts> Samples() {
  return {RandomLinear({37, 96, 32, 0, true, false, false, false}, 1),
          RandomLinear({100, 64, 64, 5, false, false, false, false}, 2),
          RandomLinear({50, 160, 16, 0, false, true, false, true}, 3),
          RandomLinear({75, 256, 32, 9, true, true, true, true}, 4),
          WithOrder(RandomLinear({20, 80, 32, 0, false, false, true, false}, 5)),
          WithCodedScales(RandomLinear({50, 160, 16, 3, false, true, true, true}, 6)),
          WithCodedScales(WithOrder(RandomLinear({33, 64, 16, 0, false, true, false, true}, 7)))};
}

}  // namespace

LOWBIT_TEST(BitStreamsRoundTrip) {
  std::mt19937 random(1);
  for (int bits = 1; bits <= 8; ++bits)
    for (const size_t count : {1, 7, 8, 32, 33, 100}) {
      std::vector<uint8_t> codes(count), stream(StreamBytes(count, bits) + 1, 0xee), back(count);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
      WriteStream(codes.data(), count, bits, stream.data());
      ReadStream(stream.data(), count, bits, back.data());
      EXPECT(back == codes && stream.back() == 0xee);
      // Bit i*bits + b of the stream is bit b of code i.
      for (size_t i = 0; i < count; ++i)
        for (size_t b = 0; b < static_cast<size_t>(bits); ++b) {
          const size_t at = i * static_cast<size_t>(bits) + b;
          EXPECT((stream[at / 8] >> (at % 8) & 1) == (codes[i] >> b & 1));
        }
    }
}

LOWBIT_TEST(ContainerGivesBackItsParts) {
  for (const LinearParts& linear : Samples()) {
    const auto loaded = File(linear).Load();
    const auto packed = PackParts("w", linear);
    if (!EXPECT(loaded.ok() && packed.ok())) continue;
    if (!EXPECT(loaded.value().size() == packed.value().size())) continue;
    for (size_t i = 0; i < packed.value().size(); ++i) {
      const Part &a = loaded.value()[i], &b = packed.value()[i];
      EXPECT(a.kind == b.kind && a.rows == b.rows && a.permutation == b.permutation && a.input_scale == b.input_scale);
      EXPECT(a.bytes() == b.bytes() && (a.bytes() == 0 || std::memcmp(a.view.data, b.view.data, a.bytes()) == 0));
    }
    EXPECT(SumOfParts(loaded.value(), linear.n, linear.k, RefKernels()->unpack_panel) ==
           SumOfParts(packed.value(), linear.n, linear.k, RefKernels()->unpack_panel));
  }
}

LOWBIT_TEST(DamagedContainersAreRefused) {
  const LinearParts linear = WithOrder(RandomLinear({75, 96, 32, 9, true, true, true, false}, 4));
  const auto refused = [&](const char* part, const char* text, const auto& damage) {
    File file(linear);
    damage(file.Find(part));
    const PartTensors kept = file.source.parts[0];
    file.Open();
    const auto loaded = file.Load();
    EXPECT(kept.codes >= 0);
    EXPECT_ERROR(loaded.status(), Code::kCorruptFile, text);
  };
  refused("0.codes", "codes of w take", [](StoredTensor& t) { t.bytes.pop_back(); });
  refused("0.zeros", "zero points of w take", [](StoredTensor& t) { t.bytes.push_back(0); });
  refused("0.scales", "not finite", [](StoredTensor& t) { t.bytes[1] = 0x7e; });
  refused("0.rows", "must rise", [](StoredTensor& t) { std::memset(t.bytes.data() + 4, 0xff, 4); });
  refused("0.g_idx", "in group", [](StoredTensor& t) { t.bytes[0] = 200; });
  refused("1.rows", "hold the same row", [&](StoredTensor& t) {
    // a row of part 1 becomes its neighbour, where that is one of part 0
    const std::vector<int32_t>& rows = linear.affine[1].rows;
    size_t i = 0;
    while (i + 1 < rows.size() && rows[i + 1] == rows[i] + 1) ++i;
    const int32_t value = rows[i] + 1;
    std::memcpy(t.bytes.data() + 4 * i, &value, 4);
  });
  refused("2.a", "low-rank factors", [](StoredTensor& t) { t.bytes.resize(t.bytes.size() - 2); });
  refused("2.b", "not finite", [](StoredTensor& t) { t.bytes[1] = 0x7c; });
  refused("3.columns", "columns must rise", [](StoredTensor& t) { t.bytes[0] = 255; });
  refused("3.values", "sparse values", [](StoredTensor& t) { t.bytes.resize(t.bytes.size() - 2); });
  refused("3.row_offsets", "lead from 0", [](StoredTensor& t) { t.bytes[0] = 1; });
  refused("input_scale", "must be positive", [](StoredTensor& t) { std::memset(t.bytes.data(), 0, 4); });
}

// Bytes changed at random: refused, or loaded without touching memory that is not theirs (the address sanitizer watches).
LOWBIT_TEST(MutatedContainersAreRefusedOrSafe) {
  std::mt19937 random(8);
  for (const LinearParts& linear : Samples()) {
    for (int round = 0; round < 60; ++round) {
      File file(linear);
      for (int i = 0; i < 3; ++i) {
        StoredTensor& t = file.stored[1 + random() % (file.stored.size() - 1)];  // not the records: lib/ reads those
        if (t.bytes.empty()) continue;
        if (random() % 4 == 0)
          t.bytes.resize(random() % (t.bytes.size() + 8));
        else
          t.bytes[random() % t.bytes.size()] = static_cast<uint8_t>(random());
      }
      file.Open();
      const auto loaded = file.Load();
      if (loaded.ok()) EXPECT(SumOfParts(loaded.value(), linear.n, linear.k, RefKernels()->unpack_panel).size() > 0);
    }
  }
}
