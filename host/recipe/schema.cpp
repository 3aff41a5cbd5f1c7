#include "host/recipe/schema.hpp"

namespace backstop::recipe {

const std::vector<ModelTrait>& model_traits() {
  static const std::vector<ModelTrait> kTraits = {
      {"feature-maps", "the feature maps of stages", {"mlp"}},
      {"batch-norm", "batch normalization", {"mlp"}},
  };
  return kTraits;
}

}  // namespace backstop::recipe
