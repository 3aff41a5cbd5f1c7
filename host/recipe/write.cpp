#include "host/recipe/write.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

#include "host/recipe/recipe.hpp"
#include "host/recipe/schema.hpp"

namespace backstop::recipe {
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
    const int exponent = std::stoi(text.substr(e + 1));
    return text.substr(0, e + 1) + std::to_string(exponent);
  }
  return text.find('.') == std::string::npos ? text + ".0" : text;
}

/// A table's entries in the order of their keys' source positions: the file's for a parsed table,
/// the documented order for a resolved one, the alphabet where there is none.
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

void write_line(std::string& out, std::string_view key, const toml::node& value) {
  out += key_text(key) + " = " + value_text(value) + '\n';
}

/// `header` and the entries of the table but `subsection`, which gets a header of its own.
void write_section(std::string& out, const std::string& header, const toml::table& table,
                   std::string_view subsection = {}) {
  out += '\n' + header + '\n';
  for (const auto& [key, value] : in_order(table)) {
    if (key->str() != subsection) write_line(out, key->str(), *value);
  }
}

/// The table, then the one that it holds under `subsection`.
void write_sections(std::string& out, const std::string& name, const toml::table& table,
                    const std::string& subsection) {
  write_section(out, '[' + name + ']', table, subsection);
  if (const auto* inner = table.get_as<toml::table>(subsection))
    write_section(out, '[' + name + '.' + subsection + ']', *inner);
}

void write_expectations(std::string& out, const toml::table& expect) {
  out += "\n[expect]\n";
  for (const auto& [row, metrics] : in_order(expect)) {
    for (const auto& [metric, bounds] : in_order(*metrics->as_table()))
      out +=
          key_text(row->str()) + '.' + key_text(metric->str()) + " = " + value_text(*bounds) + '\n';
  }
}

std::string placeholder(const catalog::Parameter& parameter) {
  const std::string text = '<' + std::string(to_string(parameter.type)) + '>';
  return parameter.list ? "[" + text + ", ...]" : text;
}

std::string comment(const catalog::Parameter& parameter) {
  std::vector<std::string> facts;
  if (parameter.default_value.empty())
    facts.emplace_back(parameter.optional ? "optional" : "required");
  if (!parameter.unit.empty()) facts.push_back(parameter.unit);
  if (!parameter.choices.empty()) {
    std::string choices;
    for (const auto& each : parameter.choices) choices += (choices.empty() ? "" : " | ") + each;
    facts.push_back(choices);
  }
  std::string text;
  for (const auto& fact : facts) text += (text.empty() ? "" : ", ") + fact;
  if (!parameter.help.empty()) text += (text.empty() ? "" : ": ") + parameter.help;
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

std::string scheduler_fragment(const catalog::Manifest& manifest) {
  std::string text = "scheduler = { plugin = " + in_quotes(manifest.name);
  for (const auto& parameter : manifest.parameters) {
    if (!parameter.default_value.empty())
      text += ", " + parameter.key + " = " + value_text(parameter.default_value[0]);
    else if (!parameter.optional)
      text += ", " + parameter.key + " = " + placeholder(parameter);
  }
  return text + " }\n";
}

}  // namespace

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
        if (const auto byte = static_cast<unsigned char>(c); byte < 0x20 || byte == 0x7f) {
          constexpr char kDigits[] = "0123456789abcdef";
          out += "\\u00";
          out += kDigits[byte >> 4U];
          out += kDigits[byte & 15U];
        } else {
          out += c;
        }
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
    return '[' + out + ']';
  }
  if (const auto* table = value.as_table()) {
    for (const auto& [key, element] : in_order(*table))
      out += (out.empty() ? " " : ", ") + key_text(key->str()) + " = " + value_text(*element);
    return out.empty() ? "{}" : '{' + out + " }";
  }
  std::ostringstream date;
  value.visit([&](const auto& node) {
    if constexpr (toml::is_value<decltype(node)>) date << node.get();
  });
  return date.str();
}

std::string to_toml(const Recipe& recipe) {
  std::string out;
  for (const auto& [key, value] : in_order(recipe.table)) {
    if (!value->is_table() && key->str() != "defense") write_line(out, key->str(), *value);
  }
  for (const auto& [key, value] : in_order(recipe.table)) {
    const std::string name(key->str());
    if (const auto* defenses = value->as_array()) {
      for (const auto& defense : *defenses) write_section(out, "[[defense]]", *defense.as_table());
      continue;
    }
    const auto* table = value->as_table();
    if (!table) continue;
    if (name == "pretraining") {
      write_sections(out, "pretraining.dataset", *table->get_as<toml::table>("dataset"),
                     "augmentation");
      continue;
    }
    if (name == "expect") {
      write_expectations(out, *table);
      continue;
    }
    const std::string subsection = name == "dataset"  ? "augmentation"
                                   : name == "attack" ? "training"
                                                      : "";
    write_sections(out, name, *table, subsection);
  }
  return out;
}

std::string recipe_fragment(const catalog::Manifest& manifest) {
  if (manifest.kind == catalog::Kind::scheduler) return scheduler_fragment(manifest);
  std::vector<catalog::Parameter> parameters;
  if (std::find(manifest.needs.begin(), manifest.needs.end(), "clean-data") != manifest.needs.end())
    parameters.push_back(sections().clean_fraction);
  parameters.insert(parameters.end(), manifest.parameters.begin(), manifest.parameters.end());

  std::vector<std::pair<std::string, std::string>> lines;  // with their comments
  std::size_t width = 0;
  for (const auto& parameter : parameters) {
    lines.emplace_back(parameter.default_value.empty()
                           ? "# " + parameter.key + " = " + placeholder(parameter)
                           : parameter.key + " = " + value_text(parameter.default_value[0]),
                       comment(parameter));
    if (!lines.back().second.empty()) width = std::max(width, lines.back().first.size());
  }
  const std::string kind(to_string(manifest.kind));
  std::string out =
      (manifest.kind == catalog::Kind::defense ? "[[" + kind + "]]" : '[' + kind + ']') + '\n';
  out += "plugin = " + in_quotes(manifest.name) + '\n';
  for (const auto& [line, about] : lines) {
    out += line;
    if (!about.empty()) out += std::string(width - line.size() + 3, ' ') + "# " + about;
    out += '\n';
  }
  return out;
}

}  // namespace backstop::recipe
