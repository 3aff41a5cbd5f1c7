#include "host/recipe/override.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/schema/toml_text.hpp"

namespace backstop::recipe {
namespace {

/// Longest `--set`, in bytes.
constexpr std::size_t kLongest = 65536;

std::optional<std::size_t> index_from(const std::string& text) {
  std::size_t index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return index;
}

/// The first `=` outside quotes.
std::size_t equals_sign(std::string_view text) {
  char quote = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (quote == '"' && text[i] == '\\')
      ++i;
    else if (quote != 0)
      quote = text[i] == quote ? '\0' : quote;
    else if (text[i] == '"' || text[i] == '\'')
      quote = text[i];
    else if (text[i] == '=')
      return i;
  }
  return std::string_view::npos;
}

/// `key = <value>` alone; an empty table when it is anything else.
toml::table parse_value(std::string_view value, std::string_view label = {}) {
  try {
    toml::table parsed = toml::parse(std::string("value = ").append(value), label);
    if (parsed.size() == 1 && parsed.contains("value")) return parsed;
  } catch (const toml::parse_error&) {
  }
  return {};
}

toml::node& place(toml::table& table, const std::string& key, toml::node&& value) {
  return table.insert_or_assign(toml::key(key, value.source()), std::move(value)).first->second;
}

/// A table on the way to `value`; one that an override makes belongs to that override.
toml::table table_towards(const toml::node& value) {
  const auto& label = value.source().path;
  if (!label || !label->starts_with(kOverrideLabel)) return {};
  toml::table parsed = parse_value("{}", *label);
  return std::move(*parsed.get("value")->as_table());
}

/// What the first `count` keys lead to.
std::string beginning(const Path& path, std::size_t count) {
  return path_text({path.begin(), path.begin() + static_cast<std::ptrdiff_t>(count)});
}

schema::Problem no_such_element(const Path& path, std::size_t depth, std::size_t size) {
  const std::string known = size == 0   ? "it is empty"
                            : size == 1 ? "it has 1 (0)"
                            : size == 2 ? "it has 2 (0 and 1)"
                                        : fmt::format("it has {} (0 to {})", size, size - 1);
  return {fmt::format("`{}` has no element {}; {}", beginning(path, depth), path[depth], known),
          ""};
}

}  // namespace

std::string path_text(const Path& path) {
  std::string text;
  for (const auto& key : path) text += (text.empty() ? "" : ".") + schema::key_text(key);
  return text;
}

std::optional<Path> parse_path(std::string_view text) {
  if (text.find_first_of("\r\n") != std::string_view::npos || equals_sign(text) < text.size())
    return {};
  Path path;
  try {
    // TOML itself reads the dotted key; a key takes no more than its own line, which holds one.
    const toml::table parsed = toml::parse(std::string(text) + " = 0");
    for (const toml::table* table = &parsed; table;) {
      if (table->size() != 1) return {};
      path.emplace_back(table->begin()->first.str());
      table = table->begin()->second.as_table();
    }
  } catch (const toml::parse_error&) {
    return {};
  }
  return path;
}

std::optional<schema::Problem> set_value(toml::table& recipe, const Path& path, toml::node&& value,
                                         Changes& changes) {
  toml::node* at = &recipe;
  for (std::size_t depth = 0; depth < path.size(); ++depth) {
    const bool last = depth + 1 == path.size();
    if (auto* table = at->as_table()) {
      toml::node* next = table->get(path[depth]);
      if (last) {
        const auto* old = next ? next->as_string() : nullptr;
        const auto* now = value.as_string();
        if (path[depth] == "plugin" && old && now && old->get() != now->get())
          changes.swapped.emplace(path.begin(), path.end() - 1);
        place(*table, path[depth], std::move(value));
        break;
      }
      if (!next) {
        if (depth == 0 && path[0] == "defense") return no_such_element(path, 1, 0);
        next = &table->insert(toml::key(path[depth], value.source()), table_towards(value))
                    .first->second;
      }
      at = next;
    } else if (auto* array = at->as_array()) {
      const auto index = index_from(path[depth]);
      if (!index || *index >= array->size()) return no_such_element(path, depth, array->size());
      if (last) {
        array->replace(array->cbegin() + static_cast<std::ptrdiff_t>(*index), std::move(value));
        break;
      }
      at = array->get(*index);
    } else {
      return schema::Problem{
          fmt::format("`{}` has no key `{}`: it is {}, not a table", beginning(path, depth),
                      path[depth], schema::short_text(*at)),
          ""};
    }
  }
  changes.keys.insert(path);
  return {};
}

std::string Override::label_of(std::string_view text) {
  return std::string(kOverrideLabel) + base::shortened(text, 200);
}

std::optional<Override> Override::parse(const std::string& text, schema::Problem& problem) {
  if (text.size() > kLongest) {
    problem = {fmt::format("it has {} bytes; at most {} are allowed", text.size(), kLongest),
               "write the value into the recipe"};
    return {};
  }
  const auto equals = equals_sign(text);
  if (equals == std::string::npos) {
    problem = {fmt::format("`{}` has no `=`", text),
               "write --set KEY=VALUE, as in --set attack.target=1"};
    return {};
  }
  const auto path = parse_path(std::string_view(text).substr(0, equals));
  if (!path) {
    problem = {
        fmt::format("`{}` is not a valid key", text.substr(0, equals)),
        "keys are dotted, as in `attack.target` or `defense.0.epochs`; a key that contains a "
        "space needs quotes"};
    return {};
  }
  std::string value = text.substr(equals + 1);
  if (parse_value(value).empty()) value = schema::in_quotes(value);
  if (parse_value(value).empty()) {
    problem = {fmt::format("the value of `{}` is not valid UTF-8", path_text(*path)), ""};
    return {};
  }
  return Override{label_of(text), *path, std::move(value)};
}

std::optional<schema::Problem> Override::apply(toml::table& recipe, Changes& changes) const {
  toml::table parsed = parse_value(value, label);
  return set_value(recipe, path, std::move(*parsed.get("value")), changes);
}

}  // namespace backstop::recipe
