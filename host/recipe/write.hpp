// TOML text of recipe values, one line each: for resolved recipes and for messages.
#pragma once

#include <string>
#include <string_view>

#include <toml++/toml.h>

namespace backstop::recipe {

/// A basic string with its quotes.
std::string in_quotes(std::string_view text);
/// A bare key where TOML allows it, a in_quotes one otherwise.
std::string key_text(std::string_view key);
/// Floats have the fewest digits that read back as the same number. Tables are inline, their keys
/// in the order of their source positions.
std::string value_text(const toml::node& value);

}  // namespace backstop::recipe
