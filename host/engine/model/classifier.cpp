#include "host/engine/model/classifier.hpp"

#include <algorithm>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "backstop/error.hpp"
#include "host/base/error.hpp"
#include "host/engine/model/recognize.hpp"
#include "host/engine/model/registry.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/train/cost.hpp"

namespace backstop::engine {

namespace {

at::Tensor channel_vector(const std::array<double, 3>& values, std::int64_t channels,
                          c10::Device device) {
  const std::vector<double> used(values.begin(), values.begin() + channels);
  return at::tensor(used, at::kDouble).to(device, at::kFloat).view({1, channels, 1, 1});
}

/// The mask to multiply a weight by: rows of a convolution, columns of a linear layer.
at::Tensor mask_for(const Layer& layer, const at::Tensor& keep) {
  const at::Tensor mask = keep.to(layer.weight.scalar_type());
  return layer.kind == LayerKind::convolution ? mask.view({-1, 1, 1, 1}) : mask.view({1, -1});
}

std::string shape_text(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes(), ", "));
}

/// Throws what load_state() says of a file with the shapes `found`.
[[noreturn]] void refuse(const Architecture& own, const std::vector<TensorShape>& found,
                         const Differences& differing, const std::string& where) {
  const auto error = [](const std::string& message, const std::string& hint) {
    return base::HostError(base::ExitCode::environment, message, hint);
  };
  if (differing.classes && differing.all == 1)
    throw error(fmt::format("{} has {} classes, the images have {}", where, *differing.classes,
                            own.classes),
                "use images of the model's own classes, in the model's order");
  std::string problems;
  for (const std::string& phrase : differing.phrases) problems += "\n  " + phrase;
  const std::size_t more = differing.all - differing.phrases.size();
  if (more > 0) problems += fmt::format("\n  and {} more", more);
  const Recognition recognition = recognize(found);
  const auto& network = recognition.network ? recognition.network : recognition.nearest;
  const bool other = network && (network->name != own.name || network->width != own.width);
  std::string hint = "no built-in network is like it; export the model as TorchScript";
  if (other && recognition.network)
    hint = fmt::format("the file holds {}: set [model] architecture = \"{}\" and width = {}",
                       text_of(*network), network->name, network->width);
  else if (other)
    hint = fmt::format("the {}", text_of(recognition));
  else if (recognition.network)
    hint = fmt::format("the file holds {}: give it such images", text_of(*network));
  else if (network)
    hint = "the network was changed; export it as TorchScript";
  throw error(fmt::format("{} does not fit {}:{}", where, text_of(own), problems), hint);
}

}  // namespace

Classifier::Classifier(Architecture architecture, const Normalization& normalization,
                       const Compute& compute, at::Generator& generator)
    : architecture_(std::move(architecture)),
      normalization_(normalization),
      compute_(compute),
      network_(make_network(architecture_)),
      mean_(channel_vector(normalization.mean, architecture_.channels, compute.device)),
      deviation_(channel_vector(normalization.deviation, architecture_.channels, compute.device)),
      feature_size_(network_->head().is_empty() ? 0 : network_->head()->options.in_features()),
      run_bfloat16_(compute.bfloat16) {
  reset_weights(*network_, Part::whole, generator);
  settle();
}

Classifier::Classifier(const Classifier& other)
    : architecture_(other.architecture_),
      normalization_(other.normalization_),
      compute_(other.compute_),
      network_(make_network(architecture_)),
      mean_(other.mean_),
      deviation_(other.deviation_),
      feature_size_(other.feature_size_),
      precision_(other.precision_),
      run_bfloat16_(other.run_bfloat16_) {
  settle();
  copy_from(other);
}

void Classifier::settle() {
  network_->to(compute_.device);
  for (at::Tensor& parameter : network_->parameters()) {
    // A script may view the output of a convolution, which fails in channels-last.
    if (parameter.dim() == 4 && architecture_.script == nullptr)
      parameter.set_data(parameter.data().contiguous(at::MemoryFormat::ChannelsLast));
  }
  find_layers();
  set_training(training_);
}

