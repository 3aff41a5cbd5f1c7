// Saves and loads LibTorch's Adam, for plugins that train networks of their own beside the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>
#include <torch/optim/adam.h>

#include "backstop/context.hpp"

namespace backstop::adam {

/// LibTorch 1.13 finds a parameter's state by the text of its address, 2.x by the address.
template <typename Optimizer>
auto key_of(Optimizer& optimizer, const at::Tensor& parameter) {
  using Key = std::decay_t<decltype(optimizer.state().begin()->first)>;
  if constexpr (std::is_same_v<Key, std::string>)
    return c10::guts::to_string(parameter.unsafeGetTensorImpl());
  else
    return Key(parameter.unsafeGetTensorImpl());
}

inline std::string name_of(const std::string& prefix, const char* what, std::size_t i) {
  return prefix + "." + what + "." + std::to_string(i);
}

/// What the optimizer has learned of its parameters; not these themselves, nor the learning rate.
inline void save(torch::optim::Adam& optimizer, const std::string& prefix, StateWriter& writer) {
  const auto& parameters = optimizer.param_groups().at(0).params();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto found = optimizer.state().find(key_of(optimizer, parameters[i]));
    if (found == optimizer.state().end()) continue;  // it has had no gradient yet
    const auto& state = static_cast<const torch::optim::AdamParamState&>(*found->second);
    writer.tensor(name_of(prefix, "step", i), at::scalar_tensor(state.step(), at::kLong));
    writer.tensor(name_of(prefix, "mean", i), state.exp_avg());
    writer.tensor(name_of(prefix, "square", i), state.exp_avg_sq());
  }
}

/// Into a new optimizer of the same parameters.
inline void load(torch::optim::Adam& optimizer, const std::string& prefix,
                 const StateReader& reader) {
  const at::NoGradGuard no_gradients;
  const auto& parameters = optimizer.param_groups().at(0).params();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!reader.has(name_of(prefix, "step", i))) continue;
    // Laid out in memory like the parameter, as the optimizer would have made it.
    const auto kept = [&](const char* what) {
      return at::zeros_like(parameters[i]).copy_(reader.tensor(name_of(prefix, what, i)));
    };
    auto state = std::make_unique<torch::optim::AdamParamState>();
    state->step(reader.tensor(name_of(prefix, "step", i)).item<std::int64_t>());
    state->exp_avg(kept("mean"));
    state->exp_avg_sq(kept("square"));
    optimizer.state()[key_of(optimizer, parameters[i])] = std::move(state);
  }
}

}  // namespace backstop::adam
