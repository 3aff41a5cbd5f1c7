// The body that all residual networks share, whatever their blocks are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "host/engine/model/layers.hpp"

namespace backstop::engine {

inline constexpr std::string_view kResNetStages[] = {"layer1", "layer2", "layer3", "layer4"};

/// Stages of as many blocks as `blocks` says, after `width` channels. The first has `out` channels;
/// from one stage to the next their number doubles and the size of the images halves.
/// `add_block(stage, in, out, stride)` appends a block.
template <typename AddBlock>
std::vector<torch::nn::Sequential> register_stages(torch::nn::Module& module,
                                                   const std::vector<int>& blocks,
                                                   std::int64_t width, std::int64_t out,
                                                   const AddBlock& add_block) {
  std::vector<torch::nn::Sequential> stages;
  std::int64_t in = width;
  for (std::size_t i = 0; i < blocks.size(); ++i, out *= 2) {
    torch::nn::Sequential stage;
    for (int block = 0; block < blocks[i]; ++block) {
      add_block(stage, in, out, i > 0 && block == 0 ? 2 : 1);
      in = out;
    }
    stages.push_back(module.register_module(std::string(kResNetStages[i]), stage));
  }
  return stages;
}

/// Runs all stages, reporting each.
inline at::Tensor run_stages(std::vector<torch::nn::Sequential>& stages, at::Tensor x,
                             ActivationSink* sink) {
  for (std::size_t i = 0; i < stages.size(); ++i) {
    x = stages[i]->forward(x);
    x = after_stage(sink, kResNetStages[i], x);
  }
  return x;
}

}  // namespace backstop::engine