void Classifier::find_layers() {
  layers_.clear();
  layer_names_.clear();
  const auto modules = network_->named_modules("", /*include_self=*/false);
  layer_names_.reserve(modules.size());  // the names of layers point into it
  for (const auto& item : modules) {
    Layer layer;
    if (const auto* conv = item.value()->as<torch::nn::Conv2dImpl>()) {
      layer.kind = LayerKind::convolution;
      layer.weight = conv->weight;
      layer.bias = conv->bias;
      layer.groups = conv->options.groups();
      layer.stride = conv->options.stride()->at(0);
      layer.dilation = conv->options.dilation()->at(0);
      if (const auto* padding = c10::get_if<torch::ExpandingArray<2>>(&conv->options.padding()))
        layer.padding = (*padding)->at(0);
    } else if (const auto* norm = item.value()->as<torch::nn::BatchNorm2dImpl>()) {
      layer.kind = LayerKind::batch_norm;
      layer.weight = norm->weight;
      layer.bias = norm->bias;
      layer.running_mean = norm->running_mean;
      layer.running_var = norm->running_var;
      layer.epsilon = norm->options.eps();
    } else if (const auto* linear = item.value()->as<torch::nn::LinearImpl>()) {
      layer.kind = LayerKind::linear;
      layer.weight = linear->weight;
      layer.bias = linear->bias;
    } else {
      continue;
    }
    layer.name = layer_names_.emplace_back(item.key());
    layers_.push_back(std::move(layer));
  }
}

void Classifier::read_layer(std::int64_t index, Layer& layer) {
  if (index < 0 || index >= layer_count())
    throw Error(fmt::format("the model was asked for layer {}, but its layers are 0 to {}", index,
                            layer_count() - 1));
  // One by one, because the plugin's structure may end before a field that a later ABI adds.
  const Layer& own = layers_[static_cast<std::size_t>(index)];
  layer.kind = own.kind;
  layer.name = own.name;
  layer.weight = own.weight;
  layer.bias = own.bias;
  layer.running_mean = own.running_mean;
  layer.running_var = own.running_var;
  layer.epsilon = own.epsilon;
  layer.groups = own.groups;
  layer.stride = own.stride;
  layer.padding = own.padding;
  layer.dilation = own.dilation;
}

at::Tensor Classifier::normalize(const at::Tensor& images) const {
  return ((images - mean_) / deviation_).contiguous(at::MemoryFormat::ChannelsLast);
}

void Classifier::require_head(std::string_view wish) const {
  if (!network_->head().is_empty()) return;
  throw Error(fmt::format("the network does not end in a linear layer, so it has no {}", wish),
              "choose a method that needs only the network's logits");
}

namespace {

/// A plugin's sink, which computes in the types of its tensors whatever the network computes in.
class UncastSink final : public ActivationSink {
 public:
  UncastSink(ActivationSink& sink, c10::DeviceType device) : sink_(sink), device_(device) {}
  at::Tensor activation(std::string_view stage, const at::Tensor& map) override {
    const AutocastGuard none(device_, false);
    return sink_.activation(stage, map);
  }

 private:
  ActivationSink& sink_;
  c10::DeviceType device_;
};

}  // namespace

at::Tensor Classifier::body_normalized(const at::Tensor& images, ActivationSink* sink) {
  if (at::GradMode::is_enabled()) CostMeter::count_samples(images.size(0));
  const AutocastGuard precision(compute_.device.type(), compute_.bfloat16);
  if (sink == nullptr) return network_->body(images, nullptr).to(at::kFloat);
  UncastSink uncast(*sink, compute_.device.type());
  return network_->body(images, &uncast).to(at::kFloat);
}

at::Tensor Classifier::features_normalized(const at::Tensor& images) {
  require_head("features");
  return body_normalized(images, nullptr);
}

at::Tensor Classifier::classify(const at::Tensor& features) {
  require_head("head");
  const AutocastGuard none(compute_.device.type(), false);
  return network_->head()->forward(features);
}

at::Tensor Classifier::logits_normalized(const at::Tensor& images, ActivationSink* sink) {
  const at::Tensor features = body_normalized(images, sink);
  return network_->head().is_empty() ? features : classify(features);
}

at::Tensor Classifier::forward_normalized(const at::Tensor& images) {
  return logits_normalized(images, nullptr);
}

at::Tensor Classifier::forward(const at::Tensor& images) {
  return forward_normalized(normalize(images));
}

at::Tensor Classifier::observe(const at::Tensor& images, ActivationSink& sink) {
  return logits_normalized(normalize(images), &sink);
}

at::Tensor Classifier::features(const at::Tensor& images) {
  return features_normalized(normalize(images));
}

void Classifier::set_training(bool training) {
  training_ = training;
  network_->train(training);
  if (training && (batch_norm_ != BatchNormMode::normal || !body_learns())) {
    for (const auto& module : network_->modules(/*include_self=*/false)) {
      if (auto* norm = module->as<torch::nn::BatchNorm2dImpl>()) norm->eval();
    }
  }
}

Part Classifier::part_of(const std::string& parameter) const {
  return parameter.starts_with(std::string(network_->head_name()) + ".") ? Part::head : Part::body;
}

bool Classifier::body_learns() const {
  if (trainable_ != Part::chosen) return trainable_ == Part::whole || trainable_ == Part::body;
  const auto parameters = network_->named_parameters();
  return std::any_of(parameters.begin(), parameters.end(), [this](const auto& item) {
    return item.value().requires_grad() && part_of(item.key()) == Part::body;
  });
}

