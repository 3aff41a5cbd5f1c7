// What a recipe may not be: too long, too many, of numbers that are not exact, or of names that
// look like others.
#include <chrono>
#include <thread>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "host/base/error.hpp"
#include "host/recipe/recipe_file.hpp"
#include "host/recipe/recipe_fixture.hpp"
#include "host/recipe/row_name.hpp"

namespace backstop::recipe {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class RecipeBounds : public RecipeTest {
 protected:
  /// What check_recipe() throws for a file.
  std::string failure(const std::string& file) {
    try {
      (void)check_recipe(file, {}, catalog_);
    } catch (const base::HostError& error) {
      EXPECT_EQ(error.code(), base::ExitCode::usage);
      return error.what();
    }
    return "no failure";
  }
  /// Fails when checking takes more than a few seconds.
  std::size_t number_of_problems(const std::string& text) {
    const auto start = std::chrono::steady_clock::now();
    const std::size_t count = check(text).diagnostics.size();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
    return count;
  }
  static std::string repeated(std::string_view text, std::size_t bytes) {
    std::string all;
    while (all.size() + text.size() + 8 < bytes) {
      all += text;
      if (const auto at = all.rfind('#'); at != std::string::npos)
        all.replace(at, 1, std::to_string(all.size()));
    }
    return all;
  }
};

TEST_F(RecipeBounds, LimitsTheText) {
  const std::string longest(kLongestRecipe - kValidRecipe.size(), '\n');
  EXPECT_EQ(problems_of(std::string(kValidRecipe) + longest), "");
  EXPECT_THROW((void)check(std::string(kValidRecipe) + longest + "\n"), base::HostError);
  EXPECT_EQ(failure(file_), "recipe " + file_ + " has more than 1,048,576 bytes");
}

TEST_F(RecipeBounds, EndsAtOnceForWhatIsNoFile) {
  EXPECT_EQ(failure("/dev/zero"), "cannot read recipe /dev/zero: it is a device, not a file");
  EXPECT_EQ(failure(folder_.string()),
            "cannot read recipe " + folder_.string() + ": it is a folder");
  const std::string pipe = (folder_ / "pipe").string();
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(failure(pipe),
            "cannot read recipe " + pipe + ": it is a pipe that nothing was written to");
}

TEST_F(RecipeBounds, ReadsFromAPipeWhoseWriterTakesItsTime) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  std::thread writer([&] {
    for (const std::string_view half : {kValidRecipe.substr(0, 100), kValidRecipe.substr(100)}) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      EXPECT_EQ(::write(ends[1], half.data(), half.size()), std::ssize(half));
    }
    ::close(ends[1]);
  });
  EXPECT_EQ(read_recipe("/dev/fd/" + std::to_string(ends[0])), kValidRecipe);
  writer.join();
  ::close(ends[0]);
}

