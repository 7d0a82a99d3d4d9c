// quantize/order: in which order GPTQ solves the columns of a weight. order[p] = original column solved at step p.
#pragma once

#include <cstdint>
#include <vector>

namespace lowbit {

std::vector<int32_t> NaturalOrder(int k);

// "desc_act": columns by falling Hessian diagonal, equal ones in their original order.
std::vector<int32_t> FallingOrder(const std::vector<float>& diagonal);

// Group-aware (GPTQModel): inside every full group columns by falling diagonal, then groups by their largest diagonal,
// equal ones in their original order; the columns of a short last group stay last, unsorted. Steps [i*g, (i+1)*g) are
// therefore the columns of one original group, and g_idx stays trivial.
std::vector<int32_t> GroupAwareOrder(const std::vector<float>& diagonal, int group_size);

// [k] the group of every column when groups are group_size steps of `order`; empty when that is c / group_size anyway.
std::vector<int32_t> GroupIndex(const std::vector<int32_t>& order, int group_size);

}  // namespace lowbit
