#include "host/base/text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace backstop::base {
namespace {

template <typename... Format>
std::string to_text(Format... format) {
  std::array<char, 400> buffer;  // the largest double has 309 digits before its point
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), format...).ptr;
  return {buffer.data(), end};
}

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;
}

std::size_t width(std::string_view text) {
  return text.size() -
         static_cast<std::size_t>(std::count_if(text.begin(), text.end(), continues_character));
}

/// Control characters, and those that show nothing but change how the text around them is shown.
bool hidden(char32_t code) {
  constexpr std::pair<char32_t, char32_t> kRanges[] = {
      {0, 0x1F},        {0x7F, 0x9F},     {0x61C, 0x61C},   {0x180E, 0x180E}, {0x200B, 0x200F},
      {0x2028, 0x202E}, {0x2060, 0x206F}, {0xFEFF, 0xFEFF}, {0xFFF9, 0xFFFB}, {0xE0000, 0xE007F},
  };
  return std::any_of(std::begin(kRanges), std::end(kRanges), [code](const auto& range) {
    return code >= range.first && code <= range.second;
  });
}

/// The text with `replacement(character)` for each character that `bad` says yes to.
template <typename Bad, typename Replacement>
std::string replaced(std::string_view text, Bad&& bad, Replacement&& replacement) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const Character character = first_character(text);
    if (bad(character))
      result += replacement(character);
    else
      result += text.substr(0, character.size);
    text.remove_prefix(character.size);
  }
  return result;
}

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string fixed(double value, int digits) {
  return to_text(value, std::chars_format::fixed, digits);
}

std::string shortest(double value) {
  return to_text(value);
}

std::string grouped(std::int64_t value) {
  std::string text = to_text(value);
  const std::size_t first_digit = value < 0 ? 1 : 0;
  for (std::size_t i = text.size(); i > first_digit + 3;) text.insert(i -= 3, 1, ',');
  return text;
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 59.95) return fixed(seconds, 1) + " s";
  const auto total = std::llround(seconds);
  if (total < 3600) return fmt::format("{} min {:02} s", total / 60, total % 60);
  return fmt::format("{} h {:02} min", total / 3600, total % 3600 / 60);
}

std::string count_of(std::size_t n, std::string_view noun) {
  return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s");
}

Character first_character(std::string_view text) {
  constexpr std::array<char32_t, 5> kSmallest = {0, 0, 0x80, 0x800, 0x10000};
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return {lead, 1, true};
  const std::size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (lead < 0xC0 || lead > 0xF4 || text.size() < size) return {};
  char32_t code = lead & (0x7FU >> size);
  for (const char c : text.substr(1, size - 1)) {
    if (!continues_character(c)) return {};
    code = code << 6U | (static_cast<unsigned char>(c) & 0x3FU);
  }
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  if (code < kSmallest.at(size) || surrogate || code > 0x10FFFF) return {};
  return {code, size, true};
}

std::string valid_utf8(std::string_view text) {
  return replaced(
      text, [](const Character& c) { return !c.valid; },
      [](const Character&) { return kReplacementCharacter; });
}

std::string printable(std::string_view text, std::string_view kept) {
  const auto bad = [kept](const Character& c) {
    const bool keep = c.code < 0x80 && kept.find(static_cast<char>(c.code)) != kept.npos;
    return !c.valid || (hidden(c.code) && !keep);
  };
  return replaced(text, bad, [](const Character&) { return '?'; });
}

std::string with_visible_controls(std::string_view text) {
  const auto bad = [](const Character& c) {
    const bool layout = c.code == '\n' || c.code == '\r' || c.code == '\t';
    return !c.valid || (hidden(c.code) && !layout);
  };
  return replaced(text, bad, [](const Character& c) {
    return c.valid ? fmt::format("[U+{:04X}]", static_cast<std::uint32_t>(c.code))
                   : std::string(kReplacementCharacter);
  });
}

std::string json_text(const nlohmann::json& json, int indent) {
  return json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string shortened(std::string_view text, std::size_t most) {
  if (text.size() <= most) return std::string(text);
  while (most > 0 && continues_character(text[most])) --most;
  return std::string(text.substr(0, most)) + "...";
}

std::string ticked(std::string_view text) {
  return fmt::format("`{}`", text);
}

std::string list_of(const std::vector<std::string>& words, std::string (*form)(std::string_view)) {
  std::string text;
  for (const std::string& word : words)
    text += (text.empty() ? "" : ", ") + (form != nullptr ? form(word) : word);
  return text;
}

std::optional<std::string> nearest(std::string_view word,
                                   const std::vector<std::string>& candidates) {
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 3) + 1;
  std::vector<std::size_t> row;
  for (const std::string& candidate : candidates) {
    // One row of the table of edit distances between prefixes, updated letter by letter.
    row.resize(candidate.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < word.size(); ++i) {
      std::size_t diagonal = std::exchange(row[0], i + 1);
      for (std::size_t j = 0; j < candidate.size(); ++j) {
        const std::size_t replaced = diagonal + (word[i] == candidate[j] ? 0 : 1);
        diagonal = row[j + 1];
        row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
      }
    }
    // Nothing in common is no resemblance, however short the words are.
    if (row.back() < best_distance && row.back() < std::max(word.size(), candidate.size())) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

std::string columns(const std::vector<std::vector<Cell>>& rows, std::string_view alignment,
                    std::string_view indent) {
  std::vector<std::size_t> widths(alignment.size());
  for (const auto& row : rows)
    for (std::size_t i = 0; row.size() > 1 && i < row.size(); ++i)
      widths.at(i) = std::max(widths.at(i), width(printable(row[i].text)));

  std::string result;
  for (const auto& row : rows) {
    std::string line(indent);
    std::size_t owed = 0;  // spaces that are written only when more text follows
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string text = printable(row[i].text);
      const std::size_t missing = widths[i] - std::min(widths[i], width(text));
      const bool right = alignment[i] == 'r';
      owed += right ? missing : 0;
      if (!text.empty()) {
        line.append(owed, ' ');
        owed = 0;
        line += row[i].style;
        line += text;
        if (!row[i].style.empty()) line += kReset;
      }
      owed += 2 + (right ? 0 : missing);
    }
    result += line + '\n';
  }
  return result;
}

}  // namespace backstop::base
