// backstop(1), as `backstop help --man` writes it.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/program.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::testing::Outcome;
using backstop::testing::Process;
using ::testing::HasSubstr;

Outcome run(const std::string& program, std::vector<std::string> arguments) {
  return Process({program, std::move(arguments)}).wait();
}

std::string manual() {
  return run(BACKSTOP_PROGRAM, {"help", "--man"}).out;
}

TEST(Manual, HasItsSections) {
  const std::string page = manual();
  std::size_t at = 0;
  for (const char* title : {"NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "COMMON OPTIONS",
                            "ENVIRONMENT", "EXIT STATUS", "FILES", "EXAMPLES"}) {
    const std::size_t found = page.find(std::string("\n.SH ") + title + "\n");
    ASSERT_NE(found, std::string::npos) << title;
    EXPECT_GT(found, at) << title;
    at = found;
  }
}

/// The first column of a list that --help shows, below a title.
std::vector<std::string> terms(const std::string& help, const std::string& title) {
  std::vector<std::string> found;
  std::istringstream lines(help.substr(help.find("\n" + title + ":\n") + 1));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line) && line.starts_with("  "))
    found.push_back(line.substr(2, line.find("  ", 6) - 2));
  return found;
}

std::string without_formatting(const std::string& roff) {
  std::string text;
  for (std::size_t i = 0; i < roff.size(); ++i) {
    if (roff[i] != '\\')
      text += roff[i];
    else if (roff[i + 1] == 'f')
      i += 2;
    else
      text += roff[++i];
  }
  return text;
}

TEST(Manual, HasEveryCommandWithItsOptions) {
  const std::string page = without_formatting(manual());
  const auto commands = terms(run(BACKSTOP_PROGRAM, {"--help"}).out, "commands");
  ASSERT_GE(commands.size(), 5U);
  for (const auto& command : commands) {
    if (command.starts_with("help ")) continue;
    EXPECT_THAT(page, HasSubstr("\n.SS backstop " + command + "\n"));
    std::istringstream words(command);
    std::vector<std::string> call;
    for (std::string word; words >> word && word.find_first_of("[ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 0;)
      call.push_back(word);
    call.push_back("--help");
    for (auto option : terms(run(BACKSTOP_PROGRAM, call).out, "options")) {
      option.erase(0, option.find_first_not_of(' '));
      EXPECT_THAT(page, HasSubstr("\n.TP\n" + option + "\n")) << command;
    }
  }
}

TEST(Manual, IsCleanForTroff) {
  if (run("sh", {"-c", "command -v groff"}).code != 0) GTEST_SKIP() << "groff is not installed";
  std::string pattern = (fs::temp_directory_path() / "backstop-manual-XXXXXX").string();
  const fs::path folder = mkdtemp(pattern.data());
  std::ofstream(folder / "backstop.1") << manual();
  const auto outcome = run(
      "groff", {"-man", "-Tutf8", "-ww", "-rCHECKSTYLE=3", "-z", (folder / "backstop.1").string()});
  fs::remove_all(folder);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
}

}  // namespace
