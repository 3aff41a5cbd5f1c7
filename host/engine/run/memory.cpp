#include "host/engine/run/memory.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "host/engine/model/registry.hpp"

namespace backstop::engine {

namespace {

/// From here on it is said that memory may run out: the true peak is higher (docs/performance.md).
constexpr double kClose = 0.5;

std::string size_text(double bytes) {
  return bytes < 1e9 ? fmt::format("{:.0f} MB", bytes / 1e6)
                     : fmt::format("{:.1f} GB", bytes / 1e9);
}

MemoryNeed weights_of(const Architecture& architecture, const Compute& compute) {
  MemoryNeed need{architecture.name, architecture.width};
  if (compute.device.is_cpu())
    need.weights = parameters_of(architecture) * static_cast<double>(sizeof(float));
  return need;
}

/// What the first convolution gives and what its batch normalization makes of that are both kept
/// for the backward pass, in every network but an mlp, whose activations are few.
double first_activations(const AttackInputs& inputs) {
  const Architecture& a = inputs.architecture;
  if (a.name == "mlp") return 0;
  const std::int64_t batch = std::min(inputs.training.batch_size, inputs.source->data.train.size());
  const double number =
      static_cast<double>(batch) * static_cast<double>(a.pixels) * static_cast<double>(a.width);
  return 2 * number * (inputs.compute.bfloat16 ? 2 : 4);
}

}  // namespace

MemoryNeed memory_of(const AttackInputs& inputs) {
  MemoryNeed need = weights_of(inputs.architecture, inputs.compute);
  // An encoder may be trained in another way, and a file is loaded into a model.
  need.copies = 2;
  const bool trained = !inputs.model_file && !inputs.encoder && inputs.training.epochs > 0;
  if (!trained || !inputs.compute.device.is_cpu()) return need;
  const auto& optimizer = inputs.training.optimizer;
  const double of_optimizer = optimizer.name != "sgd" ? 2 : optimizer.momentum != 0 ? 1 : 0;
  // Weights, gradients, what the optimizer remembers, and the weights that were last measured. In
  // the end, the gradients are still there, and there is a copy to be written to the disk.
  need.copies = std::max(3 + of_optimizer, 4.0);
  // In the first epoch there are no measured weights yet.
  if (inputs.training.epochs > 1 && of_optimizer > 0) need.activations = first_activations(inputs);
  const ImageStore& test = inputs.source->data.test;
  need.images = static_cast<double>(test.size()) * static_cast<double>(test.channels()) *
                static_cast<double>(test.height()) * static_cast<double>(test.width());
  return need;
}

MemoryNeed memory_of(const DefenseInputs& inputs) {
  MemoryNeed need = weights_of(inputs.architecture, inputs.compute);
  need.copies = 2;
  return need;
}

std::string check_memory(const MemoryNeed& need, const base::AvailableMemory& available) {
  const auto limit = static_cast<double>(available.bytes);
  if (need.bytes() <= kClose * limit) return {};
  const std::string text = fmt::format(
      "{} of width {} needs at least {} ({:.0f} copies of its weights, {} each, and {} of "
      "activations and images), but {} {}",
      need.architecture, need.width, size_text(need.bytes()), need.copies, size_text(need.weights),
      size_text(need.activations + need.images), size_text(limit), available.where);
  if (need.bytes() > limit)
    throw base::HostError(base::ExitCode::environment, "not enough memory: " + text,
                          need.activations > need.weights * need.copies
                              ? "lower `batch_size` in [attack.training], or `width` in [model]"
                              : "lower `width` in [model]: the weights grow with its square");
  return "memory may run out: " + text;
}

void require_memory(const MemoryNeed& need, StageContext& ctx) {
  const std::string warning = check_memory(need, base::available_memory());
  if (!warning.empty()) ctx.log(LogLevel::warning, warning);
}

}  // namespace backstop::engine
