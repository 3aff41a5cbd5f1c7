// Runs the program from its stage, in a folder that exists as long as the test.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/program.hpp"

namespace backstop::testing {

class Cli : public ::testing::Test {
 protected:
  Cli() {
    std::string pattern = (std::filesystem::temp_directory_path() / "backstop-cli-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~Cli() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] Start start(std::vector<std::string> arguments) const {
    Start result{BACKSTOP_PROGRAM, std::move(arguments)};
    result.environment["XDG_DATA_HOME"] = (folder_ / "data").string();
    result.environment["HOME"] = folder_.string();
    return result;
  }
  [[nodiscard]] Outcome backstop(std::vector<std::string> arguments) const {
    return Process(start(std::move(arguments))).wait();
  }
  [[nodiscard]] std::string write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = folder_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
    return path.string();
  }

  std::filesystem::path folder_;
};

inline std::string read(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

}  // namespace backstop::testing
