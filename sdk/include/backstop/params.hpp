// The parameters that a recipe gives to a plugin, already checked against its manifest.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "backstop/abi.h"
#include "backstop/scheduler.hpp"
#include "backstop/struct_size.hpp"

namespace backstop {
inline namespace v1 {

/// A later host may know others; they matter only to a plugin with an optimizer of its own.
enum class OptimizerKind : std::uint32_t { sgd = 0, adam = 1, adamw = 2 };

/// The recipe's `optimizer = { name = "sgd", ... }`. The learning rate comes from a scheduler.
struct OptimizerOptions {
  StructSize<OptimizerOptions> struct_size;
  OptimizerKind kind = OptimizerKind::sgd;
  double momentum = 0.9;       ///< sgd
  double weight_decay = 5e-4;  ///< L2 penalty (sgd, adam) or decoupled decay (adamw)
  double beta1 = 0.9;          ///< adam, adamw
  double beta2 = 0.999;        ///< adam, adamw
  double epsilon = 1e-8;       ///< adam, adamw
  std::uint32_t nesterov = 0;  ///< sgd; 1: Nesterov's momentum
  std::uint32_t reserved = 0;
  /// Room for more: the size stays, because other structures hold this one. In all that comes, 0
  /// will mean the default.
  double reserved_numbers[9] = {};
};

/// Implemented by the host. Outlives the plugin's object, and so does everything that it returns.
/// Each key is one of the manifest's `[parameters.KEY]`. Defaults are filled in, and types, ranges
/// and choices have been checked. Asking for an unknown key, for the wrong type, or for an optional
/// parameter that the recipe leaves out throws backstop::Error, as a bug in the plugin.
class Params {
 public:
  /// Whether there is a value: false only for an `optional` parameter that the recipe leaves out.
  /// [run thread]
  [[nodiscard]] virtual bool has(std::string_view key) const = 0;
  /// [run thread]
  [[nodiscard]] virtual bool boolean(std::string_view key) const = 0;
  /// [run thread]
  [[nodiscard]] virtual std::int64_t integer(std::string_view key) const = 0;
  /// Type `float`. [run thread]
  [[nodiscard]] virtual double number(std::string_view key) const = 0;
  /// Types `string`, `choice` and `path`. A path is as written in the recipe; a relative one is
  /// relative to the current folder of the command. [run thread]
  [[nodiscard]] virtual std::string_view string(std::string_view key) const = 0;
  /// [run thread]
  [[nodiscard]] virtual std::span<const std::int64_t> integers(std::string_view key) const = 0;
  /// [run thread]
  [[nodiscard]] virtual std::span<const double> numbers(std::string_view key) const = 0;
  /// [run thread]
  [[nodiscard]] virtual std::span<const std::string_view> strings(std::string_view key) const = 0;
  /// [run thread]
  [[nodiscard]] virtual const Scheduler& scheduler(std::string_view key) const = 0;
  /// Fills in the fields of `options` that its struct_size has. Plugins call optimizer().
  /// [run thread]
  virtual void read_optimizer(std::string_view key, OptimizerOptions& options) const = 0;
  // -- ABI 1.0 ends here: append below, never reorder --

  [[nodiscard]] OptimizerOptions optimizer(std::string_view key) const {
    OptimizerOptions options;
    read_optimizer(key, options);
    return options;
  }

 protected:
  ~Params() = default;
};

}  // namespace v1
}  // namespace backstop
