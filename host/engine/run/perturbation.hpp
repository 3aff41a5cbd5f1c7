// Perturbations of images that make a model say something else: one for all images, or one for
// each.
#pragma once

#include <cstdint>
#include <functional>

#include "host/engine/data/image_store.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/plugins/stage_context.hpp"

namespace backstop::engine {

/// How far a perturbation may go from 0, with pixels in 0 .. 1.
struct Ball {
  enum class Norm { l2, maximum };
  Norm norm = Norm::l2;
  double radius = 0;
};

/// The nearest perturbation that is in the ball.
at::Tensor projected(const at::Tensor& perturbation, const Ball& ball);

/// What a search makes as small as it can: a scalar of the logits [n, classes] and of the labels
/// [n] of the same images.
using Loss = std::function<at::Tensor(const at::Tensor& logits, const at::Tensor& labels)>;

/// -log p(label) - log(1 - p(k)), where k is the likeliest class besides the label.
at::Tensor only_label_loss(const at::Tensor& logits, const at::Tensor& labels);
/// log p(label): the label becomes unlikely.
at::Tensor not_label_loss(const at::Tensor& logits, const at::Tensor& labels);

struct UniversalSearch {
  Ball ball;
  std::int64_t steps = 0, batch_size = 0;
};

/// One perturbation [1, C, H, W] for all images x: clip(x + it) has a small loss with the labels of
/// `images`. Steps along the gradient scaled to the ball (or along its sign), which shrink linearly
/// from a fifth of the radius. Draws batches from the context's generator.
at::Tensor universal_perturbation(StageContext& ctx, Classifier& model, const ImageStore& images,
                                  const UniversalSearch& search, const Loss& loss);

/// The images, each moved away from its label by itself, no pixel by more than `radius`: projected
/// gradient descent (PGD) of `iterations` steps of a quarter of it, from the image itself.
ImageStore adversarial_images(StageContext& ctx, Classifier& model, const ImageStore& images,
                              double radius, std::int64_t iterations);

/// clip(x + perturbation) in 8 bits, as an image file would have it.
ImageStore perturbed(StageContext& ctx, const ImageStore& images, const at::Tensor& perturbation);

}  // namespace backstop::engine
