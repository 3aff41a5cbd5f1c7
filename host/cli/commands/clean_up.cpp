// backstop clean-up: removes what runs have left in the cache of stages below --out and no run needs.
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include "host/base/file_lock.hpp"
#include "host/base/files.hpp"
#include "host/base/lock_state.hpp"
#include "host/base/text.hpp"
#include "host/cli/command.hpp"

namespace backstop::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDescription =
    "Removes the finished stages and checkpoints below DIR (an --out of `run`; the default is "
    "runs)\n"
    "that none of its runs used, and what killed processes have left there. Delete the folders of\n"
    "runs that you no longer need first. What a process is working on stays.\n";

// What the engine calls these.
constexpr const char* kStages = ".stages";
constexpr const char* kRunLock = ".backstop.lock";
constexpr std::string_view kCheckpoints = ".checkpoints", kUnfinished = ".unfinished-";

/// What runs say of the stages that they used.
struct Uses {
  std::set<std::string> stages;
  std::size_t silent = 0;  ///< runs that do not say it: made by an earlier version, or not over
};

/// The folders in `folder`; none in a file. What cannot be read may use anything.
std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> folders;
  try {
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.is_directory()) folders.push_back(entry.path());
  } catch (const fs::filesystem_error& e) {
    if (e.code() == std::errc::no_such_file_or_directory) return folders;
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("cannot read {}: {}", e.path1().string(), e.code().message()),
                          "nothing was removed: a run in there may use any stage");
  }
  return folders;
}

Uses uses_of_runs(const fs::path& out) {
  Uses uses;
  for (const auto& recipe : folders_in(out))
    for (const auto& run : folders_in(recipe)) {
      const fs::path file = run / "run.json";
      std::error_code error;
      if (fs::status(file, error).type() == fs::file_type::not_found) continue;
      const auto facts = nlohmann::json::parse(base::read_file(file), nullptr, false);
      const auto stages = facts.is_object() ? facts.find("stages") : facts.end();
      // One that goes on may use more than it says by now.
      const bool goes_on = base::lock_state(run / kRunLock) == base::LockState::held;
      if (goes_on || !facts.is_object() || stages == facts.end() || !stages->is_array()) {
        ++uses.silent;
        continue;
      }
      for (const auto& stage : *stages)
        if (stage.is_string()) uses.stages.insert(stage.get<std::string>());
    }
  return uses;
}

