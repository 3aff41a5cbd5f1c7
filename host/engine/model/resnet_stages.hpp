// The body that all 18-layer residual networks share, whatever their blocks are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "host/engine/model/layers.hpp"

namespace backstop::engine {

inline constexpr std::string_view kResNetStages[] = {"layer1", "layer2", "layer3", "layer4"};

/// Four stages of two blocks each; from one stage to the next the width doubles and the size of the
/// images halves.
template <typename Block>
std::vector<torch::nn::Sequential> register_stages(torch::nn::Module& module, std::int64_t width) {
  std::vector<torch::nn::Sequential> stages;
  std::int64_t in = width;
  for (std::size_t i = 0; i < 4; ++i) {
    const std::int64_t out = width << i;
    stages.push_back(module.register_module(
        std::string(kResNetStages[i]),
        torch::nn::Sequential(Block(in, out, i == 0 ? 1 : 2), Block(out, out, 1))));
    in = out;
  }
  return stages;
}

/// Runs all stages, reporting each.
inline at::Tensor run_stages(std::vector<torch::nn::Sequential>& stages, at::Tensor x,
                             ActivationSink* sink) {
  for (std::size_t i = 0; i < stages.size(); ++i) {
    x = stages[i]->forward(x);
    report_stage(sink, kResNetStages[i], x);
  }
  return x;
}

}  // namespace backstop::engine
