#include "host/schema/optimizer.hpp"

namespace backstop::schema {

const Parameter& optimizer_name() {
  static const Parameter kName = {.key = "name",
                                  .type = ParameterType::choice,
                                  .default_value = toml::array{"sgd"},
                                  .choices = {"sgd", "adam", "adamw"},
                                  .help = "Optimizer"};
  return kName;
}

Parameters optimizer_parameters(std::string_view name) {
  using enum ParameterType;
  const Parameter decay = {.key = "weight_decay",
                           .type = floating,
                           .default_value = toml::array{5e-4},
                           .minimum = 0,
                           .help = "Weight decay"};
  if (name == "sgd")
    return {optimizer_name(),
            {.key = "momentum",
             .type = floating,
             .default_value = toml::array{0.9},
             .minimum = 0,
             .maximum = 1,
             .maximum_exclusive = true,
             .help = "Momentum"},
            decay,
            {.key = "nesterov",
             .type = boolean,
             .default_value = toml::array{false},
             .help = "Nesterov momentum"}};
  if (name == "adam" || name == "adamw")
    return {optimizer_name(),
            {.key = "beta1",
             .type = floating,
             .default_value = toml::array{0.9},
             .minimum = 0,
             .maximum = 1,
             .maximum_exclusive = true,
             .help = "Decay of the running mean of gradients"},
            {.key = "beta2",
             .type = floating,
             .default_value = toml::array{0.999},
             .minimum = 0,
             .maximum = 1,
             .maximum_exclusive = true,
             .help = "Decay of the running mean of squared gradients"},
            {.key = "epsilon",
             .type = floating,
             .default_value = toml::array{1e-8},
             .minimum = 0,
             .minimum_exclusive = true,
             .help = "Keeps the division finite"},
            decay};
  return {optimizer_name()};
}

}  // namespace backstop::schema
