#include "host/engine/model/architectures.hpp"

#include <cmath>

#include "host/base/error.hpp"
#include "host/engine/kernels/batch_norm_relu.hpp"
#include "host/engine/kernels/convolution.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {

namespace {

namespace nn = torch::nn;

nn::Conv2d conv(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride) {
  return nn::Conv2d(
      nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

at::Tensor convolve(nn::Conv2d& conv, const at::Tensor& x) {
  return convolution(*conv, x);
}

at::Tensor bn_relu(nn::BatchNorm2d& norm, const at::Tensor& x) {
  return batch_norm_relu(*norm, x);
}

void report(ActivationSink* sink, std::string_view stage, const at::Tensor& map) {
  if (sink != nullptr) sink->activation(stage, map);
}

at::Tensor pool(const at::Tensor& map) {
  return map.mean({2, 3});
}

struct PreActBlockImpl : nn::Module {
  PreActBlockImpl(std::int64_t in, std::int64_t out, std::int64_t stride)
      : bn1(register_module("bn1", nn::BatchNorm2d(in))),
        conv1(register_module("conv1", conv(in, out, 3, stride))),
        bn2(register_module("bn2", nn::BatchNorm2d(out))),
        conv2(register_module("conv2", conv(out, out, 3, 1))) {
    if (stride != 1 || in != out)
      shortcut = register_module("shortcut", nn::Sequential(conv(in, out, 1, stride)));
  }

  at::Tensor forward(const at::Tensor& x) {
    if (can_infer(*conv1, *bn1, x)) return inferred(x);
    if (shortcut.is_empty())
      return normalized_convolution(*bn2, *conv2, normalized_convolution(*bn1, *conv1, x), x);
    const at::Tensor a = bn_relu(bn1, x);
    const at::Tensor same = convolution(*shortcut[0]->as<nn::Conv2dImpl>(), a);
    return normalized_convolution(*bn2, *conv2, convolve(conv1, a), same);
  }

  at::Tensor inferred(const at::Tensor& x) {
    const at::Tensor y = infer(*conv1, x, {.before = bn1.get(), .after = bn2.get(), .relu = true});
    const at::Tensor same =
        shortcut.is_empty() ? x
                            : infer(*shortcut[0]->as<nn::Conv2dImpl>(), x, {.before = bn1.get()});
    return infer(*conv2, y, {.add = same});
  }

  nn::BatchNorm2d bn1;
  nn::Conv2d conv1;
  nn::BatchNorm2d bn2;
  nn::Conv2d conv2;
  nn::Sequential shortcut{nullptr};
};
TORCH_MODULE(PreActBlock);

struct BasicBlockImpl : nn::Module {
  BasicBlockImpl(std::int64_t in, std::int64_t out, std::int64_t stride)
      : conv1(register_module("conv1", conv(in, out, 3, stride))),
        bn1(register_module("bn1", nn::BatchNorm2d(out))),
        conv2(register_module("conv2", conv(out, out, 3, 1))),
        bn2(register_module("bn2", nn::BatchNorm2d(out))) {
    if (stride != 1 || in != out)
      downsample = register_module("downsample",
                                   nn::Sequential(conv(in, out, 1, stride), nn::BatchNorm2d(out)));
  }

  at::Tensor forward(const at::Tensor& x) {
    if (can_infer(*conv1, *bn1, x)) return inferred(x);
    const at::Tensor y = bn2->forward(normalized_convolution(*bn1, *conv2, convolve(conv1, x)));
    return y.add_(downsample.is_empty() ? x : smaller(x)).relu_();
  }

  at::Tensor inferred(const at::Tensor& x) {
    const at::Tensor y = infer(*conv1, x, {.after = bn1.get(), .relu = true});
    const at::Tensor same = downsample.is_empty()
                                ? x
                                : infer(*downsample[0]->as<nn::Conv2dImpl>(), x,
                                        {.after = downsample[1]->as<nn::BatchNorm2dImpl>()});
    return infer(*conv2, y, {.after = bn2.get(), .add = same, .relu = true});
  }

  at::Tensor smaller(const at::Tensor& x) {
    return downsample[1]->as<nn::BatchNorm2dImpl>()->forward(
        convolution(*downsample[0]->as<nn::Conv2dImpl>(), x));
  }

  nn::Conv2d conv1;
  nn::BatchNorm2d bn1;
  nn::Conv2d conv2;
  nn::BatchNorm2d bn2;
  nn::Sequential downsample{nullptr};
};
TORCH_MODULE(BasicBlock);

constexpr std::string_view kStageNames[] = {"layer1", "layer2", "layer3", "layer4"};

/// Four stages of two blocks; the width doubles and the size halves from stage to stage.
template <typename Block>
std::vector<nn::Sequential> register_stages(nn::Module& module, std::int64_t width) {
  std::vector<nn::Sequential> stages;
  std::int64_t in = width;
  for (std::size_t i = 0; i < 4; ++i) {
    const std::int64_t out = width << i;
    stages.push_back(
        module.register_module(std::string(kStageNames[i]),
                               nn::Sequential(Block(in, out, i == 0 ? 1 : 2), Block(out, out, 1))));
    in = out;
  }
  return stages;
}

class PreActResNet18 final : public Network {
 public:
  explicit PreActResNet18(const Architecture& a)
      : conv1_(register_module("conv1", conv(a.channels, a.width, 3, 1))),
        blocks_(register_stages<PreActBlock>(*this, a.width)) {
    stages_.assign(std::begin(kStageNames), std::end(kStageNames));
    make_head(a.width * 8, a.classes);
  }

  const char* head_name() const override { return "linear"; }

  at::Tensor body(at::Tensor x, ActivationSink* sink) override {
    x = convolve(conv1_, x);
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      x = blocks_[i]->forward(x);
      report(sink, kStageNames[i], x);
    }
    return pool(x);
  }

 private:
  nn::Conv2d conv1_;
  std::vector<nn::Sequential> blocks_;
};

class ResNet18 final : public Network {
 public:
  explicit ResNet18(const Architecture& a)
      : conv1_(register_module("conv1", conv(a.channels, a.width, 3, 1))),
        bn1_(register_module("bn1", nn::BatchNorm2d(a.width))),
        blocks_(register_stages<BasicBlock>(*this, a.width)) {
    stages_.assign(std::begin(kStageNames), std::end(kStageNames));
    make_head(a.width * 8, a.classes);
  }

  const char* head_name() const override { return "fc"; }

  at::Tensor body(at::Tensor x, ActivationSink* sink) override {
    x = bn_relu(bn1_, convolve(conv1_, x));
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      x = blocks_[i]->forward(x);
      report(sink, kStageNames[i], x);
    }
    return pool(x);
  }

 private:
  nn::Conv2d conv1_;
  nn::BatchNorm2d bn1_;
  std::vector<nn::Sequential> blocks_;
};

class SmallCnn final : public Network {
 public:
  explicit SmallCnn(const Architecture& a)
      : conv1_(register_module("conv1", conv(a.channels, a.width, 3, 1))),
        bn1_(register_module("bn1", nn::BatchNorm2d(a.width))),
        conv2_(register_module("conv2", conv(a.width, 2 * a.width, 3, 2))),
        bn2_(register_module("bn2", nn::BatchNorm2d(2 * a.width))),
        conv3_(register_module("conv3", conv(2 * a.width, 4 * a.width, 3, 2))),
        bn3_(register_module("bn3", nn::BatchNorm2d(4 * a.width))) {
    stages_ = {"conv1", "conv2", "conv3"};
    make_head(4 * a.width, a.classes);
  }

