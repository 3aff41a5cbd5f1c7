// TOML text of values, one line each: for resolved recipes and for messages.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <toml++/toml.h>

namespace backstop::schema {

/// A basic string with its quotes.
std::string in_quotes(std::string_view text);
/// A bare key where TOML allows one, a quoted key otherwise.
std::string key_text(std::string_view key);
/// A float has the fewest digits that read back as the same number. Tables are inline.
std::string value_text(const toml::node& value);
/// The value's text shortened for a sentence; "a table" or "an array of tables" where it is one.
std::string short_text(const toml::node& value);

/// A table's entries in the order of their keys' source positions: the file's order for a parsed
/// table, the documented order for a resolved one, alphabetical where there are no positions.
std::vector<std::pair<const toml::key*, const toml::node*>> in_order(const toml::table& table);

}  // namespace backstop::schema
