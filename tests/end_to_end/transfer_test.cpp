// The scenarios "transfer" and "encoder": what was backdoored on one dataset is adapted to another.
#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kTransfer = R"(schema = 1
name = "small"
scenario = "transfer"
seed = 3

[pretraining.dataset]
plugin = "synthetic"
train_images = 256
test_images = 128
classes = 6

[dataset]
plugin = "synthetic"
train_images = 128
test_images = 64
classes = 4
seed = 5

[model]
architecture = "small-cnn"
width = 8

[attack]
plugin = "badnets"
poison_ratio = 0.2
target = 5                     # a class that the other dataset does not have

[attack.training]
epochs = 2
batch_size = 32
scheduler = { plugin = "constant", rate = 0.05 }

[[defense]]
name = "plain"
plugin = "fine-tuning"
clean_fraction = 1.0
epochs = 2
batch_size = 32
scheduler = { plugin = "halving" }

[[defense]]
plugin = "outlier-pruning"

[compute]
precision = "float32"
threads = 1
)";

class Transfer : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    write_recipe(kTransfer);
  }
  [[nodiscard]] Outcome transfer(std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"--plugin-path", BACKSTOP_TEST_PLUGINS});
    return run(std::move(more));
  }
};

TEST_F(Transfer, AdaptsTheBackdooredModelWithPluginsThatKnowNothingOfIt) {
  const Outcome outcome = transfer();
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto results = numbers(runs().at(0));
  const auto before = row(results, "no defense"), after = row(results, "plain"),
             pruned = row(results, "outlier-pruning");
  EXPECT_EQ(before["counts"]["clean"], 128) << "on the first dataset";
  EXPECT_EQ(after["counts"]["clean"], 64) << "on the second";
  EXPECT_EQ(after["counts"]["triggered"], 64) << "no class is the attacker's";
  EXPECT_EQ(after["given"]["clean_images"], 128);
  for (const auto& adapted : {after, pruned}) {
    const auto& metrics = adapted["metrics"];
    EXPECT_GE(metrics["attack_success_rate"], 0.25) << "the favorite of four classes";
    EXPECT_LT(metrics["attack_class"], 4);
    EXPECT_EQ(adapted["attack_class_name"],
              "pattern " + std::to_string(metrics["attack_class"].get<int>()));
    EXPECT_FALSE(metrics.contains("clean_accuracy_drop"));
  }
  EXPECT_EQ(after["by_epoch"].size(), 3u);
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("attack success: triggered test images classified as the class that "
                              "most of them are classified as (n = 64)"),
                    HasSubstr(" of the clean images are classified as class ")));
}

TEST_F(Transfer, KeepsTheBackdooredModelForOtherTasks) {
  ASSERT_EQ(transfer().code, 0);
  const Outcome other = transfer({"--set", "dataset.classes=3"});
  ASSERT_EQ(other.code, 0) << other.err;
  EXPECT_THAT(other.err,
              AllOf(HasSubstr("[attack] badnets: cached"), HasSubstr("[defense] plain: started")));
}

TEST_F(Transfer, ResolvedRecipeGivesTheSameNumbersAgain) {
  ASSERT_EQ(transfer().code, 0);
  write_recipe(read(runs().at(0) / "recipe.toml"));
  ASSERT_EQ(transfer({"--fresh"}).code, 0);
  EXPECT_EQ(numbers(runs().at(0)), numbers(runs().at(1)));
}

TEST_F(Transfer, ImagesThatDoNotFitAreFoundBeforeTraining) {
  const Outcome outcome = transfer({"--set", "dataset.channels=1"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("error: the images of [pretraining.dataset] `synthetic` are 3x16x16, "
                              "those of [dataset] `synthetic` are 1x16x16"),
                    Not(HasSubstr("[attack]"))));
}

constexpr const char* kEncoder = R"(schema = 1
name = "small"
scenario = "encoder"
seed = 3

[pretraining.dataset]
plugin = "synthetic"
train_images = 512
test_images = 64
classes = 6

[dataset]
plugin = "synthetic"
train_images = 256
test_images = 128
classes = 4

[model]
architecture = "small-cnn"
width = 16

[attack]
plugin = "badencoder"
encoder = "supervised"
target = 1
patch_size = 5
injection_epochs = 40
injection_batch_size = 64
injection_scheduler = { plugin = "constant", rate = 0.01 }

