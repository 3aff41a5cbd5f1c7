// What others have published beside what was measured.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "host/report/study.hpp"
#include "host/report/study_table.hpp"

namespace backstop::report {

/// A leaderboard: a CSV file with at least the columns attack, defense, dataset, test_acc, test_asr
/// and test_ra, as BackdoorBench's.
struct Published {
  struct Line {
    std::string attack, defense, dataset;
    /// 0 .. 1; of test_acc, test_asr and test_ra, nothing where the cell is empty.
    std::vector<std::optional<double>> values;
  };
  std::string file;  ///< its name, without folders
  std::vector<Line> lines;
  bool percent = false;            ///< its values were 0 .. 100
  std::vector<std::string> notes;  ///< lines that could not be read
};

/// Values are percentages if any of them is above 1, and shares otherwise. Throws HostError(usage)
/// where the file is no such table.
Published read_published(const std::filesystem::path& file);
Published parse_published(const std::string& text, const std::string& file);

/// The measured rows for which there is a published one of the same attack, defense and dataset.
/// Names are compared as kSameNames in published.cpp lists them. The notes say which published
/// attacks, defenses and datasets are none of the measured ones.
StudyTable published_table(const Study& study, const Published& published);

/// The table with its numbers in full.
std::string csv_of(const StudyTable& table);
nlohmann::json json_of(const StudyTable& table);

}  // namespace backstop::report
