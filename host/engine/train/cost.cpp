#include "host/engine/train/cost.hpp"

#include <fstream>
#include <string>

#include <sys/resource.h>

#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {

namespace {

double process_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// Linux resets the peak of the resident set when 5 is written to this file.
void reset_peak_memory() {
  std::ofstream("/proc/self/clear_refs") << "5";
}

std::int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}

}  // namespace

CostMeter::CostMeter(c10::Device device)
    : device_(device), since_(Clock::now()), cpu_since_(process_cpu_seconds()) {
  reset_peak_memory();
}

void CostMeter::switch_to(bool evaluation) {
  wait_for(device_);  // work that was asked for before counts as what it was
  const auto now = Clock::now();
  const double cpu_now = process_cpu_seconds();
  const double wall = std::chrono::duration<double>(now - since_).count();
  if (evaluating_) {
    evaluation_ += wall;
  } else {
    wall_ += wall;
    cpu_ += cpu_now - cpu_since_;
  }
  since_ = now;
  cpu_since_ = cpu_now;
  evaluating_ = evaluation;
}

CostMeter::Evaluation::Evaluation(CostMeter& meter) : meter_(meter), before_(meter.evaluating_) {
  meter_.switch_to(true);
}
CostMeter::Evaluation::~Evaluation() {
  meter_.switch_to(before_);
}

nlohmann::json CostMeter::stop() {
  switch_to(false);
  return {{"wall_seconds", wall_},
          {"cpu_seconds", cpu_},
          {"gpu_seconds", device_.is_cuda() ? wall_ : 0.0},
          {"evaluation_seconds", evaluation_},
          {"samples_seen", process_samples - samples_before_},
          {"peak_memory_bytes", peak_memory_bytes()}};
}

}  // namespace backstop::engine
