// Frozen with ABI 1.0: it shows that a plugin of that SDK still runs. Do not change it.
//
// What defense-1-0 checks of its parameters; their values are the defaults of its manifest.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "backstop/params.hpp"
#include "require.hpp"

template <typename T, std::size_t N>
bool same(std::span<const T> values, const std::array<T, N>& expected) {
  return std::equal(values.begin(), values.end(), expected.begin(), expected.end());
}

inline void check_optimizers(const backstop::Params& params) {
  using backstop::OptimizerKind;
  const backstop::OptimizerOptions sgd = params.optimizer("checked_sgd");
  require(sgd.kind == OptimizerKind::sgd && sgd.momentum == 0.5 && sgd.weight_decay == 0.25 &&
              sgd.nesterov == 1,
          "the options of SGD arrive");
  backstop::OptimizerOptions adam;
  params.read_optimizer("checked_adam", adam);
  require(adam.struct_size == sizeof adam && adam.kind == OptimizerKind::adam &&
              adam.beta1 == 0.5 && adam.beta2 == 0.75 && adam.epsilon == 0.125 &&
              adam.weight_decay == 0.25,
          "the options of Adam arrive");
  require(params.optimizer("checked_adamw").kind == OptimizerKind::adamw, "AdamW arrives");
}

inline void check_params(const backstop::Params& params) {
  require(params.has("checked_integer") && !params.has("checked_absent"),
          "has() tells an optional parameter that was left out");
  require(params.boolean("checked_boolean"), "a boolean arrives");
  require(params.integer("checked_integer") == -7, "an integer arrives");
  require(params.number("checked_number") == 0.25, "a number arrives");
  require(params.string("checked_string") == "caf\u00e9", "a string arrives");
  require(params.string("checked_choice") == "second", "a choice arrives");
  require(params.string("checked_path") == "a/path", "a path arrives");
  require(same(params.integers("checked_integers"), std::array<std::int64_t, 3>{1, -2, 3}),
          "integers arrive");
  require(same(params.numbers("checked_numbers"), std::array{0.5, 2.0}), "numbers arrive");
  const std::array<std::string_view, 2> words = {"first", "second"};
  for (const char* key : {"checked_strings", "checked_choices", "checked_paths"})
    require(same(params.strings(key), words), "strings, choices and paths arrive");
  check_optimizers(params);
  require_error([&] { static_cast<void>(params.integer("checked_absent")); },
                "a parameter that was left out cannot be had");
  require_error([&] { static_cast<void>(params.integer("checked_string")); },
                "a parameter has one type");
}
