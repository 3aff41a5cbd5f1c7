// What a defense can need of a model.
#pragma once

#include <string_view>
#include <vector>

namespace backstop::recipe {

/// What a manifest's `needs` can ask of a model: which architectures do not offer it, and what to
/// call it in a sentence.
struct ModelTrait {
  std::string_view need, text;
  std::vector<std::string_view> missing_in;
};
const std::vector<ModelTrait>& model_traits();

}  // namespace backstop::recipe
