#include "host/report/published.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/base/text.hpp"
#include "host/report/csv.hpp"

namespace backstop::report {
namespace {

constexpr std::uintmax_t kLargestFile = std::uintmax_t{16} << 20;
constexpr std::size_t kMostNotes = 10;

struct SameName {
  std::string_view name, other;
};
/// What others call our plugins, in small letters without signs. BackdoorBench's names, and those of
/// papers. Names that are not here are compared as they are, but for case and signs.
constexpr SameName kSameNames[] = {
    {"badnets", "badnet"},
    {"blended", "blend"},
    {"lf", "lowfrequency"},
    {"lf", "lowfreq"},
    {"inputaware", "ia"},
    {"inputaware", "inputawaredynamic"},
    {"adaptiveblend", "adapblend"},
    {"adaptiveblend", "adaptiveblended"},
    {"sig", "sinusoidal"},
    {"finetuning", "ft"},
    {"finetuning", "conventionalfinetuning"},
    {"finetuning", "vanillafinetuning"},
    {"superfinetuning", "superft"},
    {"superfinetuning", "sft"},
    {"finepruning", "fp"},
    {"neuralcleanse", "nc"},
    {"activationclustering", "ac"},
    {"spectralsignatures", "ss"},
    {"spectralsignatures", "spectral"},
    {"spectralsignatures", "spectralsignature"},
    {"ftsam", "finetuningsam"},
    {"abl", "antibackdoorlearning"},
    {"anp", "adversarialneuronpruning"},
    {"clp", "channellipschitznesspruning"},
    {"nad", "neuralattentiondistillation"},
    {"nodefense", "none"},
    {"nodefense", "nodefence"},
    {"nodefense", "baseline"},
    {"nodefense", "attack"},
    {"nodefense", ""},
    {"fashionmnist", "fmnist"},
};

std::string letters_of(std::string_view name) {
  std::string letters;
  for (const char c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) != 0)
      letters += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return letters;
}

std::string common_name(std::string_view name) {
  const std::string letters = letters_of(name);
  for (const auto& [ours, other] : kSameNames)
    if (letters == other) return std::string(ours);
  return letters;
}

/// By its name where that is a method's, and by its plugin otherwise.
bool is_defense(const StudyRow& row, const std::string& published) {
  if (row.plugin == "fine-tuning" && row.scheduler == "super-fine-tuning")
    return published == "superfinetuning";
  return common_name(row.name) == published ||
         (!row.plugin.empty() && common_name(row.plugin) == published);
}

/// The cells of the line at the front of `text`, which is removed.
std::vector<std::string> take_line(std::string_view& text) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c != '"')
        cells.back() += c;
      else if (i + 1 < text.size() && text[i + 1] == '"')
        cells.back() += text[++i];
      else
        quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == ',') {
      cells.emplace_back();
    } else if (c == '\n') {
      ++i;
      break;
    } else if (c != '\r') {
      cells.back() += c;
    }
  }
  text.remove_prefix(i);
  for (auto& cell : cells) {
    const auto first = cell.find_first_not_of(" \t");
    cell = first == std::string::npos
               ? ""
               : cell.substr(first, cell.find_last_not_of(" \t") - first + 1);
  }
  return cells;
}

/// Nothing for an empty cell; throws what is not a number.
struct NotANumber {};
std::optional<double> number_of(std::string text) {
  if (text.ends_with('%')) text.pop_back();
  if (text.empty() || text == "-" || letters_of(text) == "nan" || letters_of(text) == "na")
    return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) ||
      value < 0 || value > 100)
    throw NotANumber{};
  return value;
}

constexpr std::array kColumns = {"attack", "defense", "dataset", "test_acc", "test_asr", "test_ra"};
constexpr std::array kMeasured = {"clean_accuracy", "attack_success_rate", "robust_accuracy"};

std::string quoted_list(const std::set<std::string>& names) {
  return base::list_of({names.begin(), names.end()});
}

}  // namespace

Published parse_published(const std::string& text, const std::string& file) {
  Published published;
  published.file = file;
  std::string_view rest = text;
  if (rest.starts_with("\xEF\xBB\xBF")) rest.remove_prefix(3);
  auto header = take_line(rest);
  for (auto& title : header)
    std::transform(title.begin(), title.end(), title.begin(), [](char c) {
      return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    });
  std::array<std::size_t, kColumns.size()> places{};
  for (std::size_t c = 0; c < kColumns.size(); ++c) {
    const auto found = std::find(header.begin(), header.end(), kColumns[c]);
    if (found == header.end())
      throw base::HostError(
          base::ExitCode::usage,
          fmt::format("{} has no column `{}` in its first line", file, kColumns[c]),
          "a leaderboard is a CSV file with the columns attack, defense, dataset, test_acc, "
          "test_asr and test_ra");
    places[c] = static_cast<std::size_t>(found - header.begin());
  }
  double largest = 0;
  std::size_t unread = 0;
  for (std::size_t number = 2; !rest.empty(); ++number) {
    const auto cells = take_line(rest);
    if (cells.size() == 1 && cells[0].empty()) continue;
    try {
      if (cells.size() != header.size()) throw NotANumber{};
      Published::Line line{cells[places[0]], cells[places[1]], cells[places[2]], {}};
      for (std::size_t c = 3; c < places.size(); ++c)
        line.values.push_back(number_of(cells[places[c]]));
      for (const auto& value : line.values) largest = std::max(largest, value.value_or(0));
      published.lines.push_back(std::move(line));
    } catch (const NotANumber&) {
      if (++unread <= kMostNotes)
        published.notes.push_back(
            fmt::format("line {} of {} is left out: it has another number of cells, or no numbers "
                        "from 0 to 100",
                        number, file));
    }
  }
  if (unread > kMostNotes)
    published.notes.push_back(fmt::format("and {} more", unread - kMostNotes));
  published.percent = largest > 1;
  if (published.percent)
    for (auto& line : published.lines)
      for (auto& value : line.values)
        if (value) *value /= 100;
  return published;
}

