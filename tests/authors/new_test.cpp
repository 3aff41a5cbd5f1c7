// `backstop new`: the files that it writes, and its errors.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <toml++/toml.h>

#include "host/catalog/manifest.hpp"
#include "tests/support/program.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::testing::Outcome;
using backstop::testing::Process;
using backstop::testing::Start;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

std::string read(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream) << path;
  return {std::istreambuf_iterator<char>(stream), {}};
}

class New : public ::testing::Test {
 protected:
  New() {
    std::string pattern = (fs::temp_directory_path() / "backstop-new-XXXXXX").string();
    folder_ = fs::canonical(mkdtemp(pattern.data()));
  }
  ~New() override { fs::remove_all(folder_); }

  [[nodiscard]] Outcome backstop(std::vector<std::string> arguments,
                                 const std::string& program = BACKSTOP_PROGRAM) const {
    return Process(Start{program,
                         std::move(arguments),
                         {{"HOME", folder_.string()}, {"BACKSTOP_PLUGIN_PATH", ""}}})
        .wait();
  }
  [[nodiscard]] Outcome make(const std::string& kind, const std::string& name) const {
    return backstop({"new", kind, name, "--out", folder_.string()});
  }
  /// The names of the files and folders in the test's folder.
  [[nodiscard]] std::vector<std::string> left() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_))
      names.push_back(entry.path().filename().string());
    return names;
  }

  fs::path folder_;
};

// -- what it writes --

class NewOfKind : public New, public ::testing::WithParamInterface<const char*> {};

TEST_P(NewOfKind, WritesEveryFileAndNoPlaceholder) {
  const auto outcome = make(GetParam(), "my-thing");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(left(), ElementsAre("my-thing"));

  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder_ / "my-thing"))
    files[entry.path().filename().string()] = read(entry.path());
  std::vector<std::string> names;
  for (const auto& [name, text] : files) {
    names.push_back(name);
    EXPECT_EQ(text.find('@'), std::string::npos) << name;
    EXPECT_THAT(text, Not(IsEmpty())) << name;
  }
  EXPECT_THAT(names,
              ElementsAre(".gitignore", "CMakeLists.txt", "CMakePresets.json", "README.md",
                          "my-thing.cpp", "my-thing.toml", "my-thing_test.cpp", "recipe.toml"));
  EXPECT_THAT(files["my-thing.cpp"], HasSubstr("class MyThing final : public backstop::"));
  EXPECT_THAT(files["my-thing_test.cpp"], HasSubstr("(MyThing, "));
  EXPECT_THAT(files["CMakeLists.txt"],
              HasSubstr(std::string("backstop_add_plugin(my-thing KIND ") + GetParam() + " "));
  const auto presets = nlohmann::json::parse(files["CMakePresets.json"]);
  EXPECT_EQ(presets["configurePresets"][0]["cacheVariables"]["CMAKE_PREFIX_PATH"],
            fs::path(BACKSTOP_PROGRAM).parent_path().parent_path().string());
}

TEST_P(NewOfKind, WritesAManifestThatTheHostReads) {
  ASSERT_EQ(make(GetParam(), "my-thing").code, 0);
  const auto manifest =
      backstop::catalog::parse_manifest(read(folder_ / "my-thing/my-thing.toml"), "my-thing.toml");
  EXPECT_EQ(manifest.name, "my-thing");
  EXPECT_EQ(to_string(manifest.kind), GetParam());
  EXPECT_FALSE(manifest.parameters.empty());
}

TEST_P(NewOfKind, WritesARecipeThatUsesThePlugin) {
  ASSERT_EQ(make(GetParam(), "my-thing").code, 0);
  const std::string text = read(folder_ / "my-thing/recipe.toml");
  EXPECT_EQ(toml::parse(text)["schema"], 1);
  EXPECT_THAT(text, HasSubstr("plugin = \"my-thing\""));
}

TEST_P(NewOfKind, SaysWhatComesNext) {
  const auto outcome = make(GetParam(), "my-thing");
  const std::string target = (folder_ / "my-thing").string();
  EXPECT_THAT(outcome.err, StartsWith("wrote " + target + "\n"));
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("\n  cd " + target + "\n"),
                                 HasSubstr("\n  cmake --workflow --preset check\n"),
                                 HasSubstr("\n  backstop run recipe.toml --plugin-path ")));
}

INSTANTIATE_TEST_SUITE_P(Kinds, NewOfKind,
                         ::testing::Values("attack", "defense", "scheduler", "dataset"),
                         [](const auto& one) { return std::string(one.param); });

TEST_F(New, DefenseIsOneFileOfAtMost60Lines) {
  ASSERT_EQ(make("defense", "mine").code, 0);
  const std::string text = read(folder_ / "mine/mine.cpp");
  EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 60);
}

TEST_F(New, NamesTheClassAfterThePlugin) {
  // A name without a lower-case letter could clash with a macro, as EOF would.
  const std::map<std::string, std::string> classes = {{"my-defense", "MyDefense"},
                                                      {"class", "Class"},
                                                      {"top-5--error-", "Top5Error"},
                                                      {"e-o-f", "EOFDefense"},
                                                      {"n", "NDefense"}};
  for (const auto& [name, expected] : classes) {
    ASSERT_EQ(make("defense", name).code, 0) << name;
    EXPECT_THAT(read(folder_ / name / (name + ".cpp")),
                HasSubstr("BACKSTOP_PLUGIN(Defense, " + expected + ")\n"));
  }
}

TEST_F(New, MakesTheFolderThatItIsToldToWriteInto) {
  const fs::path below = folder_ / "some/where";
  EXPECT_EQ(backstop({"new", "attack", "mine", "--out", below.string()}).code, 0);
  EXPECT_TRUE(fs::exists(below / "mine/mine.cpp"));
}

