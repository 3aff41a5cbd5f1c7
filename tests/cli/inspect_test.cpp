// backstop inspect from outside: where a plugin comes from, what it needs, and why it was refused.
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli_fixture.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::testing::Process;
using backstop::testing::Start;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

const std::string kPatch =
    (fs::path(BACKSTOP_PROGRAM) / "../../lib/backstop/plugins/attacks/patch.so")
        .lexically_normal()
        .string();

class Inspect : public backstop::testing::Cli {
 protected:
  /// A copy of the attack `patch` in a folder of the test.
  std::string copy(const std::string& name) const {
    fs::create_directories((folder_ / name).parent_path());
    fs::copy_file(kPatch, folder_ / name);
    return (folder_ / name).string();
  }
};

TEST_F(Inspect, ShowsOriginSizeTimeAndExports) {
  const auto outcome = backstop({"inspect", "patch"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out,
              MatchesRegex("(.|\n)*  origin     built-in\n  size       [0-9,]+ bytes, modified "
                           "[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8} UTC\n(.|\n)*"));
  EXPECT_THAT(outcome.out, HasSubstr("  exports    backstop_plugin_v1\n"));
}

TEST_F(Inspect, SaysWhoNamedTheFolder) {
  const std::string mine = copy("mine/patch.so");
  copy("data/backstop/plugins/patch.so");
  const auto origin = [](const Start& start) {
    return nlohmann::json::parse(Process(start).wait().out)["origin"];
  };
  Start start = this->start({"inspect", "patch", "--json"});
  EXPECT_EQ(origin(start), "user");
  start.environment["BACKSTOP_PLUGIN_PATH"] = "";
  EXPECT_EQ(origin(start), "installation");
  start.environment["BACKSTOP_PLUGIN_PATH"] = (folder_ / "mine").string();
  EXPECT_EQ(origin(start), "environment");
  start.arguments.insert(start.arguments.end(), {"--plugin-path", (folder_ / "mine").string()});
  EXPECT_EQ(origin(start), "command-line");
  EXPECT_TRUE(origin(this->start({"inspect", mine, "--json"})).is_null());
}

TEST_F(Inspect, ReadsOneFileAndNotItsNeighbours) {
  const std::string file = copy("heap/patch.so");
  copy("heap/same.so");  // in a plugin folder neither of the two could be used
  const auto outcome = backstop({"inspect", file});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out, HasSubstr("  origin     not in a plugin folder\n"));
}

TEST_F(Inspect, SaysOfAFileWhatTheCatalogSaysOfIt) {
  const std::string file = copy("heap/patch.so");
  copy("heap/same.so");
  const auto outcome = backstop({"inspect", file, "--plugin-path", (folder_ / "heap").string()});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, StartsWith("error: two files hold attack `patch`: "));

  Start distrusted = start({"inspect", copy("open/patch.so")});
  fs::permissions(folder_ / "open", fs::perms::all);
  distrusted.environment["BACKSTOP_PLUGIN_PATH"] = (folder_ / "open").string();
  EXPECT_THAT(Process(distrusted).wait().err, HasSubstr("is writable by everyone"));
}

TEST_F(Inspect, ComparesBuildsSideBySide) {
  const auto outcome = backstop({"inspect", BACKSTOP_BAD_PLUGINS "/wrong-torch.so"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.out,
              MatchesRegex("(.|\n)*\nBUILT WITH +plugin +this host\n  LibTorch +[0-9.]+ +[0-9.]+\n"
                           "(\n.*|$)(.|\n)*"));
  EXPECT_THAT(backstop({"inspect", "patch"}).out, Not(HasSubstr("this host")));

  const auto json = nlohmann::json::parse(
      backstop({"inspect", BACKSTOP_BAD_PLUGINS "/wrong-torch.so", "--json"}).out);
  EXPECT_NE(json["built"]["torch"], json["host"]["torch"]);
  EXPECT_EQ(json["built"]["abi"], "1.0") << "an older one, which is no difference to mind";
}

TEST_F(Inspect, NamesLibrariesThatAreNotThere) {
  const auto outcome = backstop({"inspect", BACKSTOP_ORPHAN});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.out, HasSubstr("  not found  libbackstop_absent.so\n"));
  EXPECT_THAT(outcome.err, StartsWith("error: needs libbackstop_absent.so, which is not on this "
                                      "machine\nhint: "));
  Start helped = start({"inspect", BACKSTOP_ORPHAN, "--json"});
  helped.environment["LD_LIBRARY_PATH"] = BACKSTOP_ABSENT;
  const auto found = Process(helped).wait();
  EXPECT_EQ(found.code, 0) << found.err;
  EXPECT_THAT(backstop({"inspect", BACKSTOP_FOUND}).out,
              AllOf(MatchesRegex("(.|\n)*\n  libraries  [^\n]*libbackstop_absent.so(.|\n)*"),
                    Not(HasSubstr("not found"))));
  const nlohmann::json library = {{"name", "libbackstop_absent.so"},
                                  {"path", BACKSTOP_ABSENT "/libbackstop_absent.so"}};
  EXPECT_THAT(nlohmann::json::parse(found.out)["libraries"], Contains(library));
}

TEST_F(Inspect, RefusesAPluginWithoutItsEntry) {
  const auto outcome = backstop({"inspect", BACKSTOP_BAD_PLUGINS "/no-entry.so"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, StartsWith("error: does not export backstop_plugin_v1\nhint: "));
}

TEST_F(Inspect, NamesSymbolsThatShouldBeHidden) {
  const auto outcome = backstop({"inspect", BACKSTOP_BAD_PLUGINS "/exports-more.so"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(
      outcome.out,
      MatchesRegex("(.|\n)*  exports +backstop_plugin_v1 and [0-9]+ symbols? that it should "
                   "hide: [^\n]+\n(.|\n)*"));
}

}  // namespace