Published read_published(const std::filesystem::path& file) {
  try {
    return parse_published(base::read_file(file, kLargestFile), file.filename().string());
  } catch (const base::HostError& e) {
    throw base::HostError(base::ExitCode::usage, e.what(), e.hint());
  }
}

StudyTable published_table(const Study& study, const Published& published) {
  StudyTable table;
  table.name = "published";
  table.caption = "Published and measured";
  for (const auto& condition : study.conditions)
    table.header.push_back(title_of_condition(condition));
  table.header.insert(table.header.end(), {"defense", "published as"});
  table.conditions = study.conditions.size();
  table.texts = table.header.size();
  for (const char* metric : {"CA", "ASR", "RA"})
    for (const char* kind : {"published", "measured", "difference"})
      table.header.push_back(fmt::format("{} {}", metric, kind));

  std::set<std::string> attacks, defenses, datasets;  // that match nothing
  std::set<std::string> known_attacks, known_defenses, known_datasets;
  const auto condition = [&](const StudyBlock& block, const char* key) {
    const auto at = std::find(study.conditions.begin(), study.conditions.end(), key);
    return at == study.conditions.end()
               ? std::string()
               : block.conditions[static_cast<std::size_t>(at - study.conditions.begin())];
  };
  for (const auto& block : study.blocks) {
    bool first = true;
    for (const auto& row : block.rows)
      for (const auto& line : published.lines) {
        const bool same_attack =
            common_name(line.attack) == common_name(condition(block, "attack.plugin"));
        const bool same_dataset =
            common_name(line.dataset) == common_name(condition(block, "dataset.plugin"));
        const bool same_defense = is_defense(row, common_name(line.defense));
        if (same_attack) known_attacks.insert(line.attack);
        if (same_dataset) known_datasets.insert(line.dataset);
        if (same_defense) known_defenses.insert(line.defense);
        if (!same_attack || !same_dataset || !same_defense) continue;
        StudyTable::Line cells;
        cells.first_of_block = std::exchange(first, false);
        cells.marked = !row.warnings.empty();
        for (const auto& value : block.conditions) cells.cells.push_back({value, {}, false});
        cells.cells.push_back({row.name + (cells.marked ? " (!)" : ""), {}, false});
        cells.cells.push_back(
            {line.attack + ", " + (line.defense.empty() ? "-" : line.defense), {}, false});
        for (std::size_t v = 0; v < kMeasured.size(); ++v) {
          std::optional<double> measured;
          for (std::size_t m = 0; m < study.metrics.size(); ++m)
            if (study.metrics[m]->key == kMeasured[v] && row.cells[m].spread.n > 0)
              measured = row.cells[m].spread.mean;
          const auto shown = [](std::optional<double> value) {
            return StudyTable::Cell{value ? base::fixed(*value, 3) : "-", value, false};
          };
          const auto said = line.values[v];
          cells.cells.push_back(shown(said));
          cells.cells.push_back(shown(measured));
          if (said && measured) {
            const double difference = *measured - *said;
            const std::string size = base::fixed(std::abs(difference), 3);
            cells.cells.push_back(
                {size == "0.000" ? size : (difference < 0 ? "\u2212" : "+") + size, difference,
                 false});
          } else {
            cells.cells.push_back(shown(std::nullopt));
          }
        }
        table.lines.push_back(std::move(cells));
      }
  }
  for (const auto& line : published.lines) {
    if (!known_attacks.contains(line.attack)) attacks.insert(line.attack);
    if (!known_defenses.contains(line.defense)) defenses.insert(line.defense);
    if (!known_datasets.contains(line.dataset)) datasets.insert(line.dataset);
  }
  table.notes.push_back(fmt::format(
      "published: {}, whose values are {}; difference: measured less published", published.file,
      published.percent ? "percentages, since some are above 1" : "shares, since none is above 1"));
  const auto list = [&](const char* what, const std::set<std::string>& names) {
    if (!names.empty())
      table.notes.push_back(
          fmt::format("published {} without a measured one: {}", what, quoted_list(names)));
  };
  list("attacks", attacks);
  list("defenses", defenses);
  list("datasets", datasets);
  table.notes.insert(table.notes.end(), published.notes.begin(), published.notes.end());
  return table;
}

std::string csv_of(const StudyTable& table) {
  std::string text;
  for (std::size_t c = 0; c < table.header.size(); ++c) {
    if (c > 0) text += ',';
    text += text_cell(table.header[c]);
  }
  text += '\n';
  for (const auto& line : table.lines) {
    for (std::size_t c = 0; c < line.cells.size(); ++c) {
      const auto& cell = line.cells[c];
      if (c > 0) text += ',';
      if (cell.value)
        text += base::shortest(*cell.value);
      else if (c < table.texts)
        text += text_cell(cell.text);
    }
    text += '\n';
  }
  return text;
}

nlohmann::json json_of(const StudyTable& table) {
  nlohmann::json json = {{"notes", table.notes}, {"rows", nlohmann::json::array()}};
  for (const auto& line : table.lines) {
    nlohmann::json row;
    for (std::size_t c = 0; c < line.cells.size(); ++c) {
      const auto& cell = line.cells[c];
      nlohmann::json& value = row[table.header[c]];
      if (cell.value)
        value = *cell.value;
      else if (c < table.texts)
        value = cell.text;
    }
    json["rows"].push_back(std::move(row));
  }
  return json;
}

}  // namespace backstop::report
