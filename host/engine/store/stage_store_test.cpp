#include "host/engine/store/stage_store.hpp"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <functional>
#include <thread>

#include <unistd.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/base/hash.hpp"
#include "tests/support/file_operations.hpp"

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Store : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(::testing::TempDir()) / ("store-" + std::to_string(::getpid()));
    fs::remove_all(root_);
    stage_.row = {{"name", "row"}, {"metrics", {{"clean_accuracy", 0.5}}}};
    stage_.epochs = nlohmann::json::array({{{"epoch", 0}}});
    stage_.model = {{{"weight", at::arange(6, at::kFloat).view({2, 3})}}, {{"width", "8"}}};
    stage_.state = {{"trigger", at::ones({2})}};
    stage_.poison = {{"positions", at::arange(3, at::kLong)}};
    stage_.attack_record = {{"target", "3"}};
    stage_.artifacts = {{"mask", at::zeros({2})}};
    stage_.pictures = {{"row", at::zeros({1, 3, 4, 4}, at::kByte)}};
    folder_ = StageStore(root_).folder_of("attack", key_);
    make(stage_);
  }
  void TearDown() override { fs::remove_all(root_); }

  void make(const Stage& stage) {
    const StageStore store(root_);
    const base::FileLock claim = store.claim(folder_, [](const std::string&) {});
    store.save(folder_, key_, stage);
  }
  /// In a process of its own, which is killed at that operation on files. Whether it was.
  bool make_until_killed(const Stage& stage, int operation) {
    const pid_t child = ::fork();
    if (child == 0) {
      backstop::testing::kill_at_operation(operation);
      make(stage);
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status);
  }
  std::vector<std::string> names_in_root() const {
    std::vector<std::string> names;
    std::error_code no_root;
    for (const auto& entry : fs::directory_iterator(root_, no_root))
      names.push_back(entry.path().filename().string());
    return names;
  }

  nlohmann::json key_ = {{"seed", 1}};
  fs::path root_, folder_;
  Stage stage_;
};

TEST_F(Store, GivesBackWhatWasKept) {
  std::string damage;
  const auto kept = StageStore(root_).load(folder_, key_, damage);
  ASSERT_TRUE(kept) << damage;
  EXPECT_EQ(kept->row, stage_.row);
  EXPECT_EQ(kept->epochs, stage_.epochs);
  EXPECT_TRUE(kept->model.tensors.at(0).second.equal(stage_.model.tensors[0].second));
  EXPECT_EQ(kept->model.metadata, stage_.model.metadata);
  EXPECT_EQ(kept->attack_record, stage_.attack_record);
  EXPECT_TRUE(kept->poison.at(0).second.equal(stage_.poison[0].second));
  EXPECT_EQ(nlohmann::json::parse(base::read_file(folder_ / "key.json")), key_);
}

TEST_F(Store, AFlippedBitInAnyFileMakesTheStageAbsent) {
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const std::string text = base::read_file(entry.path());
    ASSERT_FALSE(text.empty());
    std::string flipped = text;
    flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 1);
    std::ofstream(entry.path(), std::ios::binary | std::ios::trunc) << flipped;
    std::string damage;
    EXPECT_FALSE(StageStore(root_).load(folder_, key_, damage));
    const bool is_list = entry.path().filename() == kSumsFile;  // whose bit is in a file's line
    EXPECT_THAT(damage, HasSubstr(is_list ? folder_.string() : entry.path().string()));
    std::ofstream(entry.path(), std::ios::binary | std::ios::trunc) << text;
    EXPECT_TRUE(StageStore(root_).load(folder_, key_, damage)) << damage;
  }
}

TEST_F(Store, AMissingFileMakesTheStageAbsent) {
  fs::remove(folder_ / kModelFile);
  std::string damage;
  EXPECT_FALSE(StageStore(root_).load(folder_, key_, damage));
  EXPECT_THAT(damage, HasSubstr((folder_ / kModelFile).string()));
  fs::remove(folder_ / kSumsFile);
  EXPECT_FALSE(StageStore(root_).load(folder_, key_, damage));
  EXPECT_THAT(damage, HasSubstr((folder_ / kSumsFile).string()));
  fs::remove_all(folder_);
  EXPECT_FALSE(StageStore(root_).load(folder_, key_, damage));
  EXPECT_EQ(damage, "") << "there is nothing that could be damaged";
}

TEST_F(Store, AStageOfAnotherKeyIsNotTheOneThatWasAskedFor) {
  std::string damage;
  EXPECT_FALSE(StageStore(root_).load(folder_, {{"seed", 2}}, damage));
  EXPECT_THAT(damage, HasSubstr((folder_ / "key.json").string()));
}

