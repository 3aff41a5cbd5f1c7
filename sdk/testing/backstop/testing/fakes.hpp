// Fakes of what the host implements, for unit tests of plugins. A test made with
// backstop_add_plugin_test() contains the plugin's sources, creates its object with make() and
// drives it:
//
//   backstop::testing::FakeParams params{"patch_size = 5"};   // the rest: the manifest's defaults
//   backstop::testing::FakeContext context;
//   auto attack = backstop::testing::make<backstop::Attack>(params);
//   at::Tensor triggered = attack->apply(context, images, backstop::Phase::test);
//
// attack_promises.hpp and defense_promises.hpp have ready-made tests of what every attack and every
// defense must hold.
//
// This header brings at::arange, full, ones, rand, randperm, tensor and zeros; for any other
// function include its own <ATen/ops/...>. Methods of tensors (a.sub(b), a.select(0, i)) need no
// header; their operators (a - b, a[i]) need <ATen/TensorOperators.h>, which takes six seconds to
// compile.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <toml++/toml.h>

#include "backstop/abi.h"
#include "backstop/attack.hpp"
#include "backstop/context.hpp"
#include "backstop/dataset.hpp"
#include "backstop/defense.hpp"
#include "backstop/error.hpp"
#include "backstop/input_detector.hpp"
#include "backstop/model_detector.hpp"
#include "backstop/params.hpp"

extern "C" const backstop_plugin_descriptor* backstop_plugin_v1();

namespace backstop::testing {

/// The manifest of the plugin under test (BACKSTOP_MANIFEST).
inline const toml::table& manifest() {
  static const toml::table table = toml::parse_file(BACKSTOP_MANIFEST);
  return table;
}

/// A learning rate that stays the same.
class FixedRate final : public Scheduler {
 public:
  explicit FixedRate(double rate = 0.1) : rate_(rate) {}
  double rate(const TrainingPosition&) const override { return rate_; }

 private:
  double rate_;
};

/// The parameters that the host would pass: `recipe` is the plugin's table as TOML, and defaults
/// come from the manifest. Throws Error for a key that the manifest does not have. Ranges and
/// choices are not checked: the host does that.
class FakeParams final : public Params {
 public:
  explicit FakeParams(std::string_view recipe = "") : table_(toml::parse(recipe)) {
    for (const auto& [key, node] : table_)
      if (!described(key.str()))
        throw Error("the manifest has no parameter `" + std::string(key.str()) + "`");
    for (const auto& [key, description] : descriptions()) {
      if (const auto* value = description.as_table()->get("default");
          value && !table_.contains(key))
        value->visit([this, &key = key](const auto& v) { table_.insert(key, v); });
    }
    for (const auto& [key, node] : table_) {
      const auto* list = node.as_array();
      if (!list) continue;
      for (const auto& item : *list) {
        if (item.is_integer())
          integers_[std::string(key.str())].push_back(*item.value<std::int64_t>());
        if (item.is_number()) numbers_[std::string(key.str())].push_back(*item.value<double>());
        if (item.is_string())
          strings_[std::string(key.str())].push_back(*item.value<std::string_view>());
      }
    }
  }

  /// What scheduler(key) returns; without it, a FixedRate of 0.1 whatever the recipe says.
  void set_scheduler(std::string_view key, const Scheduler& scheduler) {
    schedulers_[std::string(key)] = &scheduler;
  }

