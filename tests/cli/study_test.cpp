// backstop report, from the command line.
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "tests/cli/cli_fixture.hpp"

namespace backstop::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class Report : public Cli {
 protected:
  /// Folder and results of a run; `status` as in run.json.
  void write_run(const std::string& folder, int seed, double success,
                 const char* status = "finished", const std::string& attack = "badnets") const {
    const auto row = [](const char* name, const char* plugin, double asr) {
      return nlohmann::json{
          {"name", name},
          {"plugin", plugin == nullptr ? nlohmann::json() : nlohmann::json(plugin)},
          {"metrics", {{"clean_accuracy", 0.9}, {"attack_success_rate", asr}}},
          {"cost", {{"wall_seconds", 3.0}}}};
    };
    (void)write(
        folder + "/results.json",
        nlohmann::json{{"seed", seed},
                       {"rows", {row("no defense", nullptr, 1.0), row("tuned", "tune", success)}}}
            .dump());
    (void)write(folder + "/recipe.toml",
                "[dataset]\nplugin = \"squares\"\n[attack]\nplugin = \"" + attack + "\"\n");
    (void)write(folder + "/run.json", nlohmann::json{{"status", status}}.dump());
  }
  /// In the test's folder.
  Outcome report(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), "report");
    Start start = this->start(arguments);
    start.folder = folder_.string();
    return Process(start).wait();
  }
};

TEST_F(Report, WritesAFolderAndPrintsTheTable) {
  write_run("runs/x/1", 0, 0.1);
  write_run("other/x/1", 1, 0.2);
  write_run("runs/x/2", 2, 0.2, "interrupted");
  (void)write("runs/x/3/results.json", "{\"rows\": [");
  const auto outcome = report({"runs", "other"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("tuned       2  0.900 ± 0.000  0.150 ± 0.071"));
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("warning: not counted: runs/x/2: interrupted\n"),
                    HasSubstr("warning: not counted: runs/x/3: results.json is not valid"),
                    HasSubstr("wrote backstop-report\n")));
  for (const char* file :
       {"report.html", "tables.md", "tables.tex", "results.csv", "results-tidy.csv", "values.csv",
        "report.json", "figures/accuracy-by-success.svg"})
    EXPECT_GT(fs::file_size(folder_ / "backstop-report" / file), 0U) << file;
  EXPECT_EQ(report({"runs", "other"}).code, 0);  // again
}

TEST_F(Report, PrintsJson) {
  write_run("runs/x/1", 0, 0.1);
  const auto outcome = report({"runs", "--json", "--out", "there"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["blocks"][0]["rows"][1]["metrics"]["attack_success_rate"]["mean"], 0.1);
  EXPECT_TRUE(fs::exists(folder_ / "there" / "report.html"));
}

TEST_F(Report, SetsPublishedResultsBeside) {
  write_run("runs/x/1", 0, 0.1);
  (void)write("board.csv",
              "attack,defense,dataset,test_acc,test_asr,test_ra\nBadNet,Tune,squares,90,40,50\n");
  const auto outcome = report({"runs", "--published", "board.csv"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("−0.300"));
  EXPECT_THAT(outcome.out, HasSubstr("percentages"));
}

TEST_F(Report, RefusesWhatItCannotDo) {
  write_run("runs/x/1", 0, 0.1, "killed");
  (void)write("mine/thesis.tex", "x");
  const auto expect = [&](const std::vector<std::string>& arguments, int code,
                          const char* message) {
    const auto outcome = report(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(message));
    EXPECT_EQ(outcome.out, "");
  };
  expect({}, 2, "error: `report` needs a DIR\n");
  expect({"nowhere"}, 2, "error: there is no folder nowhere\n");
  expect({"runs"}, 4, "error: there is no finished run to report on\n");
  expect({"runs", "--out", "mine"}, 2, "error: not overwriting mine: it is not a report\n");
  write_run("runs/x/1", 0, 0.1);
  expect({"runs", "--baseline", "tunet"}, 2, "hint: did you mean `tuned`?");
  expect({"runs", "--ignore", "attack.plugon"}, 2, "hint: did you mean `attack.plugin`?");
  expect({"runs", "--published", "mine/thesis.tex"}, 2, "error: thesis.tex has no column `attack`");
  expect({"runs", "--update", "x.md"}, 2, "error: `--update` takes no DIR\n");
  EXPECT_FALSE(fs::exists(folder_ / "backstop-report"));
  EXPECT_EQ(read(folder_ / "mine/thesis.tex"), "x");
}

TEST_F(Report, UpdatesTheTablesOfAText) {
  write_run("runs/x/1", 0, 0.1);
  const std::string file =
      write("paper/README.md",
            "# Mine\n<!-- backstop report ../runs -->\n<!-- end of backstop report -->\nend\n");
  const auto outcome = report({"--update", "paper/README.md"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "wrote paper/README.md\n");
  EXPECT_THAT(read(file),
              AllOf(StartsWith("# Mine\n"), HasSubstr("| squares | badnets | tuned | 1 |"),
                    HasSubstr("-->\nend\n")));
  EXPECT_EQ(report({"--update", "paper/README.md"}).err, "nothing new in paper/README.md\n");
  EXPECT_FALSE(fs::exists(folder_ / "backstop-report"));
}

TEST_F(Report, ShowsNamesThatWouldCommandATerminal) {
  write_run("runs/x/1", 0, 0.1, "finished", "\\u001b[31m\\u202ex");
  const auto outcome = report({"runs"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out + outcome.err, AllOf(Not(HasSubstr("\033")), Not(HasSubstr("\u202e"))));
}

}  // namespace
}  // namespace backstop::testing
