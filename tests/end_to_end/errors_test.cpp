// What goes wrong when recipes run, and what the user is told.

#include <csignal>
#include <sstream>
#include <tuple>

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
  const Outcome outcome = Process(limited("-f 8", command())).wait();
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
  EXPECT_THAT(outcome.err, HasSubstr("[model] says small-cnn of width 16, but "));
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

class PluginMistakes : public EndToEnd {
 protected:
  [[nodiscard]] Outcome probe(const std::string& action, std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
                             "defense=[{ plugin = \"probe\", action = \"" + action + "\" }]"});
    return run(more);
  }
};

TEST_F(PluginMistakes, OfADetectorOfInputs) {
  const auto scored = [&](const std::string& mistake) {
    return run({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
                "detector=[{ plugin = \"scorer\", mistake = \"" + mistake + "\" }]"});
  };
  const Outcome none = scored("none");
  ASSERT_EQ(none.code, 0) << none.err;
  EXPECT_THAT(none.out, HasSubstr("AUROC"));
  for (const auto& [mistake, error] :
       {std::pair("threshold", "prepare() returned the threshold nan"),
        {"undefined", "scores() returned an undefined tensor for "},
        {"matrix", "scores() returned a tensor of "},
        {"nan", "scores() returned nan for an image"},
        {"batch", "images get another score in a batch of half the size"},
        {"damage", "the detector changed the model"}}) {
    const Outcome outcome = scored(mistake);
    EXPECT_EQ(outcome.code, 3) << mistake << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("`scorer` failed in ")) << mistake;
    EXPECT_THAT(outcome.err, HasSubstr(error));
  }
}

TEST_F(PluginMistakes, AnErrorSaysWhatToWriteInstead) {
  for (const auto& [action, error, hint] :
       {std::tuple("no-loss", "TrainingStep::loss returned no tensor", "return the loss"),
        {"vector-loss", "TrainingStep::loss returned a tensor of shape [", "return one number"},
        {"detached-loss", "TrainingStep::loss returned a loss without a graph", "compute it from"},
        {"change-in-place", "a leaf Variable that requires grad is being used", "NoGradGuard"},
        {"ask-for-unknown", "`probe` asks for a parameter `actoin`, which its manifest does not",
         "did you mean `action`?"},
        {"ask-for-number",
         "`probe` asks for its parameter `action` as float, but its manifest says choice",
         "report it"}}) {
    const Outcome outcome = probe(action);
    EXPECT_EQ(outcome.code, 3) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(error));
    EXPECT_THAT(outcome.err.substr(outcome.err.find("hint: ")), HasSubstr(hint)) << action;
  }
}

TEST_F(PluginMistakes, EndingTheProcessIsAPluginsFailure) {
  for (const auto& [action, function] : {std::pair("exit", "exit()"),
                                         {"exit-1", "exit()"},
                                         {"quick-exit", "quick_exit()"},
                                         {"exit-at-once", "_exit()"},
                                         {"exec", "execl()"}}) {
    const Outcome outcome = probe(action);
    EXPECT_EQ(outcome.code, 3) << action << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("/probe.so ended the process with " + std::string(function) +
                                       " during the call of defense `probe` in run"));
  }
}

