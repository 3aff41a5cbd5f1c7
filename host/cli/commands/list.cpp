// backstop list: every plugin found, including those that cannot be used, with the reason.
#include <algorithm>

#include <nlohmann/json.hpp>

#include "host/base/text.hpp"
#include "host/cli/command.hpp"

namespace backstop::cli {
namespace {

constexpr const char* kDescription =
    "Lists all plugins, or those of one KIND: attack, defense, scheduler or dataset. No plugin "
    "code "
    "is\n"
    "run. A plugin that cannot be used is listed with the reason.\n";

/// Whether the manifest could not be read; the kind is then unknown too.
bool unreadable(const catalog::PluginEntry& entry) {
  return entry.refusal && entry.manifest.version.empty();
}

nlohmann::json to_json(const catalog::PluginEntry& entry) {
  const auto& manifest = entry.manifest;
  nlohmann::json refusal;
  if (entry.refusal) refusal = {{"message", entry.refusal->message}, {"hint", entry.refusal->hint}};
  nlohmann::json kind;
  if (!unreadable(entry)) kind = to_string(manifest.kind);
  return {{"kind", kind},
          {"name", manifest.name},
          {"version", manifest.version},
          {"summary", manifest.summary},
          {"path", entry.path.string()},
          {"built_in", entry.built_in},
          {"shadowed", entry.shadowed},
          {"refusal", refusal}};
}

std::vector<base::Cell> line(const catalog::PluginEntry& entry, bool color) {
  const auto style = [color](std::string_view ansi) { return color ? ansi : std::string_view{}; };
  std::vector<base::Cell> cells{{entry.manifest.name, style(base::kBold)},
                                {entry.manifest.version},
                                {entry.built_in ? "built-in" : entry.path.string()}};
  if (entry.refusal) {
    const auto& message = entry.refusal->message;
    cells.push_back({"refused: " + message.substr(0, message.find('\n')), style(base::kRed)});
  } else if (entry.shadowed) {
    cells.push_back(
        {"not used: an earlier folder has a plugin with this name", style(base::kYellow)});
  } else {
    cells.push_back({entry.manifest.summary});
  }
  return cells;
}

std::string plural(catalog::Kind kind) {
  return std::string(to_string(kind)) + "s";
}

std::string text_of(const std::vector<const catalog::PluginEntry*>& entries, bool color) {
  std::vector<std::vector<base::Cell>> rows;
  const auto section = [&](std::string title, auto belongs) {
    bool first = true;
    for (const auto* entry : entries) {
      if (!belongs(*entry)) continue;
      if (std::exchange(first, false)) {
        std::transform(title.begin(), title.end(), title.begin(),
                       [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
        if (!rows.empty()) rows.emplace_back();
        rows.push_back({{title}});
      }
      auto cells = line(*entry, color);
      cells[0].text.insert(0, "  ");
      rows.push_back(std::move(cells));
    }
  };
  for (const catalog::Kind kind : catalog::kKinds)
    section(plural(kind), [kind](const catalog::PluginEntry& entry) {
      return !unreadable(entry) && entry.manifest.kind == kind;
    });
  section("unknown kind", unreadable);
  return base::columns(rows, "llll");
}

std::string totals(const std::vector<const catalog::PluginEntry*>& entries) {
  std::string text;
  for (const catalog::Kind kind : catalog::kKinds) {
    const auto usable = std::count_if(entries.begin(), entries.end(), [kind](const auto* entry) {
      return !entry->refusal && !entry->shadowed && entry->manifest.kind == kind;
    });
    text += (text.empty() ? "" : ", ") +
            base::count_of(static_cast<std::size_t>(usable), to_string(kind));
  }
  const auto refused = std::find_if(entries.begin(), entries.end(),
                                    [](const auto* entry) { return entry->refusal.has_value(); });
  if (refused != entries.end())
    text += fmt::format("; run `backstop inspect {}` to see why it was refused",
                        (*refused)->path.string());
  return text;
}

base::ExitCode list(const Invocation& invocation) {
  std::optional<catalog::Kind> only;
  if (!invocation.arguments.empty()) only = require_kind(invocation.arguments[0]);
  const catalog::Catalog catalog = invocation.catalog();
  std::vector<const catalog::PluginEntry*> entries;
  for (const auto& entry : catalog.entries())
    if (!only || unreadable(entry) || entry.manifest.kind == *only) entries.push_back(&entry);
  std::stable_sort(entries.begin(), entries.end(), [](const auto* a, const auto* b) {
    return a->manifest.name < b->manifest.name;
  });

  if (invocation.has("json")) {
    nlohmann::json plugins = nlohmann::json::array();
    for (const auto* entry : entries) plugins.push_back(to_json(*entry));
    print_json({{"schema", 1}, {"plugins", plugins}}, true);
    return base::ExitCode::done;
  }
  print(text_of(entries, invocation.color_out));
  if (!only) spdlog::info("{}", totals(entries));
  return base::ExitCode::done;
}

}  // namespace

const Command kList{"list",
                    "list the plugins",
                    "[KIND]",
                    kDescription,
                    [](boost::program_options::options_description&) {},
                    list};

}  // namespace backstop::cli
