// allocate/choose: hulls, greedy steps, dynamic programme.
#include "allocate/choose.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace lowbit {
namespace {

constexpr int64_t kMostUnits = 100000;
constexpr int64_t kMostEntries = int64_t(1) << 26;

Status Check(std::span<const Item> items, int64_t budget) {
  int64_t least = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].empty() || items[i].size() > 255)
      return Error(Code::kInvalidArgument, "Item %zu has %zu candidates; expected 1 to 255", i, items[i].size());
    int64_t smallest = std::numeric_limits<int64_t>::max();
    for (const Alternative& c : items[i]) {
      if (c.bytes < 0 || !std::isfinite(c.loss) || c.loss < 0)
        return Error(Code::kInvalidArgument, "Item %zu has a candidate of %lld bytes and a loss of %g", i, static_cast<long long>(c.bytes),
                     c.loss);
      smallest = std::min(smallest, c.bytes);
    }
    least += smallest;
  }
  if (least > budget)
    return Error(Code::kInvalidArgument, "The smallest candidates take %lld bytes, more than the budget of %lld",
                 static_cast<long long>(least), static_cast<long long>(budget));
  return Status::Ok();
}

Choice Summed(std::span<const Item> items, std::vector<int> candidates) {
  Choice choice;
  for (size_t i = 0; i < items.size(); ++i) {
    const Alternative& c = items[i][static_cast<size_t>(candidates[i])];
    choice.bytes += c.bytes;
    choice.loss += c.loss;
  }
  choice.candidate = std::move(candidates);
  return choice;
}

// What is left of the budget, in single steps that lower the loss most per byte.
void SpendRest(std::span<const Item> items, int64_t budget, std::vector<int>* candidates) {
  int64_t left = budget - Summed(items, *candidates).bytes;
  for (;;) {
    double best = 0;
    size_t best_item = 0;
    int best_candidate = -1;
    for (size_t i = 0; i < items.size(); ++i) {
      const Alternative& now = items[i][static_cast<size_t>((*candidates)[i])];
      for (size_t c = 0; c < items[i].size(); ++c) {
        const Alternative& other = items[i][c];
        if (other.bytes - now.bytes > left || other.loss >= now.loss) continue;
        const double gain = (now.loss - other.loss) / static_cast<double>(std::max<int64_t>(1, other.bytes - now.bytes));
        if (gain <= best) continue;
        best = gain;
        best_item = i;
        best_candidate = static_cast<int>(c);
      }
    }
    if (best_candidate < 0) return;
    int& chosen = (*candidates)[best_item];
    left -= items[best_item][static_cast<size_t>(best_candidate)].bytes - items[best_item][static_cast<size_t>(chosen)].bytes;
    chosen = best_candidate;
  }
}

// The exact optimum for sizes in whole units. Undefined candidates (-1) when nothing fits, which rounding up can cause.
std::vector<int> Programme(std::span<const Item> items, int64_t units, int64_t unit) {
  const size_t columns = static_cast<size_t>(units) + 1;
  std::vector<double> best(columns, 0), next(columns);
  std::vector<uint8_t> taken(items.size() * columns);
  for (size_t i = 0; i < items.size(); ++i) {
    std::fill(next.begin(), next.end(), INFINITY);
    uint8_t* row = taken.data() + i * columns;
    for (size_t c = 0; c < items[i].size(); ++c) {
      const int64_t size = (items[i][c].bytes + unit - 1) / unit;
      const double loss = items[i][c].loss;
      for (int64_t s = size; s <= units; ++s) {
        const double sum = best[static_cast<size_t>(s - size)] + loss;
        if (sum >= next[static_cast<size_t>(s)]) continue;
        next[static_cast<size_t>(s)] = sum;
        row[s] = static_cast<uint8_t>(c);
      }
    }
    std::swap(best, next);
  }
  if (!std::isfinite(best.back())) return {};
  std::vector<int> candidates(items.size());
  int64_t left = units;
  for (size_t i = items.size(); i-- > 0;) {
    candidates[i] = taken[i * columns + static_cast<size_t>(left)];
    left -= (items[i][static_cast<size_t>(candidates[i])].bytes + unit - 1) / unit;
  }
  return candidates;
}

}  // namespace