TEST_F(Store, WhateverIsInTheWayOfAStageIsReplaced) {
  using Obstacle = std::function<void()>;
  const std::map<std::string, Obstacle> obstacles = {
      {"a file", [&] { std::ofstream(folder_) << "text"; }},
      {"a link to itself", [&] { fs::create_symlink(folder_, folder_); }},
      {"a link to nothing", [&] { fs::create_symlink("nowhere", folder_); }},
      {"an empty folder", [&] { fs::create_directory(folder_); }},
      {"a folder in the place of a file",
       [&] { fs::create_directories(folder_ / kSumsFile / "x"); }},
      {"a FIFO in the place of a file",
       [&] {
         make(stage_);
         fs::remove(folder_ / kModelFile);
         ASSERT_EQ(::mkfifo((folder_ / kModelFile).c_str(), 0600), 0);
       }},
      {"a record of other types", [&] {
         Stage other = stage_;
         other.row = 3;
         make(other);
         std::ofstream(folder_ / "stage.json") << "[]";
         std::string sums = base::read_file(folder_ / kSumsFile);
         const auto line = sums.find("stage.json");
         sums.replace(line - 66, 64, base::sha256_of_file(folder_ / "stage.json"));
         std::ofstream(folder_ / kSumsFile) << sums;
       }}};
  for (const auto& [what, put] : obstacles) {
    fs::remove_all(folder_);
    put();
    std::string damage;
    EXPECT_FALSE(StageStore(root_).load(folder_, key_, damage)) << what;
    make(stage_);
    EXPECT_TRUE(StageStore(root_).load(folder_, key_, damage)) << what << ": " << damage;
    EXPECT_THAT(names_in_root(), ElementsAre(folder_.filename().string())) << what;
  }
}

TEST_F(Store, AKillAtAnyOperationLosesNothing) {
  Stage newer = stage_;
  newer.row["name"] = "newer";
  for (const bool kept_before : {false, true}) {
    int killed = 0;
    for (int operation = 1;; ++operation) {
      fs::remove_all(root_);
      if (kept_before) make(stage_);
      if (!make_until_killed(newer, operation)) break;
      ++killed;
      std::string damage;
      const auto kept = StageStore(root_).load(folder_, key_, damage);
      EXPECT_EQ(damage, "") << "operation " << operation;
      EXPECT_TRUE(kept || !kept_before) << "operation " << operation << " lost the kept stage";
      StageStore(root_).remove_leftovers();
      EXPECT_THAT(names_in_root(), Each(folder_.filename().string())) << "operation " << operation;
      make(newer);
      EXPECT_EQ(StageStore(root_).load(folder_, key_, damage).value().row, newer.row);
    }
    EXPECT_GT(killed, 20);
  }
}

TEST_F(Store, AStageComesIntoItsPlaceWhenAllOfItIsOnDisk) {
  using backstop::testing::FileOperation;
  fs::remove_all(root_);
  backstop::testing::kill_at_operation(0);
  make(stage_);
  const auto& all = backstop::testing::file_operations();
  const auto place = std::find_if(all.begin(), all.end(), [&](const FileOperation& operation) {
    return operation.to == folder_.string();
  });
  ASSERT_NE(place, all.end());
  const auto is_synced = [](auto first, auto last, const fs::path& path) {
    struct stat status {};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    bool synced = false;
    for (; first != last; ++first)
      if (first->inode == status.st_ino) synced = first->kind == FileOperation::Kind::sync;
    return synced;
  };
  int files = 0;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    EXPECT_TRUE(is_synced(all.begin(), place, entry.path())) << entry.path();
    ++files;
  }
  EXPECT_EQ(files, 7);
  EXPECT_TRUE(is_synced(all.begin(), place, folder_)) << "the names of the files";
  EXPECT_TRUE(is_synced(place, all.end(), root_)) << "the name of the stage";
}

TEST_F(Store, AReaderFindsAWholeStageWhileOthersReplaceIt) {
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (int turn = 0; turn < 30; ++turn) make(stage_);
    done = true;
  });
  int loaded = 0;
  while (!done) {
    std::string damage;
    // What is replaced while it is read counts as damaged; it is never mixed with its successor.
    if (const auto kept = StageStore(root_).load(folder_, key_, damage)) {
      EXPECT_EQ(kept->row, stage_.row);
      ++loaded;
    }
  }
  writer.join();
  EXPECT_GT(loaded, 0);
}

TEST_F(Store, AStoreThatCannotBeWrittenIsFoundBeforeTheStageIsMade) {
  fs::remove_all(root_);
  std::ofstream(root_) << "a file";
  EXPECT_THROW((void)StageStore(root_).claim(folder_, [](const std::string&) {}), base::HostError);
}

TEST_F(Store, OtherKeysHaveOtherFolders) {
  const StageStore store(root_);
  EXPECT_NE(store.folder_of("attack", {{"seed", 2}}), folder_);
  EXPECT_NE(store.folder_of("defense", key_), folder_);
  EXPECT_EQ(store.folder_of("attack", key_), folder_);
}

}  // namespace
}  // namespace backstop::engine