TEST_F(New, WritesJson) {
  const auto outcome = backstop({"new", "attack", "mine", "--json", "--out", folder_.string()});
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["kind"], "attack");
  EXPECT_EQ(json["name"], "mine");
  EXPECT_EQ(json["folder"], (folder_ / "mine").string());
  EXPECT_EQ(json["files"].size(), 8U);
}

// -- what it refuses --

struct Refused {
  const char* name;
  std::vector<std::string> arguments;
  const char* message;
  const char* hint;
};

class NewUsage : public New, public ::testing::WithParamInterface<Refused> {};

TEST_P(NewUsage, IsRefusedWithASentence) {
  std::vector<std::string> arguments = GetParam().arguments;
  arguments.insert(arguments.begin(), {"new", "--out", folder_.string()});
  const auto outcome = backstop(arguments);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err,
            std::string("error: ") + GetParam().message + "\nhint: " + GetParam().hint + "\n");
  EXPECT_THAT(left(), IsEmpty());
}

constexpr const char* kSeeHelp = "see `backstop new --help`";

INSTANTIATE_TEST_SUITE_P(
    Lines, NewUsage,
    ::testing::Values(
        Refused{"NoKind", {}, "`new` needs a KIND", kSeeHelp},
        Refused{"NoName", {"defense"}, "`new` needs a NAME", kSeeHelp},
        Refused{"ThreeArguments",
                {"defense", "a", "b"},
                "`new` takes KIND and NAME, got 3: `defense`, `a`, ...",
                kSeeHelp},
        Refused{"MisspeltKind",
                {"defence", "mine"},
                "there is no kind `defence`",
                "did you mean `defense`?"},
        Refused{"UnknownKind",
                {"optimizer", "mine"},
                "there is no kind `optimizer`",
                "the kinds are attack, defense, scheduler and dataset"},
        Refused{"EmptyName",
                {"attack", ""},
                "`` is not a valid plugin name: it is empty; use lowercase "
                "letters, digits and hyphens, starting with a letter",
                "for example `my-defense`"},
        Refused{"CapitalLetter",
                {"attack", "My_Attack"},
                "`My_Attack` is not a valid plugin name: it contains `M`; use lowercase "
                "letters, digits and hyphens, starting with a letter",
                "try `my-attack`"},
        Refused{"NotAscii",
                {"attack", "über"},
                "`über` is not a valid plugin name: it contains `ü`; use lowercase "
                "letters, digits and hyphens, starting with a letter",
                "try `ber`"},
        Refused{"DigitFirst",
                {"attack", "3d"},
                "`3d` is not a valid plugin name: it starts with `3`; use lowercase "
                "letters, digits and hyphens, starting with a letter",
                "try `d`"},
        Refused{"PathForAName",
                {"attack", "../mine"},
                "`../mine` is not a valid plugin name: it contains `.`; use lowercase "
                "letters, digits and hyphens, starting with a letter",
                "try `mine`"},
        Refused{"NameOfABuiltInPlugin",
                {"defense", "fine-tuning"},
                "there is already a built-in defense `fine-tuning`, which yours would hide",
                "choose another name, such as `my-fine-tuning`"}),
    [](const auto& one) { return std::string(one.param.name); });

TEST_F(New, TakesTheNameOfABuiltInPluginOfAnotherKind) {
  EXPECT_EQ(make("attack", "fine-tuning").code, 0);
}

TEST_F(New, OverwritesNothing) {
  fs::create_directory(folder_ / "folder");
  std::ofstream(folder_ / "file") << "mine";
  fs::create_symlink("nowhere", folder_ / "link");
  for (const char* name : {"folder", "file", "link"}) {
    const auto outcome = make("attack", name);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.err, "error: `" + (folder_ / name).string() +
                               "` already exists; nothing was written\n"
                               "hint: choose another name, or another folder with `--out`\n");
  }
  EXPECT_TRUE(fs::is_empty(folder_ / "folder"));
  EXPECT_EQ(read(folder_ / "file"), "mine");
  EXPECT_FALSE(fs::exists(folder_ / "link"));
}

TEST_F(New, SaysWhereItCannotWrite) {
  std::ofstream(folder_ / "file") << "mine";
  const auto outcome = backstop({"new", "attack", "mine", "--out", (folder_ / "file").string()});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_EQ(outcome.err, "error: cannot write `" + (folder_ / "file/mine").string() +
                             "`: Not a directory\n"
                             "hint: use `--out` to write to another folder\n");
}

TEST_F(New, LeavesNothingBehindWhenAFileCannotBeWritten) {
  // The folder's name is short enough for the file system, but the name of NAME_test.cpp is not.
  const auto outcome = make("attack", std::string(248, 'a'));
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, AllOf(StartsWith("error: cannot write `"),
                                 HasSubstr(": File name too long\nhint: ")));
  EXPECT_THAT(left(), IsEmpty());
}

TEST_F(New, SaysWhereItLookedForTemplates) {
  fs::create_directories(folder_ / "bin");
  const fs::path program = folder_ / "bin/backstop";
  fs::copy_file(BACKSTOP_PROGRAM, program);
  const auto outcome =
      backstop({"new", "attack", "mine", "--out", (folder_ / "out").string()}, program.string());
  EXPECT_EQ(outcome.code, 4);
  EXPECT_EQ(outcome.err, "error: the folder of templates `" +
                             (folder_ / "share/backstop/templates/common").string() +
                             "` does not exist\n"
                             "hint: install the package libbackstop-dev, or reinstall backstop\n");
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

}  // namespace
