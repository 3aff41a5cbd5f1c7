// The parameters that a recipe gives to a plugin, already checked against its manifest.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "backstop/scheduler.hpp"

namespace backstop {
inline namespace v0 {

enum class OptimizerKind : std::uint32_t { sgd = 0, adam = 1, adamw = 2 };

/// `optimizer = { name = "sgd", ... }` of a recipe. The rate comes from a scheduler.
struct OptimizerOptions {
  std::uint32_t struct_size = sizeof(OptimizerOptions);
  OptimizerKind kind = OptimizerKind::sgd;
  double momentum = 0.9;       ///< sgd
  double weight_decay = 5e-4;  ///< L2 penalty (sgd, adam) or decoupled decay (adamw)
  double beta1 = 0.9;          ///< adam, adamw
  double beta2 = 0.999;        ///< adam, adamw
  double epsilon = 1e-8;       ///< adam, adamw
  bool nesterov = false;       ///< sgd
  bool reserved[7] = {};
};

/// Implemented by the host; lives longer than the plugin's object, and so does what it returns.
/// Every key is one of the manifest's `[parameters.KEY]`; defaults are filled in, types, ranges
/// and choices are checked. Asking for an unknown key, by the wrong type, or for an optional
/// parameter that the recipe leaves out throws backstop::Error: a mistake of the plugin.
class Params {
 public:
  /// False only for an `optional` parameter that the recipe leaves out.
  [[nodiscard]] virtual bool has(std::string_view key) const = 0;
  [[nodiscard]] virtual bool boolean(std::string_view key) const = 0;
  [[nodiscard]] virtual std::int64_t integer(std::string_view key) const = 0;
  [[nodiscard]] virtual double number(std::string_view key) const = 0;  ///< type `float`
  /// Types `string`, `choice` and `path` (as written in the recipe: relative paths are relative to
  /// the folder that the command runs in).
  [[nodiscard]] virtual std::string_view string(std::string_view key) const = 0;
  [[nodiscard]] virtual std::span<const std::int64_t> integers(std::string_view key) const = 0;
  [[nodiscard]] virtual std::span<const double> numbers(std::string_view key) const = 0;
  [[nodiscard]] virtual std::span<const std::string_view> strings(std::string_view key) const = 0;
  [[nodiscard]] virtual const Scheduler& scheduler(std::string_view key) const = 0;
  [[nodiscard]] virtual OptimizerOptions optimizer(std::string_view key) const = 0;
  // -- ABI 0.3 ends here: append below, never reorder --

 protected:
  ~Params() = default;
};

}  // namespace v0
}  // namespace backstop