class Crash : public EndToEnd {
 protected:
  /// The probe between two defenses that work.
  [[nodiscard]] Outcome between_others(const std::string& action,
                                       std::vector<std::string> more = {}) const {
    const std::string plain =
        "plugin = \"fine-tuning\", clean_fraction = 0.5, epochs = 2, "
        "batch_size = 32, scheduler = { plugin = \"constant\", rate = 0.01 }";
    more.insert(more.end(), {"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
                             "defense=[{ name = \"before\", " + plain +
                                 " }, { plugin = \"probe\", action = \"" + action +
                                 "\" }, { name = \"after\", " + plain + " }]"});
    return run(more);
  }
  void expect_one_failed_row(const Outcome& outcome, const std::string& error) const {
    SCOPED_TRACE(error);
    ASSERT_EQ(runs().size(), 1U) << "it goes on in the same folder\n" << outcome.err;
    const fs::path folder = runs().at(0);
    EXPECT_THAT(outcome.err, HasSubstr("warning: [defense] probe: failed: " + error));
    const auto facts = nlohmann::json::parse(read(folder / "run.json"));
    EXPECT_EQ(facts["status"], "failed");
    EXPECT_THAT(facts["error"].get<std::string>(), HasSubstr(error));
    EXPECT_THAT(read(folder / "log.txt"), HasSubstr("\"stage_failed\""));
    EXPECT_THAT(read(folder / "log.txt"), HasSubstr(error));
    const auto results = numbers(folder);
    EXPECT_EQ(results["rows"].size(), 4U);
    EXPECT_THAT(row(results, "probe")["error"].get<std::string>(), HasSubstr(error));
    for (const char* other : {"no defense", "before", "after"})
      EXPECT_TRUE(row(results, other)["metrics"]["clean_accuracy"].is_number()) << other;
    EXPECT_EQ(outcome.err.find("[attack] badnets: started"),
              outcome.err.rfind("[attack] badnets: started"));
    EXPECT_EQ(outcome.err.find("[attack] badnets: cached"), std::string::npos) << "told twice";
  }
};

TEST_F(Crash, CostsTheRowOfThePluginAndNothingElse) {
  for (const auto& [action, error] :
       {std::pair("segfault", "defense `probe` crashed in run: SIGSEGV (segmentation fault)"),
        {"abort", "defense `probe` crashed in run: SIGABRT (aborted)"},
        {"overflow", "defense `probe` crashed in run: SIGSEGV (segmentation fault)"}}) {
    const Outcome outcome = between_others(action);
    EXPECT_EQ(outcome.code, 3) << outcome.err;
    expect_one_failed_row(outcome, error);
    EXPECT_THAT(outcome.err, HasSubstr("/probe.so; `gdb -ex run --args "));
    EXPECT_THAT(outcome.err, HasSubstr("--one-process` shows where"));
    fs::remove_all(out());
  }
}

TEST_F(Crash, AnExitIsAsGood) {
  const Outcome outcome = between_others("exit");
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  expect_one_failed_row(outcome, BACKSTOP_TEST_PLUGINS);
}

TEST_F(Crash, AKillIsTheEnvironments) {
  const Outcome outcome = between_others("die");
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  expect_one_failed_row(outcome, "the process was killed (SIGKILL) in [defense] probe");
}

TEST_F(Crash, WhatGivesNoSignOfLifeIsEnded) {
  const Outcome outcome = between_others("loop", {"--stall-limit", "4"});
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  expect_one_failed_row(outcome,
                        "defense `probe` did not return from run: no sign of life for 4 s");
}

TEST_F(Crash, AFreshRunKeepsWhatItHasMade) {
  ASSERT_EQ(run().code, 0);
  fs::remove_all(out() / "small");
  expect_one_failed_row(between_others("segfault", {"--fresh"}), "defense `probe` crashed in run");
}

TEST_F(Crash, ASecondRunWorks) {
  ASSERT_EQ(between_others("segfault").code, 3);
  const Outcome again = between_others("record");
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.err, HasSubstr("[defense] after: cached"));
}

TEST_F(Crash, OfOneCombinationDoesNotEndTheMatrix) {
  const Outcome outcome = between_others("segfault", {"--set", "matrix={ seed = [3, 4] }"});
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("2 of 2 runs failed"));
  ASSERT_EQ(runs().size(), 2U);
  for (const fs::path& folder : runs())
    EXPECT_TRUE(row(numbers(folder), "after")["metrics"]["clean_accuracy"].is_number());
}

TEST_F(Crash, InOneProcessEndsIt) {
  const Outcome outcome = between_others("segfault", {"--one-process"});
  EXPECT_EQ(outcome.signal, SIGSEGV);
  EXPECT_THAT(outcome.err, HasSubstr("error: SIGSEGV during the call of defense `probe` in run\n"));
}

