#include "host/engine/model/network.hpp"

#include <cmath>

#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {

namespace {

namespace nn = torch::nn;

void draw(at::Tensor& weight, std::int64_t fan_in, at::Generator& generator) {
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  // On the CPU, so that a seed gives the same weights on every device.
  weight.copy_(at::empty(weight.sizes(), at::kFloat).uniform_(-bound, bound, generator));
}

void reset_module(nn::Module& module, at::Generator& generator) {
  if (auto* layer = module.as<nn::Conv2dImpl>()) {
    const auto& w = layer->weight;
    draw(layer->weight, w.size(1) * w.size(2) * w.size(3), generator);
    if (layer->bias.defined()) draw(layer->bias, w.size(1) * w.size(2) * w.size(3), generator);
  } else if (auto* linear = module.as<nn::LinearImpl>()) {
    draw(linear->weight, linear->weight.size(1), generator);
    if (linear->bias.defined()) draw(linear->bias, linear->weight.size(1), generator);
  } else if (auto* norm = module.as<nn::BatchNorm2dImpl>()) {
    norm->weight.fill_(1);
    norm->bias.fill_(0);
    norm->running_mean.fill_(0);
    norm->running_var.fill_(1);
    norm->num_batches_tracked.fill_(0);
  } else {
    for (auto& item : module.named_parameters(/*recurse=*/false)) {
      at::Tensor& parameter = item.value();
      if (parameter.dim() > 1)
        draw(parameter, parameter[0].numel(), generator);
      else
        parameter.fill_(item.key() == "weight" ? 1 : 0);
    }
  }
}

}  // namespace

void Network::make_head(std::int64_t features, std::int64_t classes) {
  head_ = register_module(head_name(), nn::Linear(features, classes));
}

void Network::replace_head(std::int64_t classes) {
  const DefaultGeneratorGuard guard;
  head_ = replace_module(head_name(), nn::Linear(head_->options.in_features(), classes));
}

void reset_weights(Network& network, Part part, at::Generator& generator) {
  const at::NoGradGuard no_grad;
  for (const auto& item : network.named_modules("", /*include_self=*/true)) {
    const bool is_head = !item.key().empty() && item.key() == network.head_name();
    if (part == Part::whole || part == (is_head ? Part::head : Part::body))
      reset_module(*item.value(), generator);
  }
}

}  // namespace backstop::engine
