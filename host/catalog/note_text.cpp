#include "host/catalog/note_text.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/schema/check_value.hpp"

namespace backstop::catalog {
namespace {

/// toml++ and its tables recurse along dotted keys: more dots than any manifest has could exhaust
/// the stack. Its own limit covers only brackets and braces.
constexpr std::ptrdiff_t kMaximumDots = 2000;

}  // namespace

NoteText::NoteText(std::string_view text, std::string where, std::string hint)
    : where_(std::move(where)), hint_(std::move(hint)) {
  if (std::count(text.begin(), text.end(), '.') > kMaximumDots) {
    add(toml::source_region{}, fmt::format("more than {} dots", kMaximumDots));
  } else {
    try {
      table_ = toml::parse(text);
    } catch (const toml::parse_error& e) {
      std::string description(e.description());
      if (!description.empty() && description[0] >= 'A' && description[0] <= 'Z')
        description[0] = static_cast<char>(description[0] - 'A' + 'a');
      add(e.source(), description);
    }
  }
  throw_if_any();
}

void NoteText::add(const toml::source_region& at, const std::string& message,
                   const std::string& hint) {
  // The text comes from somebody else: it must not reach a terminal as commands.
  problems_.emplace_back(at.begin.line,
                         base::printable(hint.empty() ? message : message + "; " + hint));
}

toml::table NoteText::read(const toml::table& table, const schema::Parameters& keys,
                           const std::string& prefix) {
  toml::table values;
  for (const schema::Parameter& key : keys) {
    const std::string name = prefix + key.key;
    const toml::node* node = table.get(key.key);
    if (node == nullptr) {
      if (!key.optional && key.default_value.empty())
        add(table, fmt::format("`{}` is missing", name));
      continue;
    }
    toml::array checked = schema::check_value(
        *node, key, name, [this](const toml::node& at, const schema::Problem& problem) {
          add(at, problem.message, problem.hint);
        });
    if (checked.empty()) continue;
    // Text is shown on terminals and in tables; only help may have several lines.
    const std::string_view kept = key.key == "help" ? "\n" : "";
    const auto harmless = [&](const toml::node& value) {
      const auto* text = value.as_string();
      return text == nullptr || base::printable(text->get(), kept) == text->get();
    };
    const toml::array* list = checked[0].as_array();
    if (list != nullptr ? !std::all_of(list->begin(), list->end(), harmless)
                        : !harmless(checked[0]))
      add(*node, fmt::format("`{}` must not contain control characters", name));
    values.insert(key.key, std::move(checked[0]));
  }
  return values;
}

void NoteText::forbid_other_keys(const toml::table& table, const schema::Parameters& keys,
                                 const std::string& prefix,
                                 const std::vector<std::string>& others) {
  std::vector<std::string> known = others;
  for (const schema::Parameter& key : keys) known.push_back(key.key);
  const std::string where =
      prefix.empty() ? "" : fmt::format("[{}]", prefix.substr(0, prefix.size() - 1));
  for (const auto& [key, node] : table)
    if (std::find(known.begin(), known.end(), key.str()) == known.end()) {
      if (key.str().starts_with("x-")) continue;
      if (tolerant_) {
        unknown_.push_back(base::printable(prefix + base::shortened(key.str())));
        continue;
      }
      const auto problem = schema::unknown_key(base::shortened(key.str()), where, known);
      add(key.source(), problem.message, problem.hint);
    }
}

void NoteText::throw_if_any() {
  if (problems_.empty()) return;
  std::stable_sort(problems_.begin(), problems_.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string message;
  for (const auto& [line, text] : problems_) {
    if (!message.empty()) message += '\n';
    message += line == 0 ? fmt::format("{}: {}", where_, text)
                         : fmt::format("{}:{}: {}", where_, line, text);
  }
  throw base::HostError(base::ExitCode::plugin, message, hint_);
}

}  // namespace backstop::catalog
