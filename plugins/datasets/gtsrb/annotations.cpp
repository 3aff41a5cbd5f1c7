#include "annotations.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <system_error>

#include "shared/images/folder.hpp"
#include "shared/images/formats.hpp"

namespace backstop::gtsrb {
namespace {

using images::refuse;

constexpr const char* kCopyAgain = "the file was damaged or edited: copy it again";

enum Column : std::size_t {
  kFile,
  kWidth,
  kHeight,
  kLeft,
  kTop,
  kRight,
  kBottom,
  kClass,
  kColumns
};
constexpr std::array<std::string_view, kColumns> kNames = {
    "Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"};

char separator_of(std::string_view header) {
  return header.find(';') != std::string_view::npos ? ';' : ',';
}

/// The position of each column.
std::array<std::size_t, kColumns> find_columns(std::string_view header, char separator,
                                               const std::string& name) {
  const std::vector<std::string_view> fields = images::fields_of(header, separator);
  std::array<std::size_t, kColumns> columns{};
  for (std::size_t column = 0; column < kColumns; ++column) {
    auto found = std::find(fields.begin(), fields.end(), kNames[column]);
    if (found == fields.end() && column == kFile)
      found = std::find(fields.begin(), fields.end(), std::string_view("Path"));
    if (found == fields.end())
      refuse(name,
             "has no column " + std::string(kNames[column]) + (column == kFile ? " or Path" : "") +
                 " in its first line",
             column == kClass ? "this is the list without labels: get GTSRB_Final_Test_GT.zip, "
                                "which holds GT-final_test.csv"
                              : kCopyAgain);
    columns[column] = static_cast<std::size_t>(found - fields.begin());
  }
  return columns;
}

}  // namespace

std::vector<Sign> parse_annotations(std::string_view text, const std::string& name) {
  const std::vector<images::Line> lines = images::lines_of(text);
  if (lines.empty()) refuse(name, "is empty, expected a line of column names", kCopyAgain);
  const char separator = separator_of(lines[0].text);
  const std::array<std::size_t, kColumns> columns = find_columns(lines[0].text, separator, name);
  const std::size_t expected = images::fields_of(lines[0].text, separator).size();

  std::vector<Sign> signs;
  signs.reserve(lines.size() - 1);
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const std::string where = name + " line " + std::to_string(lines[i].number);
    const std::vector<std::string_view> fields = images::fields_of(lines[i].text, separator);
    if (fields.size() != expected)
      refuse(where,
             "has " + std::to_string(fields.size()) + " fields, expected " +
                 std::to_string(expected) + " as in the first line",
             kCopyAgain);
    const auto number = [&](Column column, std::int64_t minimum, std::int64_t maximum) {
      const std::string_view field = fields[columns[column]];
      std::int64_t value = 0;
      const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
      if (error != std::errc() || end != field.data() + field.size() || value < minimum ||
          value > maximum)
        refuse(where,
               "has " + std::string(kNames[column]) + " `" + std::string(field) + "`, expected " +
                   std::to_string(minimum) + " to " + std::to_string(maximum),
               kCopyAgain);
      return value;
    };
    Sign sign;
    sign.line = lines[i].number;
    sign.file = fields[columns[kFile]];
    sign.width = number(kWidth, 1, images::kMaximumSide);
    sign.height = number(kHeight, 1, images::kMaximumSide);
    sign.box.left = number(kLeft, 0, sign.width - 1);
    sign.box.top = number(kTop, 0, sign.height - 1);
    sign.box.right = number(kRight, sign.box.left + 1, sign.width);
    sign.box.bottom = number(kBottom, sign.box.top + 1, sign.height);
    sign.label = number(kClass, 0, kClasses - 1);
    signs.push_back(std::move(sign));
  }
  return signs;
}

bool has_labels(std::string_view text) {
  const std::vector<images::Line> lines = images::lines_of(text);
  if (lines.empty()) return false;
  const std::vector<std::string_view> fields =
      images::fields_of(lines[0].text, separator_of(lines[0].text));
  return std::find(fields.begin(), fields.end(), kNames[kClass]) != fields.end();
}

}  // namespace backstop::gtsrb
