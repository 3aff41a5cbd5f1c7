#include "host/engine/store/checkpoints.hpp"

#include <csignal>
#include <fstream>
#include <string>
#include <vector>

#include <unistd.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/engine/store/stage_store.hpp"
#include "tests/support/file_operations.hpp"

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr double kLong = 1e6;  // seconds

Checkpoint some_checkpoint(double epoch) {
  Checkpoint checkpoint;
  checkpoint.record = {{"epoch", epoch}, {"loss", 0.1 + epoch}, {"text", "\xC3\xA4"}};
  checkpoint.tensors = {{"weight", at::full({2, 3}, epoch)},
                        {"count", at::full({}, 7, at::kLong)},
                        {"nothing", at::empty({0, 4})},
                        {"mask", at::arange(3, at::kLong).eq(1)}};
  return checkpoint;
}

void expect_equal(const Checkpoint& a, const Checkpoint& b) {
  EXPECT_EQ(a.record, b.record);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (std::size_t i = 0; i < a.tensors.size(); ++i) {
    EXPECT_EQ(a.tensors[i].first, b.tensors[i].first);
    EXPECT_TRUE(a.tensors[i].second.equal(b.tensors[i].second)) << a.tensors[i].first;
  }
}

class CheckpointsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(::testing::TempDir()) / ("checkpoints-" + std::to_string(::getpid()));
    fs::remove_all(root_);
    folder_ = root_ / "attack-0";
    backstop::testing::kill_at_operation(0);
  }
  void TearDown() override { fs::remove_all(root_); }
  [[nodiscard]] Checkpoints checkpoints(int seed = 1) const {
    return {folder_, {{"seed", seed}}, kLong};
  }
  [[nodiscard]] std::string damage_of(std::size_t number) const {
    std::string damage;
    EXPECT_FALSE(checkpoints().load(number, damage));
    return damage;
  }
  [[nodiscard]] fs::path file() const { return folder_ / "training-0.safetensors"; }

  fs::path root_, folder_;
};

TEST_F(CheckpointsTest, GiveBackWhatWasSaved) {
  checkpoints().save(0, some_checkpoint(1));
  checkpoints().save(2, some_checkpoint(2));
  checkpoints().save(0, some_checkpoint(3));
  std::string damage;
  expect_equal(checkpoints().load(0, damage).value(), some_checkpoint(3));
  expect_equal(checkpoints().load(2, damage).value(), some_checkpoint(2));
  EXPECT_FALSE(checkpoints().load(1, damage));
  EXPECT_EQ(damage, "");
  checkpoints().save(10, some_checkpoint(4));
  checkpoints().remove_from(2);
  EXPECT_FALSE(checkpoints().load(2, damage));
  EXPECT_FALSE(checkpoints().load(10, damage)) << "it follows from what is done again";
  expect_equal(checkpoints().load(0, damage).value(), some_checkpoint(3));
  checkpoints().remove_all();
  EXPECT_FALSE(fs::exists(folder_));
  EXPECT_EQ(damage_of(0), "");
}

TEST_F(CheckpointsTest, AreDueWhenTheIntervalIsOver) {
  EXPECT_FALSE(checkpoints().due());
  EXPECT_TRUE(Checkpoints(folder_, {}, 0).due());
  Checkpoints brief(folder_, {}, 0.05);
  ::usleep(60'000);
  EXPECT_TRUE(brief.due());
  brief.save(0, some_checkpoint(1));
  EXPECT_FALSE(brief.due());
}

TEST_F(CheckpointsTest, AreNotUsedWhenTheirEndIsCutOff) {
  checkpoints().save(0, some_checkpoint(1));
  const std::string whole = base::read_file(file());
  for (std::size_t length = 0; length < whole.size(); ++length) {
    std::ofstream(file(), std::ios::binary | std::ios::trunc) << whole.substr(0, length);
    EXPECT_NE(damage_of(0), "") << length;
  }
}

TEST_F(CheckpointsTest, AreNotUsedWithAnyChangedByte) {
  checkpoints().save(0, some_checkpoint(1));
  const std::string whole = base::read_file(file());
  std::string damage;
  int accepted = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    std::ofstream(file(), std::ios::binary | std::ios::trunc) << changed;
    const auto loaded = checkpoints().load(0, damage);
    if (!loaded) {
      EXPECT_NE(damage, "") << i;
      continue;
    }
    expect_equal(*loaded, some_checkpoint(1));  // a space of the header, and the like
    ++accepted;
  }
  EXPECT_LT(accepted, 10);
}

