// binding/: names and type tags of the handles.
#include "handles.h"

namespace lowbit {

const char* HandleName(HandleKind kind) {
  switch (kind) {
    case HandleKind::kModel:
      return "model";
    case HandleKind::kContext:
      return "context";
    case HandleKind::kCalibration:
      return "calibration";
    case HandleKind::kTrials:
      return "trials";
    case HandleKind::kCancel:
      return "cancel";
    case HandleKind::kGeneration:
      return "generation";
  }
  return "lowbit";
}

const napi_type_tag* HandleTag(HandleKind kind) {
  // Random 128-bit numbers, drawn once for this project.
  static const napi_type_tag tags[] = {
      {0x8f1c2d3ea97b4c01ull, 0xb2d6e0a45f3178c9ull}, {0x8f1c2d3ea97b4c02ull, 0x91c7aa0be26d4f13ull},
      {0x8f1c2d3ea97b4c03ull, 0xd40b6f7c1e9285a7ull}, {0x8f1c2d3ea97b4c04ull, 0x6e35f19d08c4ba52ull},
      {0x8f1c2d3ea97b4c05ull, 0x27d94be8c1a60f3eull}, {0x8f1c2d3ea97b4c06ull, 0xc25b08f37d9e146aull},
  };
  return &tags[static_cast<int>(kind)];
}

}  // namespace lowbit
