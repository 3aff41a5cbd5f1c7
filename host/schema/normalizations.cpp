#include "host/schema/normalizations.hpp"

#include <algorithm>

namespace backstop::schema {

std::span<const NamedNormalization> normalizations() {
  static constexpr NamedNormalization kNormalizations[] = {
      {"imagenet", {0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}},
      {"cifar10", {0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}},
      {"cifar10-std", {0.4914, 0.4822, 0.4465}, {0.2023, 0.1994, 0.2010}},
      {"mnist", {0.1307, 0.1307, 0.1307}, {0.3081, 0.3081, 0.3081}},
      {"half", {0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}},
      {"none", {0, 0, 0}, {1, 1, 1}},
  };
  return kNormalizations;
}

const NamedNormalization* find_normalization(std::string_view name) {
  const auto all = normalizations();
  const auto match = std::find_if(all.begin(), all.end(),
                                  [&](const NamedNormalization& one) { return one.name == name; });
  return match == all.end() ? nullptr : &*match;
}

}  // namespace backstop::schema
