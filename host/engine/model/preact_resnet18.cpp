// preact-resnet18: the pre-activation ResNet-18 of He et al., 2016, with a 3x3 stem for small
// images. As in BackdoorBench there is no batch normalization after the last stage.
// Modules: conv1, layerN.M.{bn1,conv1,bn2,conv2,shortcut.0}, linear.
#include "host/engine/model/network.hpp"
#include "host/engine/model/resnet_stages.hpp"

namespace backstop::engine {

namespace {

namespace nn = torch::nn;

struct PreActBlockImpl : nn::Module {
  PreActBlockImpl(std::int64_t in, std::int64_t out, std::int64_t stride)
      : bn1(register_module("bn1", nn::BatchNorm2d(in))),
        conv1(register_module("conv1", make_convolution(in, out, 3, stride))),
        bn2(register_module("bn2", nn::BatchNorm2d(out))),
        conv2(register_module("conv2", make_convolution(out, out, 3, 1))) {
    if (stride != 1 || in != out)
      shortcut = register_module("shortcut", nn::Sequential(make_convolution(in, out, 1, stride)));
  }

  at::Tensor forward(const at::Tensor& x) {
    if (can_infer(*conv1, *bn1, x)) return inferred(x);
    if (shortcut.is_empty())
      return normalized_convolution(*bn2, *conv2, normalized_convolution(*bn1, *conv1, x), x);
    const at::Tensor a = norm_relu(bn1, x);
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

class PreActResNet18 final : public Network {
 public:
  explicit PreActResNet18(const Architecture& a)
      : conv1_(register_module("conv1", make_convolution(a.channels, a.width, 3, 1))),
        residual_stages_(register_stages(
            *this, {2, 2, 2, 2}, a.width, a.width,
            [](nn::Sequential& stage, std::int64_t in, std::int64_t out, std::int64_t stride) {
              stage->push_back(PreActBlock(in, out, stride));
            })) {
    stages_.assign(std::begin(kResNetStages), std::end(kResNetStages));
    make_head(a.width * 8, a.classes);
  }

  const char* head_name() const override { return "linear"; }

  at::Tensor body(at::Tensor x, ActivationSink* sink) override {
    x = convolve(conv1_, x);
    return pool(run_stages(residual_stages_, x, sink));
  }

 private:
  nn::Conv2d conv1_;
  std::vector<nn::Sequential> residual_stages_;
};

}  // namespace

std::shared_ptr<Network> make_preact_resnet18(const Architecture& architecture) {
  return std::make_shared<PreActResNet18>(architecture);
}

}  // namespace backstop::engine
