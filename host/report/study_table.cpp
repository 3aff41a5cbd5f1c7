#include "host/report/study_table.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/report/csv.hpp"

namespace backstop::report {
namespace {

constexpr const char* kMinus = "\u2212";

/// The number in the unit of the metric's short title.
std::string number(const Metric& metric, double value) {
  switch (metric.format) {
    case Format::share:
      return base::fixed(value, 3);
    case Format::count:
      return base::grouped(std::llround(value));
    case Format::duration:
      return base::fixed(value, 1);
    case Format::memory:
      return base::grouped(std::llround(value / 1e6));
  }
  return {};
}

/// With a typographic minus; what rounds to nothing has no sign.
std::string with_sign(const Metric& metric, double value, bool plus) {
  const std::string size = number(metric, std::abs(value));
  const bool nothing = size.find_first_of("123456789") == std::string::npos;
  if (nothing) return size;
  return (value < 0 ? kMinus : plus ? "+" : "") + size;
}

std::string interval(const Metric& metric, const Spread& spread, bool plus) {
  std::string text = with_sign(metric, spread.mean, plus);
  if (spread.margin)
    text += fmt::format(" [{}, {}]", with_sign(metric, spread.mean - *spread.margin, plus),
                        with_sign(metric, spread.mean + *spread.margin, plus));
  return text;
}

std::string mean_and_deviation(const Metric& metric, const Spread& spread) {
  const std::string mean = with_sign(metric, spread.mean, false);
  return spread.deviation ? fmt::format("{} ± {}", mean, number(metric, *spread.deviation)) : mean;
}

/// A table of the study's rows; `cell_of` makes a cell of a row and a metric, which is set off where
/// it says so and the row is the best.
template <typename CellOf>
StudyTable lay_out(const Study& study, const std::vector<std::size_t>& columns,
                   const CellOf& cell_of) {
  StudyTable table;
  for (const auto& condition : study.conditions)
    table.header.push_back(title_of_condition(condition));
  table.header.emplace_back("defense");
  table.conditions = study.conditions.size();
  table.texts = table.header.size();
  table.header.emplace_back("n");
  for (const std::size_t m : columns) table.header.push_back(short_title(*study.metrics[m]));
  for (const auto& block : study.blocks) {
    bool first = true;
    for (const auto& row : block.rows) {
      StudyTable::Line line;
      line.first_of_block = std::exchange(first, false);
      line.marked = !row.warnings.empty();
      for (const auto& value : block.conditions) line.cells.push_back({value, {}, false});
      line.cells.push_back({row.name + (line.marked ? " (!)" : ""), {}, false});
      line.cells.push_back(
          {std::to_string(row.places.size()), static_cast<double>(row.places.size()), false});
      for (const std::size_t m : columns) {
        StudyTable::Cell cell = cell_of(row, m);
        cell.best = cell.best && row.cells[m].best;
        line.cells.push_back(std::move(cell));
      }
      table.lines.push_back(std::move(line));
    }
  }
  return table;
}

/// The metrics for which `shown(metric)` holds. The CSV files have all.
template <typename Shown>
std::vector<std::size_t> columns_of(const Study& study, const Shown& shown) {
  std::vector<std::size_t> columns;
  for (std::size_t m = 0; m < study.metrics.size(); ++m)
    if (shown(*study.metrics[m])) columns.push_back(m);
  return columns;
}

/// " (n = 2)" where fewer runs are counted than the row has.
std::string fewer(std::size_t n, const StudyRow& row) {
  return n == row.places.size() ? "" : fmt::format(" (n = {})", n);
}

std::string name_of(const StudyBlock& block, const StudyRow& row) {
  std::string text;
  for (const auto& condition : block.conditions)
    if (condition != "-") text += (text.empty() ? "" : ", ") + condition;
  return text + ", " + row.name;
}

/// What a mark at a row means, and whom the means leave out.
std::vector<std::string> notes_of_rows(const Study& study) {
  std::vector<std::string> notes;
  for (const auto& block : study.blocks)
    for (const auto& row : block.rows) {
      LeftOut most;
      for (const auto& cell : row.cells) {
        most.collapsed = std::max(most.collapsed, cell.left_out.collapsed);
        most.failed = std::max(most.failed, cell.left_out.failed);
        most.no_backdoor = std::max(most.no_backdoor, cell.left_out.no_backdoor);
      }
      std::string text;
      for (const auto& warning : row.warnings) text += (text.empty() ? "" : "; ") + warning;
      if (const std::string left_out = most.text(); !left_out.empty())
        text += fmt::format("; of {}, {}", base::count_of(row.places.size(), "run"), left_out);
      if (!text.empty()) notes.push_back(fmt::format("(!) {}: {}", name_of(block, row), text));
    }
  if (!notes.empty())
    notes.emplace_back(
        "(!) no mean counts a model that has collapsed or a stage that failed; where the attack "
        "did "
        "not take, ASR, RA and DER of the defenses are not counted");
  return notes;
}

std::vector<std::string> definitions(const Study& study) {
  std::vector<std::string> lines;
  for (const Metric* metric : study.metrics)
    if (!metric->definition.empty())
      lines.push_back(fmt::format("{}: {}", short_title(*metric), metric->definition));
  return lines;
}

bool has_spread(const Study& study, Spread StudyCell::*spread, bool margin) {
  return std::any_of(study.blocks.begin(), study.blocks.end(), [&](const StudyBlock& block) {
    return std::any_of(block.rows.begin(), block.rows.end(), [&](const StudyRow& row) {
      return std::any_of(row.cells.begin(), row.cells.end(), [&](const StudyCell& cell) {
        return margin ? (cell.*spread).margin.has_value() : (cell.*spread).n > 0;
      });
    });
  });
}

/// One line, in which control and invisible characters are numbers.
std::string visible(std::string_view text) {
  std::string line = base::with_visible_controls(text);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\t' || c == '\r'; }, ' ');
  return line;
}

// -- LaTeX --

constexpr std::size_t kLinesOfAPage = 40;
constexpr const char* kLatexEnd = "\\bottomrule\n\\end{tabular}\n";

/// Up to the first line; `part` counts the tables that one too long for a page becomes.
std::string latex_beginning(const StudyTable& table, std::size_t part) {
  std::string text = fmt::format(
      "\\begin{{table}}\n\\centering\n\\footnotesize\n\\setlength{{\\tabcolsep}}{{3pt}}\n"
      "\\caption{{{}{}}}\n\\label{{tab:backstop-{}{}}}\n\\begin{{tabular}}{{{}{}}}\n\\toprule\n",
      latex_escape(table.caption), part == 1 ? "" : " (continued)", table.name,
      part == 1 ? "" : "-" + std::to_string(part), std::string(table.texts, 'l'),
      std::string(table.header.size() - table.texts, 'r'));
  for (std::size_t c = 0; c < table.header.size(); ++c)
    text += (c == 0 ? "" : " & ") + latex_escape(table.header[c]);
  return text + " \\\\\n";
}

// -- CSV --

std::string number_or_nothing(std::optional<double> value) {
  return value ? base::shortest(*value) : "";
}

std::optional<double> low_of(const Spread& spread) {
  return spread.margin ? std::optional(spread.mean - *spread.margin) : std::nullopt;
}
std::optional<double> high_of(const Spread& spread) {
  return spread.margin ? std::optional(spread.mean + *spread.margin) : std::nullopt;
}
std::optional<double> mean_of(const Spread& spread) {
  return spread.n > 0 ? std::optional(spread.mean) : std::nullopt;
}

/// The columns that name a row.
std::string csv_header(const Study& study) {
  std::string text;
  for (const auto& condition : study.conditions)
    text += text_cell(title_of_condition(condition)) + ',';
  return text + "defense,plugin";
}
std::string csv_names(const StudyBlock& block, const StudyRow& row) {
  std::string text;
  for (const auto& condition : block.conditions) text += text_cell(condition) + ',';
  return text + text_cell(row.name) + ',' + text_cell(row.plugin);
}

std::string csv_of(const Spread& spread) {
  return fmt::format("{},{},{},{},{}", spread.n, number_or_nothing(mean_of(spread)),
                     number_or_nothing(spread.deviation), number_or_nothing(low_of(spread)),
                     number_or_nothing(high_of(spread)));
}

}  // namespace

StudyTable results_table(const Study& study) {
  // Processor time is that of the GPU where there is one.
  const bool gpu = std::any_of(study.metrics.begin(), study.metrics.end(),
                               [](const Metric* metric) { return metric->key == "gpu_seconds"; });
  const auto columns = columns_of(study, [gpu](const Metric& metric) {
    return metric.format != Format::memory && !(gpu && metric.key == "cpu_seconds");
  });
  StudyTable table = lay_out(study, columns, [&](const StudyRow& row, std::size_t m) {
    const Spread& spread = row.cells[m].spread;
    if (spread.n == 0) return StudyTable::Cell{"-", {}, false};
    return StudyTable::Cell{mean_and_deviation(*study.metrics[m], spread) + fewer(spread.n, row),
                            spread.mean, true};
  });
  table.name = "results";
  table.caption = "Mean ± standard deviation over the runs";
  table.notes = definitions(study);
  table.notes.emplace_back(
      "n: runs; mean ± sample standard deviation (n - 1), where there are two runs or more");
  const bool best = std::any_of(table.lines.begin(), table.lines.end(), [](const auto& line) {
    return std::any_of(line.cells.begin(), line.cells.end(),
                       [](const auto& cell) { return cell.best; });
  });
  if (best) table.notes.emplace_back(kRuleOfBest);
  for (auto& note : notes_of_rows(study)) table.notes.push_back(std::move(note));
  return table;
}

StudyTable intervals_table(const Study& study) {
  const auto columns =
      columns_of(study, [](const Metric& metric) { return metric.section != "cost"; });
  StudyTable table = lay_out(study, columns, [&](const StudyRow& row, std::size_t m) {
    const Spread& spread = row.cells[m].spread;
    if (spread.n == 0) return StudyTable::Cell{"-", {}, false};
    return StudyTable::Cell{interval(*study.metrics[m], spread, false) + fewer(spread.n, row),
                            spread.mean, false};
  });
  table.name = "intervals";
  table.caption = "Mean and its 95 % interval";
  table.notes = {
      "95 % interval of the mean by Student's t with n - 1 degrees of freedom; it is not cut off "
      "at 0 "
      "or 1"};
  return table;
}

StudyTable differences_table(const Study& study) {
  const auto columns =
      columns_of(study, [](const Metric& metric) { return metric.section == "metrics"; });
  StudyTable table = lay_out(study, columns, [&](const StudyRow& row, std::size_t m) {
    const Spread& spread = row.cells[m].difference;
    if (spread.n == 0) return StudyTable::Cell{"-", {}, false};
    return StudyTable::Cell{interval(*study.metrics[m], spread, true) + fewer(spread.n, row),
                            spread.mean, false};
  });
  std::erase_if(table.lines, [&](const StudyTable::Line& line) {
    return std::all_of(line.cells.begin() + static_cast<std::ptrdiff_t>(table.texts) + 1,
                       line.cells.end(), [](const auto& cell) { return !cell.value; });
  });
  // A block may have lost its first line.
  for (std::size_t i = 0; i < table.lines.size(); ++i)
    table.lines[i].first_of_block =
        i == 0 ||
        !std::equal(table.lines[i].cells.begin(),
                    table.lines[i].cells.begin() + static_cast<std::ptrdiff_t>(table.conditions),
                    table.lines[i - 1].cells.begin(),
                    [](const auto& a, const auto& b) { return a.text == b.text; });
  table.name = "differences";
  table.caption = fmt::format("Difference from \"{}\"", study.options.baseline);
  table.notes = {
      fmt::format("mean over the pairs of the row's value less that of \"{}\", in the same run or "
                  "else in another with the same seed; 95 % interval by Student's t",
                  study.options.baseline)};
  return table;
}

std::vector<StudyTable> tables_of(const Study& study) {
  std::vector<StudyTable> tables{results_table(study)};
  if (has_spread(study, &StudyCell::spread, true)) tables.push_back(intervals_table(study));
  if (has_spread(study, &StudyCell::difference, false)) tables.push_back(differences_table(study));
  return tables;
}

std::string latex_escape(std::string_view text) {
  const std::string line = visible(text);
  std::string result;
  for (std::string_view rest = line; !rest.empty();) {
    const base::Character character = base::first_character(rest);
    const std::string_view bytes = rest.substr(0, character.size);
    rest.remove_prefix(character.size);
    switch (character.code) {
      case U'\\':
        result += "\\textbackslash{}";
        break;
      case U'~':
        result += "\\textasciitilde{}";
        break;
      case U'^':
        result += "\\textasciicircum{}";
        break;
      case U'<':
        result += "\\textless{}";
        break;
      case U'>':
        result += "\\textgreater{}";
        break;
      case U'|':
        result += "\\textbar{}";
        break;
      case U'"':
        result += "\\char34{}";
        break;
      case U'±':
        result += "$\\pm$";
        break;
      case U'\u2212':
        result += "$-$";
        break;
      case U'-':  // two of them would become a dash
        result += "{-}";
        break;
      case U'`':
      case U'\'':  // likewise, quotation marks
        result.append("{").append(bytes).append("}");
        break;
      case U'[':  // behind the end of a line, it would be an argument
      case U']':
        result.append("{").append(bytes).append("}");
        break;
      case U'#':
      case U'$':
      case U'%':
      case U'&':
      case U'_':
      case U'{':
      case U'}':
        result.append("\\").append(bytes);
        break;
      default:
        // No engine has every letter in its default font.
        if (character.code < 0x80)
          result += bytes;
        else
          result += fmt::format("{{[}}U+{:04X}{{]}}", static_cast<std::uint32_t>(character.code));
    }
  }
  return result;
}

std::string markdown_escape(std::string_view text) {
  std::string result;
  const std::string line = visible(text);
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '<')
      result += "&lt;";
    else if (c == '&')
      result += "&amp;";
    else if (std::string_view("\\`*_{}[]|>~#!$").find(c) != std::string_view::npos)
      result.append("\\").append(1, c);
    else if (c == ':' && line.compare(i, 3, "://") == 0)  // no link
      result += "&#58;";
    else if (c == '.' && i >= 3 && line.compare(i - 3, 3, "www") == 0)
      result += "\\.";
    else if (c == '@')  // nobody is mentioned
      result += "&#64;";
    else
      result += c;
  }
  return result;
}