void Classifier::set_trainable(Part part) {
  if (part == Part::head) require_head("head to train");
  trainable_ = part;
  if (part != Part::chosen)
    for (const auto& item : network_->named_parameters())
      item.value().set_requires_grad(part == Part::whole || part == part_of(item.key()));
  if (batch_norm_ == BatchNormMode::frozen)
    for (const Layer& layer : layers_) {
      if (layer.kind != LayerKind::batch_norm) continue;
      layer.weight.set_requires_grad(false);
      layer.bias.set_requires_grad(false);
    }
  set_training(training_);
}

void Classifier::set_precision(Precision precision) {
  precision_ = precision;
  compute_.bfloat16 = precision == Precision::run && run_bfloat16_;
}

void Classifier::set_batch_norm(BatchNormMode mode) {
  if (mode == batch_norm_) return;
  batch_norm_ = mode;
  for (const Layer& layer : layers_) {
    if (layer.kind != LayerKind::batch_norm) continue;
    if (mode != BatchNormMode::frozen && trainable_ == Part::chosen) continue;  // as it was chosen
    const bool learns =
        mode != BatchNormMode::frozen && (trainable_ == Part::whole || trainable_ == Part::body);
    layer.weight.set_requires_grad(learns);
    layer.bias.set_requires_grad(learns);
  }
  set_training(training_);
}

void Classifier::reset(Part part, at::Generator& generator) {
  if (part == Part::head) require_head("head to reset");
  reset_weights(*network_, part, generator);
  hold_masks();
}

void Classifier::replace_head(std::int64_t classes, at::Generator& generator) {
  require_head("head to replace");
  network_->replace_head(classes);
  architecture_.classes = classes;
  masks_.erase(network_->head_name());
  reset_weights(*network_, Part::head, generator);
  settle();
  for (at::Tensor& parameter : network_->head()->parameters())
    parameter.set_requires_grad(trainable_ != Part::none && trainable_ != Part::body);
}

void Classifier::mask_channels(std::string_view name, const at::Tensor& keep) {
  for (const Layer& layer : layers_) {
    if (layer.name != name) continue;
    if (layer.kind == LayerKind::batch_norm)
      throw Error(fmt::format("batch normalization `{}` cannot be masked", name),
                  "mask the convolution before it");
    const auto channels = layer.weight.size(layer.kind == LayerKind::convolution ? 0 : 1);
    if (keep.dim() != 1 || keep.size(0) != channels)
      throw Error(fmt::format("the mask of `{}` must have shape [{}], got {}", name, channels,
                              shape_text(keep)));
    const at::Tensor mask = keep.to(layer.weight.device(), at::kBool);
    const auto [before, first] = masks_.try_emplace(std::string(name), mask.clone());
    if (!first) before->second = before->second & mask;
    hold_masks();
    return;
  }
  throw Error(fmt::format("the model has no layer `{}`", name));
}

void Classifier::hold_masks() {
  if (masks_.empty()) return;
  const at::NoGradGuard no_grad;
  for (const Layer& layer : layers_) {
    const auto mask = masks_.find(layer.name);
    if (mask == masks_.end()) continue;
    at::Tensor(layer.weight).mul_(mask_for(layer, mask->second));
    if (layer.kind == LayerKind::convolution && layer.bias.defined())
      at::Tensor(layer.bias).mul_(mask->second);
  }
}

void Classifier::copy_from(const Model& other) {
  const auto* host = dynamic_cast<const Classifier*>(&other);
  if (host == nullptr) throw Error("cannot copy from a model that was not made by the host");
  const Classifier& from = *host;
  if (from.normalization_.mean != normalization_.mean ||
      from.normalization_.deviation != normalization_.deviation)
    throw Error("the other model was trained on images that were normalized with other constants",
                "give both models the same normalization: [model] `mean` and `deviation`");
  load_state(from.state(), "the other model");
  masks_ = from.masks_;
}

std::vector<at::Tensor> Classifier::trainable_parameters() const {
  std::vector<at::Tensor> result;
  for (const at::Tensor& parameter : network_->parameters()) {
    if (parameter.requires_grad()) result.push_back(parameter);
  }
  return result;
}

std::vector<std::pair<std::string, at::Tensor>> Classifier::state() const {
  std::vector<std::pair<std::string, at::Tensor>> result;
  const auto add = [&](const auto& items) {
    for (const auto& item : items)
      result.emplace_back(
          item.key(),
          item.value().detach().to(at::kCPU).contiguous(at::MemoryFormat::Contiguous).clone());
  };
  add(network_->named_parameters());
  add(network_->named_buffers());
  return result;
}

