// Runs that are killed, that share a folder, or whose folder is damaged: nothing is lost, nothing is
// left behind, and every number is the one of an undisturbed run.

#include <csignal>
#include <cstdlib>
#include <thread>

#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class Survival : public EndToEnd {
 protected:
  /// Of everything below --out that is not a result: locks and unfinished files.
  [[nodiscard]] std::vector<std::string> leftovers() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(out()))
      if (const std::string name = entry.path().filename().string();
          name.starts_with('.') && name != ".stages")
        names.push_back(entry.path().string());
    return names;
  }
  [[nodiscard]] static std::string status(const fs::path& run) {
    return nlohmann::json::parse(read(run / "run.json")).value("status", "");
  }
  [[nodiscard]] std::vector<std::string> statuses() const {
    std::vector<std::string> all;
    for (const fs::path& run : runs())
      if (fs::exists(run / "run.json")) all.push_back(status(run));
    return all;
  }
  /// The numbers of a run in a folder of its own.
  [[nodiscard]] nlohmann::json undisturbed() const {
    Start start = command();
    start.arguments[3] = (folder_ / "undisturbed").string();
    EXPECT_EQ(Process(start).wait().code, 0);
    return numbers(fs::directory_iterator(folder_ / "undisturbed" / "small")->path());
  }
  [[nodiscard]] static int trainings_in(const Outcome& outcome) {
    return outcome.err.find("[attack] badnets: started") == std::string::npos ? 0 : 1;
  }
  /// Started together.
  [[nodiscard]] std::vector<Outcome> run_at_once(const std::vector<Start>& starts) const {
    std::vector<Process> processes(starts.begin(), starts.end());
    std::vector<Outcome> outcomes(starts.size());
    std::vector<std::thread> threads;  // each reads its own process's output
    for (std::size_t i = 0; i < starts.size(); ++i)
      threads.emplace_back([&, i] { outcomes[i] = processes[i].wait(); });
    for (auto& thread : threads) thread.join();
    return outcomes;
  }
};

TEST_F(Survival, FourProcessesTrainTheAttackOnce) {
  const auto outcomes = run_at_once({4, command()});
  int trainings = 0;
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    trainings += trainings_in(outcome);
  }
  EXPECT_EQ(trainings, 1);
  ASSERT_EQ(runs().size(), 4U);
  const auto expected = undisturbed();
  for (const fs::path& run : runs()) EXPECT_EQ(numbers(run), expected) << run;
  EXPECT_THAT(leftovers(), IsEmpty());
}

TEST_F(Survival, FreshProcessesDoNotDisturbEachOther) {
  ASSERT_EQ(run().code, 0);
  const auto outcomes = run_at_once({3, command({"--fresh"})});
  int trainings = 0;
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    trainings += trainings_in(outcome);
  }
  EXPECT_GE(trainings, 1) << "what was there before is not fresh";
  for (const fs::path& run : runs()) EXPECT_EQ(numbers(run), numbers(runs()[0])) << run;
  EXPECT_THAT(leftovers(), IsEmpty());
}

TEST_F(Survival, ProcessesOfTwoNamespacesWithTheSameNumberShareAFolder) {
  const auto in_namespace = [&](const char* seed) {
    Start start = command({"--set", std::string("seed=") + seed});
    start.arguments.insert(start.arguments.begin(),
                           {"--user", "--map-root-user", "--pid", "--fork", start.program});
    start.program = "/usr/bin/unshare";
    return start;
  };
  if (Process({"/usr/bin/unshare", {"--user", "--map-root-user", "--pid", "--fork", "/bin/true"}})
          .wait()
          .code != 0)
    GTEST_SKIP() << "this system has no namespaces for this user";
  for (int turn = 0; turn < 3; ++turn) {
    fs::remove_all(out());
    for (const Outcome& outcome : run_at_once({in_namespace("3"), in_namespace("4")}))
      EXPECT_EQ(outcome.code, 0) << outcome.err;
    for (const fs::path& run : runs())
      if (nlohmann::json::parse(read(run / "run.json"))["seed"] == 3) {
        EXPECT_EQ(numbers(run), undisturbed());
      }
  }
}

// BACKSTOP_TEST_ALL_KILLS=1: at each operation, not at every 23rd.
TEST_F(Survival, AKillAtAnyOperationOnFilesLosesNothing) {
  const auto expected = undisturbed();
  const int step = std::getenv("BACKSTOP_TEST_ALL_KILLS") != nullptr ? 1 : 23;
  int kills = 0;
  for (int operation = 1;; operation += step) {
    fs::remove_all(out());
    Start start = command();
    start.environment["LD_PRELOAD"] = BACKSTOP_FILE_OPERATIONS;
    start.environment["BACKSTOP_TEST_KILL_AT"] = std::to_string(operation);
    const Outcome killed = Process(start).wait();
    if (killed.signal != SIGKILL) {
      EXPECT_EQ(killed.code, 0) << killed.err;
      break;
    }
    ++kills;
    if (fs::exists(out() / "small")) {
      EXPECT_THAT(statuses(), Each(AnyOf("unfinished", "finished")));
    }
    const Outcome again = run();
    EXPECT_EQ(again.code, 0) << "operation " << operation << ": " << again.err;
    EXPECT_THAT(again.err, Not(HasSubstr("made again"))) << "operation " << operation;
    EXPECT_EQ(numbers(runs().back()), expected) << "operation " << operation;
    EXPECT_THAT(leftovers(), IsEmpty()) << "operation " << operation;
    EXPECT_THAT(statuses(), Each(AnyOf("killed", "finished"))) << "operation " << operation;
  }
  EXPECT_GT(kills, 100 / step);
}

