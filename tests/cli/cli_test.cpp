// The program from outside: what it prints, where it prints it, and its exit status.
#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli_fixture.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::testing::Cli;
using backstop::testing::Process;
using backstop::testing::read;
using backstop::testing::Start;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* kRecipe = R"(schema = 1
name = "fake"
scenario = "standalone"
seed = 0

[dataset]
plugin = "squares"

[model]
architecture = "small-cnn"

[attack]
plugin = "patch"

[attack.training]
epochs = 2
scheduler = { plugin = "steady", rate = 0.1 }

[[defense]]
name = "mended"
plugin = "tune"
clean_images = 100
)";

// -- help and version --

/// "plugin check" without the space.
std::string file_name(std::string command) {
  std::replace(command.begin(), command.end(), ' ', '-');
  return command;
}

class CliHelp : public Cli, public ::testing::WithParamInterface<const char*> {};

/// With BACKSTOP_UPDATE_GOLDEN in the environment, the golden file is written instead.
TEST_P(CliHelp, IsTheGoldenText) {
  const std::string command = GetParam();
  std::vector<std::string> words;
  std::istringstream parts(command == "backstop" ? "" : command);
  for (std::string word; parts >> word;) words.push_back(word);
  words.emplace_back("--help");
  const auto outcome = backstop(words);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
  const fs::path golden = fs::path(BACKSTOP_GOLDEN) / (file_name(command) + ".txt");
  if (std::getenv("BACKSTOP_UPDATE_GOLDEN")) std::ofstream(golden) << outcome.out;
  EXPECT_EQ(outcome.out, read(golden));
}

TEST_P(CliHelp, FitsInto100Columns) {
  std::istringstream text(read(fs::path(BACKSTOP_GOLDEN) / (file_name(GetParam()) + ".txt")));
  ASSERT_TRUE(text.peek() != std::istringstream::traits_type::eof());
  for (std::string line; std::getline(text, line);) EXPECT_LE(line.size(), 100U) << line;
}