  bool has(std::string_view key) const override {
    if (!described(key)) throw Error("the manifest has no parameter `" + std::string(key) + "`");
    return table_.contains(key);
  }
  bool boolean(std::string_view key) const override { return get<bool>(key); }
  std::int64_t integer(std::string_view key) const override { return get<std::int64_t>(key); }
  double number(std::string_view key) const override {
    const auto* description = described(key);
    if (description && (*description)["type"] == "integer")
      throw Error("the parameter " + std::string(key) + " is an integer");
    return get<double>(key);
  }
  std::string_view string(std::string_view key) const override {
    return get<std::string_view>(key);
  }
  std::span<const std::int64_t> integers(std::string_view key) const override {
    return list(integers_, key);
  }
  std::span<const double> numbers(std::string_view key) const override {
    return list(numbers_, key);
  }
  std::span<const std::string_view> strings(std::string_view key) const override {
    return list(strings_, key);
  }
  const Scheduler& scheduler(std::string_view key) const override {
    if (const auto set = schedulers_.find(std::string(key)); set != schedulers_.end())
      return *set->second;
    require_table(key, "scheduler");
    static const FixedRate rate;  // outlives the training options that a test looks at later
    return rate;
  }
  /// As in a recipe: what the recipe leaves out comes from the manifest's default, or, where the
  /// recipe names an optimizer, from OptimizerOptions. Throws Error for an unknown name, a key that
  /// the optimizer does not have, or a value of another type.
  void read_optimizer(std::string_view key, OptimizerOptions& options) const override {
    toml::table values = require_table(key, "optimizer");
    const auto* defaults = (*described(key))["default"].as_table();
    if (defaults && !values.contains("name")) {
      for (const auto& [name, node] : *defaults)
        if (!values.contains(name))
          node.visit([&values, &name = name](const auto& v) { values.insert(name, v); });
    }

    const auto name = values["name"].value_or<std::string>("sgd");
    std::map<std::string, double*> numbers = {{"weight_decay", &options.weight_decay}};
    if (name == "sgd") {
      numbers["momentum"] = &options.momentum;
    } else if (name == "adam" || name == "adamw") {
      options.kind = name == "adam" ? OptimizerKind::adam : OptimizerKind::adamw;
      numbers["beta1"] = &options.beta1;
      numbers["beta2"] = &options.beta2;
      numbers["epsilon"] = &options.epsilon;
    } else {
      throw Error("there is no optimizer `" + name + "`", "use sgd, adam or adamw");
    }
    for (const auto& [name_of_value, node] : values) {
      const std::string text(name_of_value.str());
      const auto number = numbers.find(text);
      if (text == "name") continue;
      if (number != numbers.end() && node.is_number())
        *number->second = *node.value<double>();
      else if (text == "nesterov" && name == "sgd" && node.is_boolean())
        options.nesterov = *node.value<bool>() ? 1 : 0;
      else
        throw Error("optimizer `" + name + "` has no `" + text + "`, or it has another type");
    }
  }

 private:
  /// The manifest's `[parameters]`, and those of `[training]` with their types.
  static const toml::table& descriptions() {
    static const toml::table kDescriptions = [] {
      toml::table all;
      if (const auto* parameters = manifest()["parameters"].as_table()) all = *parameters;
      for (const auto& [key, type] :
           std::map<std::string, std::string>{{"epochs", "integer"},
                                              {"batch_size", "integer"},
                                              {"optimizer", "optimizer"},
                                              {"scheduler", "scheduler"}}) {
        if (const auto* description = manifest()["training"][key].as_table()) {
          toml::table typed = *description;
          typed.insert("type", type);
          all.insert(key, typed);
        }
      }
      return all;
    }();
    return kDescriptions;
  }
  static const toml::table* described(std::string_view key) {
    return descriptions()[key].as_table();
  }

  template <typename T>
  std::span<const T> list(const std::map<std::string, std::vector<T>>& lists,
                          std::string_view key) const {
    const auto found = lists.find(std::string(key));
    if (found != lists.end()) return found->second;
    const auto* array = table_[key].as_array();
    if (array && array->empty()) return {};
    throw Error("no list " + std::string(key) + " of this type");
  }

  template <typename T>
  T get(std::string_view key) const {
    const auto value = table_[key].value<T>();
    if (!value) throw Error("no parameter " + std::string(key) + " of this type");
    return *value;
  }

