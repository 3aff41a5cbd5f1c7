#include "backstop/testing/fakes.hpp"

#include <string>
#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/plugin.hpp"

using backstop::Error;
using backstop::OptimizerKind;
using backstop::OptimizerOptions;
using backstop::Part;
using backstop::TrainingOptions;
using backstop::testing::all_images;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeEditor;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::FakeState;
using backstop::testing::FixedRate;
using backstop::testing::random_images;
using ::testing::ElementsAre;

namespace {

class Unused final : public backstop::Attack {
 public:
  explicit Unused(const backstop::Params&) {}
  at::Tensor apply(backstop::Context&, const at::Tensor& images, backstop::Phase) override {
    return images;
  }
};

OptimizerOptions optimizer(const char* recipe) {
  return FakeParams{recipe}.optimizer("optimizer");
}

/// Writes down every call, and that all batches of an epoch are the whole set.
class Witness final : public backstop::TrainingStep {
 public:
  at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
    EXPECT_TRUE(model.training());
    calls.push_back("loss " + std::to_string(batch.labels.size(0)));
    EXPECT_TRUE(batch.images.equal(set.images(batch.positions)));
    EXPECT_TRUE(batch.labels.equal(set.labels().index_select(0, batch.positions)));
    seen.push_back(batch.positions);
    epochs.push_back(batch.epoch);
    return at::cross_entropy_loss(model.forward(batch.images), batch.labels);
  }
  void before_update(backstop::Model& model) override {
    EXPECT_TRUE(model.layers()[0].weight.grad().defined());
    calls.emplace_back("before");
    weight = model.layers()[0].weight.detach().clone();
  }
  void after_update(backstop::Model& model) override {
    calls.emplace_back("after");
    moved = !model.layers()[0].weight.equal(weight);
  }
  backstop::Next after_epoch(backstop::Model&, std::int64_t epoch) override {
    calls.push_back("epoch " + std::to_string(epoch));
    return backstop::Next::epoch;
  }

  FakeImageSet set = random_images(5);
  std::vector<std::string> calls;
  std::vector<at::Tensor> seen;
  std::vector<std::int64_t> epochs;
  at::Tensor weight;
  bool moved = false;
};

class FakeTrainer : public ::testing::Test {
 protected:
  FakeTrainer() {
    options_.epochs = 2;
    options_.batch_size = 3;
    options_.scheduler = &rate_;
    options_.step = &step_;
  }
  void fit() { context_.trainer().fit(model_, step_.set, options_); }

  FixedRate rate_{0.5};
  Witness step_;
  TrainingOptions options_;
  FakeContext context_;
  FakeModel model_{3, 4};
};

}  // namespace

BACKSTOP_PLUGIN(Attack, Unused)

TEST(FakeParams, GivesTheOptimizerOfTheManifest) {
  const OptimizerOptions options = optimizer("");
  EXPECT_EQ(options.kind, OptimizerKind::sgd);
  EXPECT_EQ(options.momentum, 0.5);
  EXPECT_EQ(options.weight_decay, 1e-4);
  EXPECT_TRUE(options.nesterov);
}

TEST(FakeParams, GivesTheOptimizerOfTheRecipe) {
  const OptimizerOptions sgd = optimizer("optimizer = { momentum = 0.25, nesterov = false }");
  EXPECT_EQ(sgd.momentum, 0.25);
  EXPECT_EQ(sgd.weight_decay, 1e-4) << "what the recipe leaves out is the manifest's";
  EXPECT_FALSE(sgd.nesterov);
  const OptimizerOptions named = optimizer("optimizer = { name = \"sgd\" }");
  EXPECT_EQ(named.momentum, 0.9) << "a named optimizer has its own defaults";
  EXPECT_FALSE(named.nesterov);
  const OptimizerOptions adam = optimizer(
      "optimizer = { name = \"adam\", beta1 = 0.5, beta2 = 0.25, epsilon = 1, weight_decay = 0 }");
  EXPECT_EQ(adam.kind, OptimizerKind::adam);
  EXPECT_EQ(adam.beta1, 0.5);
  EXPECT_EQ(adam.beta2, 0.25);
  EXPECT_EQ(adam.epsilon, 1);
  EXPECT_EQ(adam.weight_decay, 0);
  EXPECT_EQ(optimizer("optimizer = { name = \"adamw\" }").kind, OptimizerKind::adamw);
}

TEST(FakeParams, RefusesAnOptimizerThatTheHostWouldRefuse) {
  for (const char* recipe :
       {"optimizer = { name = \"rmsprop\" }", "optimizer = { momentun = 0.9 }",
        "optimizer = { name = \"sgd\", beta1 = 0.9 }",
        "optimizer = { name = \"adam\", momentum = 0.9 }", "optimizer = { momentum = \"0.9\" }",
        "optimizer = { nesterov = 1 }", "optimizer = \"sgd\""})
    EXPECT_THROW(optimizer(recipe), Error) << recipe;
  EXPECT_THROW(static_cast<void>(FakeParams{}.optimizer("other_optimizer")), Error);
  EXPECT_THROW(static_cast<void>(FakeParams{}.optimizer("scheduler")), Error);
}

TEST(FakeParams, RefusesKeysThatTheManifestDoesNotHave) {
  EXPECT_THROW(FakeParams{"epoch = 3"}, Error);
  EXPECT_EQ(FakeParams{"epochs = 3"}.integer("epochs"), 3);
}

TEST(FakeParams, GivesASchedulerForEveryParameterOfThatType) {
  FakeParams params;
  EXPECT_EQ(params.scheduler("scheduler").rate({}), 0.1);
  EXPECT_THROW(static_cast<void>(params.scheduler("epochs")), Error);
  const FixedRate rate{0.25};
  params.set_scheduler("scheduler", rate);
  EXPECT_EQ(&params.scheduler("scheduler"), &rate);
}

