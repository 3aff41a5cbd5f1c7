// What goes wrong when recipes run, and what the user is told.

#include <sys/mount.h>

#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using RunErrors = EndToEnd;

void expect_no_half_written_file(const fs::path& folder) {
  if (!fs::exists(folder)) return;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    EXPECT_THAT(entry.path().filename().string(), Not(HasSubstr(".tmp"))) << entry.path();
    EXPECT_THAT(entry.path().filename().string(), Not(HasSubstr(".unfinished"))) << entry.path();
  }
}

TEST_F(RunErrors, RecipeProblemsEndBeforeAnythingIsWritten) {
  const Outcome outcome = run({"--set", "model.widht=4"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("widht"));
  EXPECT_THAT(outcome.err, HasSubstr("did you mean `width`?"));
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(RunErrors, TargetOutsideTheClasses) {
  const Outcome outcome = run({"--set", "attack.target=4"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("attack.target is 4, but the dataset has 4 classes"));
}

TEST_F(RunErrors, MoreCleanImagesThanThereAre) {
  const Outcome outcome = run({"--set", "defense.1.clean_images=1000"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("asks for 1000 clean images, but the training set has 256"));
}

TEST_F(RunErrors, MissingDatasetFolder) {
  const Outcome outcome =
      run({"--set", "dataset={ plugin = \"cifar10\", root = \"nowhere/cifar\" }"});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("nowhere/cifar"));
}

TEST_F(RunErrors, TruncatedDatasetFile) {
  const fs::path root = folder_ / "fashion";
  fs::create_directories(root);
  for (const char* name : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                           "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"})
    std::ofstream(root / name) << std::string("\0\0\x08\x03\0\0\xea\x60\0\0\0\x1c\0\0\0\x1c", 16)
                               << "cut";
  const Outcome outcome =
      run({"--set", "dataset={ plugin = \"fashion-mnist\", root = \"" + root.string() + "\" }"});
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("dataset `fashion-mnist`"));
  EXPECT_THAT(outcome.err, HasSubstr("train-images-idx3-ubyte"));
}

TEST_F(RunErrors, UnwritableOutputFolder) {
  std::ofstream(folder_ / "file") << "not a folder";
  Start start = command();
  start.arguments.back() = (folder_ / "file" / "runs").string();
  const Outcome outcome = Process(start).wait();
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("cannot create the folder"));
  EXPECT_THAT(outcome.err, HasSubstr("--out"));
}

TEST_F(RunErrors, FileSizeLimitLeavesNothingHalfWritten) {
  Start start = command();
  std::string line = "ulimit -f 8; exec";
  start.arguments.insert(start.arguments.begin(), start.program);
  for (const auto& argument : start.arguments) line += " '" + argument + "'";
  start.program = "/bin/sh";
  start.arguments = {"-c", line};
  const Outcome outcome = Process(start).wait();
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("cannot write"));
  EXPECT_THAT(outcome.err, HasSubstr("File too large"));
  expect_no_half_written_file(out());
}

TEST_F(RunErrors, FullDiskLeavesNothingHalfWritten) {
  fs::create_directories(out());
  if (::mount("tmpfs", out().c_str(), "tmpfs", 0, "size=64k") != 0)
    GTEST_SKIP() << "mounting a small file system needs root";
  const Outcome outcome = run();
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("No space left on device"));
  EXPECT_THAT(outcome.err, HasSubstr("hint: free some space"));
  expect_no_half_written_file(out());
  ::umount(out().c_str());
}

TEST_F(RunErrors, DamagedModelFile) {
  const fs::path file = folder_ / "suspect.safetensors";
  std::ofstream(file) << "this is no model";
  const Outcome outcome = run({"--set", "model.file=" + file.string()});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("suspect.safetensors is not a safetensors file"));
}

TEST_F(RunErrors, ModelFileOfAnotherWidth) {
  ASSERT_EQ(run().code, 0);
  const Outcome outcome =
      run({"--set", "model.file=" + (runs().at(0) / "models/no-defense.safetensors").string(),
           "--set", "model.width=16"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("holds another model: width 8 instead of 16"));
}

TEST_F(RunErrors, DivergingTraining) {
  const Outcome outcome = run({"--set", "attack.training.scheduler.rate=1e30"});
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("the loss is no longer a finite number in epoch 1"));
}

TEST_F(RunErrors, PluginThatThrows) {
  const Outcome outcome = run({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
                               "defense=[{ plugin = \"probe\", action = \"throw\" }]"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("defense `probe` failed in run: the probe was told to"));
  EXPECT_EQ(nlohmann::json::parse(read(runs().at(0) / "run.json"))["status"], "failed");
}

TEST_F(RunErrors, PluginThatThrowsAnInteger) {
  const Outcome outcome = run({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
                               "defense=[{ plugin = \"probe\", action = \"throw-int\" }]"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("it threw something that is not a std::exception"));
}

TEST_F(RunErrors, PluginWithItsOwnImageSet) {
  const Outcome outcome = run({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
                               "defense=[{ plugin = \"probe\", action = \"foreign-set\" }]"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("the image set was not made by the host"));
}

TEST_F(RunErrors, PluginForAnotherAbi) {
  const Outcome outcome =
      run({"--plugin-path", BACKSTOP_BAD_PLUGINS, "--set", "defense.0.scheduler.plugin=wrong-abi"});
  EXPECT_NE(outcome.code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("ABI"));
}

TEST_F(RunErrors, DamagedStageIsMadeAgain) {
  ASSERT_EQ(run().code, 0);
  for (const auto& stage : fs::directory_iterator(out() / ".stages"))
    std::ofstream(stage.path() / "stage.json") << "{";
  const Outcome outcome = run();
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("was changed or damaged after it was kept"));
  EXPECT_EQ(numbers(runs().at(0)), numbers(runs().at(1)));
}

}  // namespace
}  // namespace backstop::testing