INSTANTIATE_TEST_SUITE_P(Commands, CliHelp,
                         ::testing::Values("backstop", "scan", "clean", "run", "check", "expand",
                                           "sweep", "status", "report", "list", "inspect", "doctor",
                                           "data", "new", "plugin check", "clean-up"),
                         [](const auto& tested) {
                           std::string name = file_name(tested.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_F(Cli, HelpOfACommandCanBeAskedForInTwoWays) {
  EXPECT_EQ(backstop({"help", "run"}).out, backstop({"run", "--help"}).out);
  EXPECT_EQ(backstop({"help"}).out, backstop({"-h"}).out);
}

TEST_F(Cli, TheFirstWordOfATwoWordCommandSuggestsTheWholeCommand) {
  const auto outcome = backstop({"plugin", "chek", "x.so"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("there is no command `plugin`\nhint: did you mean `plugin "
                                     "check`?"));
}

TEST_F(Cli, ShowsItsVersionEverywhere) {
  const auto outcome = backstop({"--version"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out,
              MatchesRegex("backstop [0-9.]+ \\(SDK ABI [0-9.]+, LibTorch [0-9.]+\\)\n"));
  for (const char* command : {"run", "check", "list", "inspect", "doctor"})
    EXPECT_EQ(backstop({command, "--version"}).out, outcome.out) << command;
}

// -- usage errors --

struct UsageCase {
  const char* name;
  std::vector<std::string> arguments;
  const char* message;
  const char* hint;
};

class CliUsage : public Cli, public ::testing::WithParamInterface<UsageCase> {};

TEST_P(CliUsage, IsRefusedWithASentence) {
  const auto outcome = backstop(GetParam().arguments);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err, StartsWith("error: " + std::string(GetParam().message) + "\n"));
  EXPECT_THAT(outcome.err, HasSubstr(GetParam().hint));
}

INSTANTIATE_TEST_SUITE_P(
    Lines, CliUsage,
    ::testing::Values(
        UsageCase{"NoCommand", {}, "no command was given", "hint: see `backstop --help`"},
        UsageCase{"MisspeltCommand",
                  {"chekc", "x.toml"},
                  "there is no command `chekc`",
                  "hint: did you mean `check`?\n"},
        UsageCase{"MisspeltHelp", {"help", "lits"}, "there is no command `lits`", "`list`"},
        UsageCase{
            "OptionBeforeCommand", {"--json", "list"}, "there is no option `--json`", "hint:"},
        UsageCase{"MisspeltOption",
                  {"run", "x.toml", "--frehs"},
                  "`run` has no option `--frehs`",
                  "hint: did you mean `--fresh`?\n"},
        UsageCase{"PrefixOfAnOption",
                  {"run", "x.toml", "--verb"},
                  "`run` has no option `--verb`",
                  "`backstop run --help`"},
        UsageCase{"UnknownLetter", {"list", "-x"}, "`list` has no option `-x`", "hint:"},
        UsageCase{"NoValue", {"run", "x.toml", "--out"}, "option `--out` needs a value", "hint:"},
        UsageCase{
            "EmptyValue", {"run", "x.toml", "--out="}, "option `--out` needs a value", "hint:"},
        UsageCase{"NeedlessValue", {"list", "--json=1"}, "option `--json` takes no value", "hint:"},
        UsageCase{"ValueTwice",
                  {"run", "x.toml", "--out", "a", "--out", "b"},
                  "option `--out` was given more than once",
                  ""},
        UsageCase{"FlagTwice",
                  {"list", "--json", "--json"},
                  "option `--json` was given more than once",
                  "hint:"},
        UsageCase{"WrongColor",
                  {"list", "--color", "blue"},
                  "option `--color` must be auto, always or never, got `blue`",
                  ""},
        UsageCase{"NoArgument", {"check"}, "`check` needs a RECIPE", "`backstop check --help`"},
        UsageCase{"TwoArguments",
                  {"inspect", "a", "b"},
                  "`inspect` takes one THING, got 2: `a`, `b`",
                  "hint:"},
        UsageCase{
            "NeedlessArgument", {"doctor", "me"}, "`doctor` takes no arguments, got `me`", "hint:"},
        UsageCase{"MisspeltKind",
                  {"list", "defence"},
                  "there is no kind `defence`",
                  "hint: did you mean `defense`?\n"}),
    [](const auto& tested) { return std::string(tested.param.name); });

// `data` crashed here while two types of the host were both called Problem.
TEST_F(Cli, AnInvalidOverrideEndsWithASentence) {
  const std::string recipe = write("good.toml", kRecipe);
  for (const char* command : {"data", "run", "check"})
    for (const auto& [text, key] : {std::pair{"image_size", "`image_size`"},
                                    std::pair{"attack", "`attack`"}, std::pair{"a b=1", "`a b`"}}) {
      const bool data = std::string(command) == "data";
      const auto outcome = backstop({command, data ? "squares" : recipe, "--set", text});
      EXPECT_EQ(outcome.code, 2) << command << " " << text << ", signal " << outcome.signal;
      EXPECT_EQ(outcome.out, "");
      EXPECT_THAT(outcome.err, AllOf(StartsWith("error: "), HasSubstr(key), HasSubstr("hint: ")));
    }
}

TEST_F(Cli, AMissingRecipeIsAUsageError) {
  const auto outcome = backstop({"check", "nowhere.toml"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, AllOf(StartsWith("error: "), HasSubstr("nowhere.toml")));
}

// -- list --

TEST_F(Cli, ListsPluginsByKind) {
  const auto outcome = backstop({"list"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out,
            "ATTACKS\n"
            "  patch    1.2.3  built-in  Stamp a patch\n"
            "\n"
            "DEFENSES\n"
            "  steady   1.0.0  built-in  Has a scheduler's name\n"
            "  tune     1.0.0  built-in  Train on clean data\n"
            "\n"
            "SCHEDULERS\n"
            "  steady   1.0.0  built-in  The same rate at every step\n"
            "\n"
            "DATASETS\n"
            "  squares  1.0.0  built-in  Squares of two colors\n");
  EXPECT_EQ(outcome.err, "1 attack, 2 defenses, 1 scheduler, 1 dataset\n");
}

TEST_F(Cli, ListsOneKind) {
  const auto outcome = backstop({"list", "schedulers"});
  EXPECT_EQ(outcome.out, "SCHEDULERS\n  steady  1.0.0  built-in  The same rate at every step\n");
  EXPECT_EQ(backstop({"list", "scheduler"}).out, outcome.out);
}

TEST_F(Cli, ListShowsRefusedPluginsWithTheReason) {
  const std::string file = write("plugins/broken.so", "no library");
  const auto outcome = backstop({"list", "--plugin-path", (folder_ / "plugins").string()});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out, MatchesRegex("(.|\n)*\n  broken +" + file + "  refused: [^\n]+\n"));
  EXPECT_THAT(outcome.err, HasSubstr("`backstop inspect " + file + "`"));
}

TEST_F(Cli, ListShowsShadowedPlugins) {
  const fs::path built_in =
      fs::path(BACKSTOP_PROGRAM) / "../../lib/backstop/plugins/attacks/patch.so";
  fs::create_directories(folder_ / "mine");
  fs::copy_file(built_in.lexically_normal(), folder_ / "mine/patch.so");
  const auto outcome = backstop({"list", "attack", "--plugin-path", (folder_ / "mine").string()});
  EXPECT_THAT(outcome.out, HasSubstr((folder_ / "mine/patch.so").string() + "  Stamp a patch\n"));
  EXPECT_THAT(outcome.out, MatchesRegex("(.|\n)*patch +1.2.3  built-in +not used: [^\n]+\n"));
}

TEST_F(Cli, ListsAsJson) {
  const std::string file = write("plugins/broken.so", "no library");
  const auto outcome =
      backstop({"list", "--json", "--plugin-path", (folder_ / "plugins").string()});
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["schema"], 1);
  ASSERT_EQ(json["plugins"].size(), 6U);
  const auto& broken = json["plugins"][0];
  EXPECT_EQ(broken["path"], file);
  EXPECT_TRUE(broken["kind"].is_null());
  EXPECT_FALSE(broken["refusal"]["message"].get<std::string>().empty());
  EXPECT_EQ(json["plugins"][1]["name"], "patch");
  EXPECT_EQ(json["plugins"][1]["kind"], "attack");
  EXPECT_TRUE(json["plugins"][1]["refusal"].is_null());
}

// -- inspect --

TEST_F(Cli, InspectShowsTheWholeManifest) {
  const auto outcome = backstop({"inspect", "patch"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_THAT(outcome.out, AllOf(StartsWith("patch  1.2.3 (attack)\nStamp a patch\n"),
                                 HasSubstr("  license    Apache-2.0\n  reference  A Paper, 2017\n"),
                                 HasSubstr("\nPARAMETERS\n"), HasSubstr("Side of the patch\n"),
                                 HasSubstr("\nRECIPE\n")));
  EXPECT_THAT(outcome.out, MatchesRegex("(.|\n)*  sha256     [0-9a-f]{64}\n(.|\n)*"));
  EXPECT_THAT(outcome.out, MatchesRegex("(.|\n)* size +integer +3 +1 .. 8 +pixels\n +Side(.|\n)*"));
  EXPECT_THAT(
      outcome.out,
      MatchesRegex(
          "(.|\n)* corner +choice +\"lower-right\" +upper-left, lower-right\n +Where(.|\n)*"));
  EXPECT_THAT(outcome.out, MatchesRegex("(.|\n)* strength +float +0.5 +> 0\n +Weight(.|\n)*"));
}

TEST_F(Cli, InspectAsksForTheKindWhenTwoPluginsShareAName) {
  const auto outcome = backstop({"inspect", "steady"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err,
            "error: several plugins are called `steady`: defense, scheduler\n"
            "hint: use `backstop inspect defense/steady` or `backstop inspect scheduler/steady`\n");
  EXPECT_THAT(backstop({"inspect", "scheduler/steady"}).out,
              StartsWith("steady  1.0.0 (scheduler)\n"));
  EXPECT_THAT(backstop({"inspect", "defense/steady"}).out, StartsWith("steady  1.0.0 (defense)\n"));
}

TEST_F(Cli, InspectTakesAFile) {
  const fs::path file = (fs::path(BACKSTOP_PROGRAM) / "../../lib/backstop/plugins/attacks/patch.so")
                            .lexically_normal();
  const auto outcome = backstop({"inspect", file.string()});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out, StartsWith("patch  1.2.3 (attack)\n"));
}

TEST_F(Cli, InspectSaysWhyAFileIsRefused) {
  const std::string file = write("broken.so", "no library");
  const auto outcome = backstop({"inspect", file, "--json"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, StartsWith("error: "));
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["path"], file);
  EXPECT_EQ(json["sha256"].get<std::string>().size(), 64U);
  EXPECT_THAT(outcome.err, HasSubstr(json["refusal"]["message"].get<std::string>()));
}

TEST_F(Cli, InspectOfAnUnknownNameSuggestsTheNearest) {
  const auto outcome = backstop({"inspect", "pathc"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_EQ(outcome.err, "error: there is no plugin `pathc`\nhint: did you mean `patch`?\n");
  EXPECT_EQ(backstop({"inspect", "nowhere/x.so"}).err,
            "error: there is no plugin file `nowhere/x.so`\n");
}

TEST_F(Cli, InspectsAsJson) {
  const auto json = nlohmann::json::parse(backstop({"inspect", "patch", "--json"}).out);
  EXPECT_EQ(json["kind"], "attack");
  EXPECT_EQ(json["built_in"], true);
  EXPECT_EQ(json["built"]["cxx11_abi"], true);
  const auto& parameters = json["parameters"];
  ASSERT_EQ(parameters.size(), 3U);
  const auto size = std::find_if(parameters.begin(), parameters.end(),
                                 [](const auto& parameter) { return parameter["key"] == "size"; });
  ASSERT_NE(size, parameters.end());
  EXPECT_EQ((*size)["default"], 3);
  EXPECT_EQ((*size)["maximum"], 8);
}

// -- check --

TEST_F(Cli, CheckShowsWhatARecipeWouldDo) {
  const auto outcome = backstop({"check", write("good.toml", kRecipe)});
  EXPECT_EQ(outcome.err, "");
  EXPECT_EQ(outcome.out, "standalone: patch on squares, 1 defense; ok\n");
  EXPECT_EQ(outcome.code, 0);
}

TEST_F(Cli, CheckCountsTheRunsOfAMatrix) {
  const auto file = write("matrix.toml", std::string(kRecipe) + "[matrix]\nseed = [0, 1, 2]\n");
  EXPECT_EQ(backstop({"check", file}).out, "standalone: patch on squares, 1 defense; 3 runs; ok\n");
}

TEST_F(Cli, CheckShowsEveryMistake) {
  const auto file = write("bad.toml", std::string(kRecipe) + "epoch = 3\nepochs = -1\n");
  const auto outcome = backstop({"check", file});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("bad.toml:24:"), HasSubstr("bad.toml:23:"),
                                 HasSubstr("`epochs`"), Not(HasSubstr("\033["))));
  EXPECT_THAT(backstop({"check", file, "--color", "always"}).err, HasSubstr("\033["));
}

TEST_F(Cli, CheckTakesOverrides) {
  const auto file = write("good.toml", kRecipe);
  EXPECT_EQ(backstop({"check", file, "--set", "defense.0.epochs=2"}).code, 0);
  const auto outcome = backstop({"check", file, "--set", "defense.0.epochs=-1"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("--set defense.0.epochs=-1"));
}

TEST_F(Cli, ChecksAsJson) {
  const auto file = write("bad.toml", std::string(kRecipe) + "epoch = 3\n");
  const auto outcome = backstop({"check", file, "--json"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "");
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["ok"], false);
  ASSERT_EQ(json["diagnostics"].size(), 1U);
  EXPECT_EQ(json["diagnostics"][0]["line"], 23);
  EXPECT_EQ(json["diagnostics"][0]["severity"], "error");
}

// -- run --

TEST_F(Cli, RunShowsTheTableOnStdoutAndTheRestOnStderr) {
  const auto outcome = backstop({"run", write("good.toml", kRecipe), "--out", "elsewhere"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("no defense     0.900    1.000"),
                    HasSubstr("mended         0.900    0.100"), HasSubstr("(n = 900)")));
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("[attack] patch: epoch 1/2  loss 0.412  clean accuracy "
                                           "0.832  attack success 1.000\n"),
                                 HasSubstr("warning: [attack] patch: careful {}\n"),
                                 HasSubstr("\nwrote elsewhere/fake/0\n")));
}

TEST_F(Cli, RunWritesEventsAsJsonLines) {
  const auto outcome = backstop({"run", write("good.toml", kRecipe), "--json"});
  EXPECT_EQ(outcome.code, 0);
  std::istringstream lines(outcome.out);
  std::vector<std::string> events;
  for (std::string line; std::getline(lines, line);)
    events.push_back(nlohmann::json::parse(line)["event"]);
  EXPECT_THAT(events, ::testing::ElementsAre("run_started", "stage_started", "epoch", "log",
                                             "run_finished"));
  EXPECT_THAT(outcome.err, Not(HasSubstr("epoch")));
}

TEST_F(Cli, RunSummarizesTheRunsOfAMatrix) {
  const auto file = write("matrix.toml", std::string(kRecipe) +
                                             "[matrix]\nseed = [0, 2]\n"
                                             "\"attack.size\" = [3, 5]\n");
  const auto outcome = backstop({"run", file});
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("\nattack.size = 5\n"),
                                 HasSubstr("mended      0.910 ± 0.014 (2)  0.100 ± 0.000 (2)\n"),
                                 HasSubstr("\nattack.size = 3, seed 2\n")));
}

TEST_F(Cli, RunChecksFirst) {
  const auto outcome = backstop({"run", write("bad.toml", std::string(kRecipe) + "epoch = 3\n")});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("`epoch`"), Not(HasSubstr("[attack]"))));
}

TEST_F(Cli, RunReportsTheEnginesExitCodeAndReason) {
  const auto outcome = backstop({"run", write("good.toml", kRecipe), "--set", "name=fails"});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("\nerror: no space left\nhint: make some\n"));
}

