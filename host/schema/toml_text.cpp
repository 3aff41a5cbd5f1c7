#include "host/schema/toml_text.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>
#include <tuple>

#include <fmt/format.h>

#include "host/base/text.hpp"

namespace backstop::schema {
namespace {

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  const double size = std::abs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value,
                                 plain ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer, end.ptr);
  if (const auto e = text.find('e'); e != std::string::npos) {
    // "1e-08" and "1e+20" are right but not how people write them.
    return fmt::format("{}e{}", text.substr(0, e), std::stoi(text.substr(e + 1)));
  }
  return text.find('.') == std::string::npos ? text + ".0" : text;
}

}  // namespace

std::vector<std::pair<const toml::key*, const toml::node*>> in_order(const toml::table& table) {
  std::vector<std::pair<const toml::key*, const toml::node*>> entries;
  for (const auto& [key, node] : table) entries.emplace_back(&key, &node);
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    const auto& left = a.first->source().begin;
    const auto& right = b.first->source().begin;
    return std::tie(left.line, left.column) < std::tie(right.line, right.column);
  });
  return entries;
}

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (const auto byte = static_cast<unsigned char>(c); byte < 0x20 || byte == 0x7f)
          out += fmt::format("\\u{:04x}", byte);
        else
          out += c;
    }
  }
  return out + '"';
}

std::string key_text(std::string_view key) {
  const bool bare = !key.empty() && std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
  return bare ? std::string(key) : in_quotes(key);
}

std::string value_text(const toml::node& value) {
  if (const auto* text = value.as_string()) return in_quotes(text->get());
  if (const auto* number = value.as_floating_point()) return float_text(number->get());
  if (const auto* number = value.as_integer()) return std::to_string(number->get());
  if (const auto* flag = value.as_boolean()) return flag->get() ? "true" : "false";
  std::string out;
  if (const auto* array = value.as_array()) {
    for (const auto& element : *array) out += (out.empty() ? "" : ", ") + value_text(element);
    return fmt::format("[{}]", out);
  }
  if (const auto* table = value.as_table()) {
    for (const auto& [key, element] : in_order(*table))
      out += fmt::format("{} {} = {}", out.empty() ? "" : ",", key_text(key->str()),
                         value_text(*element));
    return out.empty() ? "{}" : fmt::format("{{{} }}", out);
  }
  std::ostringstream date;
  value.visit([&](const auto& node) {
    if constexpr (toml::is_value<decltype(node)>) date << node.get();
  });
  return date.str();
}

std::string short_text(const toml::node& value) {
  if (value.is_table()) return "a table";
  if (const auto* array = value.as_array(); array && array->is_array_of_tables())
    return "an array of tables";
  return base::shortened(value_text(value));
}

}  // namespace backstop::schema