/// Whether a stage may be called so: KIND-HASH.
bool is_stage(std::string_view name) {
  constexpr std::size_t kHash = 24;
  const std::size_t dash = name.rfind('-');
  const auto all = [](std::string_view text, auto&& fits) {
    return !text.empty() && std::all_of(text.begin(), text.end(), fits);
  };
  return dash != name.npos && name.size() - dash - 1 == kHash &&
         all(name.substr(0, dash), [](char c) { return c >= 'a' && c <= 'z'; }) &&
         all(name.substr(dash + 1),
             [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

struct Found {
  fs::path path;
  const char* what;  ///< stage, checkpoint or unfinished stage
};

/// What is there, by the stage that it belongs to. Whatever else is there is not ours.
std::map<std::string, std::vector<Found>> content_of(const fs::path& stages) {
  std::map<std::string, std::vector<Found>> content;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(stages, error)) {
    if (!entry.is_directory(error) || entry.is_symlink(error)) continue;
    const std::string name = entry.path().filename().string();
    const auto add = [&](const std::string& stage, const char* what) {
      if (is_stage(stage)) content[stage].push_back({entry.path(), what});
    };
    const std::size_t unfinished = name.find(kUnfinished);
    if (name.starts_with('.') && unfinished != name.npos)
      add(name.substr(1, unfinished - 1), "unfinished stage");
    else if (name.ends_with(kCheckpoints))
      add(name.substr(0, name.size() - kCheckpoints.size()), "checkpoint");
    else
      add(name, "stage");
  }
  return content;
}

std::uintmax_t bytes_in(const fs::path& folder) {
  std::uintmax_t bytes = 0;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(folder, error))
    if (entry.is_regular_file(error) && !entry.is_symlink(error)) bytes += entry.file_size(error);
  return bytes;
}

std::string size_text(std::uintmax_t bytes) {
  constexpr double kKilo = 1000;
  auto size = static_cast<double>(bytes);
  for (const char* unit : {"bytes", "kB", "MB"}) {
    if (size < kKilo) return fmt::format("{:.{}f} {}", size, *unit == 'b' ? 0 : 1, unit);
    size /= kKilo;
  }
  return fmt::format("{:.1f} GB", size);
}

/// Removes a folder so that nobody sees half of it as a whole. Throws HostError(environment).
void remove_folder(const fs::path& folder, const std::string& stage) try {
  fs::path aside = folder;
  if (!aside.filename().string().starts_with('.')) {
    aside = folder.parent_path() / ("." + stage + std::string(kUnfinished) + base::unique_name());
    fs::rename(folder, aside);
  }
  fs::remove_all(aside);
} catch (const fs::filesystem_error& e) {
  throw base::HostError(base::ExitCode::environment,
                        fmt::format("cannot remove {}: {}", folder.string(), e.code().message()));
}

struct Report {
  nlohmann::json removed = nlohmann::json::array();  ///< {path, what, bytes}
  std::uintmax_t bytes = 0;
  std::map<std::string, std::size_t> counts;  ///< by what
  std::size_t held = 0;                       ///< stages that a process is making
  std::size_t unlockable = 0;                 ///< of which nobody can know that
};

Report clean(const fs::path& out, bool dry_run) {
  const Uses uses = uses_of_runs(out);
  if (uses.silent > 0)
    spdlog::warn(
        "{} below {} {} not over, or {} not say which stages {} used, so all finished stages stay",
        base::count_of(uses.silent, "run"), out.string(), uses.silent == 1 ? "is" : "are",
        uses.silent == 1 ? "does" : "do", uses.silent == 1 ? "it" : "they");
  const fs::path stages = out / kStages;
  if (fs::is_symlink(stages))
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("{} is a link: runs elsewhere may use its stages", stages.string()),
        "name the folder that it leads to, without the last part");
  Report report;
  for (const auto& [stage, all] : content_of(stages)) {
    const bool used = uses.silent > 0 || uses.stages.contains(stage);
    const bool finished = fs::exists(stages / stage / "SHA256SUMS");
    std::vector<Found> useless;
    for (const Found& found : all) {
      const std::string_view what = found.what;
      if (what == "stage" ? !used : what == "unfinished stage" || finished || !used)
        useless.push_back(found);
    }
    if (useless.empty()) continue;
    const auto lock = base::FileLock::try_lock(stages / fmt::format(".{}.lock", stage));
    if (!lock || !lock->supported()) {
      ++(lock ? report.unlockable : report.held);
      continue;
    }
    for (const Found& found : useless) {
      const std::uintmax_t bytes = bytes_in(found.path);
      if (!dry_run) remove_folder(found.path, stage);
      report.removed.push_back(
          {{"path", found.path.string()}, {"what", found.what}, {"bytes", bytes}});
      report.bytes += bytes;
      ++report.counts[found.what];
    }
  }
  return report;
}

void print_report(const Report& report, const fs::path& out, bool dry_run) {
  std::vector<std::vector<base::Cell>> rows;
  for (const auto& found : report.removed)
    rows.push_back({{base::printable(found["path"].get<std::string>())},
                    {found["what"].get<std::string>()},
                    {size_text(found["bytes"].get<std::uintmax_t>())}});
  if (dry_run) print(base::columns(rows, "llr"));
  std::string counts;
  for (const auto& [what, count] : report.counts)
    counts += (counts.empty() ? "" : ", ") + base::count_of(count, what);
  if (counts.empty())
    print(fmt::format("nothing to remove below {}\n", base::printable(out.string())));
  else
    print(fmt::format("{} {}: {}\n", dry_run ? "would free" : "freed", size_text(report.bytes),
                      counts));
}

base::ExitCode clean_up(const Invocation& invocation) {
  const fs::path out = invocation.arguments.empty() ? "runs" : invocation.arguments[0];
  const bool dry_run = invocation.has("dry-run");
  if (!fs::is_directory(out))
    throw base::HostError(base::ExitCode::usage, fmt::format("{} is not a folder", out.string()),
                          "name the folder that `run` got with --out");
  const Report report = clean(out, dry_run);
  if (report.held > 0)
    spdlog::info("{} left alone: a process is working on {}", base::count_of(report.held, "stage"),
                 report.held == 1 ? "it" : "them");
  if (report.unlockable > 0)
    spdlog::warn(
        "{} left alone: the file system of {} has no locks, so a process may be working "
        "on {}",
        base::count_of(report.unlockable, "stage"), out.string(),
        report.unlockable == 1 ? "it" : "them");
  if (invocation.has("json"))
    print_json({{"schema", 1},
                {"dry_run", dry_run},
                {"removed", report.removed},
                {"bytes", report.bytes},
                {"held", report.held + report.unlockable}},
               true);
  else
    print_report(report, out, dry_run);
  return base::ExitCode::done;
}

}  // namespace

const Command kCleanUp{"clean-up",
                       "remove stages and checkpoints that no run uses",
                       "[DIR]",
                       kDescription,
                       [](boost::program_options::options_description& options) {
                         options.add_options()("dry-run", "say what would be removed, and keep it");
                       },
                       clean_up};

}  // namespace backstop::cli
