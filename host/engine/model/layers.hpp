// The layers that several networks are made of.
#pragma once

#include <cstdint>
#include <string_view>

#include <fmt/format.h>

#include "backstop/error.hpp"
#include "backstop/model.hpp"
#include "host/engine/kernels/batch_norm_relu.hpp"
#include "host/engine/kernels/convolution.hpp"
#include "host/engine/torch.hpp"

namespace backstop::engine {

/// Without a bias, padded by half the kernel.
inline torch::nn::Conv2d make_convolution(std::int64_t in, std::int64_t out, std::int64_t kernel,
                                          std::int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

inline at::Tensor convolve(torch::nn::Conv2d& conv, const at::Tensor& x) {
  return convolution(*conv, x);
}

inline at::Tensor norm_relu(torch::nn::BatchNorm2d& norm, const at::Tensor& x) {
  return batch_norm_relu(*norm, x);
}

/// What goes on after `stage`, whose output is `map`.
inline at::Tensor after_stage(ActivationSink* sink, std::string_view stage, const at::Tensor& map) {
  if (sink == nullptr) return map;
  at::Tensor next = sink->activation(stage, map);
  if (next.is_same(map)) return map;
  if (!next.defined() || next.sizes() != map.sizes() || next.scalar_type() != map.scalar_type())
    throw Error(fmt::format("for stage `{}`, ActivationSink::activation did not return a tensor of "
                            "the shape and type that it was given",
                            stage),
                "return the map itself to leave it as it is");
  return next;
}

/// The mean of every feature map.
inline at::Tensor pool(const at::Tensor& map) {
  return map.mean({2, 3});
}

}  // namespace backstop::engine