namespace {

// What the names of a snapshot begin with, and that of the modes.
constexpr std::string_view kStatePrefix = "state.", kMaskPrefix = "mask.", kModes = "modes";

}  // namespace

std::vector<std::pair<std::string, at::Tensor>> Classifier::snapshot() const {
  std::vector<std::pair<std::string, at::Tensor>> result;
  for (auto& [name, tensor] : state())
    result.emplace_back(std::string(kStatePrefix) + name, std::move(tensor));
  for (const auto& [layer, mask] : masks_)
    result.emplace_back(std::string(kMaskPrefix) + layer, mask.to(at::kCPU));
  std::vector<std::int64_t> modes = {static_cast<std::int64_t>(trainable_),
                                     static_cast<std::int64_t>(batch_norm_),
                                     static_cast<std::int64_t>(precision_)};
  for (const at::Tensor& parameter : network_->parameters())
    modes.push_back(parameter.requires_grad() ? 1 : 0);
  result.emplace_back(kModes, at::tensor(modes, at::kLong));
  return result;
}

void Classifier::restore(const std::vector<std::pair<std::string, at::Tensor>>& snapshot) {
  std::map<std::string, at::Tensor> own, masks;
  for (const auto& item : network_->named_parameters()) own[item.key()] = item.value();
  for (const auto& item : network_->named_buffers()) own[item.key()] = item.value();
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;  // the model's, the snapshot's
  at::Tensor modes;
  for (const auto& [name, tensor] : snapshot) {
    if (name == kModes) modes = tensor;
    if (name.starts_with(kMaskPrefix)) masks[name.substr(kMaskPrefix.size())] = tensor;
    if (!name.starts_with(kStatePrefix)) continue;
    const auto match = own.find(name.substr(kStatePrefix.size()));
    if (match == own.end() || match->second.sizes() != tensor.sizes())
      throw Error(fmt::format("the snapshot of another network has a tensor `{}`", name));
    pairs.emplace_back(match->second, tensor);
  }
  std::vector<at::Tensor> parameters = network_->parameters();
  const auto count = static_cast<std::int64_t>(parameters.size());
  if (pairs.size() != own.size() || !modes.defined() || modes.numel() != count + 3)
    throw Error("a snapshot is not whole, or of another network");
  const auto* const mode = modes.data_ptr<std::int64_t>();
  trainable_ = static_cast<Part>(mode[0]);
  batch_norm_ = static_cast<BatchNormMode>(mode[1]);
  set_precision(static_cast<Precision>(mode[2]));
  for (std::int64_t i = 0; i < count; ++i)
    parameters[static_cast<std::size_t>(i)].set_requires_grad(mode[i + 3] != 0);
  masks_.clear();
  for (const auto& [layer, mask] : masks) masks_[layer] = mask.to(compute_.device, at::kBool);
  const at::NoGradGuard no_grad;
  for (auto& [to, from] : pairs) to.copy_(from);
  set_training(training_);
}

std::int64_t Classifier::not_finite() const {
  std::int64_t numbers = 0;
  const auto add = [&](const at::Tensor& tensor) {
    numbers += at::isfinite(tensor.detach()).logical_not().sum().item<std::int64_t>();
  };
  for (const at::Tensor& parameter : network_->parameters()) add(parameter);
  for (const at::Tensor& buffer : network_->buffers()) add(buffer);
  return numbers;
}

void Classifier::load_state(const std::vector<std::pair<std::string, at::Tensor>>& state,
                            const std::string& where) {
  std::map<std::string, at::Tensor> own;
  for (const auto& item : network_->named_parameters()) own[item.key()] = item.value();
  for (const auto& item : network_->named_buffers()) own[item.key()] = item.value();
  const std::vector<TensorShape> found = shapes_of(state);
  Differences differing = differences(found, shapes_of({own.begin(), own.end()}));
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;  // the model's, the file's
  for (const auto& [name, tensor] : state) {
    const auto renamed = differing.names.find(name);
    const auto match = own.find(renamed == differing.names.end() ? name : renamed->second);
    if (match == own.end()) continue;
    if (match->second.is_floating_point() && !tensor.is_floating_point())
      differing.add(fmt::format("{} has type {}, not floating-point numbers", name,
                                c10::toString(tensor.scalar_type())));
    // Of the counters of batches any shape, or none, will do; nothing here depends on them.
    if (match->second.sizes() == tensor.sizes()) pairs.emplace_back(match->second, tensor);
  }
  if (differing.all > 0) refuse(architecture_, found, differing, where);
  const at::NoGradGuard no_grad;
  for (auto& [to, from] : pairs) to.copy_(from);
}

}  // namespace backstop::engine
