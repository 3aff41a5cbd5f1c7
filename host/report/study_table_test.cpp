#include "host/report/study_table.hpp"

#include <algorithm>
#include <set>
#include <sstream>

#include <gmock/gmock.h>

#include "host/report/study_fixture.hpp"

namespace backstop::report {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

class StudyTables : public StudyTest {
 protected:
  Study make() { return make_study(find_runs({path()}), {}); }

  void write_three() {
    write_run("a", {.seed = 0, .tuned_success = 0.1});
    write_run("b", {.seed = 1, .tuned_success = 0.2});
    write_run("c", {.seed = 2, .tuned_success = 0.3});
  }

  /// A study in which every name of the recipes and results is `name`.
  Study hostile(const std::string& name) {
    write_run("a", {.seed = 0});
    write_run("b", {.seed = 1, .tuned_success = 0.1});
    FoundRuns found = find_runs({path()});
    for (auto& run : found.runs) {
      run.recipe["attack.plugin"] = name;
      run.recipe["dataset.plugin"] = name;
      run.results["rows"][1]["name"] = name;
      run.results["rows"][1]["plugin"] = name;
      run.results["rows"][1]["warning"] = name;
    }
    found.omitted.push_back({name, name});
    return make_study(std::move(found), {.baseline = "no defense"});
  }
};

std::vector<std::string> cells_of(const StudyTable& table, std::size_t line) {
  std::vector<std::string> cells;
  for (const auto& cell : table.lines.at(line).cells) cells.push_back(cell.text);
  return cells;
}

TEST_F(StudyTables, ShowMeanAndSpread) {
  write_three();
  const StudyTable table = results_table(make());
  EXPECT_THAT(table.header, ElementsAre("dataset", "attack", "defense", "n", "CA", "ASR", "DER",
                                        "wall time (s)", "CPU time (s)", "samples seen"));
  EXPECT_EQ(table.conditions, 2U);
  EXPECT_EQ(table.texts, 3U);
  EXPECT_THAT(cells_of(table, 1),
              ElementsAre("cifar10", "badnets", "tuned", "3", "0.880 ± 0.000", "0.200 ± 0.100",
                          "0.880 ± 0.050", "312.4 ± 0.0", "600.5 ± 0.0", "120,000 ± 0"));
  EXPECT_TRUE(table.lines[0].first_of_block);
  EXPECT_FALSE(table.lines[1].first_of_block);
  EXPECT_TRUE(table.lines[1].cells[5].best);
  EXPECT_FALSE(table.lines[1].cells[8].best);
  EXPECT_THAT(table.notes, Contains(kRuleOfBest));
}

TEST_F(StudyTables, ShowIntervalsAndDifferences) {
  write_three();
  const auto tables = tables_of(make());
  ASSERT_THAT(tables, SizeIs(3));
  // 0.1 * 4.302653 / sqrt(3) = 0.248
  EXPECT_EQ(cells_of(tables[1], 1)[5], "0.200 [−0.048, 0.448]");
  EXPECT_THAT(cells_of(tables[2], 0)[2], "tuned");
  EXPECT_EQ(cells_of(tables[2], 0)[5], "−0.780 [−1.028, −0.532]");
  EXPECT_EQ(cells_of(tables[2], 0)[4], "−0.020 [−0.020, −0.020]");
  EXPECT_TRUE(tables[2].lines[0].first_of_block);
}

TEST_F(StudyTables, OfOneRunHaveNoSpreadAndNoIntervals) {
  write_run("a", {});
  const auto tables = tables_of(make());
  ASSERT_THAT(tables, SizeIs(2));
  EXPECT_EQ(cells_of(tables[0], 1)[5], "0.200");
  EXPECT_EQ(cells_of(tables[1], 0)[5], "−0.780");
}

TEST_F(StudyTables, MarkRowsWithAWarningAndSayWhoIsLeftOut) {
  write_three();
  nlohmann::json collapsed = results_of({.seed = 3});
  collapsed["rows"][1]["warning"] = "collapsed: predicts one class";
  write_run("d", {.seed = 3}, collapsed);
  const StudyTable table = results_table(make());
  EXPECT_TRUE(table.lines[1].marked);
  EXPECT_THAT(cells_of(table, 1),
              AllOf(Contains("tuned (!)"), Contains("0.200 ± 0.100 (n = 3)"), Contains("4")));
  EXPECT_THAT(table.notes,
              Contains("(!) cifar10, badnets, tuned: collapsed: predicts one class; of 4 runs, 1 "
                       "collapsed"));
}

TEST_F(StudyTables, AreMarkdown) {
  write_three();
  EXPECT_THAT(markdown(results_table(make())),
              AllOf(HasSubstr("| dataset | attack | defense | n | CA |"),
                    HasSubstr("|---|---|---|--:|--:|"),
                    HasSubstr("| cifar10 | badnets | tuned | 3 | **0.880 ± 0.000** | **0.200 ± "
                              "0.100** |")));
}

TEST_F(StudyTables, AreLatexWithBooktabs) {
  write_three();
  const std::string text = latex(results_table(make()));
  EXPECT_THAT(
      text,
      AllOf(HasSubstr("\\begin{tabular}{lllrrrrrrr}\n\\toprule\n"),
            HasSubstr("\\midrule\ncifar10 & badnets & no defense & 3 &"),
            HasSubstr("\n &  & tuned & 3 & \\textbf{0.880 $\\pm$ 0.000} & \\textbf{0.200 $\\pm$ "
                      "0.100} &"),
            HasSubstr("\\bottomrule\n\\end{tabular}\n")));
}

TEST_F(StudyTables, AreSplitInLatexWhereTheyAreLongerThanAPage) {
  for (int i = 0; i < 20; ++i)
    write_run(std::to_string(i), {.parameters = "alpha = " + std::to_string(i) + '\n'});
  const std::string text = latex(results_table(make()));
  // 20 blocks of three lines; 13 of them are on the first page.
  EXPECT_THAT(text, AllOf(HasSubstr("\\label{tab:backstop-results}"),
                          HasSubstr(" (continued)}\n\\label{tab:backstop-results-2}"),
                          Not(HasSubstr("backstop-results-3"))));
  std::size_t begins = 0, ends = 0;
  for (auto at = text.find("\\begin{tab"); at != text.npos; at = text.find("\\begin{tab", at + 1))
    ++begins;
  for (auto at = text.find("\\end{tab"); at != text.npos; at = text.find("\\end{tab", at + 1))
    ++ends;
  EXPECT_EQ(begins, 4U);
  EXPECT_EQ(ends, 4U);
}

TEST_F(StudyTables, AreCsvInThreeForms) {
  write_three();
  const Study study = make();
  EXPECT_THAT(
      wide_csv(study),
      AllOf(HasSubstr("dataset,attack,defense,plugin,runs,clean_accuracy_n,clean_accuracy,"),
            HasSubstr("\ncifar10,badnets,tuned,fine-tuning,3,3,0.88,")));
  EXPECT_THAT(tidy_csv(study),
              HasSubstr("\ncifar10,badnets,pruned,fine-pruning,attack_success_rate,3,0.5,0,0.5,0.5,"
                        "0,0,0,0,false,no defense,3,-0.48,0,-0.48,-0.48\n"));
  EXPECT_THAT(values_csv(study),
              HasSubstr("\ncifar10,badnets,tuned,fine-tuning,attack_success_rate,2,0.3\n"));
}

/// Quotes are closed, and each line has as many cells as the first.
void expect_sound_csv(const std::string& text) {
  std::size_t cells = 1, expected = 0;
  bool quoted = false;
  std::string cell;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') quoted = !quoted;
    if (!quoted && (c == ',' || c == '\n')) {
      // A spreadsheet would run it. Numbers may begin with a minus.
      const bool number = cell.find_first_not_of("-0123456789.e") == std::string::npos;
      if (!cell.empty() && !number) {
        EXPECT_EQ(std::string("=+-@\t\r").find(cell[0]), std::string::npos) << cell;
      }
      cell.clear();
      if (c == ',') {
        ++cells;
      } else {
        if (expected == 0) expected = cells;
        EXPECT_EQ(cells, expected);
        cells = 1;
      }
    } else if (c != '"') {
      cell += c;
    }
  }
  EXPECT_FALSE(quoted);
}

