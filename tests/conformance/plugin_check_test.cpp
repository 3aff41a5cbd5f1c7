// `backstop plugin check` on a defense that makes the mistake that it is told to make.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/program.hpp"
#include "tests/support/test_folder.hpp"

namespace backstop::testing {
namespace {

using ::testing::HasSubstr;

Outcome check(const std::string& file, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments{"plugin", "check", file};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return Process({BACKSTOP_PROGRAM, arguments, {{"HOME", "/"}, {"BACKSTOP_PLUGIN_PATH", ""}}})
      .wait();
}

const std::string kProbe = BACKSTOP_TEST_PLUGINS "/probe.so";
const std::string kHalving = BACKSTOP_TEST_PLUGINS "/halving.so";

std::string bad(const std::string& name) {
  return BACKSTOP_BAD_PLUGINS "/" + name + ".so";
}

/// What the probe does wrong: the names of the tests that fail, and their messages.
struct Findings {
  std::vector<std::string> failed;
  std::string messages;
  int code = 0;
};

Findings findings(const std::string& action, std::vector<std::string> more = {}) {
  more.insert(more.end(), {"--json", "--set", "action=" + action});
  const Outcome outcome = check(kProbe, more);
  Findings found;
  found.code = outcome.code;
  const auto json = nlohmann::json::parse(outcome.out);
  for (const auto& test : json["tests"]) {
    if (test["result"] != "failed") continue;
    found.failed.push_back(test["test"]);
    found.messages += test["message"].get<std::string>() + "\n";
  }
  EXPECT_EQ(json["failed"], found.failed.size());
  return found;
}

using Names = std::vector<std::string>;

TEST(PluginCheck, PassesADefenseThatKeepsTheRules) {
  const Outcome outcome = check(kProbe);
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("\nsymbols: exports exactly one symbol ........."));
  EXPECT_THAT(outcome.out, HasSubstr("11 passed, 0 failed\n"));
}

TEST(PluginCheck, PassesAScheduler) {
  const Outcome outcome = check(kHalving, {"--set", "rate=0.1"});
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("gives rates that depend only on the position"));
}

TEST(PluginCheck, WithoutARequiredParameterMostIsNotChecked) {
  const Outcome outcome = check(BACKSTOP_PLUGINS "/schedulers/step.so");
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("not checked\n    there is no default for `milestones`\n"));
  EXPECT_THAT(outcome.out, HasSubstr("3 passed, 0 failed, 5 not checked\n"));
}

TEST(PluginCheck, NamesWhatIsLeftChanged) {
  const Findings found = findings("grab-state");
  EXPECT_THAT(found.failed, ::testing::Contains("state"));
  EXPECT_THAT(found.messages, HasSubstr("left changed: gradient mode, inference mode"));
  EXPECT_EQ(found.code, 1);
}

TEST(PluginCheck, FindsGlobalRandomNumbers) {
  const Findings found = findings("draw-globally");
  EXPECT_THAT(found.failed, ::testing::IsSupersetOf({"deterministic", "state"}));
  EXPECT_THAT(found.messages, HasSubstr("max difference"));
  EXPECT_THAT(found.messages, HasSubstr("in `weights linear.bias`"));
}

TEST(PluginCheck, FindsADefenseThatContinuesWhenCancelled) {
  const Findings found = findings("ignore-cancellation");
  EXPECT_EQ(found.failed, Names{"cancellation"});
  EXPECT_THAT(found.messages, HasSubstr("it went on for"));
}

TEST(PluginCheck, FindsACancellationThatBecomesAnError) {
  const Findings found = findings("replace-cancellation");
  EXPECT_EQ(found.failed, Names{"cancellation"});
  EXPECT_THAT(found.messages, HasSubstr("when cancelled, it ended with another error"));
}

TEST(PluginCheck, FindsADefenseThatNeedsManyImages) {
  const Findings found = findings("want-many-images");
  EXPECT_EQ(found.failed, Names{"images"});
  EXPECT_THAT(found.messages, HasSubstr("with 7 images of 3 channels: defense `probe` failed in "
                                        "run: too few images"));
}

TEST(PluginCheck, FindsADefenseThatRemembersAFailure) {
  const Findings found = findings("remember");
  EXPECT_EQ(found.failed, Names{"failures"});
  EXPECT_THAT(found.messages, HasSubstr("after a model failed, a new object gives other results"));
}

