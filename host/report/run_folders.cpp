#include "host/report/run_folders.hpp"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <toml++/toml.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/base/text.hpp"
#include "host/report/fields.hpp"

namespace backstop::report {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kLargestResults = std::uintmax_t{64} << 20;
constexpr std::uintmax_t kLargestFacts = std::uintmax_t{16} << 20;
constexpr std::uintmax_t kLargestRecipe = std::uintmax_t{1} << 20;
/// toml++ and its tables recurse along dotted keys.
constexpr std::ptrdiff_t kMostDots = 2000;
constexpr std::size_t kMostRows = 1000;

/// Why a file cannot be used, as a clause.
struct Unusable {
  std::string why;
};

std::string text_of_file(const fs::path& path, std::uintmax_t most) {
  const std::string name = path.filename().string();
  std::error_code error;
  if (!fs::exists(path, error)) throw Unusable{"it has no " + name};
  try {
    return base::read_file(path, most);
  } catch (const base::HostError& e) {
    throw Unusable{e.what()};
  }
}

nlohmann::json json_of_file(const fs::path& path, std::uintmax_t most) {
  auto json = nlohmann::json::parse(text_of_file(path, most), nullptr, false);
  if (json.is_discarded())
    throw Unusable{path.filename().string() + " is not valid JSON, or is cut off"};
  if (!json.is_object()) throw Unusable{path.filename().string() + " is not a JSON object"};
  return json;
}

// -- results.json --

void require(bool holds, const std::string& what) {
  if (!holds) throw Unusable{"results.json: " + what};
}

bool is_absent(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null();
}

void check_row(const nlohmann::json& row, std::set<std::string>& names) {
  require(row.is_object() && row.contains("name") && row["name"].is_string(),
          "a row is not an object with a name");
  const auto name = row["name"].get<std::string>();
  const std::string shown = base::ticked(base::shortened(name));
  require(!name.empty(), "the name of a row is empty");
  require(names.insert(name).second, fmt::format("the row {} is there twice", shown));
  for (const char* text : {"plugin", "warning", "measured_on", "error"})
    require(is_absent(row, text) || row[text].is_string(),
            fmt::format("`{}` of the row {} is not a string", text, shown));
  for (const char* section : {"metrics", "cost", "counts", "given", "detection", "extra"})
    require(is_absent(row, section) || row[section].is_object(),
            fmt::format("`{}` of the row {} is not an object", section, shown));
  if (is_absent(row, "by_epoch")) return;
  require(row["by_epoch"].is_array(), fmt::format("`by_epoch` of the row {} is not a list", shown));
  for (const auto& point : row["by_epoch"])
    require(point.is_object() && number_in(point, "epoch"),
            fmt::format("a point of the row {} has no epoch", shown));
}

void check_results(const nlohmann::json& results) {
  require(results.contains("seed") && results["seed"].is_number_integer(), "it has no seed");
  require(is_absent(results, "precision") || results["precision"].is_string(),
          "`precision` is not a string");
  require(results.contains("rows") && results["rows"].is_array(), "it has no list of rows");
  require(results["rows"].size() <= kMostRows, fmt::format("it has more than {} rows", kMostRows));
  std::set<std::string> names;
  for (const auto& row : results["rows"]) check_row(row, names);
}

// -- recipe.toml --

/// A value, which is no table.
std::string value_text(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return std::to_string(number->get());
  if (const auto* number = node.as_floating_point()) return base::shortest(number->get());
  if (const auto* truth = node.as_boolean()) return truth->get() ? "true" : "false";
  std::string text;
  if (const auto* list = node.as_array())
    for (const auto& item : *list) text += (text.empty() ? "" : ", ") + value_text(item);
  return "[" + text + "]";
}

void flatten(const toml::table& table, const std::string& prefix, Parameters& parameters) {
  for (const auto& [key, value] : table) {
    const std::string path = prefix + std::string(key.str());
    if (const auto* below = value.as_table())
      flatten(*below, path + '.', parameters);
    else
      parameters[path] = value_text(value);
  }
}

void read_recipe(const fs::path& path, StoredRun& run) {
  const std::string text = text_of_file(path, kLargestRecipe);
  if (std::count(text.begin(), text.end(), '.') > kMostDots)
    throw Unusable{fmt::format("recipe.toml has more than {} dots", kMostDots)};
  toml::table table;
  try {
    table = toml::parse(std::string_view(text));
  } catch (const toml::parse_error& e) {
    throw Unusable{fmt::format("recipe.toml is not valid TOML: {}", e.description())};
  }
  if (const auto* defenses = table["defense"].as_array())
    for (const auto& defense : *defenses) {
      const auto* parameters = defense.as_table();
      if (parameters == nullptr) continue;
      const auto name = (*parameters)["name"].value<std::string>();
      const auto plugin = (*parameters)["plugin"].value<std::string>();
      if (!name && !plugin) continue;
      Parameters& flat = run.defenses[name ? *name : *plugin];
      flatten(*parameters, "", flat);
      flat.erase("name");
    }
  for (const char* key : {"schema", "name", "seed", "defense", "detector", "audit", "expect"})
    table.erase(key);
  flatten(table, "", run.recipe);
  // Where a run was computed is no property of what it measured.
  std::erase_if(run.recipe, [](const auto& item) {
    return item.first.ends_with(".root") || item.first == "compute.threads" ||
           item.first == "compute.device";
  });
}

// -- run.json --

std::string string_in(const nlohmann::json& object, std::string_view section, const char* key) {
  const auto& found = section_of(object, section);
  const auto value = found.find(key);
  return value != found.end() && value->is_string() ? value->get<std::string>() : "";
}

std::string machine_of(const nlohmann::json& facts) {
  std::string text = "backstop " + string_in(facts, "backstop", "version");
  if (const auto commit = string_in(facts, "backstop", "commit"); !commit.empty())
    text += " (" + commit + ")";
  for (const auto& part :
       {string_in(facts, "hardware", "processor"), string_in(facts, "compute", "device")})
    if (!part.empty()) text += ", " + part;
  if (const auto threads = number_in(section_of(facts, "compute"), "threads"))
    text += ", " + base::count_of(static_cast<std::size_t>(std::max(0.0, *threads)), "thread");
  return text;
}

/// Throws Unusable with the reason for which the run is not counted.
void read_facts(const fs::path& folder, StoredRun& run, FoundRuns& found) {
  std::error_code error;
  if (!fs::exists(folder / "run.json", error)) {
    found.doubtful.push_back({run.folder, "it has no run.json, which says whether it finished"});
    return;
  }
  const auto facts = json_of_file(folder / "run.json", kLargestFacts);
  const auto status = facts.find("status");
  if (status == facts.end() || !status->is_string()) throw Unusable{"run.json has no status"};
  const auto text = status->get<std::string>();
  if (text == "failed") {
    // One defense is enough for it. The rows say which.
    const auto why = facts.find("error");
    found.doubtful.push_back(
        {run.folder, "it failed" + (why != facts.end() && why->is_string()
                                        ? ": " + base::shortened(why->get<std::string>(), 300)
                                        : "")});
  } else if (text == "unfinished") {
    throw Unusable{"unfinished: it is still running, or its process died"};
  } else if (text != "finished") {
    throw Unusable{base::shortened(text)};
  }
  run.machine = machine_of(facts);
  // Other data under the same name.
  if (const auto print = string_in(facts, "dataset", "fingerprint"); !print.empty())
    run.recipe["dataset.fingerprint"] = print.substr(0, 12);
}

/// What decides the numbers of a run, and its numbers.
std::string identity_of(const StoredRun& run) {
  nlohmann::json identity = {{"seed", run.seed}, {"recipe", run.recipe}};
  for (const auto& [name, parameters] : run.defenses) identity["defenses"][name] = parameters;
  for (const auto& row : run.results["rows"])
    identity["rows"].push_back({row["name"], section_of(row, "metrics")});
  return base::json_text(identity);
}

class Finder {
 public:
  FoundRuns take() { return std::move(found_); }

