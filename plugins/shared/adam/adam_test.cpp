#include "adam.hpp"

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace {

class Kept final : public backstop::StateWriter, public backstop::StateReader {
 public:
  void tensor(std::string_view name, const at::Tensor& value) override {
    EXPECT_TRUE(tensors_.emplace(name, value.detach().clone()).second) << name << " twice";
  }
  bool has(std::string_view name) const override { return tensors_.count(std::string(name)) > 0; }
  at::Tensor tensor(std::string_view name) const override { return tensors_.at(std::string(name)); }

 private:
  std::map<std::string, at::Tensor> tensors_;
};

std::vector<at::Tensor> parameters() {
  return {at::arange(24, at::kFloat)
              .view({2, 3, 2, 2})
              .contiguous(at::MemoryFormat::ChannelsLast)
              .set_requires_grad(true),
          at::ones({3}).set_requires_grad(true), at::zeros({}).set_requires_grad(true)};
}

void step(torch::optim::Adam& optimizer, std::vector<at::Tensor>& learned, int number) {
  // The last parameter gets no gradient until late.
  for (std::size_t i = 0; i < learned.size() - (number < 3 ? 1 : 0); ++i)
    learned[i].mutable_grad() = at::full_like(learned[i], 0.1 * number).sin_();
  optimizer.step();
}

TEST(Adam, GoesOnWithTheSameBits) {
  const auto options = torch::optim::AdamOptions(0.01).betas({0.5, 0.9});
  auto undisturbed = parameters();
  torch::optim::Adam whole(undisturbed, options);
  for (int i = 0; i < 6; ++i) step(whole, undisturbed, i);
  for (int end = 0; end <= 6; ++end) {
    auto first = parameters();
    torch::optim::Adam before(first, options);
    for (int i = 0; i < end; ++i) step(before, first, i);
    Kept state;
    backstop::adam::save(before, "adam", state);

    auto second = parameters();
    {
      const at::NoGradGuard no_gradients;
      for (std::size_t i = 0; i < second.size(); ++i) second[i].copy_(first[i]);
    }
    torch::optim::Adam after(second, options);
    backstop::adam::load(after, "adam", state);
    for (int i = end; i < 6; ++i) step(after, second, i);
    for (std::size_t i = 0; i < second.size(); ++i)
      EXPECT_TRUE(second[i].equal(undisturbed[i])) << "stopped after " << end << ", tensor " << i;
  }
}

}  // namespace