TEST(PluginCheck, FindsATrainingStepThatForgetsItsState) {
  const Findings found = findings("forget-batches");
  EXPECT_EQ(found.failed, Names{"resume"});
  EXPECT_THAT(found.messages, HasSubstr("and started again, it gives other results"));
}

TEST(PluginCheck, ATrainingStepThatOffersNoStateIsNotChecked) {
  const Outcome outcome = check(kProbe, {"--set", "action=offer-no-state"});
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  EXPECT_THAT(outcome.out, HasSubstr("not checked\n    its training step does not offer "
                                     "backstop.training-state/1"));
}

TEST(PluginCheck, ParametersThatThePluginRefusesAreNotChecked) {
  const Outcome outcome = check(kProbe, {"--set", "action=refuse"});
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  EXPECT_THAT(outcome.out, HasSubstr("not checked\n    defense `probe`: it is told to refuse\n"
                                     "    hint: give other parameters with --set KEY=VALUE\n"));
  EXPECT_THAT(outcome.out, HasSubstr("4 passed, 0 failed, 7 not checked\n"));
}

TEST(PluginCheck, SurvivesACrash) {
  const Findings found = findings("segfault");
  EXPECT_EQ(found.failed,
            (Names{"deterministic", "state", "cancellation", "images", "failures", "resume"}));
  EXPECT_THAT(found.messages, HasSubstr("it crashed: SIGSEGV"));
  const Outcome shown = check(kProbe, {"--set", "action=segfault"});
  EXPECT_THAT(shown.out, HasSubstr("    hint: `gdb -ex run --args "));
  EXPECT_THAT(shown.out, HasSubstr(" plugin check " + kProbe +
                                   " --test deterministic --set action=segfault` shows where"));
  EXPECT_THAT(shown.out, HasSubstr("FAILED\n    for the reason above\n"));
  EXPECT_THAT(shown.out, HasSubstr("5 passed, 6 failed\n"));
  EXPECT_EQ(shown.out.find("SIGSEGV"), shown.out.rfind("SIGSEGV"));
}

TEST(PluginCheck, FindsExit) {
  const Findings found = findings("exit", {"--time-limit", "30"});
  EXPECT_THAT(found.failed, ::testing::Contains("state"));
  EXPECT_THAT(found.messages, HasSubstr("it ended the process with exit status 0"));
}

TEST(PluginCheck, FindsWhatIsChangedOfTheProcess) {
  const Findings found = findings("change-process");
  EXPECT_THAT(found.failed, ::testing::Contains("state"));
  EXPECT_THAT(found.messages,
              HasSubstr("left changed: current folder, umask, handling of SIGINT, blocking of "
                        "SIGTERM, environment variable `HOME`, environment variable "
                        "`PROBE_WAS_HERE`; restored"));
}

TEST(PluginCheck, FindsWhatIsLeftRunning) {
  for (const char* action : {"fork", "leave-child"}) {
    const Findings found = findings(action);
    EXPECT_EQ(found.failed, Names{"state"}) << action;
    EXPECT_THAT(found.messages, HasSubstr("it left behind: a child process"));
  }
  const Findings found = findings("leave-thread-and-file");
  EXPECT_EQ(found.failed, Names{"state"});
  EXPECT_THAT(found.messages, HasSubstr("it left behind: 1 thread, 1 open file"));
}

TEST(PluginCheck, FindsWritesToStandardOutput) {
  const Findings found = findings("print");
  EXPECT_EQ(found.failed, Names{"state"});
  EXPECT_THAT(found.messages, HasSubstr("it writes to standard output: garbage"));
}

TEST(PluginCheck, FindsWeightsThatAreNotFinite) {
  const Findings found = findings("spoil-weights");
  EXPECT_THAT(found.failed, ::testing::Contains("deterministic"));
  EXPECT_THAT(found.messages,
              HasSubstr("it leaves weights that are not finite numbers in `linear.bias`"));
}

// -- what is left of the processes --

/// The processes that were started with `word` on their command line, without zombies.
std::vector<int> processes_with(const std::string& word) {
  std::vector<int> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::stringstream line;
    line << std::ifstream(entry.path() / "cmdline").rdbuf();
    if (line.str().find(word) != std::string::npos) found.push_back(std::stoi(name));
  }
  return found;
}

