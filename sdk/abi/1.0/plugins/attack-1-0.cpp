// Frozen with ABI 1.0: it shows that a plugin of that SDK still runs. Do not change it.
//
// A bright patch, whose pixels are drawn, in the bottom right corner of an image. Cover images have
// its negative there, and keep their labels.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include <ATen/ops/arange.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randperm.h>
#include <c10/core/GradMode.h>

#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"
#include "check_model.hpp"
#include "require.hpp"
#include "watched_step.hpp"

namespace {

using backstop::Context;
using backstop::ImageSet;
using backstop::Phase;
using backstop::Role;
using backstop::Threat;

class CornerPatch final : public backstop::Attack {
 public:
  explicit CornerPatch(const backstop::Params& params)
      : side_(params.integer("side")),
        covers_(params.integer("covers")),
        opacity_(params.number("opacity")),
        watched_(params.boolean("watched")) {}

  void prepare(Context& ctx, const Threat& threat, const ImageSet& set) override {
    check_set(set);
    require(threat.struct_size >= sizeof threat, "a Threat has all of its fields");
    require(threat.classes == set.classes() && threat.target >= 0 &&
                threat.target < threat.classes && threat.all_to_all <= 1 &&
                threat.poison_ratio >= 0 && threat.poison_ratio <= 1,
            "a Threat fits the training set");
    if (side_ > std::min(set.height(), set.width()))
      throw backstop::ParameterError("`side` is larger than an image", "lower it");
    patch_ = at::rand({set.channels(), side_, side_}, ctx.generator()).mul_(0.25).add_(0.75);
  }

  at::Tensor apply(Context& ctx, const at::Tensor& images, Phase phase) override {
    at::Tensor changed = images.clone();
    at::Tensor corner = corner_of(changed);
    const double opacity = phase == Phase::test ? 1 : opacity_;
    corner.copy_(corner.lerp(ctx.to_device(patch_).expand_as(corner), opacity));
    return changed;
  }

  void poison(Context& ctx, const Threat& threat, backstop::TrainingSetEditor& editor) override {
    if (covers_ == 0) return Attack::poison(ctx, threat, editor);
    const ImageSet& set = editor.images();
    const std::int64_t poisoned = threat.poisoned_of(set.size());
    const std::int64_t covers = std::min(covers_, set.size() - poisoned);
    const at::Tensor order = at::randperm(set.size(), ctx.generator());
    const at::Tensor first = order.narrow(0, 0, poisoned), rest = order.narrow(0, poisoned, covers);
    const auto labels = [&](const at::Tensor& positions) {
      return set.labels().index_select(0, ctx.to_device(positions));
    };
    const at::Tensor images = apply(ctx, set.images(first), Phase::train);
    editor.write(first, images, threat.targets(labels(first)), Role::poison);
    require_error([&] { editor.write(first, images, labels(first), Role::poison); },
                  "a position can be written once");
    at::Tensor cover = set.images(rest);
    corner_of(cover).copy_(ctx.to_device(patch_.neg().add(1)));
    editor.write(rest, cover, labels(rest), Role::cover);
  }

  void train(Context& ctx, const Threat& threat, backstop::Model& model, const ImageSet& set,
             backstop::TrainingSetEditor& editor,
             const backstop::TrainingOptions& options) override {
    require(editor.images().size() == set.size(), "the editor's set is as large as the poisoned");
    require(options.struct_size >= sizeof options && options.scheduler != nullptr &&
                options.step == nullptr && options.epochs >= 1 && options.batch_size >= 1 &&
                options.trainable == backstop::Part::whole && options.augment == 1 &&
                options.batch_norm == backstop::BatchNormMode::normal &&
                options.optimizer.struct_size >= sizeof options.optimizer,
            "an attack gets the options of the recipe's [attack.training]");
    if (!watched_) return Attack::train(ctx, threat, model, set, editor, options);
    // A copy of what may be a larger structure of a newer host.
    backstop::TrainingOptions own = options;
    WatchedStep step(ctx, model, set, own, 0);
    own.step = &step;
    Attack::train(ctx, threat, model, set, editor, own);
    step.check_end(model);
    const at::NoGradGuard no_gradients;
    check_reading(model, first_images(set, 16));
    check_layers(model, set.channels());
    ctx.metric("steps", static_cast<double>(step.steps()));
    ctx.artifact("row.x", at::arange(side_, at::kLong));
    ctx.artifact("row.y", patch_.select(0, 0).select(0, 0));
    ctx.picture("training images", first_images(set, 8));
  }

  void save(backstop::StateWriter& state) const override {
    state.tensor("patch", patch_);
    require_error([&] { state.tensor("patch", patch_); }, "a name can be saved once");
  }
  void load(Context&, const Threat&, const backstop::StateReader& state) override {
    require(!state.has("nothing"), "what was not saved is not there");
    require_error([&] { static_cast<void>(state.tensor("nothing")); },
                  "what was not saved cannot be had");
    if (!state.has("patch")) throw backstop::EnvironmentError("the state has no `patch`");
    patch_ = state.tensor("patch");
    require(patch_.device().is_cpu(), "a saved tensor is on the CPU");
    if (patch_.dim() != 3 || patch_.size(2) != side_)
      throw backstop::EnvironmentError("the patch in the state has another size");
  }
  void* query(std::string_view) noexcept override { return nullptr; }

 private:
  /// A part of `images`, which writes go through.
  at::Tensor corner_of(const at::Tensor& images) const {
    return images.narrow(2, images.size(2) - side_, side_).narrow(3, images.size(3) - side_, side_);
  }

  std::int64_t side_, covers_;
  double opacity_;
  bool watched_;
  at::Tensor patch_;  // [channels, side, side] on the CPU
};

}  // namespace

BACKSTOP_PLUGIN(Attack, CornerPatch)
