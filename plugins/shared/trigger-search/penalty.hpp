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
  [[nodiscard]] double weight() const noexcept { return state_.weight; }
  [[nodiscard]] bool stopped() const noexcept { return state_.stopped; }

  /// `success`: the trigger worked on enough images in this round; `smaller`: it did so with the
  /// smallest mask so far.
  void after_round(bool success, bool smaller) {
    state_.found = state_.found || smaller;
    if (state_.found) state_.stale = smaller ? 0 : state_.stale + 1;
    state_.stopped = state_.raised && state_.lowered && state_.stale >= settings_.early_stop;
    if (state_.weight == 0 && success && state_.successes + 1 >= settings_.patience) {
      state_.weight = settings_.initial;
      state_.successes = state_.failures = 0;
      state_.raised = state_.lowered = false;
    }
    state_.successes = success ? state_.successes + 1 : 0;
    state_.failures = success ? 0 : state_.failures + 1;
    if (state_.successes >= settings_.patience) {
      state_.successes = 0;
      state_.weight *= settings_.multiplier;
      state_.raised = true;
    } else if (state_.failures >= settings_.patience) {
      state_.failures = 0;
      state_.weight /= std::pow(settings_.multiplier, 1.5);
      state_.lowered = true;
    }
  }

  /// All that changes with the rounds.
  struct State {
    double weight = 0;
    std::int64_t successes = 0, failures = 0, stale = 0;
    bool found = false, raised = false, lowered = false, stopped = false;
  };
  [[nodiscard]] const State& state() const noexcept { return state_; }
  void set_state(const State& state) noexcept { state_ = state; }

 private:
  Settings settings_;
  State state_;
};

}  // namespace backstop::trigger_search