TEST_F(Cli, ABugAsksToBeReported) {
  const auto outcome = backstop({"run", write("good.toml", kRecipe), "--set", "name=breaks"});
  EXPECT_EQ(outcome.code, 5);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("\nerror: internal error: vector::at\nhint: "),
                                 HasSubstr("please report it")));
}

TEST_F(Cli, RunWithoutAnEngineNamesTheMissingFile) {
  fs::create_directories(folder_ / "bin");
  fs::copy_file(BACKSTOP_PROGRAM, folder_ / "bin/backstop");
  const fs::path plugins =
      (fs::path(BACKSTOP_PROGRAM) / "../../lib/backstop/plugins").lexically_normal();
  Start start =
      this->start({"run", write("good.toml", kRecipe), "--plugin-path", plugins.string()});
  start.program = (folder_ / "bin/backstop").string();
  const auto outcome = Process(start).wait();
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("error: the engine `" +
                                     (folder_ / "lib/backstop/libbackstop_engine.so").string() +
                                     "` does not exist\n"));
}

TEST_F(Cli, FirstSignalStopsTheRunCleanly) {
  for (const auto& [signal, code] : {std::pair{SIGINT, 130}, std::pair{SIGTERM, 143}}) {
    Process process(start({"run", write("good.toml", kRecipe), "--set", "name=waits"}));
    process.wait_for_error_text("batches");
    process.send(signal);
    const auto outcome = process.wait();
    EXPECT_EQ(outcome.code, code);
    EXPECT_THAT(outcome.err,
                AllOf(HasSubstr("wrote runs/waits/0\n"), HasSubstr("error: interrupted\n")));
  }
}

