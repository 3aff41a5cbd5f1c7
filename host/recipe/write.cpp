#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/recipe/recipe.hpp"
#include "host/schema/sections.hpp"
#include "host/schema/toml_text.hpp"

namespace backstop::recipe {
namespace {

using schema::in_order;
using schema::in_quotes;
using schema::key_text;
using schema::value_text;

void write_line(std::string& out, std::string_view key, const toml::node& value) {
  out += fmt::format("{} = {}\n", key_text(key), value_text(value));
}

/// `header` and the entries of the table but `subsection`, which gets a header of its own.
void write_section(std::string& out, const std::string& header, const toml::table& table,
                   std::string_view subsection = {}) {
  out += fmt::format("\n{}\n", header);
  for (const auto& [key, value] : in_order(table)) {
    if (key->str() != subsection) write_line(out, key->str(), *value);
  }
}

/// The table, then the one that it holds under `subsection`.
void write_sections(std::string& out, const std::string& name, const toml::table& table,
                    const std::string& subsection) {
  write_section(out, fmt::format("[{}]", name), table, subsection);
  if (const auto* inner = table.get_as<toml::table>(subsection))
    write_section(out, fmt::format("[{}.{}]", name, subsection), *inner);
}

void write_audit(std::string& out, const toml::table& audit) {
  out += "\n[audit]\n";
  for (const auto& [key, value] : in_order(audit))
    if (!value->is_table()) write_line(out, key->str(), *value);
  for (const auto& [key, value] : in_order(audit))
    if (const auto* part = value->as_table())
      write_section(out, fmt::format("[audit.{}]", key->str()), *part);
}

void write_expectations(std::string& out, const toml::table& expect) {
  out += "\n[expect]\n";
  for (const auto& [row, metrics] : in_order(expect)) {
    for (const auto& [metric, bounds] : in_order(*metrics->as_table())) {
      const std::string key = fmt::format("{}.{}", key_text(row->str()), key_text(metric->str()));
      if (metric->str() != "extra") {
        out += fmt::format("{} = {}\n", key, value_text(*bounds));
        continue;
      }
      for (const auto& [own, of_own] : in_order(*bounds->as_table()))
        out += fmt::format("{}.{} = {}\n", key, key_text(own->str()), value_text(*of_own));
    }
  }
}

std::string placeholder(const schema::Parameter& parameter) {
  const std::string text = fmt::format("<{}>", to_string(parameter.type));
  return parameter.list ? fmt::format("[{}, ...]", text) : text;
}

std::string comment(const schema::Parameter& parameter) {
  std::vector<std::string> facts;
  if (parameter.default_value.empty())
    facts.emplace_back(parameter.optional ? "optional" : "required");
  if (!parameter.unit.empty()) facts.push_back(parameter.unit);
  if (!parameter.choices.empty())
    facts.push_back(fmt::format("{}", fmt::join(parameter.choices, " | ")));
  std::string text = base::list_of(facts);
  if (!parameter.help.empty()) text += (text.empty() ? "" : ": ") + parameter.help;
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

std::string scheduler_fragment(const catalog::Manifest& manifest) {
  std::string text = fmt::format("scheduler = {{ plugin = {}", in_quotes(manifest.name));
  for (const auto& parameter : manifest.parameters) {
    if (parameter.default_value.empty() && parameter.optional) continue;
    text += fmt::format(", {} = {}", parameter.key,
                        parameter.default_value.empty() ? placeholder(parameter)
                                                        : value_text(parameter.default_value[0]));
  }
  return text + " }\n";
}

}  // namespace

std::string to_toml(const Recipe& recipe) {
  std::string out;
  for (const auto& [key, value] : in_order(recipe.table)) {
    if (!value->is_table() && !value->is_array()) write_line(out, key->str(), *value);
  }
  for (const auto& [key, value] : in_order(recipe.table)) {
    const std::string name(key->str());
    if (const auto* entries = value->as_array()) {  // of [[defense]] or [[detector]]
      for (const auto& entry : *entries)
        write_section(out, fmt::format("[[{}]]", name), *entry.as_table());
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
    if (name == "audit") {
      write_audit(out, *table);
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
  schema::Parameters parameters;
  if (std::find(manifest.needs.begin(), manifest.needs.end(), "clean-data") != manifest.needs.end())
    parameters.push_back(schema::sections().clean_fraction);
  parameters.insert(parameters.end(), manifest.parameters.begin(), manifest.parameters.end());

  std::vector<std::pair<std::string, std::string>> lines;  // and their comments
  std::size_t width = 0;
  for (const auto& parameter : parameters) {
    lines.emplace_back(
        parameter.default_value.empty()
            ? fmt::format("# {} = {}", parameter.key, placeholder(parameter))
            : fmt::format("{} = {}", parameter.key, value_text(parameter.default_value[0])),
        comment(parameter));
    if (!lines.back().second.empty()) width = std::max(width, lines.back().first.size());
  }
  const bool defense = manifest.kind == catalog::Kind::defense;
  const std::string header =
      defense ? "[[defense]]" : fmt::format("[{}]", to_string(manifest.kind));
  std::string out = fmt::format("{}\nplugin = {}\n", header, in_quotes(manifest.name));
  for (const auto& [line, about] : lines)
    out += about.empty() ? line + '\n' : fmt::format("{:{}}   # {}\n", line, width, about);
  return out;
}

}  // namespace backstop::recipe
