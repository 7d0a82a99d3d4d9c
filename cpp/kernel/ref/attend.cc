// kernel/ref/attend: attention over f16 keys and values for few query rows, in portable C++.
#include "base/half.h"
#include "kernel/ref/ref.h"

namespace lowbit::ref {

void ScoresF16(const float* q, int rows, int head_dim, const uint16_t* keys, int panels, float* scores, size_t ld, const uint16_t*) {
  const size_t dim = static_cast<size_t>(head_dim);
  for (int p = 0; p < panels; ++p) {
    const uint16_t* panel = keys + static_cast<size_t>(p) * dim * 16;
    for (int r = 0; r < rows; ++r) {
      float* to = scores + static_cast<size_t>(r) * ld + p * 16;
      for (int j = 0; j < 16; ++j) to[j] = 0;
    }
    for (size_t d = 0; d < dim; ++d) {
      float line[16];
      for (size_t j = 0; j < 16; ++j) line[j] = HalfToFloat(panel[d * 16 + j]);
      for (int r = 0; r < rows; ++r) {
        const float x = q[static_cast<size_t>(r) * dim + d];
        float* to = scores + static_cast<size_t>(r) * ld + p * 16;
        for (int j = 0; j < 16; ++j) to[j] += x * line[j];
      }
    }
  }
}

void ValuesF16(const float* p, size_t ldp, int rows, int keys, const uint16_t* values, size_t stride, int dim, float* out, size_t ldo,
               const uint16_t*) {
  for (int j = 0; j < keys; ++j, values += stride) {
    for (int d = 0; d < dim; d += 16) {
      float line[16];
      for (int i = 0; i < 16; ++i) line[i] = HalfToFloat(values[d + i]);
      for (int r = 0; r < rows; ++r) {
        const float x = p[static_cast<size_t>(r) * ldp + static_cast<size_t>(j)];
        float* to = out + static_cast<size_t>(r) * ldo + d;
        for (int i = 0; i < 16; ++i) to[i] += x * line[i];
      }
    }
  }
}

}  // namespace lowbit::ref
