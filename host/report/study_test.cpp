#include "host/report/study.hpp"

#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>

#include "host/base/error.hpp"
#include "host/report/study_fixture.hpp"

namespace backstop::report {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class Studies : public StudyTest {
 protected:
  Study make(StudyOptions options = {}) {
    return make_study(find_runs({path()}), std::move(options));
  }

  static const StudyCell& cell(const Study& study, std::size_t block, const std::string& row,
                               const std::string& key) {
    const auto& rows = study.blocks.at(block).rows;
    const auto found = std::find_if(rows.begin(), rows.end(),
                                    [&](const StudyRow& one) { return one.name == row; });
    const auto metric = std::find_if(study.metrics.begin(), study.metrics.end(),
                                     [&](const Metric* one) { return one->key == key; });
    if (found == rows.end() || metric == study.metrics.end())
      throw std::runtime_error(row + " or " + key + " is not there");
    return found->cells.at(static_cast<std::size_t>(metric - study.metrics.begin()));
  }
};

TEST_F(Studies, TakeTheMeanOverTheSeeds) {
  write_run("a", {.seed = 0, .tuned_success = 0.1});
  write_run("b", {.seed = 1, .tuned_success = 0.2});
  write_run("c", {.seed = 2, .tuned_success = 0.3});
  const Study study = make();
  ASSERT_THAT(study.blocks, SizeIs(1));
  EXPECT_THAT(study.conditions, ElementsAre("dataset.plugin", "attack.plugin"));
  EXPECT_EQ(study.blocks[0].rows[0].name, "no defense");
  const StudyCell& success = cell(study, 0, "tuned", "attack_success_rate");
  EXPECT_EQ(success.spread.n, 3U);
  EXPECT_NEAR(success.spread.mean, 0.2, 1e-12);
  EXPECT_NEAR(*success.spread.deviation, 0.1, 1e-12);
  EXPECT_NEAR(success.difference.mean, 0.2 - 0.98, 1e-12);
  EXPECT_NEAR(*success.difference.deviation, 0.1, 1e-12);
  EXPECT_EQ(cell(study, 0, "no defense", "attack_success_rate").difference.n, 0U);
}

TEST_F(Studies, CompareWithinARunThoughItsBaselineCountsElsewhere) {
  const auto write = [&](const char* folder, double accuracy, bool tuned) {
    auto results = results_of({});
    results["rows"][0]["metrics"]["clean_accuracy"] = accuracy;
    results["rows"].erase(2);
    if (!tuned) results["rows"].erase(1);
    write_run(folder, {}, results);
  };
  write("a", 0.8, false);  // another build
  write("b", 0.9, false);
  write("c", 0.9, true);  // 0.88 with the defense
  const Study study = make();
  EXPECT_EQ(cell(study, 0, "no defense", "clean_accuracy").spread.n, 2U);
  EXPECT_NEAR(cell(study, 0, "tuned", "clean_accuracy").difference.mean, 0.88 - 0.9, 1e-12);
}

// (max(0, 0.98 - 0.2) - max(0, 0.9 - 0.88) + 1) / 2, and a defense that gains accuracy.
TEST_F(Studies, RateDefenses) {
  write_run("a", {.tuned_accuracy = 0.88, .tuned_success = 0.2});
  const Study study = make();
  EXPECT_NEAR(cell(study, 0, "tuned", "defense_effectiveness_rating").spread.mean, 0.88, 1e-12);
  EXPECT_EQ(cell(study, 0, "no defense", "defense_effectiveness_rating").spread.n, 0U);
  write_run("a", {.tuned_accuracy = 0.95, .tuned_success = 0.99});
  EXPECT_NEAR(cell(make(), 0, "tuned", "defense_effectiveness_rating").spread.mean, 0.5, 1e-12);
}

TEST_F(Studies, TellRunsOfOtherConditionsApart) {
  write_run("a", {.attack = "blended", .parameters = "alpha = 0.2\n"});
  write_run("b", {.attack = "badnets"});
  write_run("c", {.attack = "blended", .parameters = "alpha = 0.1\n"});
  write_run("d", {.attack = "badnets", .dataset = "gtsrb"});
  const Study study = make();
  EXPECT_THAT(study.conditions, ElementsAre("dataset.plugin", "attack.plugin", "attack.alpha"));
  ASSERT_THAT(study.blocks, SizeIs(4));
  EXPECT_THAT(study.blocks[0].conditions, ElementsAre("cifar10", "badnets", "-"));
  EXPECT_THAT(study.blocks[1].conditions, ElementsAre("cifar10", "blended", "0.1"));
  EXPECT_THAT(study.blocks[3].conditions, ElementsAre("gtsrb", "badnets", "-"));
}

TEST_F(Studies, CountRunsThatDifferInAnIgnoredKeyTogether) {
  write_run("a", {.seed = 0, .parameters = "target = 0\n"});
  write_run("b", {.seed = 1, .parameters = "target = 3\n"});
  EXPECT_THAT(make().blocks, SizeIs(2));
  const Study study = make({.ignored = {"attack.target"}});
  ASSERT_THAT(study.blocks, SizeIs(1));
  EXPECT_THAT(study.notes, Contains(HasSubstr("`attack.target`")));
  try {
    (void)make({.ignored = {"attack.tarket"}});
    ADD_FAILURE();
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.hint(), "did you mean `attack.target`?");
  }
}

