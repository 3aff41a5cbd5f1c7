#include "host/report/run_folders.hpp"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "host/base/error.hpp"
#include "host/report/study_fixture.hpp"

namespace backstop::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class RunFolders : public StudyTest {
 protected:
  FoundRuns find() { return find_runs({path()}); }
  /// Why the only run is not counted.
  std::string reason() {
    const FoundRuns found = find();
    EXPECT_THAT(found.runs, IsEmpty());
    EXPECT_THAT(found.doubtful, IsEmpty());
    return found.omitted.size() == 1 ? found.omitted[0].reason : "";
  }
};

TEST_F(RunFolders, AreFoundAtAnyUsualDepthAndOnce) {
  const auto run = write_run("one", {});
  write_run("runs/name/time", {.seed = 1});
  write_run("machine/runs/name/time", {.seed = 2});
  write_run("runs/.stages/name", {.seed = 3});  // the cache
  std::filesystem::create_directory_symlink(path() / "runs", path() / "link");
  const FoundRuns found = find_runs({run, path(), path() / "machine"});
  ASSERT_THAT(found.runs, SizeIs(3));
  EXPECT_THAT(found.omitted, IsEmpty());
  EXPECT_THAT(found.repeated, IsEmpty());
  EXPECT_EQ(found.runs[0].seed, 0);
  EXPECT_EQ(found.runs[1].seed, 2);
  EXPECT_EQ(found.runs[2].seed, 1);
}

TEST_F(RunFolders, HoldTheRecipeButForWhereItRan) {
  write_run("one", {.parameters = "patch = [1, 2]\ntraining = { epochs = 3 }\n"});
  const StoredRun run = find().runs.at(0);
  EXPECT_EQ(run.recipe.at("attack.plugin"), "badnets");
  EXPECT_EQ(run.recipe.at("attack.patch"), "[1, 2]");
  EXPECT_EQ(run.recipe.at("attack.training.epochs"), "3");
  EXPECT_EQ(run.recipe.at("compute.precision"), "float32");
  EXPECT_EQ(run.recipe.count("dataset.root"), 0U);
  EXPECT_EQ(run.recipe.count("compute.threads"), 0U);
  EXPECT_EQ(run.recipe.count("seed"), 0U);
  EXPECT_EQ(run.defenses.at("tuned").at("scheduler.plugin"), "super-fine-tuning");
  EXPECT_EQ(run.machine, "backstop 0.1.0, CPU, cpu, 2 threads");
}

TEST_F(RunFolders, OfTheSameRunCountOnce) {
  write_run("a/x", {});
  write_run("b/x", {});
  write_run("c/x", {.tuned_success = 0.21});
  const FoundRuns found = find();
  EXPECT_THAT(found.runs, SizeIs(2));
  ASSERT_THAT(found.repeated, SizeIs(1));
  EXPECT_THAT(found.repeated[0].folder, HasSubstr("/b/x"));
  EXPECT_THAT(found.repeated[0].reason, HasSubstr("/a/x"));
}

TEST_F(RunFolders, ThatDidNotFinishAreNotCounted) {
  for (const char* status : {"interrupted", "killed", "unfinished"}) {
    write_run("one", {.status = status});
    EXPECT_THAT(reason(), HasSubstr(status));
  }
}

TEST_F(RunFolders, OfAFailedRunCountWithAReason) {
  write_run("one", {.status = "failed"});
  const FoundRuns found = find();
  EXPECT_THAT(found.runs, SizeIs(1));
  ASSERT_THAT(found.doubtful, SizeIs(1));
  EXPECT_EQ(found.doubtful[0].reason, "it failed");
}

TEST_F(RunFolders, WithoutRunJsonCountWithAReason) {
  std::filesystem::remove(write_run("one", {}) / "run.json");
  const FoundRuns found = find();
  EXPECT_THAT(found.runs, SizeIs(1));
  ASSERT_THAT(found.doubtful, SizeIs(1));
  EXPECT_THAT(found.doubtful[0].reason, HasSubstr("no run.json"));
}

