#include "host/catalog/build_facts.hpp"

#include <charconv>

#include "backstop/build_facts.hpp"
#include "host/catalog/note_text.hpp"
#include "host/schema/check_value.hpp"

namespace backstop::catalog {

std::optional<std::pair<unsigned, unsigned>> major_minor(std::string_view version) {
  std::pair<unsigned, unsigned> result;
  const char* end = version.data() + version.size();
  const auto [dot, no_major] = std::from_chars(version.data(), end, result.first);
  if (no_major != std::errc() || dot == end || *dot != '.') return std::nullopt;
  const auto [rest, no_minor] = std::from_chars(dot + 1, end, result.second);
  if (no_minor != std::errc()) return std::nullopt;
  return result;
}

BuildFacts parse_build_facts(std::string_view text, const std::string& where) {
  using enum schema::ParameterType;
  static const schema::Parameters kKeys = {
      {.key = "abi"},
      {.key = "sdk", .optional = true},
      {.key = "torch"},
      {.key = "sanitizer"},
      {.key = "compiler"},
      {.key = "cxx11_abi", .type = integer, .minimum = 0, .maximum = 1},
      {.key = "glibcxx_debug", .type = boolean},
  };
  NoteText note(text, where, "build the plugin again with backstop_add_plugin()");
  const toml::table values = note.read(note.table(), kKeys);
  const auto version = [&](const char* key, const char* form) {
    const toml::node* value = values.get(key);
    if (value != nullptr && !major_minor(value->ref<std::string>()))
      note.add(*note.table().get(key), schema::mismatch(key, form, *value));
    return values[key].value_or(std::string());
  };
  BuildFacts facts;
  facts.abi = version("abi", "MAJOR.MINOR");
  facts.sdk = facts.abi;  // SDKs before 0.4 did not say
  if (values.contains("sdk")) facts.sdk = version("sdk", "MAJOR.MINOR");
  facts.torch = version("torch", "MAJOR.MINOR.PATCH");
  facts.cxx11_abi = values["cxx11_abi"].value_or(0) != 0;
  facts.glibcxx_debug = values["glibcxx_debug"].value_or(false);
  facts.sanitizer = values["sanitizer"].value_or(std::string());
  facts.compiler = values["compiler"].value_or(std::string());
  note.throw_if_any();
  return facts;
}

const BuildFacts& own_build_facts() {
  static const BuildFacts facts = parse_build_facts(BACKSTOP_BUILD_FACTS, "backstop");
  return facts;
}

}  // namespace backstop::catalog
