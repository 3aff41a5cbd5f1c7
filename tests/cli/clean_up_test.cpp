// backstop clean-up, on folders like those that runs leave.
#include <set>

#include <fcntl.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>
#include <sys/file.h>

#include "tests/cli/cli_fixture.hpp"

namespace backstop::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Hashes of stages.
constexpr const char* kA = "attack-aaaaaaaaaaaaaaaaaaaaaaaa";
constexpr const char* kB = "defense-bbbbbbbbbbbbbbbbbbbbbbbb";
constexpr const char* kC = "defense-cccccccccccccccccccccccc";

class CleanUp : public Cli {
 protected:
  /// One with a stage, a checkpoint and an unfinished stage of each kind, of which runs use A and B.
  CleanUp() {
    write("runs/recipe/1/run.json",
          std::string(R"({"status": "finished", "stages": [")") + kA + R"("]})");
    write("runs/recipe/2/run.json",
          std::string(R"({"status": "killed", "stages": [")") + kA + R"(", ")" + kB + R"("]})");
    finished(kA);
    write(checkpoint(kB), std::string(1500, 'x'));
    finished(kC);
    write(checkpoint(kC), "xx");
    write(std::string("runs/.stages/.") + kA + ".unfinished-0123456789abcdef/model.safetensors",
          "x");
    // What nobody knows stays.
    write("runs/.stages/notes.txt", "mine");
    write("runs/.stages/attack-mine/SHA256SUMS", "mine");
    fs::create_directory_symlink(folder_, folder_ / "runs/.stages/attack-dddddddddddddddddddddddd");
  }
  void finished(const std::string& stage) const {
    write("runs/.stages/" + stage + "/SHA256SUMS", "sums");
    write("runs/.stages/" + stage + "/model.safetensors", std::string(2000, 'x'));
  }
  static std::string checkpoint(const std::string& stage) {
    return "runs/.stages/" + stage + ".checkpoints/training-0.safetensors";
  }
  [[nodiscard]] std::set<std::string> there() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_ / "runs/.stages"))
      names.insert(entry.path().filename().string());
    return names;
  }
  [[nodiscard]] Outcome clean(std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"clean-up", (folder_ / "runs").string()});
    return backstop(more);
  }
};

TEST_F(CleanUp, RemovesWhatNoRunUsesAndSaysHowMuch) {
  const auto before = there();
  const Outcome outcome = clean();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "freed 2.0 kB: 1 checkpoint, 1 stage, 1 unfinished stage\n");
  EXPECT_EQ(outcome.err, "");
  auto expected = before;
  for (const std::string& gone : {std::string(kC), std::string(kC) + ".checkpoints",
                                  "." + std::string(kA) + ".unfinished-0123456789abcdef"})
    EXPECT_EQ(expected.erase(gone), 1U) << gone;
  EXPECT_EQ(there(), expected);
  EXPECT_EQ(read(folder_ / checkpoint(kB)), std::string(1500, 'x'));
  EXPECT_EQ(clean().out, "nothing to remove below " + (folder_ / "runs").string() + "\n");
  EXPECT_EQ(there(), expected);
}

TEST_F(CleanUp, ADryRunRemovesNothing) {
  const auto before = there();
  const Outcome outcome = clean({"--dry-run"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr(std::string(kC) + ".checkpoints"));
  EXPECT_THAT(outcome.out, HasSubstr("would free 2.0 kB: 1 checkpoint, 1 stage, 1 unfinished"));
  EXPECT_EQ(there(), before);
  const auto json = nlohmann::json::parse(clean({"--dry-run", "--json"}).out);
  EXPECT_EQ(json["bytes"], 2007);
  EXPECT_EQ(json["removed"].size(), 3U);
}

TEST_F(CleanUp, WhenARunsFolderIsGoneItsStagesAreUseless) {
  fs::remove_all(folder_ / "runs/recipe");
  EXPECT_EQ(clean().code, 0);
  EXPECT_EQ(there(),
            (std::set<std::string>{"notes.txt", "attack-mine", "attack-dddddddddddddddddddddddd"}));
}

TEST_F(CleanUp, ACheckpointOfAFinishedStageIsUseless) {
  finished(kB);
  EXPECT_EQ(clean().code, 0);
  EXPECT_FALSE(fs::exists(folder_ / checkpoint(kB)));
  EXPECT_TRUE(fs::exists(folder_ / "runs/.stages" / kB));
}

TEST_F(CleanUp, WhatAProcessHoldsStays) {
  const fs::path lock = folder_ / "runs/.stages" / ("." + std::string(kC) + ".lock");
  const int held = ::open(lock.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  ASSERT_EQ(::flock(held, LOCK_EX | LOCK_NB), 0);
  const Outcome outcome = clean();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("1 stage left alone: a process is working on it"));
  EXPECT_TRUE(fs::exists(folder_ / "runs/.stages" / kC / "model.safetensors"));
  EXPECT_TRUE(fs::exists(folder_ / checkpoint(kC)));
  ::close(held);
  EXPECT_EQ(clean().code, 0);
  EXPECT_FALSE(fs::exists(folder_ / "runs/.stages" / kC));
}

TEST_F(CleanUp, BesideARunThatDoesNotSayWhatItUsedStagesStay) {
  write("runs/recipe/3/run.json", R"({"status": "finished"})");
  const Outcome outcome = clean();
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("1 run below"));
  EXPECT_THAT(outcome.err, HasSubstr("does not say which stages it used"));
  EXPECT_TRUE(fs::exists(folder_ / "runs/.stages" / kC));
  EXPECT_FALSE(fs::exists(folder_ / checkpoint(kC))) << "its stage is finished";
}

TEST_F(CleanUp, AFolderThatIsNotThereIsAnError) {
  const Outcome outcome = backstop({"clean-up", (folder_ / "absent").string()});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("absent is not a folder"));
  fs::create_directories(folder_ / "empty");
  EXPECT_THAT(backstop({"clean-up", (folder_ / "empty").string()}).out,
              HasSubstr("nothing to remove below"));
  EXPECT_TRUE(fs::is_empty(folder_ / "empty"));
}

}  // namespace
}  // namespace backstop::testing
