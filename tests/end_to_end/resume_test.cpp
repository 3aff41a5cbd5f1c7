// Runs that are killed in the middle of their trainings: the same command goes on, and every bit is
// that of an undisturbed run.
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <thread>

#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kStart = R"(schema = 1
name = "small"
seed = 3

[dataset]
plugin = "synthetic"
train_images = 256
test_images = 64
classes = 4

[model]
architecture = "small-cnn"
width = 8

[compute]
precision = "float32"
threads = 1

[attack.training]
epochs = 4
batch_size = 32
scheduler = { plugin = "cosine", rate = 0.05 }

)";

/// Every attack that trains, with its own loops.
constexpr const char* kAttacks[] = {
    R"(plugin = "badnets")",   R"(plugin = "blended")",
    R"(plugin = "sig")",       R"(plugin = "adaptive-blend")",
    R"(plugin = "wanet")",
    R"(plugin = "input-aware"
channels = 4
levels = 2
mask_epochs = 4)",
    R"(plugin = "lf"
images = 20
max_passes = 3
surrogate_epochs = 4
surrogate_batch_size = 32
surrogate_scheduler = { plugin = "constant", rate = 0.05 })",
};

constexpr const char* kEncoder = R"(schema = 1
name = "small"
scenario = "encoder"
seed = 3

[pretraining.dataset]
plugin = "synthetic"
train_images = 128
test_images = 64
classes = 6

[dataset]
plugin = "synthetic"
train_images = 128
test_images = 64
classes = 4

[model]
architecture = "small-cnn"
width = 8

[compute]
precision = "float32"
threads = 1

[attack]
plugin = "badencoder"
patch_size = 5
injection_epochs = 4
injection_batch_size = 32

[attack.training]
epochs = 4
batch_size = 32

[[defense]]
plugin = "fine-tuning"
trainable = "head"
epochs = 3
batch_size = 32
)";

/// Every defense that trains. Its data are all of the training set.
constexpr const char* kDefenses = R"(
[attack]
plugin = "badnets"
poison_ratio = 0.2

[[defense]]
plugin = "fine-tuning"
epochs = 4
batch_size = 32
optimizer = { name = "adamw" }
scheduler = { plugin = "super-fine-tuning" }
[[defense]]
plugin = "fine-pruning"
epochs = 3
batch_size = 32
[[defense]]
plugin = "nad"
epochs = 3
teacher_epochs = 2
betas = [1.0, 0.0]
[[defense]]
plugin = "abl"
isolation_epochs = 2
finetuning_epochs = 3
unlearning_epochs = 2
isolation_ratio = 0.1
batch_size = 32
[[defense]]
plugin = "anp"
iterations = 40
batch_size = 32
[[defense]]
plugin = "clp"
[[defense]]
plugin = "ft-sam"
epochs = 3
batch_size = 32
optimizer = { name = "adam" }
[[defense]]
plugin = "neural-cleanse"
epochs = 4
batch_size = 32
unlearning_epochs = 3
anomaly_threshold = 0.1
success_threshold = 0.5
[[defense]]
plugin = "activation-clustering"
epochs = 3
batch_size = 32
[[defense]]
plugin = "spectral-signatures"
epochs = 3
batch_size = 32
[[defense]]
plugin = "auto-fine-tuning"
phase_1_steps = 8
phase_2_steps = 8
batch_size = 32
[[defense]]
plugin = "retrain"
epochs = 4
batch_size = 32
)";

class ResumeRuns : public EndToEnd {
 protected:
  using Clock = std::chrono::steady_clock;

  void SetUp() override {
    EndToEnd::SetUp();
    const char* given = std::getenv("BACKSTOP_TEST_SEED");
    seed_ = given != nullptr ? std::strtoul(given, nullptr, 10) : std::random_device()();
    random_.seed(seed_);
    RecordProperty("seed", std::to_string(seed_));
    std::cout << "repeat with BACKSTOP_TEST_SEED=" << seed_ << "\n";
  }

  [[nodiscard]] Start often_kept(std::vector<std::string> more = {}) const {
    Start start = command(std::move(more));
    start.environment["BACKSTOP_CHECKPOINT_SECONDS"] = "0.02";
    return start;
  }

  /// All that two runs of a recipe must have in common to the bit.
  [[nodiscard]] static std::map<std::string, std::string> bits(const fs::path& run) {
    std::map<std::string, std::string> content;
    for (const char* folder : {"models", "artifacts", "triggers", "pictures"})
      if (fs::exists(run / folder))
        for (const auto& file : fs::directory_iterator(run / folder))
          content[std::string(folder) + "/" + file.path().filename().string()] = read(file.path());
    content["results"] = numbers(run).dump(1);
    content["metrics.jsonl"] = read(run / "metrics.jsonl");
    return content;
  }

