#include <utility>

#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"

using backstop::Defense;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::FixedRate;
using backstop::testing::make;

namespace {

class PrunedTuning : public ::testing::Test {
 protected:
  PrunedTuning() {
    weight_.fill_(1);
    weight_.select(1, 2).fill_(10);
  }
  void run(const char* recipe) {
    FakeParams params{recipe};
    params.set_scheduler("scheduler", steady_);
    make<Defense>(params)->run(context_, model_, FakeData{clean_});
  }

  FixedRate steady_;
  FakeContext context_;
  FakeModel model_{4, 2};
  at::Tensor weight_ = model_.layers()[0].weight.detach();
  FakeImageSet clean_{at::rand({6, 4, 8, 8}), at::zeros({6}, at::kLong), 2};
};

}  // namespace

BACKSTOP_TEST_DEFENSE(PrunedTuning, {}, {.recipe = "factor = 1.0"});

TEST_F(PrunedTuning, SilencesCountsAndTrains) {
  run("factor = 5.0\nepochs = 3\nbatch_size = 4");
  EXPECT_TRUE(weight_.eq(at::tensor({1, 1, 0, 1})).all().item<bool>());
  EXPECT_EQ(context_.metrics.at("silenced_channels"), 1);
  ASSERT_EQ(context_.trainer().fits.size(), 1U);
  EXPECT_EQ(context_.trainer().fits[0].epochs, 3);
  EXPECT_EQ(context_.trainer().fits[0].batch_size, 4);
  EXPECT_EQ(context_.trainer().fits[0].scheduler, &steady_);
}

TEST_F(PrunedTuning, LeavesChannelsBelowTheFactor) {
  run("factor = 11.0");
  EXPECT_EQ(context_.metrics.at("silenced_channels"), 0);
}

TEST_F(PrunedTuning, ShowsItsProgress) {
  run("");
  EXPECT_EQ(context_.progress_calls, (std::vector{std::pair<std::int64_t, std::int64_t>{1, 1}}));
}
