// Frozen with ABI 1.0: it shows that a plugin of that SDK still runs. Do not change it.
//
// Flags training images whose bottom right corner is bright, and trains the model on clean images.
// As a detector, it scores images by that corner, and suspects the class that a white corner leads
// to. Before that, it tries whatever a host of ABI 1.0 offers.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include "backstop/defense.hpp"
#include "backstop/input_detector.hpp"
#include "backstop/model_detector.hpp"
#include "backstop/plugin.hpp"
#include "change_model.hpp"
#include "check_model.hpp"
#include "check_params.hpp"
#include "require.hpp"
#include "watched_step.hpp"

namespace {

using backstop::Context;
using backstop::DefenderData;
using backstop::ImageSet;
using backstop::LogLevel;
using backstop::Model;

constexpr std::int64_t kCorner = 3;  // pixels, as wide as the attack's patch
constexpr double kMargin = 0.2;      // of brightness
constexpr double kSuspicious = 0.75;

/// A part of `images`, which writes go through.
at::Tensor corner_of(const at::Tensor& images) {
  return images.narrow(2, images.size(2) - kCorner, kCorner)
      .narrow(3, images.size(3) - kCorner, kCorner);
}

/// How bright the corner of each image of the set is, on the CPU.
at::Tensor brightness(Context& ctx, const ImageSet& set) {
  constexpr std::int64_t kChunk = 256;
  std::vector<at::Tensor> parts;
  for (std::int64_t first = 0; first < set.size(); first += kChunk) {
    ctx.stop_if_cancelled();
    ctx.progress(first, set.size(), "corners");
    const std::int64_t last = std::min(first + kChunk, set.size());
    parts.push_back(corner_of(set.images(at::arange(first, last, at::kLong))).mean({1, 2, 3}));
  }
  return at::cat(parts).to(at::kCPU);
}

class BrightCorner final : public backstop::Defense,
                           public backstop::InputDetector,
                           public backstop::ModelDetector {
 public:
  explicit BrightCorner(const backstop::Params& params)
      : options_(backstop::training_options(params)),
        most_epochs_(params.integer("most_epochs")),
        undecided_(params.boolean("undecided")) {
    check_params(params);
    using backstop::BatchNormMode, backstop::Part;
    const std::string_view part = params.string("trainable"), norm = params.string("batch_norm");
    options_.trainable = part == "head" ? Part::head : part == "body" ? Part::body : Part::whole;
    options_.batch_norm = norm == "frozen"   ? BatchNormMode::frozen
                          : norm == "normal" ? BatchNormMode::normal
                                             : BatchNormMode::frozen_statistics;
    options_.augment = params.boolean("augment") ? 1 : 0;
    if (params.has("weights")) file_ = params.string("weights");
  }

  void* query(std::string_view id) noexcept override {
    if (id == InputDetector::kId) return static_cast<InputDetector*>(this);
    if (id == ModelDetector::kId) return static_cast<ModelDetector*>(this);
    return nullptr;
  }

  // -- as a defense --

  void run(Context& ctx, Model& model, const DefenderData& data) override {
    ctx.stop_if_cancelled();
    for (const LogLevel level : {LogLevel::debug, LogLevel::info})
      ctx.log(level, "ABI 1." + std::to_string(ctx.abi_minor()));
    require(ctx.query("1-0.nothing/1") == nullptr, "an unknown service is null");
    check_set(data.clean());
    check_set(data.training());
    check_sets(ctx, data.clean());
    check_trainer(ctx, model, data.clean());
    check_models(ctx, model, data.clean());
    flag(ctx, data);
    train(ctx, model, data.clean());
  }

  // -- as a detector of inputs --

  double prepare(Context& ctx, Model& model, const DefenderData& data) override {
    copy_ = &ctx.clone(model);  // valid as long as scores() is called
    copy_->set_training(false);
    return threshold(ctx, data);
  }
  at::Tensor scores(Context&, Model& model, const at::Tensor& images) override {
    require(!at::GradMode::is_enabled() && !model.training(), "scores() needs no gradients");
    require(alike(copy_->forward(images), model.forward(images)), "a clone computes the same");
    return corner_of(images).mean({1, 2, 3});
  }

  // -- as a detector of models --

  void detect(Context& ctx, Model& model, const DefenderData& data,
              backstop::ModelVerdict& verdict) override {
    if (undecided_) {
      ctx.log(LogLevel::warning, "there will be no verdict, as the recipe asks");
      return verdict.inconclusive("the recipe asks for none");
    }
    const at::NoGradGuard no_gradients;
    at::Tensor images = first_images(data.clean(), 64);
    corner_of(images).fill_(1);
    ctx.picture("white corners", images.narrow(0, 0, std::min<std::int64_t>(8, images.size(0))));
    Model& copy = ctx.clone(model);
    copy.set_training(false);
    const at::Tensor predicted = copy.forward(images).argmax(1);
    double largest = 0;
    for (std::int64_t label = 0; label < model.classes(); ++label) {
      const double share = predicted.eq(label).to(at::kDouble).mean().item<double>();
      verdict.class_number(label, "share", share);
      if (share >= kSuspicious) verdict.suspect(label, "is where a white corner leads");
      largest = std::max(largest, share);
    }
    verdict.score(largest, kSuspicious);
  }

 private:
  /// A brightness that no corner of a clean image has.
  static double threshold(Context& ctx, const DefenderData& data) {
    return brightness(ctx, data.clean()).max().item<double>() + kMargin;
  }

  static void check_sets(Context& ctx, const ImageSet& set) {
    const at::Tensor even = at::arange(0, set.size(), 2, at::kLong);
    const ImageSet& part = ctx.subset(set, even);
    check_set(part);
    require(part.indices().equal(set.indices().index_select(0, even)) &&
                part.labels().equal(set.labels().index_select(0, ctx.to_device(even))) &&
                first_images(part, 1).equal(first_images(set, 1)),
            "a subset has the images at the positions");
    const at::Tensor images = first_images(set, 8).mul_(0.5);
    const at::Tensor labels = set.labels().narrow(0, 0, images.size(0));
    const ImageSet& own = ctx.image_set(images, labels);
    check_set(own);
    require(own.labels().equal(labels) && own.indices().eq(-1).all().item<bool>() &&
                first_images(own, 8).allclose(images, 0, 1.0 / 255),
            "a set of the plugin's own has its images, which have no index");
  }

  static void check_trainer(Context& ctx, Model& model, const ImageSet& set) {
    backstop::Trainer& trainer = ctx.trainer();
    const at::Tensor logits = trainer.logits(model, set);
    require(logits.sizes() == at::IntArrayRef({set.size(), model.classes()}), "logits [n, c]");
    require(
        trainer.features(model, set).sizes() == at::IntArrayRef({set.size(), model.feature_size()}),
        "features [n, f]");
    const double right = logits.argmax(1).eq(set.labels()).to(at::kDouble).mean().item<double>();
    const double off = trainer.accuracy(model, set) - right;
    require(off < 1e-6 && off > -1e-6, "the accuracy is that of the logits");
    const at::Tensor images = first_images(set, 8), moved = trainer.augment(images);
    require(
        moved.sizes() == images.sizes() && moved.ge(0).logical_and(moved.le(1)).all().item<bool>(),
        "augmented images have the same size and range");
  }

  void check_models(Context& ctx, Model& model, const ImageSet& set) const {
    const at::Tensor images = first_images(set, 8);
    model.set_training(false);
    check_reading(model, images);
    check_layers(model, set.channels());
    change_parts(ctx, model);
    change_modes(ctx, model, images);
    change_weights(ctx, model, images);
    change_precision(ctx, model, images);
    change_masks(ctx, model, set, options_);
    train_chosen(ctx, model, set, options_);
    Model& fresh = ctx.new_model(ctx.generator());
    require(fresh.classes() == model.classes() && fresh.layer_count() == model.layer_count() &&
                !fresh.layers().front().weight.equal(model.layers().front().weight),
            "a new model has the architecture, and weights of its own");
    if (file_.empty()) return;
    const at::Tensor loaded = ctx.trainer().logits(ctx.load_model(file_), set);
    require(alike(loaded, ctx.trainer().logits(model, set)), "a model is the same from its file");
    ctx.metric("loaded", 1);
  }

  static void flag(Context& ctx, const DefenderData& data) {
    const ImageSet& set = data.training();
    const at::Tensor scores = brightness(ctx, set);
    const at::Tensor flagged = set.indices().masked_select(scores.ge(threshold(ctx, data)));
    ctx.score_poison(set.indices(), scores);
    ctx.flag_poison(flagged);
    ctx.metric("bright_corners", static_cast<double>(flagged.numel()));
  }

  void train(Context& ctx, Model& model, const ImageSet& set) const {
    backstop::TrainingOptions options = options_;
    WatchedStep step(ctx, model, set, options, most_epochs_);
    options.step = &step;
    ctx.trainer().fit(model, set, options);
    step.check_end(model);
    ctx.metric("steps", static_cast<double>(step.steps()));
    ctx.picture("clean images", first_images(set, 8));
    ctx.artifact("weights of the head", model.layers().back().weight);
  }

  backstop::TrainingOptions options_;
  std::int64_t most_epochs_;
  bool undecided_;
  std::string file_;       // empty: none
  Model* copy_ = nullptr;  // of the model whose inputs are scored
};

}  // namespace

BACKSTOP_PLUGIN(Defense, BrightCorner)