std::string markdown(const StudyTable& table) {
  std::string text = "|";
  for (const auto& title : table.header) text += ' ' + markdown_escape(title) + " |";
  text += "\n|";
  for (std::size_t c = 0; c < table.header.size(); ++c) text += c < table.texts ? "---|" : "--:|";
  text += '\n';
  for (const auto& line : table.lines) {
    text += '|';
    for (const auto& cell : line.cells) {
      const std::string escaped = markdown_escape(cell.text);
      text += cell.best ? " **" + escaped + "** |" : ' ' + escaped + " |";
    }
    text += '\n';
  }
  if (!table.notes.empty()) text += '\n';
  for (const auto& note : table.notes) text += "* " + markdown_escape(note) + '\n';
  return text;
}

std::string latex(const StudyTable& table) {
  std::string text;
  std::size_t part = 0, lines = 0;  // of the page that is being filled
  for (std::size_t i = 0; i < table.lines.size(); ++i) {
    const auto& line = table.lines[i];
    const auto next =
        std::find_if(table.lines.begin() + static_cast<std::ptrdiff_t>(i) + 1, table.lines.end(),
                     [](const StudyTable::Line& other) { return other.first_of_block; });
    const auto block = static_cast<std::size_t>(next - table.lines.begin()) - i;
    if (i == 0 || (line.first_of_block && lines + block > kLinesOfAPage)) {
      if (i > 0) text += kLatexEnd + std::string("\\end{table}\n\n");
      text += latex_beginning(table, ++part);
      lines = 0;
    }
    ++lines;
    if (line.first_of_block) text += "\\midrule\n";
    for (std::size_t c = 0; c < line.cells.size(); ++c) {
      const bool again = c < table.conditions && !line.first_of_block;
      const std::string escaped = again ? "" : latex_escape(line.cells[c].text);
      text += (c == 0 ? "" : " & ") + (line.cells[c].best ? "\\textbf{" + escaped + "}" : escaped);
    }
    text += " \\\\\n";
  }
  if (part == 0) text = latex_beginning(table, ++part);
  text += kLatexEnd;
  if (!table.notes.empty()) text += "\\par\\medskip\\raggedright\n";
  for (const auto& note : table.notes) text += latex_escape(note) + ".\\par\n";
  return text + "\\end{table}\n";
}