TEST_F(Cli, SecondSignalEndsTheProgram) {
  Process process(start({"run", write("good.toml", kRecipe), "--set", "name=stuck"}));
  process.wait_for_error_text("batches");
  process.send(SIGINT);
  process.send(SIGTERM);
  // The kernel chooses which of two pending signals is the second.
  EXPECT_THAT(process.wait().signal, AnyOf(SIGINT, SIGTERM));
}

TEST_F(Cli, WhatWasToldBeforeACrashIsNotToldAgain) {
  const auto outcome =
      backstop({"run", write("good.toml", kRecipe), "--set", "name=crashes", "--fresh"});
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  const std::string failed = "failed: defense `tune` crashed in run: SIGSEGV (segmentation fault)";
  for (const std::string& once :
       {std::string("[attack] patch: started"), "[defense] mended: " + failed})
    EXPECT_EQ(outcome.err.find(once), outcome.err.rfind(once)) << once << '\n' << outcome.err;
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("warning: [defense] mended: " + failed + "\n"),
                    HasSubstr("\nerror: defense `tune` crashed in run: SIGSEGV"),
                    HasSubstr("hint: the plugin is "), HasSubstr("/defenses/tune.so; `gdb -ex run"),
                    HasSubstr("--set name=crashes --one-process` shows where\n")));
  EXPECT_THAT(outcome.out, HasSubstr("mended"));
}