TEST(FakeContext, SubsetsRememberWhereTheirImagesComeFrom) {
  FakeContext context;
  const FakeImageSet whole = random_images(6);
  const auto& part = context.subset(whole, at::tensor({5, 1, 4}, at::kLong));
  EXPECT_TRUE(part.indices().equal(at::tensor({5, 1, 4}, at::kLong)));
  const auto& of_part = context.subset(part, at::tensor({2, 0}, at::kLong));
  EXPECT_TRUE(of_part.indices().equal(at::tensor({4, 5}, at::kLong)));
  EXPECT_TRUE(all_images(of_part).equal(whole.images(of_part.indices())));
  EXPECT_EQ(of_part.classes(), 4);
}

TEST(FakeContext, ImageSetsHaveTheClassesOfTheDataset) {
  FakeContext context{random_images(6)};
  const auto& made = context.image_set(at::zeros({2, 3, 8, 8}), at::zeros({2}, at::kLong));
  EXPECT_EQ(made.classes(), 4);
  EXPECT_TRUE(made.indices().eq(-1).all().item<bool>());
  EXPECT_THROW(context.image_set(at::zeros({1, 3, 8, 8}), at::full({1}, 4, at::kLong)), Error);
  EXPECT_THROW(context.image_set(at::zeros({2, 3, 8, 8}), at::zeros({1}, at::kLong)), Error);
}

TEST_F(FakeTrainer, CallsTheStepAsTheHostDoes) {
  fit();
  EXPECT_THAT(step_.calls,
              ElementsAre("loss 3", "before", "after", "loss 2", "before", "after", "epoch 0",
                          "loss 3", "before", "after", "loss 2", "before", "after", "epoch 1"));
  EXPECT_THAT(step_.epochs, ElementsAre(0, 0, 1, 1));
  for (const std::size_t epoch : {0U, 1U}) {
    const at::Tensor seen = at::cat({step_.seen[2 * epoch], step_.seen[2 * epoch + 1]});
    EXPECT_TRUE(std::get<0>(seen.sort()).equal(at::arange(5, at::kLong)));
  }
  EXPECT_FALSE(step_.moved);
  EXPECT_FALSE(model_.training());
}

TEST_F(FakeTrainer, MovesTheWeightsOnlyWhenItLearns) {
  context_.trainer().learns = true;
  fit();
  EXPECT_TRUE(step_.moved);
}

TEST_F(FakeTrainer, LearnsWithoutAStepToo) {
  context_.trainer().learns = true;
  options_.step = nullptr;
  fit();
  EXPECT_TRUE(model_.layers()[0].bias.ne(0).any().item<bool>());
}

TEST_F(FakeTrainer, HoldsMaskedChannels) {
  context_.trainer().learns = true;
  model_.mask_channels("linear", at::tensor({1, 0, 1}).to(at::kBool));
  fit();
  const at::Tensor weight = model_.layers()[0].weight;
  EXPECT_TRUE(weight.select(1, 1).eq(0).all().item<bool>());
  EXPECT_TRUE(weight.select(1, 0).ne(0).any().item<bool>());
  EXPECT_THROW(model_.mask_channels("head", at::ones({3}, at::kBool)), Error);
}

TEST_F(FakeTrainer, StopsWhenTheRunIsInterrupted) {
  context_.cancel = true;
  EXPECT_THROW(fit(), backstop::Cancelled);
  EXPECT_THROW(context_.trainer().accuracy(model_, step_.set), backstop::Cancelled);
  EXPECT_TRUE(context_.trainer().fits.empty());
}

TEST_F(FakeTrainer, RefusesATrainingWithoutASchedulerOrImages) {
  options_.scheduler = nullptr;
  EXPECT_THROW(fit(), Error);
  options_.scheduler = &rate_;
  step_.set = random_images(0);
  EXPECT_THROW(fit(), Error);
}

TEST(FakeModel, AsksForGradientsOfItsHeadAlone) {
  FakeModel model{3, 4};
  model.set_trainable(Part::body);
  EXPECT_FALSE(model.layers()[0].weight.requires_grad());
  model.set_trainable(Part::head);
  EXPECT_TRUE(model.layers()[0].weight.requires_grad());
}

TEST(FakeEditor, RefusesAPositionTwiceAndALabelOutsideTheDataset) {
  const FakeImageSet set = random_images(6);
  FakeEditor editor{set};
  const auto write = [&](std::int64_t position, std::int64_t label) {
    const at::Tensor at = at::full({1}, position, at::kLong);
    editor.write(at, set.images(at), at::full({1}, label, at::kLong), backstop::Role::poison);
  };
  write(3, 1);
  EXPECT_THROW(write(3, 1), Error);
  EXPECT_THROW(write(4, 4), Error);
  EXPECT_EQ(editor.written.size(), 1U);
}

TEST(FakeData, GivesWhatTheManifestNeeds) {
  const FakeImageSet set = random_images(6);
  const FakeData data{set, &set};
  EXPECT_EQ(&data.training(), &set);
  EXPECT_THROW(static_cast<void>(data.clean()), Error);
}

TEST(FakeState, RefusesANameTwiceAndANameThatIsNotThere) {
  FakeState state;
  state.tensor("a", at::ones({1}));
  EXPECT_THROW(state.tensor("a", at::ones({1})), Error);
  EXPECT_THROW(state.tensor("b", {}), Error);
  EXPECT_THROW(static_cast<void>(state.tensor("b")), Error);
}
