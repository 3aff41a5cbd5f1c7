#include "host/recipe/diagnostic.hpp"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "host/base/text.hpp"

namespace backstop::recipe {
namespace {

using base::printable;

constexpr std::string_view kRed = "\033[1;31m";
constexpr std::string_view kYellow = "\033[1;33m";
constexpr std::string_view kBlue = "\033[34m";
constexpr std::string_view kCyan = "\033[36m";
constexpr std::string_view kPlain = "\033[0m";

std::string_view line_of(std::string_view source, std::uint32_t number) {
  for (; number > 1; --number) {
    const auto end = source.find('\n');
    if (end == std::string_view::npos) return {};
    source.remove_prefix(end + 1);
  }
  std::string_view line = source.substr(0, source.find('\n'));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

/// Blanks as wide as the line before `column`, then carets. Columns are characters, not bytes. Tabs
/// stay tabs, so that the carets are below the text whatever the terminal's tab width is.
std::string carets(std::string_view line, std::uint32_t column, std::uint32_t length) {
  std::string out;
  std::uint32_t at = 1;
  std::uint32_t covered = 0;
  for (const char c : line) {
    if ((static_cast<unsigned char>(c) & 0xc0U) == 0x80U) continue;  // inside a UTF-8 character
    if (at < column) out += c == '\t' ? '\t' : ' ';
    if (at >= column && covered < length) {
      out += '^';
      ++covered;
    }
    ++at;
  }
  return covered == 0 ? out + '^' : out;
}

}  // namespace

std::string render(const std::vector<Diagnostic>& diagnostics, const std::string& source,
                   bool color) {
  const auto paint = [color](std::string_view code, std::string_view text) {
    return color ? fmt::format("{}{}{}", code, text, kPlain) : std::string(text);
  };
  std::string out;
  for (const auto& diagnostic : diagnostics) {
    const bool error = diagnostic.severity == Diagnostic::Severity::error;
    const std::string_view alarm = error ? kRed : kYellow;
    if (!out.empty()) out += '\n';
    out += fmt::format("{}: {}\n", paint(alarm, error ? "error" : "warning"),
                       printable(diagnostic.message));

    const std::string file = printable(diagnostic.file);
    const std::string number = std::to_string(diagnostic.line);
    const std::size_t gutter = std::max<std::size_t>(2, number.size());
    const std::string margin(gutter, ' ');
    const std::string arrow = margin + paint(kBlue, "-->"), bar = margin + paint(kBlue, " |");
    if (diagnostic.line == 0) {
      if (!file.empty()) out += fmt::format("{} {}\n", arrow, file);
    } else {
      const std::string_view line = line_of(source, diagnostic.line);
      out += fmt::format("{} {}:{}:{}\n{}\n", arrow, file, number, diagnostic.column, bar);
      out += fmt::format("{:{}}{} {}\n", "", gutter - number.size(), paint(kBlue, number + " |"),
                         base::printable(line, "\t"));
      out += fmt::format("{} {}\n", bar,
                         paint(alarm, carets(line, diagnostic.column, diagnostic.length)));
    }
    if (!diagnostic.hint.empty())
      out += fmt::format("{}: {}\n", paint(kCyan, "hint"), printable(diagnostic.hint));
  }
  return out;
}

}  // namespace backstop::recipe
