// How the host writes numbers, names and columns: the same bytes in every locale, and nothing that
// a terminal would take for a command.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace backstop::base {

/// ANSI sequences; a caller that wants no color leaves a cell's style empty.
inline constexpr std::string_view kBold = "\033[1m", kRed = "\033[31m", kGreen = "\033[32m",
                                  kYellow = "\033[33m", kCyan = "\033[36m", kReset = "\033[0m";

std::string fixed(double value, int digits);  ///< 0.5 -> "0.500"
std::string shortest(double value);           ///< what reads back as the same number
std::string grouped(std::int64_t value);      ///< 10000 -> "10,000"
std::string duration(double seconds);         ///< "3.1 s", "5 min 12 s", "2 h 05 min"
std::string count_of(std::size_t n, std::string_view noun);  ///< "1 run", "2 runs"

struct Character {
  char32_t code = 0xFFFD;
  std::size_t size = 1;  ///< bytes
  bool valid = false;    ///< else a byte that is not part of valid UTF-8
};
/// The character that `text`, which is not empty, begins with.
Character first_character(std::string_view text);

// Names and messages come from other people's files and plugins, and may hold any bytes.

/// The text with U+FFFD for each byte that is not part of valid UTF-8.
std::string valid_utf8(std::string_view text);
/// The text for a terminal: a question mark for each byte that is not UTF-8, and for each control
/// or invisible character that is not in `kept` (those that change the direction of the text, have
/// no width or end a line, too).
std::string printable(std::string_view text, std::string_view kept = {});
/// The text for a page: such characters, apart from line ends and tabs, by number, as "[U+202E]".
std::string with_visible_controls(std::string_view text);
/// JSON in which whatever is not UTF-8 has become U+FFFD. The library's own dump() throws there.
std::string json_text(const nlohmann::json& json, int indent = -1);

/// At most `most` bytes of valid UTF-8, and "..." where something was cut off.
std::string shortened(std::string_view text, std::size_t most = 60);
std::string ticked(std::string_view text);  ///< "`text`"
/// "a, b, c", each word as `form` writes it.
std::string list_of(const std::vector<std::string>& words,
                    std::string (*form)(std::string_view) = nullptr);

/// The candidate that was probably meant by `word` (edit distance at most 2, or a third of its
/// length), if any.
std::optional<std::string> nearest(std::string_view word,
                                   const std::vector<std::string>& candidates);

struct Cell {
  std::string text;
  std::string_view style = {};
};

/// Rows in columns, with two spaces between them. `alignment` has one 'l' or 'r' for each column. A
/// row may have fewer cells; one with a single cell is a heading, which does not widen its column.
std::string columns(const std::vector<std::vector<Cell>>& rows, std::string_view alignment,
                    std::string_view indent = "");

}  // namespace backstop::base
