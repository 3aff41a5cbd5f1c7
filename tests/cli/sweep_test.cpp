// expand, sweep and status: what they write, and what they say. Real runs by a real Slurm are in
// tests/slurm.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/file.h>
#include <sys/stat.h>

#include "cli_fixture.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::testing::Cli;
using backstop::testing::Outcome;
using backstop::testing::Process;
using backstop::testing::read;
using backstop::testing::Start;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

/// Twelve combinations; those of one size of the patch and one seed attack the same model.
constexpr const char* kRecipe = R"(schema = 1
name = "fake"

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

[matrix]
"attack.size" = [3, 5]
"defense.0.clean_images" = [100, 200, 300]
seed = [0, 1]
)";

/// Without the line that says which combination it is.
std::string without_first_line(const std::string& text) {
  return text.substr(text.find('\n') + 1);
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
  return text;
}

class CliSweep : public Cli {
 protected:
  [[nodiscard]] std::string recipe() const { return write("recipe.toml", kRecipe); }
  /// In the test's folder, with the commands of Slurm that are in its folder `bin`, and no others.
  [[nodiscard]] Outcome here(std::vector<std::string> arguments) const {
    Start start = this->start(std::move(arguments));
    start.folder = folder_.string();
    start.arguments.insert(start.arguments.begin(),
                           {"PATH=" + (folder_ / "bin").string(), start.program});
    start.program = "/usr/bin/env";
    return Process(start).wait();
  }
  void write_command(const std::string& name, const std::string& script) const {
    ::chmod(write("bin/" + name, "#!/bin/sh\n" + script).c_str(), 0755);
  }
  /// A run's folder with this run.json.
  fs::path write_run(const std::string& id, const json& facts) const {
    return fs::path(write("runs/" + id + "/run.json", facts.dump())).parent_path();
  }
  [[nodiscard]] std::vector<std::string> states(const std::string& folder = "runs") const {
    const json status = json::parse(here({"status", folder, "--json"}).out);
    std::vector<std::string> states;
    for (const auto& run : status["runs"]) states.push_back(run["state"]);
    return states;
  }
};

// -- expand --

TEST_F(CliSweep, ExpandWritesEveryCombinationAsARecipeOfItsOwn) {
  const Outcome outcome = here({"expand", recipe(), "--out-dir", "new/all/"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "wrote 12 recipes to new/all/\n");
  const auto files = files_in(folder_ / "new/all");
  ASSERT_EQ(files.size(), 12U);
  EXPECT_EQ(files_in(folder_ / "new").size(), 1U) << "something was left beside it";
  EXPECT_EQ(files[2].filename(), "03.toml");
  const json combinations = json::parse(here({"expand", recipe(), "--json"}).out)["recipes"];
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string text = read(files[i]);
    EXPECT_EQ(combinations[i]["recipe"], text);
    EXPECT_EQ(combinations[i]["number"], i + 1);
    EXPECT_EQ(combinations[i]["attack"], i / 6 * 6 + i % 2 + 1);
    // It is resolved: reading it gives the same recipe again.
    const Outcome again = here({"expand", files[i].string()});
    EXPECT_EQ(again.code, 0) << again.err;
    EXPECT_EQ(without_first_line(again.out), without_first_line(text));
  }
  EXPECT_THAT(
      read(files[3]),
      AllOf(StartsWith("# 4 of 12: attack.size = 3, defense.0.clean_images = 200, seed = 1\n"),
            HasSubstr("\nname = \"fake\"\n"), HasSubstr("\nseed = 1\n"), HasSubstr("\nsize = 3\n"),
            HasSubstr("\nclean_images = 200\n"), Not(HasSubstr("matrix"))));
}

