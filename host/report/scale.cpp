#include "host/report/scale.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <fmt/format.h>

#include "host/base/text.hpp"

namespace backstop::report {
namespace {

/// Beyond, differences would overflow; below, they would vanish.
constexpr double kLargest = 1e100, kSmallest = 1e-100;

/// The smallest of 1, 2 or 5 times a power of ten that is not below `step`.
double round_up(double step) {
  const double power = std::pow(10.0, std::floor(std::log10(step)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= step * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

}  // namespace

bool Extent::shows(double value) const {
  if (!std::isfinite(value) || std::abs(value) > kLargest) return false;
  return !axis_.logarithmic || value > kSmallest;
}

void Extent::Ends::add(double value) {
  low = any ? std::min(low, value) : value;
  high = any ? std::max(high, value) : value;
  any = true;
}

void Extent::add(double value) {
  if (shows(value)) values_.add(value);
}

void Extent::add(const Interval& interval) {
  for (const double end : {interval.low, interval.high})
    if (shows(end)) intervals_.add(end);
}

Scale::Scale(const Extent& extent, int ticks) : logarithmic_(extent.axis_.logarithmic) {
  Axis axis = extent.axis_;
  Extent::Ends ends = extent.values_;
  for (auto* end : {&axis.minimum, &axis.maximum}) {
    if (*end && !extent.shows(**end)) end->reset();
    if (*end) ends.add(**end);
  }
  if (extent.intervals_.any && !axis.minimum) ends.add(extent.intervals_.low);
  if (extent.intervals_.any && !axis.maximum) ends.add(extent.intervals_.high);
  if (!ends.any) ends = {true, 1, 1};
  low_ = logarithmic_ ? std::log10(ends.low) : ends.low;
  high_ = logarithmic_ ? std::log10(ends.high) : ends.high;

  const double most = std::max(std::abs(low_), std::abs(high_));
  if (high_ - low_ <= std::max(1e-9 * most, kSmallest)) {  // there is one value
    const double room = logarithmic_ ? 0.5 : most > 1e3 * kSmallest ? 0.1 * most : 1;
    if (!axis.minimum) low_ -= room;
    high_ += room;
  }
  if (logarithmic_)
    set_logarithmic_ticks(axis, ticks);
  else
    set_linear_ticks(axis, ticks);
}

double Scale::place(double value) const {
  return std::clamp(((logarithmic_ ? std::log10(value) : value) - low_) / (high_ - low_), 0.0, 1.0);
}

void Scale::set_linear_ticks(const Axis& axis, int ticks) {
  const double step =
      std::max(round_up((high_ - low_) / std::max(ticks, 1)), axis.whole ? 1.0 : 0.0);
  // An end that nobody has asked for is put at a tick.
  if (!axis.minimum || low_ < *axis.minimum) low_ = step * std::floor(low_ / step + 1e-6);
  if (!axis.maximum || high_ > *axis.maximum) high_ = step * std::ceil(high_ / step - 1e-6);
  if (high_ <= low_) high_ = low_ + step;  // between two whole numbers
  const double first = std::ceil(low_ / step - 1e-6);
  const auto count = static_cast<int>(std::floor(high_ / step + 1e-6) - first) + 1;
  for (int i = 0; i < count; ++i) {
    const double value = (first + i) * step + 0.0;  // and not -0
    ticks_.push_back({place(value), tick_text(value, step)});
  }
}

void Scale::set_logarithmic_ticks(const Axis& axis, int ticks) {
  if (!axis.minimum || low_ < std::log10(*axis.minimum)) low_ = std::floor(low_ + 1e-6);
  if (!axis.maximum || high_ > std::log10(*axis.maximum)) high_ = std::ceil(high_ - 1e-6);
  const double first = std::floor(low_);
  const auto decades = static_cast<int>(std::ceil(high_) - first);
  const int every = (decades + std::max(ticks, 1) - 1) / std::max(ticks, 1);
  const std::vector<double> factors =
      3 * decades <= ticks ? std::vector<double>{1, 2, 5} : std::vector<double>{1};
  for (int i = 0; i <= decades; i += every)
    for (const double factor : factors) {
      const double value = factor * std::pow(10.0, first + i);
      const double exponent = std::log10(value);
      if (exponent > low_ - 1e-6 && exponent < high_ + 1e-6)
        ticks_.push_back({place(value), tick_text(value, value)});
    }
}

std::string tick_text(double value, double step) {
  if (step >= 1e5 || step < 1e-4 || std::abs(value) >= 1e7) {
    if (value == 0) return "0";
    const double digits = 1 + std::floor(std::log10(std::max(std::abs(value), step))) -
                          std::floor(std::log10(step) + 1e-9);
    std::string text = fmt::format("{:.{}g}", value, static_cast<int>(digits));
    const auto exponent = text.find('e');
    if (exponent == std::string::npos) return text;
    return fmt::format("{}e{}", text.substr(0, exponent), std::stoi(text.substr(exponent + 1)));
  }
  const auto digits = static_cast<int>(std::ceil(-std::log10(step) - 1e-9));
  if (digits <= 0 && std::abs(value) >= 1e4) return base::grouped(std::llround(value));
  return base::fixed(value, std::max(digits, 0));
}

}  // namespace backstop::report