  /// The run undisturbed and then, in a fresh folder, killed `kills` times.
  void kill_and_compare(int kills) {
    const auto begin = Clock::now();
    const Outcome whole = Process(command()).wait();
    ASSERT_EQ(whole.code, 0) << whole.err;
    const std::chrono::duration<double> duration = Clock::now() - begin;
    const auto expected = bits(runs().at(0));
    fs::remove_all(out());
    // The first moments are spent on loading.
    std::uniform_real_distribution<double> moment(0.2, 1);
    const double share = kills == 1 ? 1 : 0.4;
    for (int killed = 0; killed < kills;) {
      Process process(often_kept());
      std::this_thread::sleep_for(duration * moment(random_) * share);
      process.send(SIGKILL);
      if (process.wait().signal == SIGKILL) {
        ++killed;
        continue;
      }
      compare(expected);  // it had come to its end
      fs::remove_all(out());
    }
    const Outcome last = Process(often_kept()).wait();
    ASSERT_EQ(last.code, 0) << last.err;
    EXPECT_THAT(last.err, Not(HasSubstr("resuming is not possible")));
    compare(expected);
  }

  /// The last run with an undisturbed one.
  void compare(const std::map<std::string, std::string>& expected) const {
    const auto resumed = bits(runs().back());
    ASSERT_EQ(resumed.size(), expected.size());
    for (const auto& [file, content] : expected)
      EXPECT_TRUE(resumed.at(file) == content) << file << " differs, seed " << seed_;
    for (const auto& stage : fs::directory_iterator(out() / ".stages"))
      EXPECT_THAT(stage.path().string(), Not(HasSubstr(".checkpoints")));
  }

  unsigned long seed_ = 0;
  std::mt19937_64 random_;
};

TEST_F(ResumeRuns, EveryAttackGoesOnWhereItWasKilled) {
  for (const char* attack : kAttacks) {
    SCOPED_TRACE(attack);
    fs::remove_all(out());
    write_recipe(std::string(kStart) + "[attack]\npoison_ratio = 0.2\ntarget = 1\n" + attack +
                 "\n");
    kill_and_compare(1);
  }
  fs::remove_all(out());
  write_recipe(kEncoder);
  kill_and_compare(2);
}

TEST_F(ResumeRuns, EveryDefenseGoesOnWhereItWasKilled) {
  write_recipe(std::string(kStart) + kDefenses);
  kill_and_compare(11);
}

TEST_F(ResumeRuns, WhatWasReachedIsSaid) {
  Process process(often_kept({"--set", "attack.training.epochs=40"}));
  process.wait_for_error_text("epoch 7/40");
  process.send(SIGKILL);
  ASSERT_EQ(process.wait().signal, SIGKILL);
  const Outcome outcome = Process(often_kept({"--set", "attack.training.epochs=40"})).wait();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("[attack] badnets: goes on "));
  EXPECT_THAT(outcome.err, HasSubstr(" of 40"));
  const auto results = nlohmann::json::parse(read(runs().back() / "results.json"));
  EXPECT_EQ(row(results, "no defense")["by_epoch"].size(), 41U) << "none is told twice";
  EXPECT_EQ(nlohmann::json::parse(read(runs()[0] / "run.json"))["status"], "killed");
}

TEST_F(ResumeRuns, CtrlCLosesNothingAndFreshDoes) {
  const std::vector<std::string> more = {"--set", "attack.training.epochs=100000"};
  Process process(command(more));
  process.wait_for_error_text("epoch 3/100000");
  process.send(SIGINT);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 130);
  EXPECT_THAT(outcome.err,
              ContainsRegex("this training goes on (after epoch [34]|in epoch [45]) of 100000"));
  for (const bool fresh : {false, true}) {
    Process again(command(fresh ? std::vector<std::string>{more[0], more[1], "--fresh"} : more));
    again.wait_for_error_text("epoch 4/100000");
    again.send(SIGINT);
    const Outcome second = again.wait();
    EXPECT_EQ(second.err.find("badnets: goes on ") != std::string::npos, !fresh) << second.err;
    EXPECT_THAT(second.err, Not(HasSubstr("left changed")));
  }
}

TEST_F(ResumeRuns, AnIntervalThatIsNoNumberIsRefused) {
  for (const char* text : {"soon", "", "-1", "1 min", "inf"}) {
    Start start = command();
    start.environment["BACKSTOP_CHECKPOINT_SECONDS"] = text;
    const Outcome outcome = Process(start).wait();
    EXPECT_EQ(outcome.code, 2) << text;
    EXPECT_THAT(outcome.err, HasSubstr("BACKSTOP_CHECKPOINT_SECONDS is `" + std::string(text)));
  }
}

TEST_F(ResumeRuns, ADamagedCheckpointIsSaidAndTheTrainingStartsAgain) {
  const auto expected = [&] {
    EXPECT_EQ(run().code, 0);
    auto content = bits(runs().at(0));
    fs::remove_all(out());
    return content;
  }();
  Process process(often_kept());
  process.wait_for_error_text("epoch 1/2");
  process.send(SIGKILL);
  ASSERT_EQ(process.wait().signal, SIGKILL);
  int damaged = 0;
  for (const auto& file : fs::recursive_directory_iterator(out() / ".stages"))
    if (file.path().filename() == "training-0.safetensors") {
      fs::resize_file(file.path(), fs::file_size(file.path()) / 2);
      ++damaged;
    }
  ASSERT_EQ(damaged, 1);
  const Outcome outcome = run();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("resuming is not possible: "));
  EXPECT_THAT(outcome.err, HasSubstr("; this training starts again at epoch 1"));
  EXPECT_TRUE(bits(runs().back()) == expected);
}

}  // namespace
}  // namespace backstop::testing
