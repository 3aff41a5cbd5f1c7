// From values to places along an axis, and where its ticks are.
#pragma once

#include <string>
#include <vector>

#include "host/report/charts.hpp"

namespace backstop::report {

/// What an axis has to show. Values that it cannot show are not added.
class Extent {
 public:
  explicit Extent(const Axis& axis) : axis_(axis) {}

  [[nodiscard]] bool shows(double value) const;
  void add(double value);
  /// One that may be cut off.
  void add(const Interval& interval);

 private:
  friend class Scale;
  struct Ends {
    bool any = false;
    double low = 0, high = 0;
    void add(double value);
  };
  Axis axis_;
  Ends values_, intervals_;
};

class Scale {
 public:
  struct Tick {
    double place = 0;  ///< 0 .. 1
    std::string text;
  };

  /// About `ticks` of them, at multiples of 1, 2 or 5 times a power of ten.
  Scale(const Extent& extent, int ticks);

  /// 0 at the axis's low end, 1 at the other; what lies beyond an end is put on it.
  [[nodiscard]] double place(double value) const;
  [[nodiscard]] const std::vector<Tick>& ticks() const { return ticks_; }

 private:
  void set_linear_ticks(const Axis& axis, int ticks);
  void set_logarithmic_ticks(const Axis& axis, int ticks);

  bool logarithmic_;
  double low_ = 0, high_ = 1;  ///< exponents of ten on a logarithmic scale
  std::vector<Tick> ticks_;
};

/// "0.25", "10,000", "2e-5", as precise as the distance of two ticks, `step`.
std::string tick_text(double value, double step);

}  // namespace backstop::report
