// Reads the TOML texts in a plugin's notes, and collects everything that is wrong with them.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <toml++/toml.h>

#include "host/schema/parameter.hpp"

namespace backstop::catalog {

class NoteText {
 public:
  /// `where` begins every message: the file, or what the text is.
  NoteText(std::string_view text, std::string where, std::string hint);

  [[nodiscard]] const toml::table& table() const { return table_; }

  void add(const toml::source_region& at, const std::string& message, const std::string& hint = "");
  void add(const toml::node& at, const std::string& message, const std::string& hint = "") {
    add(at.source(), message, hint);
  }

  /// The values of `keys` in `table`; those that are missing or wrong become problems, and defaults
  /// are not filled in. Messages call a key `prefix` + key.
  toml::table read(const toml::table& table, const schema::Parameters& keys,
                   const std::string& prefix = "");
  /// Keys that begin with "x-" are anybody's: nothing here reads them.
  void forbid_other_keys(const toml::table& table, const schema::Parameters& keys,
                         const std::string& prefix = "",
                         const std::vector<std::string>& others = {});

  /// From now on an unknown key is no problem, but one of unknown_keys().
  void tolerate_unknown_keys() { tolerant_ = true; }
  [[nodiscard]] const std::vector<std::string>& unknown_keys() const { return unknown_; }

  /// Throws HostError(plugin), one line for each problem in the order of the text.
  void throw_if_any();

 private:
  toml::table table_;
  std::string where_, hint_;
  bool tolerant_ = false;
  std::vector<std::string> unknown_;
  std::vector<std::pair<toml::source_index, std::string>> problems_;
};

}  // namespace backstop::catalog