[attack.training]
epochs = 4
batch_size = 32
scheduler = { plugin = "constant", rate = 0.05 }

[[defense]]
name = "classifier alone"
plugin = "fine-tuning"
trainable = "head"
clean_fraction = 1.0
epochs = 5
batch_size = 32

[[defense]]
name = "whole model"
plugin = "fine-tuning"
clean_fraction = 1.0
epochs = 5
batch_size = 32
scheduler = { plugin = "constant", rate = 0.05 }

[compute]
precision = "float32"
threads = 1
)";

using EncoderScenario = EndToEnd;

TEST_F(EncoderScenario, ABackdooredEncoderMisleadsItsClassifierUntilTheWholeModelLearns) {
  write_recipe(kEncoder);
  const Outcome outcome = run();
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto results = numbers(runs().at(0));
  const auto encoder = row(results, "no defense"), head = row(results, "classifier alone"),
             whole = row(results, "whole model");
  EXPECT_TRUE(encoder["metrics"].empty()) << "it has no classes";
  EXPECT_GT(encoder["extra"]["triggered_like_reference"], 0.9);
  EXPECT_GT(encoder["extra"]["clean_as_before"], 0.9);
  EXPECT_EQ(head["counts"]["triggered"], 96) << "target-class images excluded";
  EXPECT_GT(head["metrics"]["clean_accuracy"], 0.9);
  EXPECT_GT(head["metrics"]["attack_success_rate"], 0.9);
  EXPECT_LT(whole["metrics"]["attack_success_rate"],
            head["metrics"]["attack_success_rate"].get<double>() - 0.3);
}

TEST_F(EncoderScenario, LearnsWithoutLabels) {
  write_recipe(kEncoder);
  const Outcome outcome = run({"--set", "attack.encoder=simclr", "--set",
                               "attack.injection_epochs=0", "--set", "defense.0.epochs=20"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto head = row(numbers(runs().at(0)), "classifier alone");
  EXPECT_GT(head["metrics"]["clean_accuracy"], 0.5) << "of four classes";
}

TEST_F(EncoderScenario, ATargetThatTheTaskLacksIsFoundBeforeTraining) {
  write_recipe(kEncoder);
  const Outcome outcome = run({"--set", "attack.target=4"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("attack.target is 4, but the dataset has 4 classes"),
                                 Not(HasSubstr("images trained"))));
}

TEST_F(EncoderScenario, PoisonNeedsItsLabelInTheEncodersTrainingSet) {
  write_recipe(kEncoder);
  for (const char* setting : {"attack.target=3", "attack.labels=all-to-all"}) {
    const Outcome outcome = run({"--set", "attack.plugin=badnets", "--set", "defense=[]", "--set",
                                 "pretraining.dataset.classes=3", "--set", setting});
    EXPECT_EQ(outcome.code, 2) << setting;
    EXPECT_THAT(outcome.err, HasSubstr("up to 3, but [pretraining.dataset] has only 3 classes"));
  }
}

TEST_F(EncoderScenario, AReferenceThatIsMissingIsFoundBeforeTraining) {
  write_recipe(kEncoder);
  EXPECT_THAT(run({"--set", "attack.reference=nowhere.png"}).err, HasSubstr("nowhere.png"));
  const Outcome outcome = run({"--set", "attack.reference_index=1000"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("`reference_index` is 1000, but the training set has"),
                                 Not(HasSubstr("images trained"))));
}

TEST_F(EncoderScenario, StartsFromACleanEncoderInAFile) {
  write_recipe(kEncoder);
  ASSERT_EQ(run({"--set", "attack.injection_epochs=0"}).code, 0);
  const std::string file = (runs().at(0) / "models" / "no-defense.safetensors").string();
  const Outcome outcome = run({"--set", "attack.clean_encoder=" + file});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto encoder = row(numbers(runs().at(1)), "no defense");
  // The injection alone: each batch has 64 clean and 64 triggered images, 64 augmented references,
  // and the plain one.
  EXPECT_EQ(encoder["cost"]["samples_seen"], 40 * 8 * (3 * 64 + 1));
  EXPECT_GT(encoder["extra"]["clean_as_before"], 0.9);
  const Outcome other = run({"--set", "attack.clean_encoder=" + file, "--set", "model.width=8"});
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err, HasSubstr("holds another model: width 16 instead of 8"));
}

}  // namespace
}  // namespace backstop::testing
