#include "host/cli/plugin_probe.hpp"

#include <set>

#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/cli/child.hpp"

namespace backstop::cli {
namespace {

using Files = std::set<std::filesystem::path>;

void find_plugins(const recipe::PluginUse& use, Files& files) {
  if (use.plugin != nullptr && !use.plugin->built_in) files.insert(use.plugin->path);
  for (const auto& scheduler : use.schedulers) find_plugins(scheduler, files);
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

void probe_plugins(const std::vector<recipe::Recipe>& recipes) {
  Files files;
  for (const auto& recipe : recipes) {
    if (recipe.pretraining) find_plugins(recipe.pretraining->use, files);
    find_plugins(recipe.dataset.use, files);
    if (recipe.attack) {
      find_plugins(recipe.attack->use, files);
      find_plugins(recipe.attack->training.scheduler, files);
    }
    for (const auto& detector : recipe.detectors) find_plugins(detector.use, files);
    for (const auto& defense : recipe.defenses) find_plugins(defense.use, files);
  }
  for (const auto& file : files) probe(file);
}

}  // namespace backstop::cli
