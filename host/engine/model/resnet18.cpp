// resnet18: torchvision's ResNet-18 with a 3x3 stem of stride 1 and without max-pooling.
// Modules: conv1, bn1, layerN.M.{conv1,bn1,conv2,bn2,downsample.{0,1}}, fc.
#include "host/engine/model/network.hpp"
#include "host/engine/model/resnet_stages.hpp"

namespace backstop::engine {

namespace {

namespace nn = torch::nn;

struct BasicBlockImpl : nn::Module {
  BasicBlockImpl(std::int64_t in, std::int64_t out, std::int64_t stride)
      : conv1(register_module("conv1", make_convolution(in, out, 3, stride))),
        bn1(register_module("bn1", nn::BatchNorm2d(out))),
        conv2(register_module("conv2", make_convolution(out, out, 3, 1))),
        bn2(register_module("bn2", nn::BatchNorm2d(out))) {
    if (stride != 1 || in != out)
      downsample = register_module(
          "downsample", nn::Sequential(make_convolution(in, out, 1, stride), nn::BatchNorm2d(out)));
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

class ResNet18 final : public Network {
 public:
  explicit ResNet18(const Architecture& a)
      : conv1_(register_module("conv1", make_convolution(a.channels, a.width, 3, 1))),
        bn1_(register_module("bn1", nn::BatchNorm2d(a.width))),
        residual_stages_(register_stages<BasicBlock>(*this, a.width)) {
    stages_.assign(std::begin(kResNetStages), std::end(kResNetStages));
    make_head(a.width * 8, a.classes);
  }

  const char* head_name() const override { return "fc"; }

  at::Tensor body(at::Tensor x, ActivationSink* sink) override {
    x = norm_relu(bn1_, convolve(conv1_, x));
    return pool(run_stages(residual_stages_, x, sink));
  }

 private:
  nn::Conv2d conv1_;
  nn::BatchNorm2d bn1_;
  std::vector<nn::Sequential> residual_stages_;
};

}  // namespace

std::shared_ptr<Network> make_resnet18(const Architecture& architecture) {
  return std::make_shared<ResNet18>(architecture);
}

}  // namespace backstop::engine
