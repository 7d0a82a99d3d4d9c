// part/packer: a weight on its way from a file into memory. It is checked and its layout is known, its bytes are still in the
// file: the caller lays out all weights of a model first, then packs ranges of panels into place, on as many threads as it likes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "part/part.h"

namespace lowbit {

class Packer {
 public:
  virtual ~Packer() = default;
  Packer(const Packer&) = delete;
  Packer& operator=(const Packer&) = delete;

  // As given: the tensor or layer, for messages.
  const char* name() const { return name_.c_str(); }

  // Everything but the bytes: view.data is null, storage empty.
  const Part& part() const { return part_; }

  // Scales of the input columns, which the part takes along (Part::input_scale).
  void SetInputScale(std::vector<float> scale) { part_.input_scale = std::move(scale); }

  // Packs panels [panel0, panel1) to `panels`: zero-filled memory of (panel1 - panel0) * view.panel_bytes bytes, 64-byte aligned.
  // May run on several threads at once. CORRUPT_FILE naming the tensor when a value cannot be a weight (NaN, infinity).
  virtual Status Pack(int panel0, int panel1, uint8_t* panels) const = 0;

  // The finished part, whose panels are at `panels`; they stay the caller's. The packer is of no use afterwards.
  Part Finish(const uint8_t* panels) {
    part_.view.data = panels;
    return std::move(part_);
  }

 protected:
  explicit Packer(const char* name) : name_(name) {}
  Part part_;

 private:
  std::string name_;
};

// One for each Pack function of part.h, with the same arguments and errors. What rows, tensors and their spans point to must outlive
// the packer.
Result<std::unique_ptr<Packer>> DensePacker(const char* name, DType dtype, const uint8_t* rows, int n, int k, const RowMap& map);
// As DensePacker from columns: `columns` holds the transpose [k, n] (GPT-2's Conv1D).
Result<std::unique_ptr<Packer>> TransposedPacker(const char* name, DType dtype, const uint8_t* columns, int n, int k, const RowMap& map);
Result<std::unique_ptr<Packer>> GgufPacker(const char* name, DType dtype, const uint8_t* rows, int n, int k, const RowMap& map);
Result<std::unique_ptr<Packer>> GptqPacker(const char* name, const GptqTensors& tensors, const RowMap& map);
Result<std::unique_ptr<Packer>> WordPacker(const char* name, const WordTensors& tensors, const RowMap& map);
// The part has rows and permutation set. CORRUPT_FILE for sizes that do not fit.
Result<std::unique_ptr<Packer>> ContainerPacker(const char* name, const ContainerAffine& tensors);

// ---- requantize.cc: rounds any weight to `bits` wide codes as it is packed: groups of 32 columns (in packed order), f16 scales.
// 6 and 8 bits are symmetric, 4 and 5 bits have a minimum (docs/formats.md, "Requantised head"). unpack is KernelTable::unpack_panel:
// columns [k0, k0 + kc) of a panel as f32 lines of 16. INVALID_ARGUMENT for other bits; UNSUPPORTED from Pack for values beyond f16.
Result<std::unique_ptr<Packer>> RequantizingPacker(const char* name, std::unique_ptr<Packer> source, int bits, UnpackPanel unpack);

// Allocates a Block of its own and packs everything on the calling thread.
Result<Part> PackWhole(Result<std::unique_ptr<Packer>> packer);

}  // namespace lowbit
