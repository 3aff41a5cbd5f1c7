// What a stage costs: wall time, CPU and GPU time, training samples and memory.
#pragma once

#include <chrono>
#include <cstdint>

#include <c10/core/Device.h>
#include <nlohmann/json.hpp>

namespace backstop::engine {

/// Measures from its construction until stop(). Evaluation is timed separately: wrap it in a
/// CostMeter::Evaluation.
class CostMeter {
  /// What time counts as.
  enum class Time { work, evaluation, nothing };

 public:
  explicit CostMeter(c10::Device device);

  /// While it lives, time counts as evaluation. May be nested.
  class Evaluation {
   public:
    explicit Evaluation(CostMeter& meter) : Evaluation(meter, Time::evaluation) {}
    ~Evaluation();
    Evaluation(const Evaluation&) = delete;
    Evaluation& operator=(const Evaluation&) = delete;

   protected:
    Evaluation(CostMeter& meter, Time time);

   private:
    CostMeter& meter_;
    Time before_;
  };
  /// While it lives, time does not count: checkpoints are no part of a method's cost.
  class Pause : public Evaluation {
   public:
    explicit Pause(CostMeter& meter) : Evaluation(meter, Time::nothing) {}
  };

  /// Counts images that go through any model in gradient mode. [run thread]
  static void count_samples(std::int64_t images) { process_samples += images; }

  /// Returns wall_seconds, cpu_seconds and gpu_seconds without evaluation (GPU seconds are the wall
  /// time of a run on a GPU, which it has to itself), evaluation_seconds, samples_seen (see
  /// count_samples) and peak_memory_bytes (the resident set of the whole process during the stage).
  [[nodiscard]] nlohmann::json stop();
  /// The same so far.
  [[nodiscard]] nlohmann::json so_far();
  /// As if what so_far() gave in another process, and nothing else, had been spent in this one.
  void go_on_from(const nlohmann::json& cost);

 private:
  void switch_to(Time time);

  using Clock = std::chrono::steady_clock;
  c10::Device device_;
  Time time_ = Time::work;
  Clock::time_point since_;
  double cpu_since_;
  double wall_ = 0, cpu_ = 0, evaluation_ = 0;
  inline static std::int64_t process_samples = 0;
  std::int64_t samples_before_ = process_samples;
  std::int64_t earlier_peak_ = 0;  ///< bytes, in the other process
};

}  // namespace backstop::engine
