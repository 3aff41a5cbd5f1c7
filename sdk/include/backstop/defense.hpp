// A defense: takes a suspicious model, and whatever data it asked for, and mends the model.
#pragma once

#include <string_view>

#include "backstop/context.hpp"

namespace backstop {
inline namespace v0 {

/// What the defender has. Implemented by the host. Nothing in it comes from the test set.
class DefenderData {
 public:
  /// Clean, correctly labelled images: `clean_images` or `clean_fraction` of the recipe. The
  /// manifest's `needs` must name "clean-data"; otherwise this throws.
  [[nodiscard]] virtual const ImageSet& clean() const = 0;
  /// The training set as the attacker left it. The manifest's `needs` must name "training-data".
  [[nodiscard]] virtual const ImageSet& training() const = 0;
  // -- ABI 0.3 ends here: append below, never reorder --

 protected:
  ~DefenderData() = default;
};

/// Implemented by plugins. [run thread]
class Defense {
 public:
  /// Mends `model` in place. Trainings of `model` through ctx.trainer() are measured epoch by
  /// epoch; whatever `model` is on return is the defense's result.
  virtual void run(Context& ctx, Model& model, const DefenderData& data) = 0;
  /// Finds an additional interface by its identifier; null when there is none.
  virtual void* query(std::string_view) noexcept { return nullptr; }

 protected:
  Defense() = default;
  Defense(const Defense&) = default;
  Defense& operator=(const Defense&) = default;
  ~Defense() = default;
};

}  // namespace v0
}  // namespace backstop