TEST_F(RunFolders, WithDamagedFilesAreNamedAndNotCounted) {
  const auto run = write_run("one", {});
  const std::string results = read(run / "results.json"), recipe = read(run / "recipe.toml"),
                    facts = read(run / "run.json");
  for (std::size_t size = 0; size < results.size(); size += 97) {
    write(run / "results.json", results.substr(0, size));
    EXPECT_EQ(reason(), "results.json is not valid JSON, or is cut off") << size;
  }
  write(run / "results.json", std::string(1 << 20, '['));
  EXPECT_THAT(reason(), HasSubstr("not valid JSON"));
  write(run / "results.json", "[]");
  EXPECT_EQ(reason(), "results.json is not a JSON object");
  std::filesystem::remove(run / "results.json");
  EXPECT_EQ(reason(), "it has no results.json");
  write(run / "results.json", results);
  write(run / "run.json", "{");
  EXPECT_EQ(reason(), "run.json is not valid JSON, or is cut off");
  write(run / "run.json", R"({"status": 3})");
  EXPECT_EQ(reason(), "run.json has no status");
  write(run / "run.json", facts);
  write(run / "recipe.toml", "a = [");
  EXPECT_THAT(reason(), HasSubstr("recipe.toml is not valid TOML"));
  write(run / "recipe.toml", std::string(100000, '[') + std::string(100000, ']'));
  EXPECT_THAT(reason(), HasSubstr("recipe.toml is not valid TOML"));
  std::string dots = "a";
  for (int i = 0; i < 50000; ++i) dots += ".a";
  write(run / "recipe.toml", dots + " = 1");
  EXPECT_THAT(reason(), HasSubstr("more than 2000 dots"));
  std::filesystem::remove(run / "recipe.toml");
  EXPECT_EQ(reason(), "it has no recipe.toml");
  write(run / "recipe.toml", recipe);
  EXPECT_THAT(find().runs, SizeIs(1));
}

TEST_F(RunFolders, WithValuesOfOtherTypesAreNamedAndNotCounted) {
  const nlohmann::json results = results_of({});
  const auto reason_with = [&](const char* place, const nlohmann::json& value) {
    nlohmann::json changed = results;
    changed[nlohmann::json::json_pointer(place)] = value;
    write_run("one", {}, changed);
    return reason();
  };
  EXPECT_EQ(reason_with("/seed", "x"), "results.json: it has no seed");
  EXPECT_EQ(reason_with("/rows", 3), "results.json: it has no list of rows");
  EXPECT_EQ(reason_with("/rows/1", 3), "results.json: a row is not an object with a name");
  EXPECT_EQ(reason_with("/rows/1/name", nullptr),
            "results.json: a row is not an object with a name");
  EXPECT_EQ(reason_with("/rows/1/name", "pruned"), "results.json: the row `pruned` is there twice");
  EXPECT_EQ(reason_with("/rows/1/metrics", "x"),
            "results.json: `metrics` of the row `tuned` is not an object");
  EXPECT_EQ(reason_with("/rows/1/warning", 3),
            "results.json: `warning` of the row `tuned` is not a string");
  EXPECT_EQ(reason_with("/rows/1/by_epoch", {{"epoch", 1}}),
            "results.json: `by_epoch` of the row `tuned` is not a list");
  EXPECT_EQ(reason_with("/precision", 3), "results.json: `precision` is not a string");
}

TEST_F(RunFolders, OfWhichOneIsNoFileAreNotWaitedFor) {
  const auto run = write_run("one", {});
  std::filesystem::remove(run / "results.json");
  ASSERT_EQ(::mkfifo((run / "results.json").c_str(), 0600), 0);
  EXPECT_THAT(reason(), HasSubstr("not a regular file"));
}

TEST_F(RunFolders, MustExist) {
  EXPECT_THROW((void)find_runs({path() / "nowhere"}), base::HostError);
  EXPECT_THAT(find_runs({path()}).runs, IsEmpty());
}

}  // namespace
}  // namespace backstop::report