  const toml::table& require_table(std::string_view key, std::string_view type) const {
    const auto* description = described(key);
    const auto* table = table_[key].as_table();
    if (description && table && (*description)["type"].value<std::string_view>() == type)
      return *table;
    throw Error("no " + std::string(type) + " `" + std::string(key) + "`");
  }

  toml::table table_;
  std::map<std::string, std::vector<std::int64_t>> integers_;
  std::map<std::string, std::vector<double>> numbers_;
  std::map<std::string, std::vector<std::string_view>> strings_;
  std::map<std::string, const Scheduler*> schedulers_;
};

/// The object that the plugin's `create` makes; throws Error with its message when it fails.
template <typename Interface>
auto make(const Params& params) {
  const backstop_plugin_descriptor* plugin = backstop_plugin_v1();
  void* object = nullptr;
  backstop_error error{};
  error.struct_size = sizeof error;
  if (plugin->create(&params, &object, &error) != BACKSTOP_OK)
    throw Error(error.message, error.hint);
  const auto destroy = [plugin](Interface* plugin_object) { plugin->destroy(plugin_object); };
  return std::unique_ptr<Interface, decltype(destroy)>(static_cast<Interface*>(object), destroy);
}

/// Images float [n, C, H, W] in [0, 1], not rounded to 8 bits, and labels int64 [n].
class FakeImageSet final : public ImageSet {
 public:
  /// A whole split: image i is number i of it.
  FakeImageSet(at::Tensor images, at::Tensor labels, std::int64_t classes)
      : FakeImageSet(images, std::move(labels), classes, at::arange(images.size(0), at::kLong)) {}
  /// Part of a split: `indices` (int64 [n]) says which of its images these are.
  FakeImageSet(at::Tensor images, at::Tensor labels, std::int64_t classes, at::Tensor indices)
      : images_(std::move(images)),
        labels_(std::move(labels)),
        indices_(std::move(indices)),
        classes_(classes) {}

  std::int64_t size() const noexcept override { return images_.size(0); }
  std::int64_t channels() const noexcept override { return images_.size(1); }
  std::int64_t height() const noexcept override { return images_.size(2); }
  std::int64_t width() const noexcept override { return images_.size(3); }
  std::int64_t classes() const noexcept override { return classes_; }
  at::Tensor images(const at::Tensor& positions) const override {
    return images_.index_select(0, positions);
  }
  at::Tensor labels() const override { return labels_; }
  at::Tensor indices() const override { return indices_; }

 private:
  at::Tensor images_, labels_, indices_;
  std::int64_t classes_;
};

/// Images of uniformly random pixels; image i has label i modulo `classes`.
inline FakeImageSet random_images(std::int64_t size, std::int64_t channels = 3,
                                  std::int64_t side = 8, std::int64_t classes = 4) {
  at::Generator generator = at::detail::createCPUGenerator(7);
  return {at::rand({size, channels, side, side}, generator),
          at::arange(size, at::kLong).remainder(classes), classes};
}

/// Images of one pixel whose channels are the rows of `features` ([n, C]), which FakeModel's
/// features() gives back.
inline FakeImageSet images_with_features(const at::Tensor& features, const at::Tensor& labels,
                                         std::int64_t classes) {
  return {features.to(at::kFloat).view({features.size(0), features.size(1), 1, 1}), labels,
          classes};
}

/// All images of a set, in its order: float [size, C, H, W].
inline at::Tensor all_images(const ImageSet& set) {
  return set.images(at::arange(set.size(), at::kLong));
}

/// What a fake model does beyond Model, for FakeTrainer.
class HoldsMasks {
 public:
  /// Makes the weights of masked channels zero again, as Trainer::fit does after every step.
  virtual void hold_masks() = 0;

 protected:
  ~HoldsMasks() = default;
};

/// One linear layer, `linear`, on the channels' means: the head is all there is, and the features
/// are the means.
class FakeModel final : public Model, public HoldsMasks {
 public:
  FakeModel(std::int64_t channels, std::int64_t classes) { make_layer(channels, classes); }