TEST_F(Cli, WhatGivesNoSignOfLifeIsEndedAfterTheLimit) {
  const auto outcome =
      backstop({"run", write("good.toml", kRecipe), "--set", "name=hangs", "--stall-limit", "1"});
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  EXPECT_THAT(outcome.err,
              HasSubstr("error: defense `tune` did not return from run: no sign of life for 1 s"));
  EXPECT_EQ(backstop({"run", write("good.toml", kRecipe), "--stall-limit", "-1"}).code, 2);
}

TEST_F(Cli, InOneProcessACrashEndsTheProgram) {
  const auto outcome =
      backstop({"run", write("good.toml", kRecipe), "--set", "name=crashes", "--one-process"});
  EXPECT_EQ(outcome.signal, SIGSEGV);
  EXPECT_THAT(outcome.err, HasSubstr("error: SIGSEGV during the call of defense `tune` in run\n"));
}

TEST_F(Cli, ProgressCanBeTurnedOff) {
  Start quiet = start({"run", write("good.toml", kRecipe)});
  EXPECT_THAT(Process(quiet).wait().err, HasSubstr("batches"));
  quiet.environment["BACKSTOP_NO_PROGRESS"] = "1";
  EXPECT_THAT(Process(quiet).wait().err, Not(HasSubstr("batches")));
}

