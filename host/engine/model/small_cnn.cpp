// small-cnn: three convolutions with batch normalization, for tests and first steps.
// Modules: conv1, bn1, conv2, bn2, conv3, bn3, linear.
#include "host/engine/model/layers.hpp"
#include "host/engine/model/network.hpp"

namespace backstop::engine {

namespace {

namespace nn = torch::nn;

class SmallCnn final : public Network {
 public:
  explicit SmallCnn(const Architecture& a)
      : conv1_(register_module("conv1", make_convolution(a.channels, a.width, 3, 1))),
        bn1_(register_module("bn1", nn::BatchNorm2d(a.width))),
        conv2_(register_module("conv2", make_convolution(a.width, 2 * a.width, 3, 2))),
        bn2_(register_module("bn2", nn::BatchNorm2d(2 * a.width))),
        conv3_(register_module("conv3", make_convolution(2 * a.width, 4 * a.width, 3, 2))),
        bn3_(register_module("bn3", nn::BatchNorm2d(4 * a.width))) {
    stages_ = {"conv1", "conv2", "conv3"};
    make_head(4 * a.width, a.classes);
  }

  const char* head_name() const override { return "linear"; }

  at::Tensor body(at::Tensor x, ActivationSink* sink) override {
    x = norm_relu(bn1_, convolve(conv1_, x));
    x = after_stage(sink, "conv1", x);
    x = norm_relu(bn2_, convolve(conv2_, x));
    x = after_stage(sink, "conv2", x);
    x = norm_relu(bn3_, convolve(conv3_, x));
    x = after_stage(sink, "conv3", x);
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

}  // namespace

std::shared_ptr<Network> make_small_cnn(const Architecture& architecture) {
  return std::make_shared<SmallCnn>(architecture);
}

}  // namespace backstop::engine