  at::Tensor forward(const at::Tensor& images) override { return classify(features(images)); }
  at::Tensor observe(const at::Tensor& images, ActivationSink& sink) override {
    return forward(sink.activation("input", images));
  }
  at::Tensor features(const at::Tensor& images) override { return images.mean({2, 3}); }
  at::Tensor classify(const at::Tensor& features) override {
    return at::addmm(layer_.bias, features, layer_.weight.t());
  }
  std::span<const std::string_view> stages() const override { return kStages; }
  std::int64_t layer_count() override { return 1; }
  void read_layer(std::int64_t index, Layer& layer) override {
    if (index != 0) throw Error("there is no layer " + std::to_string(index));
    layer = layer_;
  }
  std::int64_t classes() const noexcept override { return layer_.weight.size(0); }
  std::int64_t feature_size() const noexcept override { return layer_.weight.size(1); }
  void set_training(bool training) override { training_ = training; }
  bool training() const noexcept override { return training_; }
  void set_trainable(Part part) override {
    trainable = part;
    if (part == Part::chosen) return;
    layer_.weight.set_requires_grad(has_head(part));
    layer_.bias.set_requires_grad(has_head(part));
  }
  void set_batch_norm(BatchNormMode mode) override { batch_norm = mode; }
  void reset(Part part, at::Generator& generator) override {
    if (!has_head(part)) return;
    at::NoGradGuard guard;
    layer_.weight.normal_(0, 1, generator);
    layer_.bias.zero_();
  }
  void replace_head(std::int64_t classes, at::Generator& generator) override {
    make_layer(feature_size(), classes);
    reset(Part::head, generator);
  }
  void mask_channels(std::string_view layer, const at::Tensor& keep) override {
    if (layer != layer_.name) throw Error("there is no layer `" + std::string(layer) + "`");
    keep_ = keep_.mul(keep.to(at::kFloat));
    hold_masks();
  }
  void hold_masks() override {
    at::NoGradGuard guard;
    layer_.weight.mul_(keep_);
  }
  void copy_from(const Model& other) override {
    const auto& from = dynamic_cast<const FakeModel&>(other);
    at::NoGradGuard guard;
    layer_.weight.copy_(from.layer_.weight);
    layer_.bias.copy_(from.layer_.bias);
    keep_ = from.keep_.clone();
  }
  void set_precision(Precision precision) override { precision_ = precision; }
  Precision precision() const noexcept override { return precision_; }
  void* query(std::string_view) noexcept override { return nullptr; }

  Part trainable = Part::whole;
  BatchNormMode batch_norm = BatchNormMode::normal;

 private:
  static bool has_head(Part part) { return part == Part::head || part == Part::whole; }
  void make_layer(std::int64_t channels, std::int64_t classes) {
    layer_.name = "linear";
    layer_.kind = LayerKind::linear;
    layer_.weight = at::zeros({classes, channels}).set_requires_grad(true);
    layer_.bias = at::zeros({classes}).set_requires_grad(true);
    keep_ = at::ones({channels});
  }

  static constexpr std::string_view kStages[] = {"input"};
  Layer layer_;
  at::Tensor keep_;  ///< 0 for silenced inputs
  Precision precision_ = Precision::run;
  bool training_ = false;
};

/// Remembers what it was asked to do. With a TrainingStep it goes through the whole set in shuffled
/// batches, epoch by epoch, and calls the step as the host does. The weights do not move unless
/// `learns` is set: the last batch's gradients are there to look at.
class FakeTrainer final : public Trainer {
 public:
  void fit(Model& model, const ImageSet& images, const TrainingOptions& options) override {
    stop_if_cancelled();
    if (!options.scheduler) throw Error("a training without a scheduler");
    if (options.epochs < 0 || options.batch_size < 1)
      throw Error("a training of " + std::to_string(options.epochs) +
                  " epochs with a batch size of " + std::to_string(options.batch_size));
    if (images.size() == 0) throw Error("a training on no images");
    fits.push_back(options);
    models.push_back(&model);
    sizes.push_back(images.size());
    sets.push_back(&images);
    if (options.step || learns) run(model, images, options);
    model.set_training(false);
  }
  at::Tensor logits(Model& model, const ImageSet& images) override {
    return evaluate(model, [&] { return model.forward(all_images(images)); });
  }
  at::Tensor features(Model& model, const ImageSet& images) override {
    return evaluate(model, [&] { return model.features(all_images(images)); });
  }
  double accuracy(Model& model, const ImageSet& images) override {
    return logits(model, images)
        .argmax(1)
        .eq(images.labels())
        .to(at::kDouble)
        .mean()
        .item<double>();
  }
  at::Tensor augment(const at::Tensor& images) override { return images; }

