#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;

TEST(OutlierPruning, SilencesTheChannelThatStandsOut) {
  FakeModel model{4, 2};  // one linear layer with 4 inputs
  const at::Tensor weight = model.layers()[0].weight.detach();
  weight.fill_(1);
  weight.select(1, 2).fill_(10);

  const FakeParams params;
  FakeContext context;
  const FakeImageSet none{at::zeros({0, 4, 8, 8}), at::zeros({0}, at::kLong), 2};
  const auto defense = backstop::testing::make<backstop::Defense>(params);
  defense->run(context, model, FakeData{none});

  EXPECT_TRUE(weight.eq(at::tensor({1, 1, 0, 1})).all().item<bool>());
}