TEST_F(Studies, CountARowThatRunsShareOnce) {
  nlohmann::json first = results_of({}), second = results_of({});
  first["rows"].erase(2);
  second["rows"].erase(1);
  write_run("a", {}, first);
  write_run("b", {}, second);
  const Study study = make();
  EXPECT_EQ(cell(study, 0, "no defense", "clean_accuracy").spread.n, 1U);
  EXPECT_EQ(cell(study, 0, "pruned", "clean_accuracy").spread.n, 1U);
  EXPECT_THAT(study.notes, Contains(HasSubstr("1 row shared by several runs")));
}

TEST_F(Studies, PairWithABaselineOfAnotherRunBySeed) {
  for (const int seed : {0, 1}) {
    const double success = 0.1 + 0.1 * seed;
    nlohmann::json first = results_of({.seed = seed, .tuned_success = success});
    nlohmann::json second = first;
    first["rows"].erase(2);
    second["rows"].erase(1);
    second["rows"][1]["metrics"]["attack_success_rate"] = success + 0.3;
    write_run("a" + std::to_string(seed), {.seed = seed}, first);
    write_run("b" + std::to_string(seed), {.seed = seed}, second);
  }
  const StudyCell pruned = cell(make({.baseline = "tuned"}), 0, "pruned", "attack_success_rate");
  EXPECT_EQ(pruned.difference.n, 2U);
  EXPECT_NEAR(pruned.difference.mean, 0.3, 1e-12);
  EXPECT_NEAR(*pruned.difference.deviation, 0, 1e-12);
}

TEST_F(Studies, RefuseABaselineThatIsNotThere) {
  write_run("a", {});
  try {
    (void)make({.baseline = "tunet"});
    ADD_FAILURE();
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.code(), base::ExitCode::usage);
    EXPECT_EQ(e.hint(), "did you mean `tuned`?");
  }
}

TEST_F(Studies, LeaveOutWhatIsNoResult) {
  write_run("a", {.seed = 0});
  nlohmann::json collapsed = results_of({.seed = 1});
  collapsed["rows"][1]["warning"] = "collapsed: predicts one class";
  write_run("b", {.seed = 1}, collapsed);
  nlohmann::json harmless = results_of({.seed = 2});
  harmless["rows"][0]["warning"] = "attack did not take: x";
  write_run("c", {.seed = 2}, harmless);
  const Study study = make();
  const StudyCell& success = cell(study, 0, "tuned", "attack_success_rate");
  EXPECT_EQ(success.spread.n, 1U);
  EXPECT_EQ(success.left_out.collapsed, 1U);
  EXPECT_EQ(success.left_out.no_backdoor, 1U);
  EXPECT_EQ(success.difference.n, 1U);
  EXPECT_EQ(cell(study, 0, "tuned", "clean_accuracy").spread.n, 2U);
  EXPECT_EQ(cell(study, 0, "tuned", "defense_effectiveness_rating").spread.n, 1U);
  EXPECT_EQ(study.blocks[0].rows[1].places.size(), 3U);
  EXPECT_THAT(
      study.blocks[0].rows[1].warnings,
      ElementsAre("collapsed: predicts one class", "\"no defense\": attack did not take: x"));
}