  // Of every fit(), in order; pointers are valid as long as what they point to.
  std::vector<TrainingOptions> fits;
  std::vector<Model*> models;
  std::vector<const ImageSet*> sets;
  std::vector<std::int64_t> sizes;  ///< number of images
  // Of every batch that was run:
  std::vector<at::Tensor> batches;  ///< positions
  std::vector<double> losses;
  /// Makes fit() move the weights, without a TrainingStep too: by gradient descent with the
  /// scheduler's rate and the options' momentum, and no weight decay, whatever the optimizer's
  /// name.
  bool learns = false;
  std::function<void(Model&)> after_epoch;  ///< called after every epoch that was run
  const bool* cancel = nullptr;             ///< once true, every call throws Cancelled

 private:
  void stop_if_cancelled() const {
    if (cancel && *cancel) throw Cancelled();
  }

  template <typename Pass>
  at::Tensor evaluate(Model& model, const Pass& pass) const {
    stop_if_cancelled();
    const at::NoGradGuard no_gradients;
    const bool was_training = model.training();
    model.set_training(false);
    const at::Tensor output = pass();
    model.set_training(was_training);
    return output;
  }

  void run(Model& model, const ImageSet& images, const TrainingOptions& options) {
    const c10::AutoGradMode gradients(true);
    model.set_trainable(options.trainable);
    model.set_batch_norm(options.batch_norm);
    std::vector<at::Tensor> weights, velocities;
    for (const Layer& layer : model.layers())
      for (const at::Tensor& tensor : {layer.weight, layer.bias})
        if (tensor.defined() && tensor.requires_grad()) weights.push_back(tensor);
    if (options.step)
      for (const at::Tensor& own : options.step->parameters()) weights.push_back(own);
    for (const at::Tensor& weight : weights) velocities.push_back(at::zeros(weight.sizes()));

    const std::int64_t size = images.size(), batch_size = options.batch_size;
    TrainingPosition position;
    position.epochs = options.epochs;
    position.iterations_per_epoch = (size + batch_size - 1) / batch_size;
    Next next = Next::epoch;
    for (std::int64_t epoch = 0; epoch < options.epochs && next != Next::stop; ++epoch) {
      model.set_training(true);
      if (options.step) options.step->before_epoch(model, epoch);
      const at::Tensor order = at::randperm(size, shuffling_, at::TensorOptions(at::kLong));
      for (std::int64_t first = 0; first < size; first += batch_size, ++position.iteration) {
        stop_if_cancelled();
        const at::Tensor positions = order.narrow(0, first, std::min(batch_size, size - first));
        batches.push_back(positions);
        const double rate = options.scheduler->rate(position);
        Batch batch;
        batch.images = images.images(positions);
        batch.labels = images.labels().index_select(0, positions);
        batch.positions = positions;
        batch.epoch = epoch;
        batch.iteration = position.iteration;
        batch.rate = rate;
        const at::Tensor loss = loss_of(model, batch, options.step);
        losses.push_back(loss.item<double>());
        if (!std::isfinite(losses.back())) throw Error("the loss is no longer finite");
        for (const at::Tensor& weight : weights) weight.mutable_grad().reset();
        loss.backward();
        if (options.step) options.step->before_update(model);
        if (learns) descend(model, weights, velocities, options.optimizer.momentum, rate);
        if (options.step) options.step->after_update(model);
      }
      if (options.step) next = options.step->after_epoch(model, epoch);
      if (after_epoch) after_epoch(model);
    }
    model.set_batch_norm(BatchNormMode::normal);
    model.set_trainable(Part::whole);
  }

