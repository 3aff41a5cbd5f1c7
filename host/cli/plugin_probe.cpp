#include "host/cli/plugin_probe.hpp"

#include <set>

#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/cli/child.hpp"

namespace backstop::cli {
namespace {

using Files = std::set<std::filesystem::path>;

void find_plugins(const toml::node& node, catalog::Kind kind, const catalog::Catalog& catalog,
                  Files& files) {
  if (const auto* list = node.as_array())
    for (const auto& item : *list) find_plugins(item, kind, catalog, files);
  const auto* table = node.as_table();
  if (table == nullptr) return;
  if (const auto name = (*table)["plugin"].value<std::string>())
    if (const auto* entry = catalog.find(kind, *name); entry != nullptr && !entry->built_in)
      files.insert(entry->path);
  // What a plugin's table holds beside plain values are schedulers.
  for (const auto& item : *table)
    find_plugins(item.second, catalog::Kind::scheduler, catalog, files);
}

void probe(const std::filesystem::path& file) {
  constexpr std::chrono::seconds kLimit(30);
  const ChildOutcome child =
      run_self({"plugin", "check", file.string(), "--test", "loads", "--json"}, kLimit);
  const auto fail = [&](const std::string& what, const std::string& hint) {
    throw base::HostError(base::ExitCode::plugin, "cannot load " + file.string() + ": " + what,
                          hint);
  };
  const char* hint = "the plugin's author can help; `backstop plugin check FILE` shows more";
  const std::string wrote = child.err.empty() ? "" : "; it wrote: " + last_line(child.err);
  if (child.timed_out)
    fail("it was not ready after " + std::to_string(kLimit.count()) + " s", hint);
  if (child.signal != 0)
    fail("it crashes when it is loaded (" + signal_name(child.signal) + ")" + wrote, hint);
  const auto verdict = nlohmann::json::parse(last_line(child.out), nullptr, false);
  if (!verdict.is_object())
    fail("it ends the process when it is loaded, with exit status " + std::to_string(child.code) +
             wrote,
         hint);
  if (verdict["result"] == "failed") {
    // The sentence names the file already.
    throw base::HostError(base::ExitCode::plugin, verdict["message"].get<std::string>(),
                          verdict["hint"].get<std::string>());
  }
}

}  // namespace

void probe_plugins(const std::vector<recipe::Recipe>& recipes, const catalog::Catalog& catalog) {
  Files files;
  for (const auto& recipe : recipes) {
    for (const auto& [section, kind] :
         {std::pair("dataset", catalog::Kind::dataset), std::pair("attack", catalog::Kind::attack),
          std::pair("defense", catalog::Kind::defense)})
      if (const auto* node = recipe.table.get(section)) find_plugins(*node, kind, catalog, files);
    if (const auto node = recipe.table["pretraining"]["dataset"])
      find_plugins(*node.node(), catalog::Kind::dataset, catalog, files);
  }
  for (const auto& file : files) probe(file);
}

}  // namespace backstop::cli
