// Stand-ins for what the host implements, for unit tests of plugins. A test made with
// backstop_add_plugin_test() holds the plugin's sources, makes its object with make() and drives
// it:
//
//   backstop::testing::FakeParams params{"patch_size = 5"};   // the rest: the manifest's defaults
//   backstop::testing::FakeContext context;
//   auto attack = backstop::testing::make<backstop::Attack>(params);
//   at::Tensor triggered = attack->apply(context, images, backstop::Phase::test);
//
// With it come at::arange, full, ones, rand, tensor and zeros; for any other function include its
// own <ATen/ops/...>. Tensors' methods (a.sub(b), a.select(0, i)) need no header, their operators
// (a - b, a[i]) need <ATen/TensorOperators.h>, which takes six seconds to compile.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <toml++/toml.h>

#include "backstop/abi.h"
#include "backstop/attack.hpp"
#include "backstop/context.hpp"
#include "backstop/defense.hpp"
#include "backstop/params.hpp"

extern "C" const backstop_plugin_descriptor* backstop_plugin_v1();

namespace backstop::testing {

/// The parameters that the host would pass: `recipe` is the plugin's table as TOML, defaults come
/// from the manifest (BACKSTOP_MANIFEST). Ranges are not checked: that is the host's work.
class FakeParams final : public Params {
 public:
  explicit FakeParams(std::string_view recipe = "") : table_(toml::parse(recipe)) {
    const toml::table manifest = toml::parse_file(BACKSTOP_MANIFEST);
    if (const auto* parameters = manifest["parameters"].as_table()) {
      for (const auto& [key, description] : *parameters) {
        if (const auto* value = description.as_table()->get("default");
            value && !table_.contains(key))
          value->visit([&](const auto& v) { table_.insert(key, v); });
      }
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

  /// What scheduler(key) returns.
  void set_scheduler(std::string_view key, const Scheduler& scheduler) {
    schedulers_[std::string(key)] = &scheduler;
  }

  bool has(std::string_view key) const override { return table_.contains(key); }
  bool boolean(std::string_view key) const override { return get<bool>(key); }
  std::int64_t integer(std::string_view key) const override { return get<std::int64_t>(key); }
  double number(std::string_view key) const override { return get<double>(key); }
  std::string_view string(std::string_view key) const override {
    return get<std::string_view>(key);
  }
  std::span<const std::int64_t> integers(std::string_view key) const override {
    return integers_.at(std::string(key));
  }
  std::span<const double> numbers(std::string_view key) const override {
    return numbers_.at(std::string(key));
  }
  std::span<const std::string_view> strings(std::string_view key) const override {
    return strings_.at(std::string(key));
  }
  const Scheduler& scheduler(std::string_view key) const override {
    return *schedulers_.at(std::string(key));
  }
  OptimizerOptions optimizer(std::string_view) const override { return {}; }

 private:
  template <typename T>
  T get(std::string_view key) const {
    const auto value = table_[key].value<T>();
    if (!value) throw Error("no parameter " + std::string(key) + " of this type");
    return *value;
  }

  toml::table table_;
  std::map<std::string, std::vector<std::int64_t>> integers_;
  std::map<std::string, std::vector<double>> numbers_;
  std::map<std::string, std::vector<std::string_view>> strings_;
  std::map<std::string, const Scheduler*> schedulers_;
};

/// What backstop_plugin_v1()'s `create` made; throws backstop::Error with its message otherwise.
template <typename Interface>
auto make(const Params& params) {
  const backstop_plugin_descriptor* plugin = backstop_plugin_v1();
  void* object = nullptr;
  backstop_error error{};
  error.struct_size = sizeof error;
  if (plugin->create(&params, &object, &error) != BACKSTOP_OK)
    throw Error(error.message, error.hint);
  const auto destroy = [plugin](Interface* made) { plugin->destroy(made); };
  return std::unique_ptr<Interface, decltype(destroy)>(static_cast<Interface*>(object), destroy);
}

/// Images float [n, C, H, W] in [0, 1] and labels int64 [n], held as they are.
class FakeImageSet final : public ImageSet {
 public:
  FakeImageSet(at::Tensor images, at::Tensor labels, std::int64_t classes)
      : images_(std::move(images)), labels_(std::move(labels)), classes_(classes) {}

  std::int64_t size() const noexcept override { return images_.size(0); }
  std::int64_t channels() const noexcept override { return images_.size(1); }
  std::int64_t height() const noexcept override { return images_.size(2); }
  std::int64_t width() const noexcept override { return images_.size(3); }
  std::int64_t classes() const noexcept override { return classes_; }
  at::Tensor images(const at::Tensor& positions) const override {
    return images_.index_select(0, positions);
  }
  at::Tensor labels() const override { return labels_; }
  at::Tensor indices() const override { return at::arange(size(), at::kLong); }

 private:
  at::Tensor images_, labels_;
  std::int64_t classes_;
};

/// One linear layer on the channels' means: enough for a defense to hold in its hands.
class FakeModel final : public Model {
 public:
  FakeModel(std::int64_t channels, std::int64_t classes) {
    layer_.name = "linear";
    layer_.kind = LayerKind::linear;
    layer_.weight = at::zeros({classes, channels}).set_requires_grad(true);
    layer_.bias = at::zeros({classes}).set_requires_grad(true);
  }

  at::Tensor forward(const at::Tensor& images) override { return classify(features(images)); }
  at::Tensor observe(const at::Tensor& images, ActivationSink& sink) override {
    sink.activation("input", images);
    return forward(images);
  }
  at::Tensor features(const at::Tensor& images) override { return images.mean({2, 3}); }
  at::Tensor classify(const at::Tensor& features) override {
    return at::addmm(layer_.bias, features, layer_.weight.t());
  }
  std::span<const std::string_view> stages() const override { return kStages; }
  std::span<const Layer> layers() override { return {&layer_, 1}; }
  std::int64_t classes() const noexcept override { return layer_.weight.size(0); }
  std::int64_t feature_size() const noexcept override { return layer_.weight.size(1); }
  void set_training(bool training) override { training_ = training; }
  bool training() const noexcept override { return training_; }
  void set_trainable(Part part) override { trainable = part; }
  void set_batch_norm(BatchNormMode mode) override { batch_norm = mode; }
  void reset(Part, at::Generator& generator) override {
    at::NoGradGuard guard;
    layer_.weight.normal_(0, 1, generator);
  }
  void replace_head(std::int64_t, at::Generator& generator) override {
    reset(Part::head, generator);
  }
  void mask_channels(std::string_view, const at::Tensor& keep) override {
    at::NoGradGuard guard;
    layer_.weight.mul_(keep.to(at::kFloat));
  }
  void copy_from(const Model& other) override {
    at::NoGradGuard guard;
    layer_.weight.copy_(static_cast<const FakeModel&>(other).layer_.weight);
  }
  void* query(std::string_view) noexcept override { return nullptr; }

  Part trainable = Part::whole;
  BatchNormMode batch_norm = BatchNormMode::normal;

 private:
  static constexpr std::string_view kStages[] = {"input"};
  Layer layer_;
  bool training_ = false;
};

/// Remembers what it was asked to do, and runs a plugin's TrainingStep once over the whole set.
class FakeTrainer final : public Trainer {
 public:
  void fit(Model& model, const ImageSet& images, const TrainingOptions& options) override {
    fits.push_back(options);
    sizes.push_back(images.size());
    sets.push_back(&images);
    if (!options.step) return;
    const at::Tensor all = at::arange(images.size(), at::kLong);
    at::Tensor loss = options.step->loss(model, {images.images(all), images.labels(), all, 0});
    loss.backward();
    options.step->before_update(model);
    options.step->after_update(model);
    options.step->after_epoch(model, 0);
  }
  at::Tensor logits(Model& model, const ImageSet& images) override {
    return model.forward(images.images(at::arange(images.size(), at::kLong))).detach();
  }
  at::Tensor features(Model& model, const ImageSet& images) override {
    return model.features(images.images(at::arange(images.size(), at::kLong))).detach();
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

  std::vector<TrainingOptions> fits;  ///< the options of every fit(), in order
  std::vector<std::int64_t> sizes;    ///< the number of images of every fit()
  std::vector<const ImageSet*> sets;  ///< they, while what handed them over is there
};

class FakeContext final : public Context {
 public:
  explicit FakeContext(std::uint64_t seed = 0) : generator_(at::detail::createCPUGenerator(seed)) {}

  at::Generator& generator() noexcept override { return generator_; }
  FakeTrainer& trainer() noexcept override { return trainer_; }
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
  const ImageSet& subset(const ImageSet& set, const at::Tensor& positions) override {
    return sets_.emplace_back(set.images(positions), set.labels().index_select(0, positions),
                              set.classes());
  }
  const ImageSet& image_set(const at::Tensor& images, const at::Tensor& labels) override {
    return sets_.emplace_back(images, labels, labels.max().item<std::int64_t>() + 1);
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

  std::int64_t channels = 3, classes = 10;  ///< of new and loaded models
  std::vector<std::string> loaded;          ///< the files that load_model() was asked for
  /// Makes the clones of models of a test's own; without it they must be FakeModels.
  std::function<Model&(const Model&)> cloner;
  bool cancel = false;  ///< what cancelled() answers
  std::vector<std::pair<std::int64_t, std::int64_t>> progress_calls;
  std::vector<std::string> messages;
  std::map<std::string, double> metrics;
  std::map<std::string, at::Tensor> artifacts;
  std::map<std::string, at::Tensor> pictures;
  at::Tensor flagged;

 private:
  at::Generator generator_;
  FakeTrainer trainer_;
  std::list<FakeImageSet> sets_;
  std::list<FakeModel> models_;
};

/// Keeps everything that an attack writes.
class FakeEditor final : public TrainingSetEditor {
 public:
  explicit FakeEditor(const ImageSet& set) : set_(set) {}

  const ImageSet& images() const noexcept override { return set_; }
  void write(const at::Tensor& positions, const at::Tensor& images, const at::Tensor& labels,
             Role role) override {
    for (std::int64_t i = 0; i < positions.numel(); ++i) {
      const auto position = positions.select(0, i).item<std::int64_t>();
      written[position] = {images.select(0, i).clone(), labels.select(0, i).item<std::int64_t>(),
                           role};
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

class FakeData final : public DefenderData {
 public:
  explicit FakeData(const ImageSet& clean, const ImageSet* training = nullptr)
      : clean_(clean), training_(training) {}
  const ImageSet& clean() const override { return clean_; }
  const ImageSet& training() const override {
    if (!training_) throw Error("this defense was not given the training data");
    return *training_;
  }

 private:
  const ImageSet& clean_;
  const ImageSet* training_;
};

/// A plugin's saved state, from save() to load().
class FakeState final : public StateWriter, public StateReader {
 public:
  void tensor(std::string_view name, const at::Tensor& value) override {
    tensors[std::string(name)] = value.clone();
  }
  bool has(std::string_view name) const override { return tensors.count(std::string(name)) > 0; }
  at::Tensor tensor(std::string_view name) const override { return tensors.at(std::string(name)); }

  std::map<std::string, at::Tensor> tensors;
};

}  // namespace backstop::testing