  static at::Tensor loss_of(Model& model, const Batch& batch, TrainingStep* step) {
    if (step) return step->loss(model, batch);
    return at::cross_entropy_loss(model.forward(batch.images), batch.labels);
  }

  static void descend(Model& model, const std::vector<at::Tensor>& weights,
                      const std::vector<at::Tensor>& velocities, double momentum, double rate) {
    const at::NoGradGuard no_gradients;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (!weights[i].grad().defined()) continue;
      velocities[i].mul_(momentum).add_(weights[i].grad());
      weights[i].sub_(velocities[i], rate);
    }
    if (auto* masked = dynamic_cast<HoldsMasks*>(&model)) masked->hold_masks();
  }

  at::Generator shuffling_ = at::detail::createCPUGenerator(0);
};

class FakeContext final : public Context {
 public:
  explicit FakeContext(std::uint64_t seed = 0) : generator_(at::detail::createCPUGenerator(seed)) {}
  /// With the channels and classes of `dataset`.
  explicit FakeContext(const ImageSet& dataset, std::uint64_t seed = 0) : FakeContext(seed) {
    channels = dataset.channels();
    classes = dataset.classes();
  }

  at::Generator& generator() noexcept override { return generator_; }
  FakeTrainer& trainer() noexcept override {
    trainer_.cancel = &cancel;
    return trainer_;
  }
  std::uint32_t abi_minor() const noexcept override { return BACKSTOP_ABI_MINOR; }
  bool cancelled() const noexcept override { return cancel; }
  void log(LogLevel, std::string_view message) noexcept override { messages.emplace_back(message); }
  void progress(std::int64_t done, std::int64_t total, std::string_view) noexcept override {
    progress_calls.emplace_back(done, total);
  }
  void metric(std::string_view key, double value) override { metrics[std::string(key)] = value; }
  void artifact(std::string_view name, const at::Tensor& tensor) override {
    artifacts[std::string(name)] = tensor.clone();
  }
  void flag_poison(const at::Tensor& indices) override { flagged = indices.clone(); }
  void score_poison(const at::Tensor& indices, const at::Tensor& scores) override {
    if (poison_scores.defined()) throw Error("score_poison was called twice");
    if (indices.dim() != 1 || scores.sizes() != indices.sizes())
      throw Error("score_poison needs as many scores as indices, each [k]");
    if (!scores.isfinite().all().item<bool>())
      throw Error("score_poison got a score that is not finite");
    scored = indices.clone();
    poison_scores = scores.to(at::kDouble).clone();
  }
  const ImageSet& subset(const ImageSet& set, const at::Tensor& positions) override {
    return sets_.emplace_back(set.images(positions), set.labels().index_select(0, positions),
                              set.classes(), set.indices().index_select(0, positions));
  }
  const ImageSet& image_set(const at::Tensor& images, const at::Tensor& labels) override {
    if (images.dim() != 4 || labels.dim() != 1 || images.size(0) != labels.size(0))
      throw Error("an image set needs images [n, C, H, W] and labels [n]");
    if (labels.lt(0).logical_or(labels.ge(classes)).any().item<bool>())
      throw Error(
          "an image set has a label outside the dataset's " + std::to_string(classes) + " classes",
          "give the context the dataset: FakeContext context{images}");
    return sets_.emplace_back(images, labels, classes, at::full({labels.size(0)}, -1, at::kLong));
  }
  Model& clone(const Model& model) override {
    if (cloner) return cloner(model);
    auto& copy = models_.emplace_back(model.feature_size(), model.classes());
    copy.copy_from(model);
    return copy;
  }
  at::Tensor to_device(const at::Tensor& tensor) override { return tensor; }
  void* query(std::string_view) noexcept override { return nullptr; }
  Model& new_model(at::Generator& generator) override {
    auto& model = models_.emplace_back(channels, classes);
    model.reset(Part::whole, generator);
    return model;
  }
  Model& load_model(std::string_view path) override {
    loaded.emplace_back(path);
    return models_.emplace_back(channels, classes);
  }

