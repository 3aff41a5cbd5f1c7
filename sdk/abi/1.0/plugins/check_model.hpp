// Frozen with ABI 1.0: it shows that a plugin of that SDK still runs. Do not change it.
//
// What the plugins check of a model and of image sets.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros_like.h>

#include "backstop/context.hpp"
#include "require.hpp"

inline bool alike(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.allclose(b, 1e-3, 1e-3);
}

/// The first images of a set, at most `most`.
inline at::Tensor first_images(const backstop::ImageSet& set, std::int64_t most) {
  return set.images(at::arange(std::min(most, set.size()), at::kLong));
}

inline void check_set(const backstop::ImageSet& set) {
  const at::Tensor labels = set.labels(), indices = set.indices(), images = first_images(set, 8);
  require(set.size() >= 1 && set.classes() >= 2, "an image set has images and classes");
  require(images.sizes() == at::IntArrayRef({std::min<std::int64_t>(8, set.size()), set.channels(),
                                             set.height(), set.width()}),
          "the images of a set have its size");
  require(images.scalar_type() == at::kFloat && images.min().item<double>() >= 0 &&
              images.max().item<double>() <= 1,
          "images are float32 in 0 .. 1");
  require(labels.scalar_type() == at::kLong && labels.sizes() == at::IntArrayRef({set.size()}) &&
              labels.min().item<std::int64_t>() >= 0 &&
              labels.max().item<std::int64_t>() < set.classes(),
          "labels are int64 in 0 .. classes - 1");
  require(indices.device().is_cpu() && indices.scalar_type() == at::kLong &&
              indices.sizes() == labels.sizes(),
          "indices are int64 on the CPU");
}

/// Keeps the stages that it sees, and replaces the last one's output by zeros if it is asked to.
class Stages final : public backstop::ActivationSink {
 public:
  explicit Stages(std::string_view replaced) : replaced_(replaced) {}
  at::Tensor activation(std::string_view stage, const at::Tensor& map) override {
    require(map.dim() == 4 || map.dim() == 3, "a map is [n, c, h, w] or [n, tokens, c]");
    seen.emplace_back(stage);
    return stage == replaced_ ? at::zeros_like(map) : map;
  }
  std::vector<std::string> seen;

 private:
  std::string replaced_;
};

/// What can be read of a model, which has to be in evaluation mode.
inline void check_reading(backstop::Model& model, const at::Tensor& images) {
  const at::Tensor logits = model.forward(images), features = model.features(images);
  require(logits.sizes() == at::IntArrayRef({images.size(0), model.classes()}), "logits [n, c]");
  require(features.sizes() == at::IntArrayRef({images.size(0), model.feature_size()}),
          "features [n, f]");
  require(alike(model.classify(features), logits), "the head makes logits of the features");

  const std::vector<std::string> names(model.stages().begin(), model.stages().end());
  require(!names.empty(), "a model with feature maps has stages");
  Stages watching(""), replacing(names.back());
  require(alike(model.observe(images, watching), logits), "watching stages changes no logits");
  require(watching.seen == names, "observe() reports all stages in order");
  const at::Tensor replaced = model.observe(images, replacing);
  require(alike(replaced, replaced.narrow(0, 0, 1).expand_as(replaced)),
          "a sink replaces what flows on");
  require(model.query("1-0.nothing/1") == nullptr, "an unknown interface is null");
}

/// One layer, from its kind's point of view.
inline void check_layer(const backstop::Layer& layer) {
  require(!layer.name.empty() && layer.weight.defined(), "a layer has a name and a weight");
  switch (layer.kind) {
    case backstop::LayerKind::convolution:
      require(layer.weight.dim() == 4 && layer.groups >= 1 && layer.stride >= 1 &&
                  layer.padding >= 0 && layer.dilation >= 1,
              "a convolution has its geometry");
      break;
    case backstop::LayerKind::batch_norm:
      require(layer.weight.dim() == 1 && layer.bias.sizes() == layer.weight.sizes() &&
                  layer.running_mean.sizes() == layer.weight.sizes() &&
                  layer.running_var.ge(0).all().item<bool>() && layer.epsilon > 0,
              "batch normalization has statistics and an epsilon");
      break;
    case backstop::LayerKind::linear:
      require(layer.weight.dim() == 2 && !layer.running_mean.defined() &&
                  !layer.running_var.defined() &&
                  (!layer.bias.defined() || layer.bias.size(0) == layer.weight.size(0)),
              "a linear layer has only a weight, and perhaps a bias");
      break;
  }
}

inline void check_layers(backstop::Model& model, std::int64_t channels) {
  const backstop::Layers layers = model.layers();
  std::int64_t count = 0;
  for (const backstop::Layer& layer : layers) {
    check_layer(layer);
    backstop::Layer again;
    model.read_layer(count++, again);
    require(again.name == layer.name && again.weight.is_same(layer.weight),
            "a layer is the same when it is read again");
  }
  require(count == model.layer_count(), "layer_count() is the number of layers");
  const backstop::Layer front = layers.front(), back = layers.back();
  require(front.kind == backstop::LayerKind::convolution &&
              front.weight.size(1) * front.groups == channels,
          "the first layer takes the channels of the images");
  require(back.kind == backstop::LayerKind::linear &&
              back.weight.sizes() == at::IntArrayRef({model.classes(), model.feature_size()}),
          "the last layer is the head");
  require_error(
      [&] {
        backstop::Layer none;
        model.read_layer(count, none);
      },
      "there is no layer after the last");
}