TEST_F(StudyTables, EscapeNamesInCsv) {
  for (const std::string name : kHostileNames) {
    const Study study = hostile(name);
    for (const auto& text : {wide_csv(study), tidy_csv(study), values_csv(study)})
      expect_sound_csv(text);
  }
}

TEST_F(StudyTables, EscapeNamesInMarkdown) {
  for (const std::string name : kHostileNames)
    for (const auto& table : tables_of(hostile(name))) {
      const std::string text = markdown(table);
      std::istringstream lines(text);
      for (std::string line; std::getline(lines, line) && !line.empty();) {
        std::size_t bars = 0;
        for (std::size_t i = 0; i < line.size(); ++i) {
          if (line[i] == '\\')
            ++i;  // what follows is itself
          else if (line[i] == '|')
            ++bars;
        }
        EXPECT_EQ(bars, table.header.size() + 1) << line;
      }
      EXPECT_THAT(text, AllOf(Not(HasSubstr("<")), Not(HasSubstr("x](")), Not(HasSubstr("://")),
                              Not(HasSubstr("\033")), Not(HasSubstr("\u202e"))));
    }
}

TEST_F(StudyTables, EscapeNamesInLatex) {
  const std::set<std::string> known{"begin",
                                    "end",
                                    "centering",
                                    "footnotesize",
                                    "caption",
                                    "label",
                                    "small",
                                    "toprule",
                                    "midrule",
                                    "bottomrule",
                                    "textbf",
                                    "pm",
                                    "par",
                                    "medskip",
                                    "raggedright",
                                    "textbackslash",
                                    "textasciitilde",
                                    "textasciicircum",
                                    "textless",
                                    "textgreater",
                                    "textbar",
                                    "char",
                                    "setlength",
                                    "tabcolsep"};
  for (const std::string name : kHostileNames)
    for (const auto& table : tables_of(hostile(name))) {
      const std::string text = latex(table);
      int depth = 0;
      for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        EXPECT_TRUE(byte == '\n' || (byte >= 0x20 && byte < 0x7F)) << static_cast<int>(byte);
        EXPECT_TRUE(text[i] != '%' && text[i] != '#' && text[i] != '^' && text[i] != '~') << text;
        if (text[i] == '\\') {
          std::string command;
          while (i + 1 < text.size() && std::isalpha(static_cast<unsigned char>(text[i + 1])) != 0)
            command += text[++i];
          if (command.empty())
            ++i;  // an escaped sign
          else
            EXPECT_TRUE(known.count(command) == 1) << command;
        } else if (text[i] == '{') {
          ++depth;
        } else if (text[i] == '}') {
          ASSERT_GE(--depth, 0);
        }
      }
      EXPECT_EQ(depth, 0);
    }
}

TEST_F(StudyTables, EscapeNamesOnATerminal) {
  for (const std::string name : kHostileNames)
    for (const auto& table : tables_of(hostile(name)))
      EXPECT_THAT(plain_text(table, false),
                  AllOf(Not(HasSubstr("\033")), Not(HasSubstr("\007")), Not(HasSubstr("\u202e")),
                        Not(HasSubstr("\r")), Not(HasSubstr("\t"))));
}

TEST(Escape, OfTextForLatexAndMarkdown) {
  EXPECT_EQ(latex_escape("5 % of a_b & {c}\\d"), "5 \\% of a\\_b \\& \\{c\\}\\textbackslash{}d");
  EXPECT_EQ(latex_escape("ü−0.5 ± --"), "{[}U+00FC{]}$-$0.5 $\\pm$ {-}{-}");
  EXPECT_EQ(markdown_escape("a|b *c* <d> @e"), "a\\|b \\*c\\* &lt;d\\> &#64;e");
}

}  // namespace
}  // namespace backstop::report