  const char* head_name() const override { return "linear"; }

  at::Tensor body(at::Tensor x, ActivationSink* sink) override {
    x = bn_relu(bn1_, convolve(conv1_, x));
    report(sink, "conv1", x);
    x = bn_relu(bn2_, convolve(conv2_, x));
    report(sink, "conv2", x);
    x = bn_relu(bn3_, convolve(conv3_, x));
    report(sink, "conv3", x);
    return pool(x);
  }

 private:
  nn::Conv2d conv1_;
  nn::BatchNorm2d bn1_;
  nn::Conv2d conv2_;
  nn::BatchNorm2d bn2_;
  nn::Conv2d conv3_;
  nn::BatchNorm2d bn3_;
};

class Mlp final : public Network {
 public:
  explicit Mlp(const Architecture& a)
      : fc1_(register_module("fc1", nn::Linear(a.channels * a.pixels, 8 * a.width))),
        fc2_(register_module("fc2", nn::Linear(8 * a.width, 8 * a.width))) {
    make_head(8 * a.width, a.classes);
  }

  const char* head_name() const override { return "linear"; }

  at::Tensor body(at::Tensor x, ActivationSink*) override {
    return fc2_->forward(fc1_->forward(x.flatten(1)).relu_()).relu_();
  }

 private:
  nn::Linear fc1_;
  nn::Linear fc2_;
};

void draw(at::Tensor& weight, std::int64_t fan_in, at::Generator& generator) {
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  // On the CPU, so that a seed gives the same weights on every device.
  weight.copy_(at::empty(weight.sizes(), at::kFloat).uniform_(-bound, bound, generator));
}

void reset_module(nn::Module& module, at::Generator& generator) {
  if (auto* layer = module.as<nn::Conv2dImpl>()) {
    const auto& w = layer->weight;
    draw(layer->weight, w.size(1) * w.size(2) * w.size(3), generator);
  } else if (auto* linear = module.as<nn::LinearImpl>()) {
    draw(linear->weight, linear->weight.size(1), generator);
    draw(linear->bias, linear->weight.size(1), generator);
  } else if (auto* norm = module.as<nn::BatchNorm2dImpl>()) {
    norm->weight.fill_(1);
    norm->bias.fill_(0);
    norm->running_mean.fill_(0);
    norm->running_var.fill_(1);
    norm->num_batches_tracked.fill_(0);
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

const std::vector<std::string>& architecture_names() {
  static const std::vector<std::string> names = {"preact-resnet18", "resnet18", "small-cnn", "mlp"};
  return names;
}

std::shared_ptr<Network> make_network(const Architecture& architecture) {
  const DefaultGeneratorGuard guard;
  if (architecture.name == "preact-resnet18") return std::make_shared<PreActResNet18>(architecture);
  if (architecture.name == "resnet18") return std::make_shared<ResNet18>(architecture);
  if (architecture.name == "small-cnn") return std::make_shared<SmallCnn>(architecture);
  if (architecture.name == "mlp") return std::make_shared<Mlp>(architecture);
  throw base::HostError(base::ExitCode::usage, "unknown architecture `" + architecture.name + "`",
                        "one of preact-resnet18, resnet18, small-cnn, mlp");
}

void reset_weights(Network& network, Part part, at::Generator& generator) {
  const at::NoGradGuard no_grad;
  for (const auto& item : network.named_modules("", /*include_self=*/false)) {
    const bool is_head = item.key() == network.head_name();
    if (part == Part::whole || part == (is_head ? Part::head : Part::body))
      reset_module(*item.value(), generator);
  }
}

}  // namespace backstop::engine
