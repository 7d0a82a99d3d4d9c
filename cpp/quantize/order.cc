// quantize/order: see order.h.
#include "quantize/order.h"

#include <algorithm>
#include <numeric>

namespace lowbit {

std::vector<int32_t> NaturalOrder(int k) {
  std::vector<int32_t> order(k);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

std::vector<int32_t> FallingOrder(const std::vector<float>& diagonal) {
  std::vector<int32_t> order = NaturalOrder(static_cast<int>(diagonal.size()));
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return diagonal[a] > diagonal[b]; });
  return order;
}

std::vector<int32_t> GroupAwareOrder(const std::vector<float>& diagonal, int group_size) {
  std::vector<int32_t> columns = NaturalOrder(static_cast<int>(diagonal.size()));
  const int groups = static_cast<int>(diagonal.size()) / group_size;  // full ones
  const auto falling = [&](int32_t a, int32_t b) { return diagonal[a] > diagonal[b]; };
  for (int g = 0; g < groups; ++g) std::stable_sort(columns.begin() + g * group_size, columns.begin() + (g + 1) * group_size, falling);
  std::vector<int32_t> group_order = NaturalOrder(groups);
  std::stable_sort(group_order.begin(), group_order.end(),
                   [&](int32_t a, int32_t b) { return falling(columns[a * group_size], columns[b * group_size]); });
  std::vector<int32_t> order;
  order.reserve(diagonal.size());
  for (const int32_t g : group_order) order.insert(order.end(), columns.begin() + g * group_size, columns.begin() + (g + 1) * group_size);
  order.insert(order.end(), columns.begin() + groups * group_size, columns.end());
  return order;
}

std::vector<int32_t> GroupIndex(const std::vector<int32_t>& order, int group_size) {
  std::vector<int32_t> index(order.size());
  bool trivial = true;
  for (size_t p = 0; p < order.size(); ++p) {
    index[order[p]] = static_cast<int32_t>(p) / group_size;
    trivial = trivial && static_cast<int32_t>(p) / group_size == order[p] / group_size;
  }
  return trivial ? std::vector<int32_t>() : index;
}

}  // namespace lowbit
