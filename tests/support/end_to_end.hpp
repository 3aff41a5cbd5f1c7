// Runs recipes in a folder of their own.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/program.hpp"

namespace backstop::testing {

namespace fs = std::filesystem;

/// A quick recipe: half a second of training once LibTorch has started.
inline constexpr const char* kRecipe = R"(schema = 1
name = "small"
seed = 3

[dataset]
plugin = "synthetic"
train_images = 256
test_images = 128
classes = 4

[model]
architecture = "small-cnn"
width = 8

[attack]
plugin = "badnets"
poison_ratio = 0.2
target = 1

[attack.training]
epochs = 2
batch_size = 32
scheduler = { plugin = "constant", rate = 0.05 }

[[defense]]
name = "plain"
plugin = "fine-tuning"
clean_fraction = 0.5
epochs = 2
batch_size = 32
scheduler = { plugin = "constant", rate = 0.01 }

[[defense]]
name = "super"
plugin = "fine-tuning"
clean_images = 100
epochs = 1
batch_size = 32
scheduler = { plugin = "super-fine-tuning", maximum_1 = 0.3 }

[compute]
precision = "float32"
threads = 1
)";

inline std::string read(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream) << path << " cannot be read";
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

class EndToEnd : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::canonical(::testing::TempDir()) /
              (std::string("backstop-") + info->name() + "-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
    write_recipe(kRecipe);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write_recipe(const std::string& text) const { std::ofstream(recipe()) << text; }
  [[nodiscard]] fs::path recipe() const { return folder_ / "recipe.toml"; }
  [[nodiscard]] fs::path out() const { return folder_ / "runs"; }

  [[nodiscard]] Start command(std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"run", recipe().string(), "--out", out().string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    // The plugins that are found must not depend on who runs the tests.
    return {
        BACKSTOP_PROGRAM, arguments, {{"HOME", folder_.string()}, {"BACKSTOP_PLUGIN_PATH", ""}}};
  }
  /// The same behind `ulimit LIMIT`.
  [[nodiscard]] static Start limited(const std::string& limit, Start start) {
    std::string line = "ulimit " + limit + "; exec '" + start.program + "'";
    for (const auto& argument : start.arguments) line += " '" + argument + "'";
    start.program = "/bin/sh";
    start.arguments = {"-c", line};
    return start;
  }
  [[nodiscard]] Outcome run(std::vector<std::string> more = {}) const {
    return Process(command(std::move(more))).wait();
  }

  /// The folders of the runs, oldest first.
  [[nodiscard]] std::vector<fs::path> runs(const std::string& name = "small") const {
    std::vector<fs::path> result;
    for (const auto& entry : fs::directory_iterator(out() / name)) result.push_back(entry.path());
    std::sort(result.begin(), result.end());
    return result;
  }
  /// What runs are compared by: all of results.json except the time that the run took.
  [[nodiscard]] static nlohmann::json numbers(const fs::path& run) {
    auto results = nlohmann::json::parse(read(run / "results.json"));
    for (auto& row : results["rows"]) row["cost"] = {{"samples_seen", row["cost"]["samples_seen"]}};
    return results;
  }
  [[nodiscard]] static nlohmann::json row(const nlohmann::json& results, const std::string& name) {
    for (const auto& r : results["rows"])
      if (r["name"] == name) return r;
    ADD_FAILURE() << "no row " << name << " in " << results.dump(2);
    return {};
  }

  fs::path folder_;
};

}  // namespace backstop::testing
