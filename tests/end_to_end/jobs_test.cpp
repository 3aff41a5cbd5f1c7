// The combinations of a matrix side by side, in processes of their own.
#include <csignal>
#include <map>

#include <sched.h>

#include <sys/stat.h>

#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Jobs : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    write_matrix("seed = [0, 1]\n\"attack.plugin\" = [\"badnets\", \"blended\"]\n");
  }
  void write_matrix(const std::string& lists) const {
    write_recipe(std::string(kRecipe) + "\n[matrix]\n" + lists);
  }
  /// The numbers of all runs, by recipe.
  [[nodiscard]] std::map<std::string, nlohmann::json> all_numbers() const {
    std::map<std::string, nlohmann::json> all;
    for (const auto& run : runs()) {
      const auto results = numbers(run);
      all[results["recipe_sha256"]] = results;
    }
    return all;
  }
  [[nodiscard]] static std::size_t count(const std::string& text, const std::string& what) {
    std::size_t n = 0;
    for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
    return n;
  }
};

TEST_F(Jobs, GiveTheNumbersOfOneAfterAnother) {
  ASSERT_EQ(run({"--jobs", "1"}).code, 0);
  const auto one_after_another = all_numbers();
  ASSERT_EQ(one_after_another.size(), 4u);
  fs::remove_all(out());
  const Outcome outcome = run({"--jobs", "3"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(all_numbers(), one_after_another);
  for (const char* label : {"1/4 [attack]", "2/4 [attack]", "3/4 [attack]", "4/4 [attack]"})
    EXPECT_THAT(outcome.err, HasSubstr(label));
  EXPECT_THAT(outcome.out, HasSubstr("±"));
}

TEST_F(Jobs, OfOneModelTrainItOnce) {
  write_matrix("\"defense.0.epochs\" = [1, 2, 3]\n");
  const Outcome outcome = run({"--jobs", "3"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(count(outcome.err, "[attack] badnets: started"), 1u) << outcome.err;
  EXPECT_EQ(count(outcome.err, "[attack] badnets: cached"), 2u) << outcome.err;
}

TEST_F(Jobs, OfOtherModelsGoBeforeThoseThatWouldWait) {
  write_matrix("\"attack.plugin\" = [\"badnets\", \"blended\"]\n\"defense.0.epochs\" = [1, 2]\n");
  const Outcome outcome = run({"--jobs", "2"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, Not(HasSubstr("waiting for"))) << outcome.err;
  EXPECT_EQ(count(outcome.err, ": started"), 4 + 2 + 2 * 2 + 2u) << outcome.err;
}

TEST_F(Jobs, ThatFailCostTheirRows) {
  write_matrix("seed = [3, 4, 5]\n");
  const Outcome outcome =
      run({"--jobs", "3", "--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
           "defense=[{ plugin = \"probe\", action = \"segfault\" }, { plugin = \"clp\" }]"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("error: 3 of 3 runs failed"));
  EXPECT_EQ(count(outcome.err, "[defense] probe: failed: defense `probe` crashed in run: SIGSEGV"),
            3u)
      << outcome.err;
  for (const auto& [recipe, results] : all_numbers())
    EXPECT_TRUE(row(results, "clp")["metrics"].contains("clean_accuracy"));
}

TEST_F(Jobs, AreAllInterrupted) {
  Process process(command({"--jobs", "2", "--set", "attack.training.epochs=100000"}));
  process.wait_for_error_text("1/4 [attack] badnets: epoch 2/100000");
  process.wait_for_error_text("2/4 [attack] blended: epoch 2/100000");
  process.send(SIGINT);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 130) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("error: interrupted"));
  ASSERT_EQ(runs().size(), 2u) << "no more are started";
  for (const auto& run : runs())
    EXPECT_EQ(nlohmann::json::parse(read(run / "run.json"))["status"], "interrupted");
}

TEST_F(Jobs, EndWithTheProgramThatStartedThem) {
  Process process(command({"--jobs", "2", "--set", "attack.training.epochs=100000"}));
  process.wait_for_error_text("1/4 [attack] badnets: epoch 1/100000");
  process.wait_for_error_text("2/4 [attack] blended: epoch 1/100000");
  process.send(SIGKILL);
  (void)process.wait();
  ASSERT_EQ(run({"--jobs", "2"}).code, 0) << "and what they held is free";
  EXPECT_EQ(nlohmann::json::parse(read(runs().at(0) / "run.json"))["status"], "killed");
  EXPECT_EQ(nlohmann::json::parse(read(runs().at(1) / "run.json"))["status"], "killed");
}

TEST_F(Jobs, ShareTheCoresAndRecordIt) {
  cpu_set_t set;
  CPU_ZERO(&set);
  ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  const int share = std::max(1, CPU_COUNT(&set) / 2);
  write_matrix("seed = [0, 1]\n");
  const Outcome outcome = run({"--jobs", "2", "--set", "compute.threads=0", "--set", "defense=[]"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const auto& run : runs()) {
    EXPECT_EQ(nlohmann::json::parse(read(run / "run.json"))["compute"]["threads"], share);
    EXPECT_THAT(read(run / "recipe.toml"), HasSubstr("threads = " + std::to_string(share)));
  }
}

TEST_F(Jobs, NumberTheEventsOfTheirRuns) {
  const Outcome outcome = run({"--jobs", "2", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  std::istringstream lines(outcome.out);
  std::map<int, int> finished;
  for (std::string line; std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] == "run_finished") ++finished[event["number"]];
  }
  EXPECT_EQ(finished, (std::map<int, int>{{1, 1}, {2, 1}, {3, 1}, {4, 1}}));
}

TEST_F(Jobs, RunWhatTheRecipeSaidWhenTheyWereStarted) {
  const std::string text = read(recipe());
  fs::remove(recipe());
  ASSERT_EQ(::mkfifo(recipe().c_str(), 0600), 0);
  Process process(command({"--jobs", "2"}));
  std::ofstream(recipe()) << text;  // a pipe can be read once
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(runs().size(), 4u);
}

TEST_F(Jobs, MustBeANumberThatMakesSense) {
  for (const char* jobs : {"0", "-1", "two", "2.5", "", "1025", "99999999999999999999"}) {
    const Outcome outcome = run({"--jobs", jobs});
    EXPECT_EQ(outcome.code, 2) << jobs;
    EXPECT_THAT(outcome.err,
                HasSubstr(std::string("option `--jobs` must be a whole number between 1 and 1024, "
                                      "got `") +
                          jobs + "`"));
  }
  const Outcome outcome = run({"--jobs", "2", "--one-process"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("`--jobs` and `--one-process` contradict each other"));
  EXPECT_FALSE(fs::exists(out()));
}

}  // namespace
}  // namespace backstop::testing
