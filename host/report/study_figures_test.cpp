#include "host/report/study_figures.hpp"

#include <gmock/gmock.h>

#include "host/report/study_fixture.hpp"

namespace backstop::report {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class StudyFigures : public StudyTest {
 protected:
  std::vector<StudyFigure> make() { return figures_of(make_study(find_runs({path()}), {})); }
  static std::vector<std::string> names_of(const std::vector<StudyFigure>& figures) {
    std::vector<std::string> names;
    for (const auto& figure : figures) names.push_back(figure.name);
    return names;
  }
  static nlohmann::json with_curves(const Sample& sample) {
    nlohmann::json results = results_of(sample);
    for (const int epoch : {0, 1, 2})
      for (const std::size_t row : {0U, 1U})
        results["rows"][row]["by_epoch"].push_back({{"epoch", epoch},
                                                    {"clean_accuracy", 0.9},
                                                    {"attack_success_rate", 0.9 - 0.3 * epoch}});
    return results;
  }
};

TEST_F(StudyFigures, AreThoseThatHaveData) {
  write_run("a", {});
  EXPECT_THAT(names_of(make()), ElementsAre("accuracy-by-success", "cost"));
  write_run("b", {.seed = 1}, with_curves({.seed = 1}));
  EXPECT_THAT(names_of(make()), ElementsAre("accuracy-by-success", "clean-accuracy-by-epoch",
                                            "attack-success-by-epoch", "cost"));
}

TEST_F(StudyFigures, ShowDefensesByEpochAndNotTheAttack) {
  write_run("b", {.seed = 1}, with_curves({.seed = 1}));
  const std::string svg = make().at(2).svg;
  EXPECT_THAT(svg, AllOf(HasSubstr("<svg"), HasSubstr("tuned"), Not(HasSubstr("no defense"))));
}

TEST_F(StudyFigures, NameWhatTellsPanelsApart) {
  write_run("a", {.attack = "badnets"});
  write_run("b", {.attack = "blended", .parameters = "alpha = 0.1\n"});
  write_run("c", {.attack = "blended", .parameters = "alpha = 0.2\n"});
  const std::string svg = make().at(0).svg;
  EXPECT_THAT(svg, AllOf(HasSubstr(">badnets<"), HasSubstr(">blended, attack.alpha 0.2<"),
                         Not(HasSubstr("cifar10"))));
}

TEST_F(StudyFigures, EscapeNames) {
  for (const std::string name : kHostileNames) {
    write_run("a", {});
    FoundRuns found = find_runs({path()});
    found.runs.at(0).recipe["attack.plugin"] = name;
    found.runs.at(0).results["rows"][1]["name"] = name;
    for (const auto& figure : figures_of(make_study(std::move(found), {})))
      EXPECT_THAT(figure.svg,
                  AllOf(Not(HasSubstr("<script")), Not(HasSubstr("<img")), Not(HasSubstr("\033"))));
  }
}

}  // namespace
}  // namespace backstop::report