// -- streams --

TEST_F(Cli, ColorsFollowOptionAndEnvironment) {
  EXPECT_THAT(backstop({"list"}).out, Not(HasSubstr("\033[")));
  EXPECT_THAT(backstop({"list", "--color", "always"}).out, HasSubstr("\033[1m"));
  Start forced = start({"list"});
  forced.environment["CLICOLOR_FORCE"] = "1";
  EXPECT_THAT(Process(forced).wait().out, HasSubstr("\033[1m"));
  forced.environment["NO_COLOR"] = "1";
  EXPECT_THAT(Process(forced).wait().out, Not(HasSubstr("\033[")));
}

TEST_F(Cli, AReaderThatWentAwayIsNotAnError) {
  Start unread = start({"run", write("good.toml", kRecipe), "--json"});
  unread.nobody_reads = true;
  const auto outcome = Process(unread).wait();
  EXPECT_EQ(outcome.code, 0) << outcome.signal << outcome.err;
}

TEST_F(Cli, ClosedStandardOutputDoesNotStopARun) {
  Start closed = start({"run", write("good.toml", kRecipe)});
  closed.standard_output = "-";
  EXPECT_EQ(Process(closed).wait().code, 0);
}

TEST_F(Cli, FullDiskBehindStandardOutputIsReported) {
  for (const auto& arguments :
       {std::vector<std::string>{"list"}, {"run", write("good.toml", kRecipe)}}) {
    Start full = start(arguments);
    full.standard_output = "/dev/full";
    const auto outcome = Process(full).wait();
    EXPECT_EQ(outcome.code, 4);
    EXPECT_THAT(outcome.err, HasSubstr("error: cannot write to standard output: "));
  }
}

// -- what it costs --

TEST_F(Cli, NeedsNoLibTorch) {
  const auto outcome = Process(Start{"readelf", {"-d", BACKSTOP_PROGRAM}}).wait();
  ASSERT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out, HasSubstr("NEEDED"));
  EXPECT_THAT(outcome.out, AllOf(Not(HasSubstr("libtorch")), Not(HasSubstr("libc10"))));
}

#ifndef BACKSTOP_SANITIZED
TEST_F(Cli, AnswersAtOnce) {
  // 50 ms is the promise; three times as much keeps a busy machine from failing the test.
  constexpr auto kLimit = std::chrono::milliseconds(150);
  for (const auto& arguments :
       {std::vector<std::string>{"--help"}, {"list"}, {"inspect", "patch"}}) {
    std::array<std::chrono::steady_clock::duration, 5> times{};
    for (auto& time : times) {
      const auto before = std::chrono::steady_clock::now();
      EXPECT_EQ(backstop(arguments).code, 0);
      time = std::chrono::steady_clock::now() - before;
    }
    std::nth_element(times.begin(), times.begin() + 2, times.end());
    EXPECT_LT(times[2], kLimit) << arguments[0];
  }
}
#endif

}  // namespace