TEST_F(RecipeBounds, StopsAfterManyProblemsWithinSeconds) {
  constexpr std::size_t kBytes = 900'000;
  EXPECT_EQ(number_of_problems(repeated("key# = 1\n", kBytes)), 201U);
  EXPECT_EQ(number_of_problems("[model]\n" + repeated("key# = 1\n", kBytes)), 201U);
  EXPECT_EQ(number_of_problems("[expect]\n" + repeated("row#.x = 1\n", 20'000)), 201U);
  EXPECT_LT(number_of_problems(std::string(kBytes, 'k') + " = 1\n"), 9U);
  EXPECT_LT(number_of_problems("[expect]\n" + std::string(kBytes, 'k') + " = 1\n"), 9U);
  EXPECT_LT(number_of_problems("[dataset]\nplugin = \"shapes\"\nclasses = [" +
                               repeated("#,", kBytes) + "]\n"),
            9U);
  const auto checked = check(repeated("key# = 1\n", 20'000));
  EXPECT_THAT(problems(checked), StartsWith("checking stopped after 200 problems\n"));
  const std::string shown = render(checked.diagnostics, checked.source, false);
  EXPECT_THAT(shown, HasSubstr("\n\nand 181 more\n"));
  EXPECT_LT(shown.size(), 10'000U);
}

TEST_F(RecipeBounds, LimitsDefenses) {
  const std::string start(kValidRecipe.substr(0, kValidRecipe.find("[[defense]]")));
  const auto defenses = [&](int count) {
    std::string text = start;
    for (int i = 0; i < count; ++i)
      text += "[[defense]]\nplugin = \"filter\"\nname = \"" + std::to_string(i) + "\"\n";
    return text;
  };
  EXPECT_EQ(check(defenses(256)).recipes.at(0).defenses.size(), 256U);
  EXPECT_THAT(problems_of(defenses(257)),
              HasSubstr("there are 257 defenses; at most 256 are allowed | split the recipe"));
  const auto matrix = [](int count) {
    std::string text = "[matrix]\nseed = [0";
    for (int i = 1; i < count; ++i) text += ", " + std::to_string(i);
    return text + "]\n";
  };
  EXPECT_THAT(problems_of(defenses(256) + matrix(79)),
              HasSubstr("[matrix] expands to more than 20,000 defenses"));
  EXPECT_THAT(problems_of(start + std::string(800'000, '\n') + matrix(100)),
              HasSubstr("[matrix] expands to more than 67,108,864 bytes of recipes"));
}

TEST_F(RecipeBounds, LimitsOverrides) {
  EXPECT_THAT(problems_of(kValidRecipe, {"name=" + std::string(70'000, 'x')}),
              HasSubstr("it has 70005 bytes; at most 65536 are allowed"));
  EXPECT_THROW((void)check(kValidRecipe, std::vector<std::string>(1001, "seed=1")),
               base::HostError);
}

TEST_F(RecipeBounds, ShowsThePartOfALongLineThatMatters) {
  std::vector<Diagnostic> diagnostics(1);
  diagnostics[0].message = "m";
  diagnostics[0].line = 1;
  diagnostics[0].column = 301;
  const std::string source = std::string(300, 'a') + "b" + std::string(300, 'c');
  EXPECT_EQ(render(diagnostics, source, false),
            "error: m\n  --> :1:301\n   |\n 1 | ..." + std::string(79, 'a') + "b" +
                std::string(80, 'c') + "...\n   | " + std::string(82, ' ') + "^\n");
}

TEST_F(RecipeBounds, ShowsErrorsBeforeWarnings) {
  std::vector<Diagnostic> diagnostics(30);
  for (auto& diagnostic : diagnostics) diagnostic.severity = Diagnostic::Severity::warning;
  diagnostics.back().severity = Diagnostic::Severity::error;
  diagnostics.back().message = "wrong";
  EXPECT_THAT(render(diagnostics, "", false), HasSubstr("error: wrong\n\nand 10 more\n"));
}

TEST_F(RecipeBounds, LimitsThreadsByTheProcessors) {
  cpu_set_t set;
  ASSERT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
  const int here = CPU_COUNT(&set);
  const auto problems_of_threads = [&](int threads) {
    return problems_of(kValidRecipe, {"compute.threads=" + std::to_string(threads)});
  };
  EXPECT_EQ(problems_of_threads(here), "");
  EXPECT_THAT(problems_of_threads(here + 1),
              HasSubstr("warning `threads` is " + std::to_string(here + 1) + ", but only " +
                        std::to_string(here)));
  EXPECT_THAT(problems_of_threads(16 * here + 1),
              AllOf(HasSubstr("at most " + std::to_string(16 * here) + " are allowed here"),
                    Not(HasSubstr("warning"))));
}

TEST_F(RecipeBounds, RefusesPathsThatAreNeitherFilesNorFolders) {
  const std::string pipe = (folder_ / "pipe").string();
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& path : {pipe, std::string("/dev/zero")})
    for (const std::string key : {"attack.pattern", "model.file", "dataset.root"})
      EXPECT_THAT(problems_of(kValidRecipe, {key + "=" + path}),
                  HasSubstr("environment `" + key.substr(key.find('.') + 1) + "` is \"" + path +
                            "\", which is neither a file nor a folder"));
  EXPECT_THAT(problems_of(kValidRecipe, {"attack.pattern=\"a\\u0000b\""}),
              HasSubstr("`pattern` must not contain a NUL"));
}

TEST_F(RecipeBounds, RefusesNamesOfRunsThatAreNoGoodFolders) {
  for (const std::string& name : {std::string(201, 'a'), std::string(".stages"), std::string("-a"),
                                  std::string("a b"), std::string("a\xe2\x80\x8b")})
    EXPECT_THAT(problems_of(kValidRecipe, {"name=" + name}),
                HasSubstr("`name` must be a folder name of at most 200 letters"))
        << name;
  EXPECT_EQ(problems_of(kValidRecipe, {"name=" + std::string(200, 'a')}), "");
}

TEST_F(RecipeBounds, ChecksTheNamesOfRowsAfterEveryChange) {
  EXPECT_THAT(problems_with("name = \"super\"", "name = \"super \""),
              HasSubstr("22:8+8 `name` must not end with a space"));
  EXPECT_THAT(problems_of(std::string(kValidRecipe) + "[matrix]\n\"defense.0.name\" = [\"a\", \"" +
                          std::string(201, 'b') + "\"]\n"),
              HasSubstr("`name` has 201 bytes; at most 200 are allowed"));
}

TEST(RowName, SaysWhatNobodyCanSee) {
  EXPECT_EQ(problem_of_name("SFT 0.1, \xe5\xbe\xae\xe8\xb0\x83 \xf0\x9f\x94\xa5"), std::nullopt);
  EXPECT_EQ(problem_of_name(""), "`name` must not be empty");
  EXPECT_EQ(problem_of_name("  "), "`name` must not consist of spaces");
  EXPECT_EQ(problem_of_name(" a"), "`name` must not begin with a space");
  EXPECT_EQ(problem_of_name("a "), "`name` must not end with a space");
  EXPECT_EQ(problem_of_name("a\tb"),
            "`name` must not contain a control character: character 2 is U+0009");
  EXPECT_EQ(problem_of_name("\xc3\xa9\xc2\x9b"),
            "`name` must not contain a control character: character 2 is U+009B");
  EXPECT_EQ(problem_of_name("a\xc2\xa0"),
            "`name` must not contain a space that is not the ordinary one: character 2 is U+00A0");
  EXPECT_EQ(problem_of_name("ab\xe2\x80\x8b"),
            "`name` must not contain an invisible character: character 3 is U+200B");
  EXPECT_EQ(problem_of_name("\xe2\x80\xae"
                            "a"),
            "`name` must not contain a character that changes the direction of text: character 1 "
            "is U+202E");
  EXPECT_EQ(problem_of_name("a\xf3\xa0\x81\x81"),
            "`name` must not contain an invisible character: character 2 is U+E0041");
  EXPECT_EQ(problem_of_name(std::string(200, 'a')), std::nullopt);
}

TEST_F(RecipeBounds, AValueIsThereOnceInAMatrix) {
  EXPECT_THAT(problems_of(std::string(kValidRecipe) + "[matrix]\nseed = [1, 2, 1]\n"),
              HasSubstr("`seed` has 1 twice"));
  EXPECT_EQ(problems_of(std::string(kValidRecipe) + "[matrix]\nseed = [1, 2, 3]\n"), "");
}

}  // namespace
}  // namespace backstop::recipe
