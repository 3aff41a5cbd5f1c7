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
 public:
  explicit CostMeter(c10::Device device);

  /// While it lives, time counts as evaluation. May be nested.
  class Evaluation {
   public:
    explicit Evaluation(CostMeter& meter);
    ~Evaluation();
    Evaluation(const Evaluation&) = delete;
    Evaluation& operator=(const Evaluation&) = delete;

   private:
    CostMeter& meter_;
    bool before_;
  };

  /// Counts images that go through any model in gradient mode. [run thread]
  static void count_samples(std::int64_t images) { process_samples += images; }

  /// Returns wall_seconds, cpu_seconds and gpu_seconds without evaluation (GPU seconds are the wall
  /// time of a run on a GPU, which it has to itself), evaluation_seconds, samples_seen (see
  /// count_samples) and peak_memory_bytes (the resident set of the whole process during the stage).
  [[nodiscard]] nlohmann::json stop();

 private:
  void switch_to(bool evaluation);

  using Clock = std::chrono::steady_clock;
  c10::Device device_;
  bool evaluating_ = false;
  Clock::time_point since_;
  double cpu_since_;
  double wall_ = 0, cpu_ = 0, evaluation_ = 0;
  inline static std::int64_t process_samples = 0;
  std::int64_t samples_before_ = process_samples;
};

}  // namespace backstop::engine
