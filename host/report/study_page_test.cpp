#include "host/report/study_page.hpp"

#include <algorithm>

#include <gmock/gmock.h>

#include "host/base/error.hpp"
#include "host/report/study_fixture.hpp"

namespace backstop::report {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

class StudyPages : public StudyTest {
 protected:
  std::string page() {
    const Study study = make_study(find_runs({path()}), {});
    return study_page(study, tables_of(study), {});
  }
};

TEST_F(StudyPages, StandAloneAndCallEachLineByItsRow) {
  write_run("a", {.seed = 0});
  write_run("b", {.seed = 1, .tuned_success = 0.1});
  const std::string html = page();
  EXPECT_THAT(html, AllOf(HasSubstr("<html lang=\"en\">"),
                          HasSubstr("<th scope=\"row\">no\u00a0defense</th>"),
                          HasSubstr("data-order=\"0.15"), HasSubstr(">0.150\u00a0±\u00a00.071<")));
  EXPECT_THAT(html, AllOf(Not(HasSubstr(" src=")), Not(HasSubstr("<link")),
                          Not(HasSubstr("@import")), Not(HasSubstr(" href=\"http"))));
  EXPECT_EQ(count(html, "<table "), 3U);
}

TEST_F(StudyPages, HaveFiguresWithTheirText) {
  write_run("a", {});
  const Study study = make_study(find_runs({path()}), {});
  const std::string html =
      study_page(study, {}, {{"x", "Cost <of> all", "A box a defense", "<svg></svg>"}});
  EXPECT_THAT(html, AllOf(HasSubstr("<svg></svg>"), HasSubstr("Cost &lt;of&gt; all"),
                          HasSubstr("A box a defense")));
}

TEST_F(StudyPages, EscapeNames) {
  for (const std::string name : kHostileNames) {
    write_run("a", {});
    FoundRuns found = find_runs({path()});
    auto& run = found.runs.at(0);
    run.recipe["attack.plugin"] = name;
    run.results["rows"][1]["name"] = name;
    run.results["rows"][1]["warning"] = name;
    run.folder = name;
    found.omitted.push_back({name, name});
    const Study study = make_study(std::move(found), {});
    const auto tables = tables_of(study);
    const std::string html = study_page(study, tables, {});
    EXPECT_EQ(count(html, "<script"), 1U) << name;
    EXPECT_EQ(count(html, "<img"), 0U);
    EXPECT_EQ(count(html, "onmouseover=\""), 0U);
    EXPECT_THAT(html,
                AllOf(Not(HasSubstr("\033")), Not(HasSubstr("\u202e")), Not(HasSubstr("\007"))));
    EXPECT_THAT(study_markdown(study, tables), AllOf(Not(HasSubstr("<")), Not(HasSubstr("\033"))));
    EXPECT_THAT(study_latex(tables), Not(HasSubstr("\033")));
  }
}

TEST_F(StudyPages, WriteTablesIntoAText) {
  write_run("runs/a", {.seed = 0});
  write_run("runs/b", {.seed = 1, .tuned_success = 0.1});
  const std::string begin =
      "<!-- backstop report runs --baseline \"no defense\" differences results -->\n";
  const std::string end = "<!-- end of backstop report -->\n";
  const std::string text = with_tables("before\n" + begin + "typed\n" + end + "after\n", path());
  EXPECT_THAT(text, AllOf(HasSubstr("before\n" + begin + "\n| dataset | attack |"),
                          HasSubstr("| tuned | 2 | **0.880 ± 0.000** | **0.150 ± 0.071** |"),
                          HasSubstr("−0.830 \\["), HasSubstr('\n' + end + "after\n"),
                          Not(HasSubstr("typed"))));
  EXPECT_EQ(with_tables(text, path()), text);
  EXPECT_EQ(with_tables("no place\n", path()), "no place\n");
  EXPECT_EQ(with_tables("```\n" + begin + "```\n", path()), "```\n" + begin + "```\n");
}

TEST_F(StudyPages, RefuseAPlaceThatTheyDoNotUnderstand) {
  write_run("runs/a", {});
  std::filesystem::create_directory(path() / "empty");
  for (const char* place :
       {"<!-- backstop report runs -->\n",
        "<!-- backstop report runs\n<!-- end of backstop report -->\n",
        "<!-- backstop report -->\n<!-- end of backstop report -->\n",
        "<!-- backstop report runs --hurry -->\n<!-- end of backstop report -->\n",
        "<!-- backstop report runs --ignore -->\n<!-- end of backstop report -->\n",
        "<!-- backstop report empty -->\n<!-- end of backstop report -->\n",
        "<!-- backstop report nowhere -->\n<!-- end of backstop report -->\n",
        "<!-- backstop report runs -->\n<!-- backstop report runs -->\n<!-- end of backstop report "
        "-->\n"})
    EXPECT_THROW((void)with_tables(place, path()), base::HostError) << place;
}

std::string read_text(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

// Nothing between the marks of a page of ours was typed.
TEST(Documents, HaveTheTablesOfTheirRuns) {
  const std::filesystem::path docs = std::filesystem::path(BACKSTOP_SOURCE) / "docs";
  std::size_t places = 0;
  for (const auto& entry : std::filesystem::directory_iterator(docs)) {
    if (entry.path().extension() != ".md") continue;
    const std::string text = read_text(entry.path());
    places += count(text, "\n<!-- backstop report ");
    // The place alone: the pages are long.
    const std::string made = with_tables(text, docs);
    const auto differs = std::mismatch(made.begin(), made.end(), text.begin(), text.end());
    EXPECT_TRUE(made == text) << entry.path() << " differs at "
                              << std::string(differs.first, made.end()).substr(0, 200)
                              << "\nrun `backstop report --update " << entry.path().string() << '`';
  }
  EXPECT_GT(places, 0U);
}

}  // namespace
}  // namespace backstop::report