std::string plain_text(const StudyTable& table, bool color) {
  std::vector<std::vector<base::Cell>> lines(1);
  for (const auto& title : table.header) lines[0].push_back({title});
  for (const auto& line : table.lines) {
    auto& cells = lines.emplace_back();
    for (std::size_t c = 0; c < line.cells.size(); ++c) {
      const bool again = c < table.conditions && !line.first_of_block;
      const auto style = !color                                 ? std::string_view{}
                         : line.cells[c].best                   ? base::kBold
                         : line.marked && c == table.conditions ? base::kYellow
                                                                : std::string_view{};
      cells.push_back({again ? "" : line.cells[c].text, style});
    }
  }
  std::string text = base::printable(table.caption) + '\n';
  text += base::columns(
      lines, std::string(table.texts, 'l') + std::string(table.header.size() - table.texts, 'r'));
  for (const auto& note : table.notes) text += base::printable(note) + '\n';
  return text;
}

std::string wide_csv(const Study& study) {
  std::string text = csv_header(study) + ",runs";
  for (const Metric* metric : study.metrics) {
    const std::string key(metric->key);
    text += fmt::format(",{0}_n,{0},{0}_standard_deviation,{0}_low_95,{0}_high_95", key);
  }
  text += ",warning\n";
  for (const auto& block : study.blocks)
    for (const auto& row : block.rows) {
      text += csv_names(block, row) + ',' + std::to_string(row.places.size());
      for (const auto& cell : row.cells) text += ',' + csv_of(cell.spread);
      std::string warnings;
      for (const auto& warning : row.warnings) warnings += (warnings.empty() ? "" : "; ") + warning;
      text += ',' + text_cell(warnings) + '\n';
    }
  return text;
}

