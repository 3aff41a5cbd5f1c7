#include "host/engine/store/stage_store.hpp"

#include <fstream>

#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "host/base/files.hpp"

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;

class Store : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("store-" + std::to_string(::getpid()));
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
    StageStore(root_).save(folder_, key_, stage_);
  }
  void TearDown() override { fs::remove_all(root_); }

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
    if (entry.path().filename() == kSumsFile) continue;
    const std::string text = base::read_file(entry.path());
    ASSERT_FALSE(text.empty());
    std::string flipped = text;
    flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 1);
    std::ofstream(entry.path(), std::ios::binary | std::ios::trunc) << flipped;
    std::string damage;
    EXPECT_FALSE(StageStore(root_).load(folder_, key_, damage));
    EXPECT_EQ(damage, entry.path().string());
    std::ofstream(entry.path(), std::ios::binary | std::ios::trunc) << text;
    EXPECT_TRUE(StageStore(root_).load(folder_, key_, damage)) << damage;
  }
}

TEST_F(Store, AMissingFileMakesTheStageAbsent) {
  fs::remove(folder_ / kModelFile);
  std::string damage;
  EXPECT_FALSE(StageStore(root_).load(folder_, key_, damage));
  EXPECT_EQ(damage, (folder_ / kModelFile).string());
  fs::remove(folder_ / kSumsFile);
  EXPECT_FALSE(StageStore(root_).load(folder_, key_, damage));
  EXPECT_EQ(damage, "") << "without its last file a stage was never finished";
}

TEST_F(Store, AStageOfAnotherKeyIsNotTheOneThatWasAskedFor) {
  std::string damage;
  EXPECT_FALSE(StageStore(root_).load(folder_, {{"seed", 2}}, damage));
  EXPECT_EQ(damage, (folder_ / "key.json").string());
}

TEST_F(Store, OtherKeysHaveOtherFolders) {
  const StageStore store(root_);
  EXPECT_NE(store.folder_of("attack", {{"seed", 2}}), folder_);
  EXPECT_NE(store.folder_of("defense", key_), folder_);
  EXPECT_EQ(store.folder_of("attack", key_), folder_);
}

}  // namespace
}  // namespace backstop::engine
