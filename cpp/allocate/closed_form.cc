// allocate/closed_form: the level that all widths have in common, found by bisection.
#include "allocate/closed_form.h"

#include <algorithm>
#include <cmath>

namespace lowbit {

Result<std::vector<double>> ClosedFormBits(std::span<const double> losses, std::span<const double> parameters, double mean_bits,
                                           BitsRange range) {
  if (losses.size() != parameters.size() || losses.empty())
    return Error(Code::kInvalidArgument, "Expected as many losses as numbers of parameters, but received %zu and %zu", losses.size(),
                 parameters.size());
  if (!(range.least <= mean_bits && mean_bits <= range.most))
    return Error(Code::kInvalidArgument, "A mean of %g bits is not between %g and %g", mean_bits, range.least, range.most);
  double total = 0, lowest = INFINITY, highest = -INFINITY;
  std::vector<double> wanted(losses.size());  // up to a constant that all have in common
  for (size_t i = 0; i < losses.size(); ++i) {
    if (!(losses[i] >= 0) || !(parameters[i] > 0) || !std::isfinite(losses[i]) || !std::isfinite(parameters[i]))
      return Error(Code::kInvalidArgument, "Weight %zu has a loss of %g and %g parameters", i, losses[i], parameters[i]);
    total += parameters[i];
    wanted[i] = losses[i] > 0 ? 0.5 * std::log2(losses[i] / parameters[i]) : -INFINITY;
    if (!std::isfinite(wanted[i])) continue;
    lowest = std::min(lowest, wanted[i]);
    highest = std::max(highest, wanted[i]);
  }
  const auto bits = [&](size_t i, double level) { return std::clamp(wanted[i] + level, range.least, range.most); };
  // The mean grows with the level. At the ends all weights that have a loss are at a limit.
  double low = range.least - std::max(highest, 0.0) - 1, high = range.most - std::min(lowest, 0.0) + 1;
  for (int step = 0; step < 200 && std::isfinite(lowest); ++step) {
    const double level = 0.5 * (low + high);
    double mean = 0;
    for (size_t i = 0; i < wanted.size(); ++i) mean += parameters[i] * bits(i, level);
    (mean < mean_bits * total ? low : high) = level;
  }
  std::vector<double> found(wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) found[i] = std::isfinite(lowest) ? bits(i, high) : mean_bits;
  return found;
}

}  // namespace lowbit