TEST_F(CliSweep, ExpandWritesAllOrNothing) {
  const std::string kept = write("full/mine.txt", "mine");
  const Outcome outcome = here({"expand", recipe(), "--out-dir", "full"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("error: full exists and is not an empty folder\nhint: "));
  EXPECT_THAT(files_in(folder_ / "full"), ElementsAre(fs::path(kept)));
  EXPECT_EQ(here({"expand", recipe(), "--set", "model.width=x", "--out-dir", "bad"}).code, 2);
  EXPECT_FALSE(fs::exists(folder_ / "bad"));
}

TEST_F(CliSweep, ExpandPrintsTheRecipesOneAfterAnother) {
  const Outcome outcome =
      here({"expand", recipe(), "--set", "matrix.seed=[7]", "--set", "matrix.\"attack.size\"=[3]"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out,
              AllOf(StartsWith("# 1 of 3: defense.0.clean_images = 100, seed = 7\nschema = 1\n"),
                    HasSubstr("\n\n# 3 of 3: defense.0.clean_images = 300, seed = 7\n")));
}

// -- sweep --

/// With BACKSTOP_UPDATE_GOLDEN in the environment, the golden file is written instead.
TEST_F(CliSweep, ADryRunShowsTheScriptAndHowToSubmitIt) {
  const Outcome outcome =
      here({"sweep", recipe(), "--slurm", "--dry-run", "--out", "out", "--jobs-at-once", "4", "--",
            "--gres=gpu:1", "--comment=it's mine"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const auto sweeps = files_in(folder_ / "out/sweeps");
  ASSERT_EQ(sweeps.size(), 1U);
  EXPECT_THAT(sweeps[0].filename().string(), StartsWith("fake-20"));
  std::string text = replaced(outcome.out, sweeps[0].filename().string(), "SWEEP");
  text = replaced(text, folder_.string(), "FOLDER");
  text = replaced(text, fs::canonical(BACKSTOP_PROGRAM).string(), "PROGRAM");
  const fs::path golden = fs::path(BACKSTOP_GOLDEN) / "sweep-dry-run.txt";
  if (std::getenv("BACKSTOP_UPDATE_GOLDEN")) std::ofstream(golden) << text;
  EXPECT_EQ(text, read(golden));
  EXPECT_THAT(outcome.out, HasSubstr(read(sweeps[0] / "job.sh")));
  EXPECT_EQ(files_in(sweeps[0] / "recipes").size(), 12U);
}

TEST_F(CliSweep, OneTaskOfEachAttackedModelComesFirst) {
  const json plan = json::parse(here({"sweep", recipe(), "--slurm", "--dry-run", "--json"}).out);
  ASSERT_EQ(plan["jobs"].size(), 2U);
  EXPECT_EQ(plan["jobs"][0]["tasks"], json({1, 2, 7, 8}));
  EXPECT_EQ(plan["jobs"][1]["tasks"], json({3, 4, 5, 6, 9, 10, 11, 12}));
  // Where every combination has its own attack, one job is enough.
  const json single = json::parse(here({"sweep", recipe(), "--slurm", "--dry-run", "--json",
                                        "--set", "matrix.\"defense.0.clean_images\"=[100]"})
                                      .out);
  ASSERT_EQ(single["jobs"].size(), 1U);
  EXPECT_EQ(single["jobs"][0]["tasks"], json({1, 2, 3, 4}));
  // What a model is adapted to does not change the backdoored model, but what it is trained on does.
  std::vector<std::string> words = {"sweep",
                                    recipe(),
                                    "--slurm",
                                    "--dry-run",
                                    "--json",
                                    "--set",
                                    "matrix={ \"dataset.limit\" = [10, 20] }"};
  EXPECT_EQ(json::parse(here(words).out)["jobs"].size(), 1U);
  words.insert(words.end(), {"--set", "scenario=transfer", "--set",
                             "pretraining.dataset={ plugin = \"squares\" }"});
  EXPECT_EQ(json::parse(here(words).out)["jobs"].size(), 2U);
}

TEST_F(CliSweep, TheScriptRunsItsTaskWhateverThePathsHold) {
  const std::string odd = "it's \"odd\" $HOME `x`\n* \\ %j";
  (void)write(odd + "/recipe.toml", kRecipe);
  Start start = this->start({"sweep", "recipe.toml", "--slurm", "--dry-run", "--out", odd});
  start.environment["BACKSTOP_PLUGIN_PATH"] = (folder_ / odd).string();
  start.folder = (folder_ / odd).string();
  const Outcome dry = Process(start).wait();
  ASSERT_EQ(dry.code, 0) << dry.err;
  const auto sweeps = files_in(folder_ / odd / odd / "sweeps");
  ASSERT_EQ(sweeps.size(), 1U);
  EXPECT_THAT(read(sweeps[0] / "job.sh"),
              HasSubstr("\nexport BACKSTOP_PLUGIN_PATH='" + folder_.string() + "/it'\\''s "));
  Start task{"/bin/sh", {(sweeps[0] / "job.sh").string()}};
  task.environment = {
      {"SLURM_ARRAY_TASK_ID", "4"}, {"SLURM_CPUS_PER_TASK", "1"}, {"HOME", folder_.string()}};
  task.folder = "/";
  const Outcome outcome = Process(task).wait();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("mended"));
  EXPECT_THAT(outcome.err, HasSubstr("/fake/1\n"));
  task.environment["SLURM_ARRAY_TASK_ID"] = "13";
  EXPECT_EQ(Process(task).wait().code, 2) << "there is no such recipe";
}

TEST_F(CliSweep, SubmitsTheSecondJobToFollowTheFirst) {
  write_command("sbatch",
                "[ \"$1\" = --version ] && exit 0\n"
                "for word in \"$@\"; do printf '%s\\n' \"$word\"; done >>" +
                    (folder_ / "words").string() +
                    "\necho 'be kind' >&2\n"
                    "case $* in *dependency*) echo '18;here';; *) echo 17;; esac\n");
  const Outcome outcome = here({"sweep", recipe(), "--slurm", "--", "--mem=4G", "--", "-n1"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, StartsWith("job 17: 4 tasks\n"
                                      "job 18: 8 tasks, when job 17 has ended\n"));
  EXPECT_THAT(outcome.err, HasSubstr("warning: sbatch: be kind\n"));
  const std::string words = read(folder_ / "words");
  EXPECT_THAT(words, AllOf(HasSubstr("\n--array=1-2,7-8\n--mem=4G\n--\n-n1\n"),
                           HasSubstr("\n--array=3-6,9-12\n--dependency=afterany:17\n--mem=4G\n")));
  const auto sweeps = files_in(folder_ / "runs/sweeps");
  ASSERT_EQ(sweeps.size(), 1U);
  EXPECT_EQ(json::parse(read(sweeps[0] / "sweep.json"))["jobs"][1]["id"], "18");
}

TEST_F(CliSweep, WhatSbatchRefusesLeavesNothing) {
  write_command("sbatch",
                "[ \"$1\" = --version ] && exit 0\n"
                "case $* in *dependency*) echo 'sbatch: error: too many' >&2; exit 1;; esac\n"
                "echo 17\n");
  write_command("scancel", "echo \"$@\" >" + (folder_ / "cancelled").string() + "\n");
  const Outcome outcome = here({"sweep", recipe(), "--slurm"});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("error: sbatch refused the job: sbatch: error: too many\n"));
  EXPECT_EQ(read(folder_ / "cancelled"), "17\n");
  EXPECT_TRUE(fs::is_empty(folder_ / "runs/sweeps"));
}

TEST_F(CliSweep, SaysWhatItCannotDo) {
  const std::string file = recipe();
  const auto error = [&](std::vector<std::string> arguments, int code) {
    arguments.insert(arguments.begin(), "sweep");
    const Outcome outcome = here(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  };
  EXPECT_THAT(error({file, "--slurm"}, 4), StartsWith("error: there is no `sbatch` on this"));
  EXPECT_THAT(error({file}, 2), StartsWith("error: `sweep` needs `--slurm`\n"));
  EXPECT_THAT(error({file, "--slurm", "--jobs-at-once", "0"}, 2), HasSubstr("at least 1, got `0`"));
  for (const char* option : {"--array=1-3", "--arr=1", "-a1", "--dependency=singleton", "-D/"})
    EXPECT_THAT(error({file, "--slurm", "--", option}, 2), HasSubstr("cannot be given to sbatch"))
        << option;
  EXPECT_THAT(error({file, "--slurm", "--dry-run", "--out", "\xFF"}, 2), HasSubstr("not UTF-8"));
  const std::string single = without_first_line(read(file));
  const std::string one =
      write("one.toml", "schema = 1\n" + single.substr(0, single.find("\n[matrix]")));
  EXPECT_THAT(error({one, "--slurm", "--dry-run"}, 2), HasSubstr("has only one combination"));
  EXPECT_FALSE(fs::exists(folder_ / "runs"));
}

// -- status --

TEST_F(CliSweep, StatusTellsWhatBecameOfEachRun) {
  write_run("a/1", {{"status", "finished"}, {"recipe_sha256", "1"}});
  EXPECT_EQ(here({"status", "runs"}).code, 0);
  write_run("a/2", {{"status", "failed"}, {"error", "no \033[31m space"}, {"recipe_sha256", "2"}});
  write_run("a/3", {{"status", "interrupted"}, {"recipe_sha256", "3"}});
  // Its process died: nobody holds the lock.
  const fs::path dead = write_run("b/1", {{"status", "unfinished"}, {"recipe_sha256", "4"}});
  std::ofstream(dead / ".backstop.lock") << "process 1 on nowhere\n";
  (void)write("runs/b/2/run.json", "{ not JSON");
  (void)write("runs/b/3/other.txt", "no run");
  EXPECT_THAT(states(), ElementsAre("finished", "failed", "interrupted", "killed"));
  const Outcome ended = here({"status", "runs"});
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.out, AllOf(HasSubstr("no ?[31m space"), Not(HasSubstr("\033")),
                               EndsWith("1 finished, 1 failed, 1 interrupted, 1 killed\n")));

  const fs::path alive = write_run("b/4", {{"status", "unfinished"}, {"recipe_sha256", "5"}});
  std::ofstream(alive / ".backstop.lock") << "process 17 on node3\n";
  std::ofstream(alive / "metrics.jsonl")
      << json({{"stage", "attack"}, {"name", "patch"}, {"epoch", 3}, {"epochs", 9}}) << "\nhalf";
  const int lock = ::open((alive / ".backstop.lock").c_str(), O_RDWR);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  const Outcome running = here({"status", "runs"});
  EXPECT_EQ(running.code, 6);
  EXPECT_THAT(running.out, HasSubstr("process 17 on node3: attack patch, epoch 3 of 9\n"));
  EXPECT_EQ(states().back(), "running");
  ::close(lock);
  EXPECT_EQ(states().back(), "killed") << "never running for ever";
}

TEST_F(CliSweep, OfARecipeThatWasRunAgainStatusShowsWhatCounts) {
  write_run("a/1", {{"status", "killed"}, {"recipe_sha256", "1"}});
  write_run("a/2", {{"status", "finished"}, {"recipe_sha256", "1"}});
  write_run("a/3", {{"status", "interrupted"}, {"recipe_sha256", "1"}});
  write_run("a/4", {{"status", "killed"}, {"recipe_sha256", "2"}});
  write_run("a/5", {{"status", "failed"}, {"recipe_sha256", "2"}});
  EXPECT_THAT(states(), ElementsAre("finished", "failed"));
  EXPECT_THAT(here({"status", "runs"}).out, HasSubstr("\n3 earlier runs of the same recipes "));
}

TEST_F(CliSweep, StatusOfASweepSaysWhichCombinationsWait) {
  ASSERT_EQ(here({"sweep", recipe(), "--slurm", "--dry-run"}).code, 0);
  const fs::path sweep = files_in(folder_ / "runs/sweeps").at(0);
  const json combinations = json::parse(read(sweep / "sweep.json"))["combinations"];
  const std::string sha256 = combinations[1]["recipe_sha256"];
  const fs::path run =
      write_run("fake/1", {{"status", "finished"}, {"started", "2999"}, {"recipe_sha256", sha256}});
  write_run("fake/0", {{"status", "finished"},
                       {"started", "2000"},
                       {"recipe_sha256", combinations[2]["recipe_sha256"]}});
  const Outcome outcome = here({"status", sweep.string()});
  EXPECT_EQ(outcome.code, 6);
  EXPECT_THAT(outcome.out, EndsWith("1 finished, 11 waiting\n"))
      << "a run from before the sweep is none of its own";
  EXPECT_EQ(here({"status", sweep.string(), "--only", "2"}).code, 0);
  EXPECT_EQ(here({"status", sweep.string(), "--only", "3"}).code, 6);
  EXPECT_EQ(here({"status", sweep.string(), "--only", "13"}).code, 2);
  // The threads of the job are in the run's recipe.
  std::ofstream(run / "recipe.toml") << replaced(
      without_first_line(read(sweep / "recipes/03.toml")), "threads = 0", "threads = 12");
  write_run("fake/1", {{"status", "finished"}, {"started", "2999"}, {"recipe_sha256", "of it"}});
  EXPECT_EQ(here({"status", sweep.string(), "--only", "3"}).code, 0);
  // A task that finds its run finished does nothing.
  Start task{"/bin/sh", {(sweep / "job.sh").string()}, {{"SLURM_ARRAY_TASK_ID", "3"}}};
  const Outcome done = Process(task).wait();
  EXPECT_EQ(done.code, 0);
  EXPECT_THAT(done.out, EndsWith("1 finished\n"));
  EXPECT_EQ(done.err, "") << "nothing was run";
}

TEST_F(CliSweep, StatusAsksSlurmForTheTasks) {
  write_command("sbatch", "[ \"$1\" = --version ] || echo 17\n");
  ASSERT_EQ(here({"sweep", recipe(), "--slurm", "--set", "matrix.seed=[0]", "--set",
                  "matrix.\"defense.0.clean_images\"=[100]"})
                .code,
            0);
  const std::string sweep = files_in(folder_ / "runs/sweeps").at(0).string();
  EXPECT_THAT(states(sweep), ElementsAre("waiting", "waiting")) << "Slurm does not answer";
  write_command("squeue", "echo '17_1|RUNNING|None'; echo '17_2|PENDING|Resources'\n");
  EXPECT_THAT(states(sweep), ElementsAre("running", "waiting"));
  EXPECT_THAT(here({"status", sweep}).out, HasSubstr("job 17_2: PENDING (Resources)\n"));
  write_command("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n");
  write_command("sacct", "echo '17_1|CANCELLED by 0'; echo '17_1.batch|CANCELLED'\n");
  EXPECT_THAT(states(sweep), ElementsAre("failed", "failed"));
  const Outcome outcome = here({"status", sweep});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("job 17_1: CANCELLED\n"), HasSubstr("see the sweep's")));
  // What has not finished can be submitted again.
  write_command("sbatch", "[ \"$1\" = --version ] || echo 18\n");
  EXPECT_THAT(here({"sweep", sweep, "--slurm"}).out, StartsWith("job 18: 2 tasks\n"));
  write_command("squeue",
                "case $* in *=18*) echo '18_1|PENDING|None'; echo '18_2|PENDING|None'; esac\n");
  EXPECT_THAT(states(sweep), ElementsAre("waiting", "waiting"));
  EXPECT_THAT(here({"sweep", sweep, "--slurm"}).err, HasSubstr("has finished, is running, or is"));
  // Nobody knows what waits: nothing is submitted twice.
  write_command("squeue", "exit 1\n");
  const Outcome blind = here({"sweep", sweep, "--slurm"});
  EXPECT_EQ(blind.code, 4);
  EXPECT_THAT(blind.err, HasSubstr("`squeue` does not say which tasks still wait or run"));
}

TEST_F(CliSweep, StatusSaysWhatIsNoSweep) {
  EXPECT_THAT(here({"status", "nowhere"}).err, StartsWith("error: there is no folder nowhere\n"));
  write_run("a/1", {{"status", "finished"}});
  EXPECT_THAT(here({"status", "runs", "--only", "1"}).err, HasSubstr("is for a sweep"));
  for (const char* text : {"", "[]", R"({"out": 3})"}) {
    (void)write("bad/sweep.json", text);
    const Outcome outcome = here({"status", "bad"});
    EXPECT_EQ(outcome.code, 4) << text;
    EXPECT_THAT(outcome.err, StartsWith("error: bad/sweep.json is damaged\n"));
  }
}

}  // namespace
