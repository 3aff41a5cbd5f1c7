#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/variable.h>

#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

struct Shape {
  std::int64_t images, in, out, side, stride;
  at::ScalarType type = at::kFloat;
};

std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << s.images << "x" << s.in << "x" << s.side << "x" << s.side << " to " << s.out
             << " / " << s.stride << ", " << s.type;
}

class StridedProjection : public testing::TestWithParam<Shape> {};

// Without the detour, LibTorch writes past a buffer here and glibc ends the process ("double free or corruption").
TEST_P(StridedProjection, GradientsAreThoseOfDoublePrecision) {
  const Shape& s = GetParam();
  at::Generator generator = make_generator(3);
  const auto draw = [&](at::IntArrayRef sizes) {
    return at::empty(sizes, at::kDouble)
        .normal_(0, 1, generator)
        .to(s.type)
        .contiguous(at::MemoryFormat::ChannelsLast);
  };
  const std::int64_t side = (s.side - 1) / s.stride + 1;
  const at::Tensor x = draw({s.images, s.in, s.side, s.side}), weight = draw({s.out, s.in, 1, 1}),
                   gradient = draw({s.images, s.out, side, side});
  const auto gradients = [&](at::ScalarType type) {
    const at::Tensor from = x.to(type).detach().clone().requires_grad_(),
                     filters = weight.to(type).detach().clone().requires_grad_();
    at::conv2d(from, filters, {}, s.stride).backward(gradient.to(type));
    return std::vector<at::Tensor>{from.grad(), filters.grad()};
  };
  const auto expected = gradients(at::kDouble);
  const double tolerance = s.type == at::kFloat ? 1e-5 : 1e-2;
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  for (int again = 0; again < 20; ++again) {
    const auto is = gradients(s.type);
    for (std::size_t i = 0; i < is.size(); ++i) {
      EXPECT_EQ(is[i].scalar_type(), s.type);
      EXPECT_TRUE(is[i].is_contiguous(at::MemoryFormat::ChannelsLast));
      EXPECT_LT((is[i].to(at::kDouble) - expected[i]).norm().item<double>(),
                tolerance * expected[i].norm().item<double>());
    }
  }
  at::set_num_threads(threads);
}

INSTANTIATE_TEST_SUITE_P(Shapes, StridedProjection,
                         testing::Values(Shape{59, 8, 16, 32, 2}, Shape{59, 3, 8, 16, 2},
                                         Shape{1, 8, 16, 64, 2}, Shape{59, 12, 24, 33, 2},
                                         Shape{59, 8, 16, 32, 4}, Shape{59, 16, 32, 16, 2},
                                         Shape{59, 8, 16, 32, 2, at::kBFloat16},
                                         Shape{59, 12, 24, 32, 2, at::kBFloat16}));

}  // namespace
}  // namespace backstop::engine