TEST_F(Survival, ARunThatFinishedSaysSoAfterEverythingElse) {
  write_recipe(std::string(kRecipe) + "[expect.plain]\nclean_accuracy = { minimum = 0 }\n");
  ASSERT_EQ(run().code, 0);
  Start start = command();
  start.environment["LD_PRELOAD"] = BACKSTOP_FILE_OPERATIONS;
  start.environment["BACKSTOP_TEST_COUNT"] = (folder_ / "count").string();
  ASSERT_EQ(Process(start).wait().code, 0);
  int unfinished = 0;
  for (int operation = std::stoi(read(folder_ / "count")); unfinished < 2; --operation) {
    start.environment["BACKSTOP_TEST_KILL_AT"] = std::to_string(operation);
    ASSERT_EQ(Process(start).wait().signal, SIGKILL);
    unfinished += status(runs().back()) == "unfinished" ? 1 : 0;
    // Up to two operations before "finished", all else is there.
    for (const char* file : {"results.csv", "report.html"})
      EXPECT_TRUE(fs::exists(runs().back() / file)) << file;
    EXPECT_EQ(numbers(runs().back()), numbers(runs().front()));
  }
}

TEST_F(Survival, AHangupEndsARunInOrder) {
  write_recipe(kRecipe);
  Process process(command({"--set", "attack.training.epochs=100000"}));
  process.wait_for_error_text("epoch 2/100000");
  process.send(SIGHUP);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 129);
  EXPECT_THAT(outcome.err, HasSubstr("this training goes on "));
  EXPECT_EQ(status(runs().at(0)), "interrupted");
  EXPECT_THAT(leftovers(), IsEmpty());
}

TEST_F(Survival, AStoreThatCannotBeWrittenEndsTheRunBeforeTheTraining) {
  fs::create_directories(out());
  std::ofstream(out() / ".stages") << "a file";
  const Outcome outcome = run();
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr(".stages"));
  EXPECT_THAT(outcome.err, Not(HasSubstr("epoch")));
}

TEST_F(Survival, OfWhatCannotBeReadInTheStoreASentenceIsSaidOnce) {
  ASSERT_EQ(run().code, 0);
  for (const auto& stage : fs::directory_iterator(out() / ".stages")) {
    fs::remove(stage.path() / "key.json");
    fs::create_directories(stage.path() / "key.json");
  }
  const Outcome outcome = run();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const auto first = outcome.err.find("[attack] badnets: cannot read ");
  ASSERT_NE(first, std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("[attack] badnets: cannot read ", first + 1), std::string::npos);
  EXPECT_EQ(numbers(runs()[0]), numbers(runs()[1]));
}

TEST_F(Survival, ADefenseThatFailsDoesNotEndTheOthers) {
  const Outcome outcome =
      run({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
           "defense=[{ plugin = \"probe\", action = \"throw\" }, { plugin = \"fine-tuning\", name "
           "= \"plain\", epochs = 1, scheduler = { plugin = \"constant\", rate = 0.01 } }]"});
  EXPECT_EQ(outcome.code, 3);
  const auto results = nlohmann::json::parse(read(runs().at(0) / "results.json"));
  EXPECT_TRUE(row(results, "plain")["metrics"]["clean_accuracy"].is_number());
  EXPECT_THAT(row(results, "probe")["warning"].get<std::string>(), StartsWith("failed: "));
  EXPECT_EQ(status(runs()[0]), "failed");
}

TEST_F(Survival, AChildThatAPluginLeavesIsEndedAndSaid) {
  const Outcome outcome = run({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
                               "defense=[{ plugin = \"probe\", action = \"leave-child\" }]"});
  // The child would keep stderr open, and this would not have returned.
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("a plugin left a process running after it had returned"));
}

TEST_F(Survival, AnAttackThatFailsLeavesFailedRowsAndUnmetExpectations) {
  write_recipe(std::string(kRecipe) + "[expect.plain]\nclean_accuracy = { minimum = 0 }\n");
  const Outcome outcome = run({"--set", "attack.training.scheduler.rate=1e30"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.out, HasSubstr("failed: "));
  const auto results = nlohmann::json::parse(read(runs().at(0) / "results.json"));
  EXPECT_EQ(results["rows"].size(), 3U);
  EXPECT_FALSE(results["expectations"].at(0)["met"].get<bool>());
}

TEST_F(Survival, AnAttackFileThatIsNotWholeIsNamed) {
  ASSERT_EQ(run().code, 0);
  const fs::path models = runs().at(0) / "models";
  const Outcome outcome =
      run({"--set", "attack.file=" + (models / "no-defense.safetensors").string(), "--set",
           "model.file=" + (models / "no-defense.safetensors").string()});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("no-defense.safetensors holds a tensor"));
}

TEST_F(Survival, ACombinationThatFailsDoesNotEndTheMatrix) {
  write_recipe(std::string(kRecipe) + "[matrix]\n\"defense.1.clean_images\" = [100, 1000, 50]\n");
  const Outcome outcome = run();
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(runs().size(), 3U);
  EXPECT_THAT(outcome.err, HasSubstr("1 of 3 runs failed"));
  EXPECT_THAT(outcome.err, HasSubstr("1000 clean images"));
  EXPECT_THAT(statuses(), Contains("finished").Times(2));
  EXPECT_THAT(outcome.out, HasSubstr("failed"));
}

}  // namespace
}  // namespace backstop::testing
