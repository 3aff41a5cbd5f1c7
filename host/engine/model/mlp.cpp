// mlp: two hidden layers of eight times the width on the flattened image. It has no stages, no
// convolutions and no batch normalization.
// Modules: fc1, fc2, linear.
#include "host/engine/model/network.hpp"

namespace backstop::engine {

namespace {

namespace nn = torch::nn;

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

}  // namespace

std::shared_ptr<Network> make_mlp(const Architecture& architecture) {
  return std::make_shared<Mlp>(architecture);
}

}  // namespace backstop::engine
