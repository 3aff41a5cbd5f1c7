// Checks docs/plugin-authors.md against the files that it describes. The line above each block of
// code names the file that the block comes from, <!-- FILE -->; the block must be lines of that
// file.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/catalog/manifest.hpp"
#include "host/schema/sections.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::schema::ParameterType;
using ::testing::Contains;
using ::testing::HasSubstr;

std::string read(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream) << path << " cannot be read";
  return {std::istreambuf_iterator<char>(stream), {}};
}

const fs::path& guide() {
  static const fs::path path = fs::path(BACKSTOP_ROOT) / "docs/plugin-authors.md";
  return path;
}

struct Block {
  std::string language, source, text;
  int line = 0;
};

/// FILE if the line is "<!-- FILE -->", otherwise empty.
std::string named_in(std::string_view line) {
  constexpr std::string_view kBegin = "<!-- ", kEnd = " -->";
  if (!line.starts_with(kBegin) || !line.ends_with(kEnd)) return {};
  line.remove_prefix(kBegin.size());
  line.remove_suffix(kEnd.size());
  return std::string(line);
}

std::vector<Block> blocks() {
  std::vector<Block> result;
  std::istringstream lines(read(guide()));
  std::string before, line;
  bool inside = false;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.starts_with("```")) {
      inside = !inside;
      if (inside) result.push_back({line.substr(3), named_in(before), "", number});
    } else if (inside) {
      result.back().text += line + "\n";
    }
    before = line;
  }
  EXPECT_FALSE(inside) << "the last block is not closed";
  return result;
}

}  // namespace

TEST(Guide, ShowsNoCodeThatIsNotCompiled) {
  std::vector<std::string> sources;
  for (const auto& block : blocks()) {
    if (block.language.empty()) continue;  // shell commands
    SCOPED_TRACE("line " + std::to_string(block.line));
    ASSERT_NE(block.source, "") << "the line above does not say <!-- FILE -->";
    // The block must begin at the beginning of a line.
    EXPECT_THAT("\n" + read(fs::path(BACKSTOP_ROOT) / block.source), HasSubstr("\n" + block.text))
        << block.source << " does not have these lines";
    sources.push_back(block.source);
  }
  for (const char* step :
       {"minimal/outlier-pruning", "parameters/pruned-tuning", "training_step/mixup-tuning"})
    for (const char* extension : {".cpp", ".toml"})
      EXPECT_THAT(sources, Contains(std::string("tests/authors/") + step + extension));
  for (const char* header : {"attack", "defense", "scheduler", "dataset"})
    EXPECT_THAT(sources, Contains(std::string("sdk/include/backstop/") + header + ".hpp"));
}

TEST(Guide, NamesEveryTypeOfParameter) {
  const std::string text = read(guide());
  for (const auto type : {ParameterType::boolean, ParameterType::integer, ParameterType::floating,
                          ParameterType::string, ParameterType::choice, ParameterType::path,
                          ParameterType::scheduler, ParameterType::optimizer})
    EXPECT_THAT(text, HasSubstr("`" + std::string(backstop::schema::to_string(type)) + "`"));
}

TEST(Guide, NamesEveryReservedKey) {
  for (const std::string& key : backstop::schema::reserved_keys())
    EXPECT_THAT(read(guide()), HasSubstr("`" + key + "`"));
}

TEST(Guide, LinksToFilesThatAreThere) {
  const std::string text = read(guide());
  int count = 0;
  for (auto at = text.find("]("); at != std::string::npos; at = text.find("](", at + 1), ++count) {
    const std::string link = text.substr(at + 2, text.find_first_of("#)", at) - at - 2);
    EXPECT_TRUE(fs::exists(guide().parent_path() / link)) << link;
  }
  EXPECT_GT(count, 0);
}