TEST_F(Crash, AnInterruptEndsBothProcesses) {
  Process process(command({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
                           "defense=[{ plugin = \"probe\", action = \"loop\" }]"}));
  process.wait_for_error_text("[defense] probe: started");
  process.send(SIGINT);
  process.send(SIGTERM);
  EXPECT_NE(process.wait().signal, 0);  // returns when nobody holds standard error
}

TEST_F(PluginMistakes, MemoryThatRanOutIsTheEnvironments) {
  const Outcome asked = probe("allocate");
  EXPECT_EQ(asked.code, 4) << asked.err;
  EXPECT_THAT(asked.err, HasSubstr("defense `probe` ran out of memory in run: LibTorch asked for "
                                   "1125899.9 GB\n"));
  const Outcome unknown = probe("bad-alloc");
  EXPECT_EQ(unknown.code, 4) << unknown.err;
  EXPECT_THAT(unknown.err, HasSubstr("defense `probe` ran out of memory in run\n"));
}

TEST_F(PluginMistakes, BytesThatAreNotUtf8AreNoBug) {
  const Outcome thrown = probe("strange-bytes");
  EXPECT_EQ(thrown.code, 3);
  EXPECT_THAT(thrown.err, HasSubstr("defense `probe` failed in run: caf\uFFFD ?\n"));
  EXPECT_THAT(nlohmann::json::parse(read(runs().back() / "run.json"))["error"].get<std::string>(),
              HasSubstr("caf\uFFFD"));
  const Outcome metric = probe("strange-metric");
  EXPECT_EQ(metric.code, 3);
  EXPECT_THAT(metric.err, HasSubstr("defense `probe` failed in run: the name of the metric "
                                    "`caf\uFFFD` is not UTF-8"));
  const Outcome logged = probe("log-strangely");
  EXPECT_EQ(logged.code, 0);
  EXPECT_THAT(logged.err, HasSubstr("a?b\uFFFD?z\n"));
}

TEST_F(PluginMistakes, NamesThatCannotBeFiled) {
  EXPECT_THAT(probe("nan-metric").err,
              HasSubstr("the metric `answer` is nan, which is not a number that can be compared"));
  EXPECT_THAT(probe("taken-metric").err,
              HasSubstr("the metric `clean_accuracy` has the name of one that the host measures"));
  EXPECT_THAT(probe("long-metric").err, HasSubstr("has 1000 bytes, the limit is 200"));
  EXPECT_THAT(probe("same-artifact").err, HasSubstr("two artifacts are called `twice`"));
}

TEST_F(PluginMistakes, ChangedProcessIsRestored) {
  Start start = command({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
                         "defense=[{ plugin = \"probe\", action = \"change-process\" }]"});
  std::string line = "cd '" + folder_.string() + "' && exec '" + start.program + "'";
  for (auto& argument : start.arguments)
    line += " '" + (argument == out().string() ? "runs" : argument) + "'";
  start.program = "/bin/sh";
  start.arguments = {"-c", line};
  const Outcome outcome = Process(start).wait();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("defense `probe` left changed: current folder, umask, "));
  const fs::perms mode = fs::status(runs().at(0) / "results.json").permissions();
  EXPECT_NE(mode & fs::perms::owner_read, fs::perms::none);
}

TEST_F(PluginMistakes, AForkedRunGoesOnOnce) {
  const Outcome outcome = probe("fork");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.find("probe"), outcome.out.rfind("probe")) << outcome.out;
}

TEST_F(PluginMistakes, WhatItPrintsIsNotAmongTheData) {
  const Outcome outcome = probe("print", {"--json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  std::istringstream lines(outcome.out);
  for (std::string event; std::getline(lines, event);)
    EXPECT_TRUE(nlohmann::json::accept(event)) << event;
}

TEST_F(RunErrors, PathsThatAreNotUtf8) {
  Start start = command();
  start.arguments.back() = (folder_ / "out\xE9").string();
  const Outcome outcome = Process(start).wait();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("out?/small/"));
  const Outcome setting = run({"--set", "model.file=caf\xE9"});
  EXPECT_EQ(setting.code, 2);
  EXPECT_THAT(setting.err, HasSubstr("`--set model.file=caf\uFFFD` is not UTF-8"));
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
