#include "host/schema/check_value.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/schema/toml_text.hpp"

namespace backstop::schema {
namespace {

std::string expected_type(ParameterType type) {
  switch (type) {
    case ParameterType::boolean:
      return "true or false";
    case ParameterType::integer:
      return "an integer";
    case ParameterType::floating:
      return "a number";
    case ParameterType::string:
    case ParameterType::choice:
      return "a string";
    case ParameterType::path:
      return "a path in quotes";
    case ParameterType::scheduler:
      return "a table { plugin = \"...\", ... }";
    case ParameterType::optimizer:
      return "a table { name = \"...\", ... }";
  }
  return {};
}

std::string expected_list(ParameterType type) {
  switch (type) {
    case ParameterType::boolean:
      return "an array of true and false";
    case ParameterType::integer:
      return "an array of integers";
    case ParameterType::floating:
      return "an array of numbers";
    case ParameterType::path:
      return "an array of paths in quotes";
    case ParameterType::string:
    case ParameterType::choice:
      return "an array of strings";
    case ParameterType::scheduler:
    case ParameterType::optimizer:
      return "an array of tables";
  }
  return {};
}

bool has_type(const toml::node& value, ParameterType type) {
  switch (type) {
    case ParameterType::boolean:
      return value.is_boolean();
    case ParameterType::integer:
      return value.is_integer();
    case ParameterType::floating:
      return value.is_number();
    case ParameterType::string:
    case ParameterType::choice:
    case ParameterType::path:
      return value.is_string();
    case ParameterType::scheduler:
    case ParameterType::optimizer:
      return value.is_table();
  }
  return false;
}

/// long double holds every integer of 64 bits exactly.
static_assert(std::numeric_limits<long double>::digits >= 63);
using Number = long double;

bool in_range(Number value, const Parameter& parameter) {
  if (parameter.minimum &&
      (parameter.minimum_exclusive ? value <= *parameter.minimum : value < *parameter.minimum))
    return false;
  return !parameter.maximum ||
         (parameter.maximum_exclusive ? value < *parameter.maximum : value <= *parameter.maximum);
}

std::string expected_range(const Parameter& parameter) {
  const auto& [minimum, maximum] = std::tie(parameter.minimum, parameter.maximum);
  const bool exclusive = parameter.minimum_exclusive || parameter.maximum_exclusive;
  if (minimum && maximum && *minimum == *maximum) return fmt::format("{}", *minimum);
  if (minimum && maximum && !exclusive) return fmt::format("between {} and {}", *minimum, *maximum);
  std::string text;
  if (minimum)
    text =
        fmt::format("{} {}", parameter.minimum_exclusive ? "greater than" : "at least", *minimum);
  if (minimum && maximum) text += " and ";
  if (maximum)
    text += fmt::format("{} {}", parameter.maximum_exclusive ? "less than" : "at most", *maximum);
  return text;
}

/// Readers of JSON, and plugins that take a list of integers as one of floats, hold integers up to
/// this exactly.
constexpr std::int64_t kLargestInteger = std::int64_t{1} << 53;

/// The value is a number.
toml::array check_number(const toml::node& value, const Parameter& parameter,
                         const std::string& name, const Report& report) {
  const auto* whole = value.as_integer();
  const Number number = whole ? Number(whole->get()) : Number(value.as_floating_point()->get());
  std::string expected;
  if (!std::isfinite(number))
    expected = "finite";
  else if (!in_range(number, parameter))
    expected = expected_range(parameter);
  else if (whole != nullptr && std::abs(number) > kLargestInteger)
    expected = fmt::format("an integer between -{0} and {0}", kLargestInteger);
  if (!expected.empty()) {
    report(value, {mismatch(name, expected, value), ""});
    return {};
  }
  if (parameter.type == ParameterType::integer) return toml::array{whole->get()};
  return toml::array{static_cast<double>(number) + 0.0};  // no negative zero
}

/// What it expects is one value, even where the parameter is a list of them.
toml::array check_single(const toml::node& value, const Parameter& parameter,
                         const std::string& name, const Report& report) {
  const auto* text = value.as_string();
  if (!has_type(value, parameter.type)) {
    std::string hint;
    if (text && parameter.type == ParameterType::scheduler)
      hint = fmt::format("write {} = {{ plugin = {} }}", parameter.key, short_text(value));
    if (text && parameter.type == ParameterType::optimizer)
      hint = fmt::format("write {} = {{ name = {} }}", parameter.key, short_text(value));
    report(value, {mismatch(name, expected_type(parameter.type), value), std::move(hint)});
    return {};
  }
  if (value.is_number()) return check_number(value, parameter, name, report);
  if (value.is_boolean()) return toml::array{value.as_boolean()->get()};
  if (value.is_table()) return toml::array{*value.as_table()};
  const auto& choices = parameter.choices;
  if (parameter.type == ParameterType::choice &&
      std::find(choices.begin(), choices.end(), text->get()) == choices.end()) {
    const auto near = base::nearest(text->get(), choices);
    const std::string expected = "one of " + base::list_of(choices, in_quotes);
    report(value, {mismatch(name, expected, value),
                   near ? fmt::format("did you mean {}?", in_quotes(*near)) : ""});
    return {};
  }
  return toml::array{text->get()};
}

}  // namespace

toml::array check_value(const toml::node& value, const Parameter& parameter,
                        const std::string& name, const Report& report) {
  if (!parameter.list) return check_single(value, parameter, name, report);
  const auto* elements = value.as_array();
  if (!elements) {
    report(value, {mismatch(name, expected_list(parameter.type), value), ""});
    return {};
  }
  toml::array checked;
  for (std::size_t i = 0; i < elements->size(); ++i)
    for (auto& element :
         check_single((*elements)[i], parameter, fmt::format("{}.{}", name, i), report))
      checked.push_back(std::move(element));
  if (checked.size() != elements->size()) return {};
  toml::array result;
  result.push_back(std::move(checked));
  return result;
}

std::string mismatch(std::string_view name, std::string_view expected, const toml::node& value) {
  return fmt::format("`{}` must be {}, got {}", name, expected, short_text(value));
}

Problem unknown_key(std::string_view key, std::string_view where,
                    const std::vector<std::string>& known) {
  const auto near = base::nearest(base::shortened(key), known);
  return {fmt::format("unknown key `{}`{}{}", key, where.empty() ? "" : " in ", where),
          near ? fmt::format("did you mean `{}`?", *near)
               : "known keys: " + base::list_of(known, base::ticked)};
}

}  // namespace backstop::schema