bool soon(const std::function<bool()>& holds) {
  for (int attempt = 0; attempt < 500; ++attempt) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return false;
}

class EndedCheck : public ::testing::TestWithParam<int> {};

TEST_P(EndedCheck, LeavesNoProcess) {
  const catalog::TestFolder folder;
  // The child of `plugin check` has a child, too.
  const auto file = folder.copy(bad("forks-on-load"), "forks-on-load.so").string();
  Process process({BACKSTOP_PROGRAM,
                   {"plugin", "check", file, "--time-limit", "3"},
                   {{"HOME", "/"}, {"BACKSTOP_PLUGIN_PATH", ""}}});
  ASSERT_TRUE(soon([&] { return processes_with(file).size() == 3; }));
  if (GetParam() != 0) process.send(GetParam());
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.signal, GetParam());
  EXPECT_TRUE(soon([&] { return processes_with(file).empty(); }));
}

INSTANTIATE_TEST_SUITE_P(Signals, EndedCheck, ::testing::Values(0, SIGINT, SIGTERM, SIGHUP),
                         [](const auto& tested) {
                           return tested.param == 0
                                      ? "TimeLimit"
                                      : std::string("Sig") + sigabbrev_np(tested.param);
                         });

TEST(PluginCheck, KilledItselfItLeavesNoTest) {
  const catalog::TestFolder folder;
  const auto file = folder.copy(bad("hangs-on-load"), "hangs-on-load.so").string();
  Process process({BACKSTOP_PROGRAM,
                   {"plugin", "check", file, "--time-limit", "60"},
                   {{"HOME", "/"}, {"BACKSTOP_PLUGIN_PATH", ""}}});
  ASSERT_TRUE(soon([&] { return processes_with(file).size() == 2; }));
  process.send(SIGKILL);
  process.wait();
  EXPECT_TRUE(soon([&] { return processes_with(file).empty(); }));
}

TEST(PluginCheck, ATestKeepsItsTimeLimitWithoutItsParent) {
  const catalog::TestFolder folder;
  const auto file = folder.copy(bad("hangs-on-load"), "hangs-on-load.so").string();
  Process process({BACKSTOP_PROGRAM,
                   {"plugin", "check", file, "--time-limit", "1"},
                   {{"HOME", "/"}, {"BACKSTOP_PLUGIN_PATH", ""}}});
  ASSERT_TRUE(soon([&] { return processes_with(file).size() == 2; }));
  process.send(SIGSTOP);
  EXPECT_TRUE(soon([&] { return processes_with(file).size() == 1; }));
  process.send(SIGKILL);
  process.wait();
}

TEST(PluginCheck, OneTestInThisProcess) {
  const Outcome outcome = check(kProbe, {"--test", "images", "--set", "action=throw"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, HasSubstr("the probe was told to"));
  const Outcome unknown = check(kProbe, {"--test", "image"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("there is no test `image` for a plugin of this kind"));
}

TEST(PluginCheck, CrashAndHangOnLoad) {
  const Outcome crash = check(bad("aborts-on-load"), {"--json"});
  EXPECT_EQ(crash.code, 1);
  EXPECT_THAT(crash.out, HasSubstr("it crashed: SIGABRT"));
  const Outcome hang = check(bad("hangs-on-load"), {"--json", "--time-limit", "1"});
  EXPECT_EQ(hang.code, 1);
  EXPECT_THAT(hang.out, HasSubstr("it did not finish within 1 s"));
}

TEST(PluginCheck, SecondSymbol) {
  const Outcome outcome = check(bad("exports-more"), {"--test", "symbols"});
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("it also exports "));
}

TEST(PluginCheck, RefusedPluginIsNotTested) {
  const Outcome outcome = check(bad("wrong-abi"));
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("wrong-abi.so cannot be used: built for SDK ABI"));
  EXPECT_EQ(check("no/such.so").code, 3);
}

TEST(PluginCheck, WrongTimeLimit) {
  const Outcome outcome = check(kProbe, {"--time-limit", "soon"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(
      outcome.err,
      HasSubstr(
          "`--time-limit` must be a whole number of seconds between 1 and 86400, got `soon`"));
}

}  // namespace
}  // namespace backstop::testing
