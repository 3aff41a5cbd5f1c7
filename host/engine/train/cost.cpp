#include "host/engine/train/cost.hpp"

#include <algorithm>
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

void CostMeter::switch_to(Time time) {
  wait_for(device_);  // work that was asked for before counts as what it was
  const auto now = Clock::now();
  const double cpu_now = process_cpu_seconds();
  const double wall = std::chrono::duration<double>(now - since_).count();
  if (time_ == Time::evaluation) evaluation_ += wall;
  if (time_ == Time::work) {
    wall_ += wall;
    cpu_ += cpu_now - cpu_since_;
  }
  since_ = now;
  cpu_since_ = cpu_now;
  time_ = time;
}

CostMeter::Evaluation::Evaluation(CostMeter& meter, Time time)
    : meter_(meter), before_(meter.time_) {
  meter_.switch_to(time);
}
CostMeter::Evaluation::~Evaluation() {
  meter_.switch_to(before_);
}

nlohmann::json CostMeter::stop() {
  switch_to(Time::work);
  return so_far();
}

nlohmann::json CostMeter::so_far() {
  switch_to(time_);
  return {{"wall_seconds", wall_},
          {"cpu_seconds", cpu_},
          {"gpu_seconds", device_.is_cuda() ? wall_ : 0.0},
          {"evaluation_seconds", evaluation_},
          {"samples_seen", process_samples - samples_before_},
          {"peak_memory_bytes", std::max(peak_memory_bytes(), earlier_peak_)}};
}

void CostMeter::go_on_from(const nlohmann::json& cost) {
  switch_to(time_);
  wall_ = cost.at("wall_seconds");
  cpu_ = cost.at("cpu_seconds");
  evaluation_ = cost.at("evaluation_seconds");
  samples_before_ = process_samples - cost.at("samples_seen").get<std::int64_t>();
  earlier_peak_ = cost.at("peak_memory_bytes");
}

}  // namespace backstop::engine