std::string tidy_csv(const Study& study) {
  std::string text = csv_header(study) +
                     ",metric,n,mean,standard_deviation,low_95,high_95,collapsed,failed,"
                     "without_backdoor,without_value,best,baseline,difference_n,difference,"
                     "difference_standard_deviation,difference_low_95,difference_high_95\n";
  for (const auto& block : study.blocks)
    for (const auto& row : block.rows)
      for (std::size_t m = 0; m < study.metrics.size(); ++m) {
        const StudyCell& cell = row.cells[m];
        text += fmt::format("{},{},{},{},{},{},{},{},{},{}\n", csv_names(block, row),
                            study.metrics[m]->key, csv_of(cell.spread), cell.left_out.collapsed,
                            cell.left_out.failed, cell.left_out.no_backdoor, cell.left_out.no_value,
                            cell.best ? "true" : "false", text_cell(study.options.baseline),
                            csv_of(cell.difference));
      }
  return text;
}

std::string values_csv(const Study& study) {
  std::string text = csv_header(study) + ",metric,seed,value\n";
  for (const auto& block : study.blocks)
    for (const auto& row : block.rows)
      for (std::size_t m = 0; m < study.metrics.size(); ++m)
        for (const auto& [seed, value] : row.cells[m].values)
          text += fmt::format("{},{},{},{}\n", csv_names(block, row), study.metrics[m]->key, seed,
                              base::shortest(value));
  return text;
}

}  // namespace backstop::report