  void picture(std::string_view name, const at::Tensor& images) override {
    pictures[std::string(name)] = images.clone();
  }

  /// The dataset's: those of new and loaded models, and of image sets that a plugin makes.
  std::int64_t channels = 3, classes = 10;
  std::vector<std::string> loaded;  ///< the files that load_model() was asked for
  /// Clones the models of a test's own; without it they must be FakeModels.
  std::function<Model&(const Model&)> cloner;
  bool cancel = false;  ///< what cancelled() answers; the trainer then throws Cancelled
  std::vector<std::pair<std::int64_t, std::int64_t>> progress_calls;
  std::vector<std::string> messages;
  std::map<std::string, double> metrics;
  std::map<std::string, at::Tensor> artifacts;
  std::map<std::string, at::Tensor> pictures;
  at::Tensor flagged;
  at::Tensor scored, poison_scores;  ///< what score_poison got

 private:
  at::Generator generator_;
  FakeTrainer trainer_;
  std::list<FakeImageSet> sets_;
  std::list<FakeModel> models_;
};

/// Keeps everything that an attack writes, as it was given: not rounded to 8 bits.
class FakeEditor final : public TrainingSetEditor {
 public:
  explicit FakeEditor(const ImageSet& set) : set_(set) {}

  const ImageSet& images() const noexcept override { return set_; }
  void write(const at::Tensor& positions, const at::Tensor& images, const at::Tensor& labels,
             Role role) override {
    if (images.sizes() != set_.images(positions).sizes() || labels.sizes() != positions.sizes())
      throw Error("write() got images or labels that do not fit its positions");
    if (labels.lt(0).logical_or(labels.ge(set_.classes())).any().item<bool>())
      throw Error("write() got a label outside the dataset's " + std::to_string(set_.classes()) +
                  " classes");
    for (std::int64_t i = 0; i < positions.numel(); ++i) {
      const auto position = positions.select(0, i).item<std::int64_t>();
      const Entry entry{images.select(0, i).clone(), labels.select(0, i).item<std::int64_t>(),
                        role};
      if (!written.emplace(position, entry).second)
        throw Error("write() got position " + std::to_string(position) + " twice");
    }
  }

  struct Entry {
    at::Tensor image;
    std::int64_t label = -1;
    Role role = Role::poison;
  };
  std::map<std::int64_t, Entry> written;  ///< by position

 private:
  const ImageSet& set_;
};

/// Gives what the manifest's `needs` name, as the host does.
class FakeData final : public DefenderData {
 public:
  explicit FakeData(const ImageSet& clean, const ImageSet* training = nullptr)
      : clean_(clean), training_(training) {}
  const ImageSet& clean() const override {
    require("clean-data");
    return clean_;
  }
  const ImageSet& training() const override {
    require("training-data");
    if (!training_) throw Error("the test gives this defense no training data");
    return *training_;
  }

 private:
  static void require(std::string_view need) {
    if (const auto* needs = manifest()["needs"].as_array())
      for (const auto& item : *needs)
        if (item.value<std::string_view>() == need) return;
    throw Error("the manifest's `needs` does not name \"" + std::string(need) + "\"");
  }

  const ImageSet& clean_;
  const ImageSet* training_;
};

/// Keeps what a detector says. Throws Error where the host does.
class FakeVerdict final : public ModelVerdict {
 public:
  explicit FakeVerdict(std::int64_t number_of_classes) : classes_(number_of_classes) {}

