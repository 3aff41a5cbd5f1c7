// The post-activation residual networks of He et al., 2015, with torchvision's names.
// resnet18, resnet34, resnet50: a 3x3 stem of stride 1 without max-pooling, for small images;
// resnet18-7x7 and so on: torchvision's own stem, 7x7 of stride 2 and max-pooling.
//   Modules: conv1, bn1, layerN.M.{conv1,bn1,conv2,bn2,downsample.{0,1}}, fc; the bottlenecks of
//   resnet50 also have conv3 and bn3, and their stride is in conv2.
// resnet20 to resnet110: those for CIFAR, with three stages and shortcuts without weights (option
// A); resnet20-b and so on: with projections (option B).
//   Modules: conv1, bn1, layerN.M.{conv1,bn1,conv2,bn2,shortcut.{0,1}}, linear.
#include <algorithm>
#include <array>
#include <cstddef>

#include <ATen/ATen.h>

#include "host/engine/model/network.hpp"
#include "host/engine/model/resnet_stages.hpp"

namespace backstop::engine {

namespace {

namespace nn = torch::nn;

enum class Stem { small, large };
enum class Form { basic, bottleneck };
enum class Shortcut { projected, padded };

/// What tells the networks of this file apart.
struct Plan {
  std::string_view name;
  std::array<int, 4> blocks;  ///< of each stage; networks for CIFAR have three stages
  Form form = Form::basic;
  Stem stem = Stem::small;
  Shortcut shortcut = Shortcut::projected;

  [[nodiscard]] bool for_cifar() const { return blocks[3] == 0; }
};

constexpr std::array<int, 4> cifar(int depth) {
  const int blocks = (depth - 2) / 6;
  return {blocks, blocks, blocks, 0};
}

constexpr Plan kPlans[] = {
    {"resnet18", {2, 2, 2, 2}},
    {"resnet34", {3, 4, 6, 3}},
    {"resnet50", {3, 4, 6, 3}, Form::bottleneck},
    {"resnet18-7x7", {2, 2, 2, 2}, Form::basic, Stem::large},
    {"resnet34-7x7", {3, 4, 6, 3}, Form::basic, Stem::large},
    {"resnet50-7x7", {3, 4, 6, 3}, Form::bottleneck, Stem::large},
    {"resnet20", cifar(20), Form::basic, Stem::small, Shortcut::padded},
    {"resnet32", cifar(32), Form::basic, Stem::small, Shortcut::padded},
    {"resnet44", cifar(44), Form::basic, Stem::small, Shortcut::padded},
    {"resnet56", cifar(56), Form::basic, Stem::small, Shortcut::padded},
    {"resnet110", cifar(110), Form::basic, Stem::small, Shortcut::padded},
    {"resnet20-b", cifar(20)},
    {"resnet32-b", cifar(32)},
    {"resnet44-b", cifar(44)},
    {"resnet56-b", cifar(56)},
    {"resnet110-b", cifar(110)},
};

/// From the input of a block to the shape of its output.
struct ShortcutPath {
  nn::Sequential projection{nullptr};  ///< a 1x1 convolution and batch normalization
  std::int64_t new_channels = 0;
  std::int64_t stride = 1;

  at::Tensor forward(const at::Tensor& x) {
    if (!projection.is_empty())
      return norm()->forward(convolution(*projection[0]->as<nn::Conv2dImpl>(), x));
    return padded(x);
  }

  at::Tensor inferred(const at::Tensor& x) {
    if (!projection.is_empty())
      return infer(*projection[0]->as<nn::Conv2dImpl>(), x, {.after = norm()});
    return padded(x);
  }

 private:
  nn::BatchNorm2dImpl* norm() { return projection[1]->as<nn::BatchNorm2dImpl>(); }

  /// x itself, or every second pixel of it, between channels of zeros.
  [[nodiscard]] at::Tensor padded(const at::Tensor& x) const {
    if (new_channels == 0) return x;
    const at::Tensor pixels = x.slice(2, 0, c10::nullopt, stride).slice(3, 0, c10::nullopt, stride);
    const std::int64_t before = new_channels / 2;
    return at::constant_pad_nd(pixels, {0, 0, 0, 0, before, new_channels - before});
  }
};

ShortcutPath make_shortcut(nn::Module& block, const Plan& plan, std::int64_t in, std::int64_t out,
                           std::int64_t stride) {
  ShortcutPath path;
  if (stride == 1 && in == out) return path;
  if (plan.shortcut == Shortcut::padded) {
    path.new_channels = out - in;
    path.stride = stride;
  } else {
    path.projection = block.register_module(
        plan.for_cifar() ? "shortcut" : "downsample",
        nn::Sequential(make_convolution(in, out, 1, stride), nn::BatchNorm2d(out)));
  }
  return path;
}

struct BasicBlockImpl : nn::Module {
  BasicBlockImpl(const Plan& plan, std::int64_t in, std::int64_t out, std::int64_t stride)
      : conv1(register_module("conv1", make_convolution(in, out, 3, stride))),
        bn1(register_module("bn1", nn::BatchNorm2d(out))),
        conv2(register_module("conv2", make_convolution(out, out, 3, 1))),
        bn2(register_module("bn2", nn::BatchNorm2d(out))),
        shortcut(make_shortcut(*this, plan, in, out, stride)) {}

