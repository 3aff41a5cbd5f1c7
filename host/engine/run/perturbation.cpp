#include "host/engine/run/perturbation.hpp"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

namespace backstop::engine {

namespace {

constexpr std::int64_t kChunk = 250;  // images at once, where there is a choice
constexpr double kTiny = 1e-12;

/// Lets gradients reach the images alone, in evaluation mode.
class Frozen {
 public:
  explicit Frozen(Classifier& model) : model_(model) {
    model.set_training(false);
    model.set_trainable(Part::none);
  }
  ~Frozen() { model_.set_trainable(Part::whole); }
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

 private:
  Classifier& model_;
};

/// A step of length 1 in the ball's norm, down the gradient of `loss`.
at::Tensor descent(Classifier& model, const at::Tensor& images, const at::Tensor& labels,
                   const at::Tensor& perturbation, const Loss& loss, Ball::Norm norm) {
  const c10::AutoGradMode gradients(true);
  const at::Tensor moved = perturbation.detach().clone().set_requires_grad(true);
  const at::Tensor value = loss(model.forward((images + moved).clamp(0, 1)), labels);
  const at::Tensor gradient = torch::autograd::grad({value}, {moved}).front();
  if (norm == Ball::Norm::maximum) return gradient.sign().neg();
  return gradient.div(gradient.norm().clamp_min(kTiny)).neg();
}

/// The same set with the images that `change` gives for those at each chunk of positions.
template <typename Change>
ImageStore with_images(StageContext& ctx, const ImageStore& images, Change&& change) {
  std::vector<at::Tensor> parts;
  for (std::int64_t first = 0; first < images.size(); first += kChunk) {
    ctx.stop_if_cancelled();
    const at::Tensor positions =
        at::arange(first, std::min(first + kChunk, images.size()), at::kLong);
    parts.push_back(to_8_bits(change(positions)));
  }
  const at::Tensor labels = images.labels();
  return {at::cat(parts), labels, images.classes(), labels.device()};
}

at::Tensor labels_at(const ImageStore& images, const at::Tensor& positions) {
  const at::Tensor labels = images.labels();
  return labels.index_select(0, send(positions, labels.device()));
}

}  // namespace

at::Tensor projected(const at::Tensor& perturbation, const Ball& ball) {
  if (ball.norm == Ball::Norm::maximum) return perturbation.clamp(-ball.radius, ball.radius);
  const double norm = perturbation.norm().item<double>();
  return norm <= ball.radius ? perturbation : perturbation.mul(ball.radius / norm);
}

at::Tensor only_label_loss(const at::Tensor& logits, const at::Tensor& labels) {
  const at::Tensor label = labels.unsqueeze(1);
  const at::Tensor chances = logits.softmax(1);
  const at::Tensor second = std::get<0>(chances.scatter(1, label, 0).max(1));
  return at::cross_entropy_loss(logits, labels) - (1 - second).clamp_min(kTiny).log().mean();
}

at::Tensor not_label_loss(const at::Tensor& logits, const at::Tensor& labels) {
  return at::cross_entropy_loss(logits, labels).neg();
}

at::Tensor universal_perturbation(StageContext& ctx, Classifier& model, const ImageStore& images,
                                  const UniversalSearch& search, const Loss& loss) {
  constexpr double kFirstStep = 0.2;  // of the radius
  const Frozen frozen(model);
  const std::int64_t batch = std::min(search.batch_size, images.size());
  at::Tensor found = at::zeros({1, images.channels(), images.height(), images.width()},
                               at::device(model.compute().device));
  at::Tensor order;
  std::int64_t next = 0;
  for (std::int64_t step = 0; step < search.steps; ++step) {
    ctx.stop_if_cancelled();
    if (!order.defined() || next + batch > images.size()) {
      order = at::randperm(images.size(), ctx.generator(), at::kLong);
      next = 0;
    }
    const at::Tensor positions = order.narrow(0, next, batch);
    next += batch;
    const double length = kFirstStep * search.ball.radius *
                          (1 - static_cast<double>(step) / static_cast<double>(search.steps));
    const at::Tensor down = descent(model, images.images(positions), labels_at(images, positions),
                                    found, loss, search.ball.norm);
    found = projected(found + length * down, search.ball);
    ctx.progress(step + 1, search.steps, "steps of a universal perturbation");
  }
  return found;
}

ImageStore adversarial_images(StageContext& ctx, Classifier& model, const ImageStore& images,
                              double radius, std::int64_t iterations) {
  const Ball ball{Ball::Norm::maximum, radius};
  const Frozen frozen(model);
  return with_images(ctx, images, [&](const at::Tensor& positions) {
    const at::Tensor clean = images.images(positions), labels = labels_at(images, positions);
    at::Tensor change = at::zeros_like(clean);
    for (std::int64_t i = 0; i < iterations; ++i) {
      ctx.stop_if_cancelled();
      const at::Tensor down = descent(model, clean, labels, change, not_label_loss, ball.norm);
      change = projected(change + radius / 4 * down, ball);
    }
    return (clean + change).clamp(0, 1);
  });
}

ImageStore perturbed(StageContext& ctx, const ImageStore& images, const at::Tensor& perturbation) {
  return with_images(ctx, images, [&](const at::Tensor& positions) {
    return (images.images(positions) + perturbation).clamp(0, 1);
  });
}

}  // namespace backstop::engine