TEST_F(Studies, SetOffTheBestOnlyBeyondTheSpread) {
  // tuned: 0.2 with a deviation of 0.1; pruned: 0.5 always
  write_run("a", {.seed = 0, .tuned_success = 0.1});
  write_run("b", {.seed = 1, .tuned_success = 0.2});
  write_run("c", {.seed = 2, .tuned_success = 0.3});
  EXPECT_TRUE(cell(make(), 0, "tuned", "attack_success_rate").best);
  EXPECT_FALSE(cell(make(), 0, "pruned", "attack_success_rate").best);
  EXPECT_FALSE(cell(make(), 0, "no defense", "clean_accuracy").best);
  // 0.4 with a deviation of 0.3
  write_run("b", {.seed = 1, .tuned_success = 0.4});
  write_run("c", {.seed = 2, .tuned_success = 0.7});
  EXPECT_FALSE(cell(make(), 0, "tuned", "attack_success_rate").best);
}

TEST_F(Studies, SetOffNothingOfOneRunOrWithAWarning) {
  write_run("a", {.seed = 0});
  EXPECT_FALSE(cell(make(), 0, "tuned", "attack_success_rate").best);
  nlohmann::json marked = results_of({.seed = 1});
  write_run("b", {.seed = 1}, marked);
  EXPECT_TRUE(cell(make(), 0, "tuned", "attack_success_rate").best);
  marked["rows"][1]["warning"] = "odd";
  write_run("b", {.seed = 1}, marked);
  EXPECT_FALSE(cell(make(), 0, "tuned", "attack_success_rate").best);
}

TEST_F(Studies, DoNotCompareWhatIsMeasuredOnOtherData) {
  nlohmann::json results = results_of({});
  results["rows"][0]["measured_on"] = "cifar100";
  for (const std::size_t row : {1U, 2U}) results["rows"][row]["measured_on"] = "cifar10";
  write_run("a", {}, results);
  const Study study = make({.baseline = "pruned"});
  EXPECT_EQ(cell(study, 0, "tuned", "clean_accuracy").difference.n, 1U);
  EXPECT_EQ(cell(study, 0, "no defense", "clean_accuracy").difference.n, 0U);
  EXPECT_THROW((void)cell(study, 0, "tuned", "defense_effectiveness_rating"), std::runtime_error);
}

TEST_F(Studies, TellRowsOfOneNameAndOtherParametersApart) {
  const auto a = write_run("a", {.seed = 0});
  const auto b = write_run("b", {.seed = 1});
  std::string recipe = read(b / "recipe.toml");
  recipe.replace(recipe.find("plugin = \"fine-pruning\""), 23,
                 "plugin = \"fine-pruning\"\nrate = 0.5");
  write(b / "recipe.toml", recipe);
  const Study study = make();
  EXPECT_EQ(cell(study, 0, "pruned (rate = 0.5)", "clean_accuracy").spread.n, 1U);
  EXPECT_EQ(cell(study, 0, "pruned (rate = -)", "clean_accuracy").spread.n, 1U);
}

TEST_F(Studies, AreThereInFullAsJson) {
  write_run("a", {.seed = 0, .tuned_success = 0.1});
  write_run("b", {.seed = 4, .tuned_success = 0.2});
  write_run("c", {.status = "killed", .seed = 5});
  const nlohmann::json json = json_of(make());
  const auto& row = json["blocks"][0]["rows"][1];
  EXPECT_EQ(row["name"], "tuned");
  const auto& success = row["metrics"]["attack_success_rate"];
  EXPECT_EQ(success["n"], 2);
  EXPECT_EQ(success["values"][1]["seed"], 4);
  EXPECT_EQ(success["values"][1]["value"], 0.2);
  EXPECT_NEAR(success["high_95"].get<double>(), 0.15 + 12.706205 * 0.05, 1e-6);
  EXPECT_EQ(json["omitted"][0]["reason"], "killed");
  EXPECT_EQ(json["blocks"][0]["conditions"]["attack.plugin"], "badnets");
}

}  // namespace
}  // namespace backstop::report