  at::Tensor forward(const at::Tensor& x) {
    if (can_infer(*conv1, *bn1, x)) return inferred(x);
    const at::Tensor y = bn2->forward(normalized_convolution(*bn1, *conv2, convolve(conv1, x)));
    return y.add_(shortcut.forward(x)).relu_();
  }

  at::Tensor inferred(const at::Tensor& x) {
    const at::Tensor y = infer(*conv1, x, {.after = bn1.get(), .relu = true});
    const at::Tensor same = shortcut.inferred(x);
    return infer(*conv2, y, {.after = bn2.get(), .add = same, .relu = true});
  }

  nn::Conv2d conv1;
  nn::BatchNorm2d bn1;
  nn::Conv2d conv2;
  nn::BatchNorm2d bn2;
  ShortcutPath shortcut;
};
TORCH_MODULE(BasicBlock);

constexpr std::int64_t kExpansion = 4;

struct BottleneckImpl : nn::Module {
  BottleneckImpl(const Plan& plan, std::int64_t in, std::int64_t out, std::int64_t stride)
      : conv1(register_module("conv1", make_convolution(in, out / kExpansion, 1, 1))),
        bn1(register_module("bn1", nn::BatchNorm2d(out / kExpansion))),
        conv2(register_module("conv2",
                              make_convolution(out / kExpansion, out / kExpansion, 3, stride))),
        bn2(register_module("bn2", nn::BatchNorm2d(out / kExpansion))),
        conv3(register_module("conv3", make_convolution(out / kExpansion, out, 1, 1))),
        bn3(register_module("bn3", nn::BatchNorm2d(out))),
        shortcut(make_shortcut(*this, plan, in, out, stride)) {}

  at::Tensor forward(const at::Tensor& x) {
    if (can_infer(*conv1, *bn1, x)) return inferred(x);
    const at::Tensor middle = normalized_convolution(*bn1, *conv2, convolve(conv1, x));
    const at::Tensor y = bn3->forward(normalized_convolution(*bn2, *conv3, middle));
    return y.add_(shortcut.forward(x)).relu_();
  }

  at::Tensor inferred(const at::Tensor& x) {
    const at::Tensor narrow = infer(*conv1, x, {.after = bn1.get(), .relu = true});
    const at::Tensor middle = infer(*conv2, narrow, {.after = bn2.get(), .relu = true});
    const at::Tensor same = shortcut.inferred(x);
    return infer(*conv3, middle, {.after = bn3.get(), .add = same, .relu = true});
  }

  nn::Conv2d conv1;
  nn::BatchNorm2d bn1;
  nn::Conv2d conv2;
  nn::BatchNorm2d bn2;
  nn::Conv2d conv3;
  nn::BatchNorm2d bn3;
  ShortcutPath shortcut;
};
TORCH_MODULE(Bottleneck);

class ResNet final : public Network {
 public:
  ResNet(const Plan& plan, const Architecture& a)
      : plan_(plan),
        conv1_(register_module("conv1", plan.stem == Stem::large
                                            ? make_convolution(a.channels, a.width, 7, 2)
                                            : make_convolution(a.channels, a.width, 3, 1))),
        bn1_(register_module("bn1", nn::BatchNorm2d(a.width))) {
    const std::vector<int> blocks(plan.blocks.begin(), plan.blocks.end() - plan.for_cifar());
    const std::int64_t out = plan.form == Form::bottleneck ? kExpansion * a.width : a.width;
    residual_stages_ = register_stages(
        *this, blocks, a.width, out,
        [&](nn::Sequential& stage, std::int64_t from, std::int64_t to, std::int64_t stride) {
          if (plan.form == Form::bottleneck)
            stage->push_back(Bottleneck(plan, from, to, stride));
          else
            stage->push_back(BasicBlock(plan, from, to, stride));
        });
    stages_.assign(std::begin(kResNetStages), std::begin(kResNetStages) + blocks.size());
    make_head(out << (blocks.size() - 1), a.classes);
  }

  const char* head_name() const override { return plan_.for_cifar() ? "linear" : "fc"; }

  at::Tensor body(at::Tensor x, ActivationSink* sink) override {
    x = norm_relu(bn1_, convolve(conv1_, x));
    if (plan_.stem == Stem::large) x = at::max_pool2d(x, 3, 2, 1);
    return pool(run_stages(residual_stages_, x, sink));
  }

 private:
  const Plan& plan_;
  nn::Conv2d conv1_;
  nn::BatchNorm2d bn1_;
  std::vector<nn::Sequential> residual_stages_;
};

}  // namespace

std::shared_ptr<Network> make_resnet(const Architecture& architecture) {
  const auto* plan = std::find_if(std::begin(kPlans), std::end(kPlans), [&](const Plan& candidate) {
    return candidate.name == architecture.name;
  });
  return std::make_shared<ResNet>(*plan, architecture);
}

}  // namespace backstop::engine
