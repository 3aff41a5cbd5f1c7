// The weight of a trigger's size in the objective of the search, scheduled as in the code of Neural
// Cleanse's authors.
#pragma once

#include <cmath>
#include <cstdint>

namespace backstop::trigger_search {

class Penalty {
 public:
  struct Settings {
    double initial = 1e-3;
    double multiplier = 2;
    std::int64_t patience = 5;
    std::int64_t early_stop = 25;
  };

  explicit Penalty(const Settings& settings) : settings_(settings) {}

  /// 0 until the trigger has worked for `patience` rounds.
  [[nodiscard]] double weight() const noexcept { return weight_; }
  [[nodiscard]] bool stopped() const noexcept { return stopped_; }

  /// `success`: the trigger worked on enough images in this round; `smaller`: it did so with the
  /// smallest mask so far.
  void after_round(bool success, bool smaller) {
    found_ = found_ || smaller;
    if (found_) stale_ = smaller ? 0 : stale_ + 1;
    stopped_ = raised_ && lowered_ && stale_ >= settings_.early_stop;
    if (weight_ == 0 && success && successes_ + 1 >= settings_.patience) {
      weight_ = settings_.initial;
      successes_ = failures_ = 0;
      raised_ = lowered_ = false;
    }
    successes_ = success ? successes_ + 1 : 0;
    failures_ = success ? 0 : failures_ + 1;
    if (successes_ >= settings_.patience) {
      successes_ = 0;
      weight_ *= settings_.multiplier;
      raised_ = true;
    } else if (failures_ >= settings_.patience) {
      failures_ = 0;
      weight_ /= std::pow(settings_.multiplier, 1.5);
      lowered_ = true;
    }
  }

 private:
  Settings settings_;
  double weight_ = 0;
  std::int64_t successes_ = 0, failures_ = 0, stale_ = 0;
  bool found_ = false, raised_ = false, lowered_ = false, stopped_ = false;
};

}  // namespace backstop::trigger_search
