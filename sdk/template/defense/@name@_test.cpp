#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::FixedRate;

// What every defense must hold, with the default parameters and with others.
BACKSTOP_TEST_DEFENSE(@Class@, {}, {.recipe = "share = 0.0\nepochs = 1"});

TEST(@Class@, SilencesTheFeaturesLeastActiveOnCleanImages) {
  const FixedRate rate;
  FakeParams params{"share = 0.25\nepochs = 3"};
  params.set_scheduler("scheduler", rate);
  const auto defense = backstop::testing::make<backstop::Defense>(params);

  // The fake model's features are the means of the channels: the second one is inactive.
  at::Tensor images = at::ones({6, 4, 8, 8});
  images.select(1, 1).fill_(0);
  const FakeImageSet clean{images, at::zeros({6}, at::kLong), 2};
  FakeContext context;
  FakeModel model{4, 2};
  model.reset(backstop::Part::head, context.generator());
  defense->run(context, model, FakeData{clean});

  const at::Tensor silent = model.layers().back().weight.eq(0).all(0);
  EXPECT_TRUE(silent.equal(at::tensor({0, 1, 0, 0}).to(at::kBool)));
  EXPECT_EQ(context.metrics.at("pruned_features"), 1);
  ASSERT_EQ(context.trainer().fits.size(), 1U);
  EXPECT_EQ(context.trainer().fits[0].epochs, 3);
  EXPECT_EQ(context.trainer().fits[0].scheduler, &rate);
}
