// A defense: gets a suspicious model and the data that it asked for, and repairs the model.
#pragma once

#include <string_view>

#include "backstop/abi.h"
#include "backstop/context.hpp"

namespace backstop {
inline namespace v1 {

/// The data that the defender has, none of it from the test set. Implemented by the host.
/// [run thread]
class DefenderData {
 public:
  /// Clean, correctly labeled images, as many as the recipe's `clean_images` or `clean_fraction`
  /// says. Throws Error unless the manifest's `needs` names "clean-data". [run thread]
  [[nodiscard]] virtual const ImageSet& clean() const = 0;
  /// The training set as the attacker left it. Throws Error unless the manifest's `needs` names
  /// "training-data". [run thread]
  [[nodiscard]] virtual const ImageSet& training() const = 0;
  // -- ABI 1.0 ends here: append below, never reorder --

 protected:
  ~DefenderData() = default;
};

/// Implemented by plugins. [run thread]
class Defense {
 public:
  /// Repairs `model` in place; its state on return is the result of the defense. When
  /// ctx.trainer() trains `model`, the host measures it between the epochs. [run thread]
  virtual void run(Context& ctx, Model& model, const DefenderData& data) = 0;
  /// Finds an additional interface by its identifier; null when there is none. [run thread]
  virtual void* query(std::string_view) noexcept { return nullptr; }

 protected:
  Defense() = default;
  Defense(const Defense&) = default;
  Defense& operator=(const Defense&) = default;
  ~Defense() = default;
};

}  // namespace v1
}  // namespace backstop