TEST_F(CheckpointsTest, AreNotUsedForAnotherStage) {
  checkpoints(2).save(0, some_checkpoint(1));
  EXPECT_THAT(damage_of(0), HasSubstr("is the checkpoint of another stage"));
}

TEST_F(CheckpointsTest, AreNotUsedIfSomethingElseIsThere) {
  fs::create_directories(file());
  EXPECT_NE(damage_of(0), "");
}

TEST_F(CheckpointsTest, CannotBeSavedWhereAFileIs) {
  fs::create_directories(root_);
  std::ofstream(folder_) << "a file";
  EXPECT_THROW(checkpoints().save(0, some_checkpoint(1)), base::HostError);
  EXPECT_EQ(base::read_file(folder_), "a file");
}

TEST_F(CheckpointsTest, AKillAtAnyOperationLeavesTheOldOneOrTheNewOne) {
  int killed = 0;
  for (int operation = 1;; ++operation) {
    fs::remove_all(folder_);
    checkpoints().save(0, some_checkpoint(1));
    const pid_t child = ::fork();
    if (child == 0) {
      backstop::testing::kill_at_operation(operation);
      checkpoints().save(0, some_checkpoint(2));
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    std::string damage;
    const auto kept = checkpoints().load(0, damage);
    ASSERT_TRUE(kept) << damage;
    EXPECT_THAT(kept->record["epoch"].get<int>(), AnyOf(1, 2));
    const auto files = std::distance(fs::directory_iterator(folder_), fs::directory_iterator());
    EXPECT_EQ(files, 1) << "something was left after operation " << operation;
    if (!WIFSIGNALED(status)) break;
    ++killed;
  }
  EXPECT_GT(killed, 4);
}

TEST_F(CheckpointsTest, AreSyncedBeforeTheyComeIntoTheirPlace) {
  using backstop::testing::FileOperation;
  backstop::testing::kill_at_operation(0);
  checkpoints().save(0, some_checkpoint(1));
  const auto& all = backstop::testing::file_operations();
  const auto place = std::find_if(all.begin(), all.end(), [&](const FileOperation& operation) {
    return operation.to == file().string();
  });
  ASSERT_NE(place, all.end());
  const auto synced = [](const FileOperation& o) { return o.kind == FileOperation::Kind::sync; };
  EXPECT_TRUE(std::any_of(all.begin(), place, synced));
  EXPECT_TRUE(std::any_of(place, all.end(), synced)) << "the folder's list of names";
}

TEST_F(CheckpointsTest, GoWhenTheirStageIsKept) {
  const StageStore store(root_);
  const nlohmann::json key = {{"seed", 1}};
  const fs::path stage = store.folder_of("attack", key);
  Stage made;
  made.row = {{"name", "row"}};
  const auto checkpoint = [&] {
    Checkpoints kept = StageStore::checkpoints(stage, key, kLong);
    kept.save(0, some_checkpoint(1));
  };
  const fs::path place = stage.string() + kCheckpoints;
  {
    const auto claim = store.claim(stage, [](const std::string&) {});
    checkpoint();
    store.remove_leftovers();
    EXPECT_TRUE(fs::exists(place));
    store.save(stage, key, made);
    EXPECT_FALSE(fs::exists(place));
    checkpoint();  // as if its maker had died at the last moment
    store.remove_leftovers();
    EXPECT_TRUE(fs::exists(place)) << "somebody has the claim";
  }
  store.remove_leftovers();
  EXPECT_FALSE(fs::exists(place));
  EXPECT_TRUE(fs::exists(stage));
}

}  // namespace
}  // namespace backstop::engine