  void look_in(const fs::path& folder, int depth) {
    std::error_code error;
    if (fs::exists(folder / "run.json", error) || fs::exists(folder / "results.json", error)) {
      if (seen_.insert(fs::canonical(folder, error).string()).second) read(folder);
      return;
    }
    if (depth == kDeepestRun) return;
    std::vector<fs::path> below;
    for (auto entry = fs::directory_iterator(folder, error);
         !error && entry != fs::directory_iterator(); entry.increment(error)) {
      // `.stages`, the cache, is none.
      if (entry->path().filename().string().starts_with('.')) continue;
      std::error_code ignored;
      if (entry->is_directory(ignored) && !entry->is_symlink(ignored))
        below.push_back(entry->path());
    }
    if (error) {
      found_.omitted.push_back({folder.string(), error.message()});
      return;
    }
    std::sort(below.begin(), below.end());
    for (const auto& path : below) look_in(path, depth + 1);
  }

 private:
  void read(const fs::path& folder) {
    StoredRun run{.folder = folder.string()};
    try {
      read_facts(folder, run, found_);
      run.results = json_of_file(folder / "results.json", kLargestResults);
      check_results(run.results);
      run.seed = run.results["seed"].get<std::int64_t>();
      read_recipe(folder / "recipe.toml", run);
      // Rounding differs; "auto" in the recipe does not say how.
      if (!is_absent(run.results, "precision"))
        run.recipe["compute.precision"] = run.results["precision"].get<std::string>();
    } catch (const Unusable& problem) {
      std::erase_if(found_.doubtful,
                    [&](const FolderNote& note) { return note.folder == run.folder; });
      found_.omitted.push_back({run.folder, problem.why});
      return;
    }
    const auto [first, is_new] = identities_.emplace(identity_of(run), run.folder);
    if (is_new)
      found_.runs.push_back(std::move(run));
    else {
      std::erase_if(found_.doubtful,
                    [&](const FolderNote& note) { return note.folder == run.folder; });
      found_.repeated.push_back({run.folder, first->second});
    }
  }

  FoundRuns found_;
  std::set<std::string> seen_;
  std::map<std::string, std::string> identities_;
};

}  // namespace

FoundRuns find_runs(const std::vector<std::filesystem::path>& folders) {
  Finder finder;
  for (const auto& folder : folders) {
    std::error_code error;
    if (!fs::is_directory(folder, error))
      throw base::HostError(base::ExitCode::usage,
                            fmt::format("there is no folder {}", folder.string()),
                            "name folders of runs, or folders that hold some, such as `runs`");
    finder.look_in(folder, 0);
  }
  return finder.take();
}

}  // namespace backstop::report
