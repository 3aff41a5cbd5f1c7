#include "host/recipe/diagnostic.hpp"

#include <algorithm>
#include <string_view>

#include "host/base/text.hpp"

namespace backstop::recipe {
namespace {

constexpr std::string_view kRed = "\033[1;31m";
constexpr std::string_view kYellow = "\033[1;33m";
constexpr std::string_view kBlue = "\033[34m";
constexpr std::string_view kCyan = "\033[36m";
constexpr std::string_view kPlain = "\033[0m";

/// Recipes come from others: control characters (U+0080 to U+009F are some too) could recolour a
/// terminal or hide text, so they are not passed on.
std::string printable(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c1 = byte == 0xc2 && i + 1 < text.size() &&
                    static_cast<unsigned char>(text[i + 1]) >= 0x80 &&
                    static_cast<unsigned char>(text[i + 1]) < 0xa0;
    i += c1 ? 1 : 0;
    out += c1 || (byte < 0x20 && byte != '\t') || byte == 0x7f ? '?' : text[i];
  }
  return out;
}

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

/// Blanks as wide as the line before `column`, then carets. Columns are characters, not bytes; tabs
/// stay tabs, so that the carets stand where the terminal puts the text.
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
  const auto paint = [color](std::string_view with, std::string_view text) {
    return color ? std::string(with) + std::string(text) + std::string(kPlain) : std::string(text);
  };
  std::string out;
  for (const auto& each : diagnostics) {
    const bool error = each.severity == Diagnostic::Severity::error;
    const std::string_view alarm = error ? kRed : kYellow;
    if (!out.empty()) out += '\n';
    out += paint(alarm, error ? "error" : "warning") + ": " + printable(each.message) + '\n';

    const std::string number = std::to_string(each.line);
    const std::size_t gutter = std::max<std::size_t>(2, number.size());
    const std::string margin(gutter, ' ');
    const std::string file = printable(each.file);
    if (each.line == 0) {
      if (!file.empty()) out += margin + paint(kBlue, "-->") + ' ' + file + '\n';
    } else {
      const std::string_view line = line_of(source, each.line);
      out += margin + paint(kBlue, "-->") + ' ' + file + ':' + number + ':' +
             std::to_string(each.column) + '\n';
      out += margin + paint(kBlue, " |") + '\n';
      out += std::string(gutter - number.size(), ' ') + paint(kBlue, number + " |") + ' ' +
             printable(line) + '\n';
      out += margin + paint(kBlue, " |") + ' ' +
             paint(alarm, carets(line, each.column, each.length)) + '\n';
    }
    if (!each.hint.empty())
      out += paint(kCyan, "hint") + ": " + printable(each.hint) + '\n';
  }
  return out;
}

}  // namespace backstop::recipe