std::vector<int> LowerHull(const Item& item) {
  std::vector<int> order(item.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](int c) -> const Alternative& { return item[static_cast<size_t>(c)]; };
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    if (at(a).bytes != at(b).bytes) return at(a).bytes < at(b).bytes;
    return at(a).loss != at(b).loss ? at(a).loss < at(b).loss : a < b;
  });
  std::vector<int> hull;
  for (const int c : order) {
    if (!hull.empty() && at(c).loss >= at(hull.back()).loss) continue;  // larger and no better
    while (hull.size() >= 2) {
      const Alternative &a = at(hull[hull.size() - 2]), &b = at(hull.back());
      const double before = (a.loss - b.loss) * static_cast<double>(at(c).bytes - a.bytes);
      const double direct = (a.loss - at(c).loss) * static_cast<double>(b.bytes - a.bytes);
      if (before > direct) break;
      hull.pop_back();
    }
    hull.push_back(c);
  }
  return hull;
}

Result<Choice> ChooseGreedy(std::span<const Item> items, int64_t budget) {
  LOWBIT_RETURN_IF_ERROR(Check(items, budget));
  struct Step {
    double gain;  // loss per byte
    size_t item, to;
  };
  std::vector<std::vector<int>> hulls;
  std::vector<Step> steps;
  std::vector<int> candidates;
  int64_t bytes = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    hulls.push_back(LowerHull(items[i]));
    const std::vector<int>& hull = hulls.back();
    candidates.push_back(hull[0]);
    bytes += items[i][static_cast<size_t>(hull[0])].bytes;
    for (size_t h = 1; h < hull.size(); ++h) {
      const Alternative &a = items[i][static_cast<size_t>(hull[h - 1])], &b = items[i][static_cast<size_t>(hull[h])];
      steps.push_back({(a.loss - b.loss) / static_cast<double>(b.bytes - a.bytes), i, h});
    }
  }
  // Steps of one item get less steep along its hull, so this order takes them in order.
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.gain > b.gain; });
  for (const Step& step : steps) {
    const std::vector<int>& hull = hulls[step.item];
    const Item& item = items[step.item];
    const int64_t more = item[static_cast<size_t>(hull[step.to])].bytes - item[static_cast<size_t>(hull[step.to - 1])].bytes;
    if (candidates[step.item] != hull[step.to - 1] || bytes + more > budget) continue;
    candidates[step.item] = hull[step.to];
    bytes += more;
  }
  SpendRest(items, budget, &candidates);
  return Summed(items, std::move(candidates));
}

Result<Choice> Choose(std::span<const Item> items, int64_t budget) {
  LOWBIT_ASSIGN_OR_RETURN(Choice greedy, ChooseGreedy(items, budget));
  if (items.empty()) return greedy;
  // What is in every choice takes no part: the units are for the differences.
  std::vector<Item> above(items.begin(), items.end());
  int64_t room = budget;
  for (Item& item : above) {
    const int64_t least =
        std::min_element(item.begin(), item.end(), [](const Alternative& a, const Alternative& b) { return a.bytes < b.bytes; })->bytes;
    for (Alternative& c : item) c.bytes -= least;
    room -= least;
  }
  int64_t largest = 0;
  for (const Item& item : above)
    largest +=
        std::max_element(item.begin(), item.end(), [](const Alternative& a, const Alternative& b) { return a.bytes < b.bytes; })->bytes;
  room = std::min(room, largest);
  const int64_t most = std::clamp<int64_t>(kMostEntries / static_cast<int64_t>(items.size()) - 1, 1, kMostUnits);
  int64_t common = 0;
  for (const Item& item : above)
    for (const Alternative& c : item) common = std::gcd(common, c.bytes);
  const int64_t unit = std::max<int64_t>({1, common, (room + most - 1) / most});
  std::vector<int> candidates = Programme(above, room / unit, unit);
  if (candidates.empty()) return greedy;
  SpendRest(items, budget, &candidates);
  Choice exact = Summed(items, std::move(candidates));
  return exact.loss < greedy.loss ? std::move(exact) : std::move(greedy);
}

}  // namespace lowbit