  void score(double value, double threshold) override {
    if (scores.size() == 2) throw Error("a detector gave two scores");
    if (!std::isfinite(value) || !std::isfinite(threshold))
      throw Error("a detector gave a score or a threshold that is not finite");
    scores = {value, threshold};
  }
  void class_number(std::int64_t label, std::string_view column, double value) override {
    require_class(label);
    columns[std::string(column)][label] = value;
  }
  void suspect(std::int64_t label, std::string_view evidence) override {
    require_class(label);
    suspects[label] = evidence;
  }
  void inconclusive(std::string_view why) override { reason = why; }

  std::vector<double> scores;  ///< the score and the threshold
  std::map<std::string, std::map<std::int64_t, double>> columns;
  std::map<std::int64_t, std::string> suspects;
  std::string reason;  ///< for having no verdict

 private:
  void require_class(std::int64_t label) const {
    if (label < 0 || label >= classes_)
      throw Error("a detector named class " + std::to_string(label));
  }

  std::int64_t classes_;
};

/// The ModelDetector that a defense offers; throws Error when it offers none.
inline ModelDetector& detector(Defense& defense) {
  void* found = defense.query(ModelDetector::kId);
  if (!found) throw Error("the defense offers no detector of models");
  return *static_cast<ModelDetector*>(found);
}

/// The InputDetector that a defense offers; throws Error when it offers none.
inline InputDetector& input_detector(Defense& defense) {
  void* found = defense.query(InputDetector::kId);
  if (!found) throw Error("the defense offers no detector of inputs");
  return *static_cast<InputDetector*>(found);
}

/// All images of a split, uint8 [N, C, H, W], and their labels, int64 [N].
struct Samples {
  at::Tensor images, labels;
};

/// What a dataset loads. Throws Error if it gives no images.
inline Samples load(Dataset& dataset, Services& services, Split split) {
  class Collected final : public SampleSink {
   public:
    void add(const at::Tensor& images, const at::Tensor& labels) override {
      samples.images = samples.images.defined() ? at::cat({samples.images, images}) : images;
      samples.labels = samples.labels.defined() ? at::cat({samples.labels, labels}) : labels;
    }
    Samples samples;
  } sink;
  dataset.load(services, split, sink);
  const auto& [images, labels] = sink.samples;
  if (!images.defined()) throw Error("the dataset gave no images");
  if (images.scalar_type() != at::kByte || images.dim() != 4 || !images.is_contiguous())
    throw Error("the dataset gave images that are not contiguous uint8 [N, C, H, W]");
  if (labels.scalar_type() != at::kLong || labels.dim() != 1 || labels.size(0) != images.size(0))
    throw Error("the dataset gave labels that are not int64 [N]");
  return sink.samples;
}

struct NamedFile {
  std::string path, md5;
};

/// The files that a dataset names.
inline std::vector<NamedFile> files(const Dataset& dataset, Split split) {
  class Collected final : public FileSink {
   public:
    void file(std::string_view path, std::string_view md5) override {
      named.push_back({std::string(path), std::string(md5)});
    }
    std::vector<NamedFile> named;
  } sink;
  dataset.files(split, sink);
  return sink.named;
}

/// A plugin's saved state, from save() to load().
class FakeState final : public StateWriter, public StateReader {
 public:
  void tensor(std::string_view name, const at::Tensor& value) override {
    if (!value.defined()) throw Error("the tensor `" + std::string(name) + "` is undefined");
    if (!tensors.emplace(name, value.detach().clone()).second)
      throw Error("a tensor `" + std::string(name) + "` was saved already");
  }
  bool has(std::string_view name) const override { return tensors.count(std::string(name)) > 0; }
  at::Tensor tensor(std::string_view name) const override {
    if (!has(name)) throw Error("the saved state has no tensor `" + std::string(name) + "`");
    return tensors.at(std::string(name));
  }

  std::map<std::string, at::Tensor> tensors;
};

}  // namespace backstop::testing
