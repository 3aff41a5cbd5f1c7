// Frozen with ABI 1.0: it shows that a plugin of that SDK still runs. Do not change it.
//
// What the plugins change in a model, each on a copy of its own.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>

#include "backstop/context.hpp"
#include "check_model.hpp"
#include "require.hpp"

/// Which parameters require gradients.
inline void change_parts(backstop::Context& ctx, const backstop::Model& model) {
  using backstop::Part;
  backstop::Model& copy = ctx.clone(model);
  for (const Part part : {Part::none, Part::head, Part::body, Part::whole}) {
    copy.set_trainable(part);
    const std::size_t head = copy.layers().size() - 1;
    for (std::size_t i = 0; i <= head; ++i)
      require(copy.layers()[i].weight.requires_grad() ==
                  (part == Part::whole || part == (i == head ? Part::head : Part::body)),
              "set_trainable() chooses a part");
  }
  copy.set_trainable(Part::chosen);
  require(copy.layers().front().weight.requires_grad(), "Part::chosen changes nothing");
}

/// Training mode, evaluation mode, and batch normalization in both.
inline void change_modes(backstop::Context& ctx, const backstop::Model& model,
                         const at::Tensor& images) {
  using backstop::BatchNormMode;
  const at::NoGradGuard no_gradients;
  backstop::Model& copy = ctx.clone(model);
  backstop::Layer norm = copy.layers()[0];
  for (const backstop::Layer& layer : copy.layers())
    if (layer.kind == backstop::LayerKind::batch_norm) norm = layer;
  for (const BatchNormMode mode :
       {BatchNormMode::frozen, BatchNormMode::frozen_statistics, BatchNormMode::normal}) {
    const at::Tensor before = norm.running_mean.clone();
    copy.set_batch_norm(mode);
    copy.set_training(true);
    require(copy.training(), "set_training() switches to training mode");
    copy.forward(images);
    const bool updated = !norm.running_mean.equal(before);
    require(updated == (mode == BatchNormMode::normal), "frozen statistics are not updated");
    require(norm.weight.requires_grad() == (mode != BatchNormMode::frozen),
            "only frozen batch normalization has weights that are not trained");
    copy.set_training(false);
    require(!copy.training(), "set_training() switches to evaluation mode");
  }
}

/// Weights: written to, copied from another model, drawn anew.
inline void change_weights(backstop::Context& ctx, const backstop::Model& model,
                           const at::Tensor& images) {
  const at::NoGradGuard no_gradients;
  backstop::Model& copy = ctx.clone(model);
  copy.set_training(false);
  const at::Tensor logits = copy.forward(images), weight = copy.layers().back().weight.clone();
  at::Tensor live = copy.layers().back().weight;
  live.zero_();
  const at::Tensor same = copy.forward(images);
  require(alike(same, same.narrow(0, 0, 1).expand_as(same)), "the weights of a layer are live");
  copy.copy_from(model);
  require(alike(copy.forward(images), logits), "copy_from() copies all weights");
  copy.reset(backstop::Part::head, ctx.generator());
  require(!copy.layers().back().weight.equal(weight), "reset() draws the head anew");
  require(copy.layers().front().weight.equal(ctx.clone(model).layers().front().weight),
          "reset() of the head leaves the body");

  backstop::Model& wider = ctx.clone(model);
  const std::int64_t classes = model.classes() + 1;
  wider.replace_head(classes, ctx.generator());
  require(wider.classes() == classes && wider.layers().back().weight.size(0) == classes &&
              wider.forward(images).size(1) == classes,
          "replace_head() makes a head of another size");
}

/// Masks hold while a model trains. `options` has a scheduler and an optimizer.
inline void change_masks(backstop::Context& ctx, const backstop::Model& model,
                         const backstop::ImageSet& set, backstop::TrainingOptions options) {
  backstop::Model& copy = ctx.clone(model);
  const auto layers = copy.layers();
  std::size_t last = 0;  // convolution
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (layers[i].kind == backstop::LayerKind::convolution) last = i;
  for (const backstop::Layer& layer : {layers[last], layers.back()}) {
    const bool outputs = layer.kind == backstop::LayerKind::convolution;
    at::Tensor keep = at::ones({layer.weight.size(outputs ? 0 : 1)}, at::kBool);
    keep.narrow(0, 0, 1).fill_(false);
    copy.mask_channels(layer.name, ctx.to_device(keep));
  }
  options.epochs = 1;
  options.step = nullptr;
  ctx.trainer().fit(copy, set, options);
  require(layers[last].weight.select(0, 0).eq(0).all().item<bool>() &&
              layers.back().weight.select(1, 0).eq(0).all().item<bool>(),
          "what is masked stays zero");
  const backstop::Layer wrong = layers[last];
  require_error(
      [&] { copy.mask_channels(wrong.name, at::ones({wrong.weight.size(0) + 1}, at::kBool)); },
      "a mask has as many channels as its layer");
}

/// Trains only the head, chosen layer by layer.
inline void train_chosen(backstop::Context& ctx, const backstop::Model& model,
                         const backstop::ImageSet& set, backstop::TrainingOptions options) {
  backstop::Model& copy = ctx.clone(model);
  copy.set_trainable(backstop::Part::none);
  copy.layers().back().weight.set_requires_grad(true);
  const at::Tensor front = copy.layers().front().weight.detach().clone();
  const at::Tensor back = copy.layers().back().weight.detach().clone();
  options.epochs = 1;
  options.step = nullptr;
  options.trainable = backstop::Part::chosen;
  ctx.trainer().fit(copy, set, options);
  require(copy.layers().front().weight.equal(front), "what was not chosen is not trained");
  require(!copy.layers().back().weight.equal(back), "what was chosen is trained");
}

/// A scope of another precision ends.
inline void change_precision(backstop::Context& ctx, const backstop::Model& model,
                             const at::Tensor& images) {
  using backstop::Precision;
  backstop::Model& copy = ctx.clone(model);
  copy.set_precision(Precision::run);
  {
    const backstop::PrecisionScope scope(copy, Precision::float32);
    require(copy.precision() == Precision::float32, "a model computes in the precision asked for");
    require(copy.forward(images).scalar_type() == at::kFloat, "logits are float32");
  }
  require(copy.precision() == Precision::run, "the precision is the former one again");
}
