#include "host/engine/model/classifier.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "backstop/error.hpp"
#include "host/base/error.hpp"
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

}  // namespace

Classifier::Classifier(Architecture architecture, const Normalization& normalization,
                       const Compute& compute, at::Generator& generator)
    : architecture_(std::move(architecture)),
      normalization_(normalization),
      compute_(compute),
      network_(make_network(architecture_)),
      mean_(channel_vector(normalization.mean, architecture_.channels, compute.device)),
      deviation_(channel_vector(normalization.deviation, architecture_.channels, compute.device)),
      feature_size_(network_->head().is_empty() ? 0 : network_->head()->options.in_features()) {
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
      feature_size_(other.feature_size_) {
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
  set_trainable(trainable_);
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
    } else if (const auto* norm = item.value()->as<torch::nn::BatchNorm2dImpl>()) {
      layer.kind = LayerKind::batch_norm;
      layer.weight = norm->weight;
      layer.bias = norm->bias;
      layer.running_mean = norm->running_mean;
      layer.running_var = norm->running_var;
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

at::Tensor Classifier::normalize(const at::Tensor& images) const {
  return ((images - mean_) / deviation_).contiguous(at::MemoryFormat::ChannelsLast);
}

void Classifier::require_head(std::string_view wish) const {
  if (!network_->head().is_empty()) return;
  throw Error(fmt::format("the network does not end in a linear layer, so it has no {}", wish),
              "choose a method that needs only the network's logits");
}

at::Tensor Classifier::body_normalized(const at::Tensor& images, ActivationSink* sink) {
  if (at::GradMode::is_enabled()) CostMeter::count_samples(images.size(0));
  const AutocastGuard precision(compute_.device.type(), compute_.bfloat16);
  return network_->body(images, sink).to(at::kFloat);
}

at::Tensor Classifier::features_normalized(const at::Tensor& images) {
  require_head("features");
  return body_normalized(images, nullptr);
}

at::Tensor Classifier::classify(const at::Tensor& features) {
  require_head("head");
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
  const bool body_learns = trainable_ == Part::whole || trainable_ == Part::body;
  if (training && (batch_norm_ != BatchNormMode::normal || !body_learns)) {
    for (const auto& module : network_->modules(/*include_self=*/false)) {
      if (auto* norm = module->as<torch::nn::BatchNorm2dImpl>()) norm->eval();
    }
  }
}

void Classifier::set_trainable(Part part) {
  if (part == Part::head) require_head("head to train");
  trainable_ = part;
  const std::string head = std::string(network_->head_name()) + ".";
  for (const auto& item : network_->named_parameters()) {
    const Part own = item.key().starts_with(head) ? Part::head : Part::body;
    item.value().set_requires_grad(part == Part::whole || part == own);
  }
  if (batch_norm_ == BatchNormMode::frozen)
    for (const Layer& layer : layers_) {
      if (layer.kind != LayerKind::batch_norm) continue;
      layer.weight.set_requires_grad(false);
      layer.bias.set_requires_grad(false);
    }
  set_training(training_);
}

void Classifier::set_batch_norm(BatchNormMode mode) {
  batch_norm_ = mode;
  set_trainable(trainable_);
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
    masks_.insert_or_assign(std::string(name), keep.to(layer.weight.device(), at::kBool).clone());
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
    if (mask != masks_.end()) at::Tensor(layer.weight).mul_(mask_for(layer, mask->second));
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
  std::map<std::string, at::Tensor> given(state.begin(), state.end());
  std::map<std::string, at::Tensor> own;
  for (const auto& item : network_->named_parameters()) own[item.key()] = item.value();
  for (const auto& item : network_->named_buffers()) own[item.key()] = item.value();
  std::string problems;
  for (const auto& [name, tensor] : own) {
    const auto found = given.find(name);
    // Files written by Python may lack this counter, which nothing here depends on.
    if (found == given.end() && name.ends_with("num_batches_tracked")) continue;
    if (found == given.end()) {
      problems += fmt::format("\n  {} is missing", name);
    } else if (found->second.sizes() != tensor.sizes()) {
      problems += fmt::format("\n  {} has shape {}, but the model needs {}", name,
                              shape_text(found->second), shape_text(tensor));
    } else if (tensor.is_floating_point() && !found->second.is_floating_point()) {
      problems += fmt::format("\n  {} has type {}, but the model needs floating-point numbers",
                              name, c10::toString(found->second.scalar_type()));
    }
  }
  for (const auto& [name, tensor] : given) {
    if (own.count(name) == 0) problems += fmt::format("\n  {} is not part of the model", name);
  }
  if (!problems.empty())
    throw base::HostError(
        base::ExitCode::environment,
        fmt::format("{} does not fit {} of width {} for {} classes:{}", where, architecture_.name,
                    architecture_.width, architecture_.classes, problems),
        "set [model] architecture and width to those of the file");
  const at::NoGradGuard no_grad;
  for (auto& [name, tensor] : own) {
    if (const auto found = given.find(name); found != given.end()) tensor.copy_(found->second);
  }
}

}  // namespace backstop::engine
