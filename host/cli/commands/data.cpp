// backstop data: whether a dataset is complete and is the one that was published.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <sstream>

#include <boost/program_options/value_semantic.hpp>
#include <nlohmann/json.hpp>

#include "host/base/text.hpp"
#include "host/cli/checked_recipe.hpp"
#include "host/cli/command.hpp"
#include "host/cli/engine_library.hpp"
#include "host/cli/observer.hpp"
#include "host/cli/plugin_probe.hpp"
#include "host/cli/process_end.hpp"
#include "host/cli/signals.hpp"

namespace backstop::cli {
namespace {

using nlohmann::json;

constexpr const char* kDescription =
    "Reads the whole dataset and reports what it contains: splits, images per class, image sizes, "
    "the\n"
    "mean and deviation of each channel, and whether the MD5 of each file is the published one.\n"
    "PLUGIN is the name of the dataset (see `backstop list datasets`). The exit status is 4 if\n"
    "anything is missing or damaged, or if a file differs from the published one.\n";

void add_options(boost::program_options::options_description& options) {
  const auto text = [](const char* name) {
    return boost::program_options::value<std::vector<std::string>>()->value_name(name);
  };
  auto add = options.add_options();
  add("root", text("DIR"), "the folder with the dataset's files");
  add("set", text("KEY=VALUE"), "set a parameter of the plugin (`image_size=32`); may be repeated");
  add("sheet", text("FILE.png"), "draw ten training images of each class into FILE.png");
  add("image", text("LABEL/N=FILE.png"),
      "write training image N of class LABEL to FILE.png; may be repeated");
}

// -- the plugin's parameters --

recipe::CheckedRecipe parameters(const Invocation& invocation, const catalog::Catalog& catalog) {
  const catalog::PluginEntry& plugin =
      catalog.require(catalog::Kind::dataset, invocation.arguments[0]);
  const catalog::Manifest& manifest = plugin.manifest;
  toml::table given;
  if (const auto root = invocation.one("root")) {
    const auto& own = manifest.parameters;
    if (std::none_of(own.begin(), own.end(),
                     [](const auto& parameter) { return parameter.key == "root"; }))
      throw base::HostError(
          base::ExitCode::usage,
          fmt::format("`--root` was given, but dataset `{}` has no parameter `root`",
                      manifest.name),
          fmt::format("run `backstop inspect {}` to see its parameters", manifest.name));
    given.insert("root", *root);
  }
  recipe::CheckedRecipe checked =
      recipe::check_dataset(plugin, std::move(given), invocation.all("set"), catalog);
  for (auto& diagnostic : checked.diagnostics)
    if (diagnostic.message.starts_with("`root` is missing"))
      diagnostic.hint = "give the folder with its files: --root DIR";
  return checked;
}

/// Checked before the dataset is read, which may take long.
void require_folder_of(const std::filesystem::path& file) {
  std::error_code error;
  const auto folder = file.has_parent_path() ? file.parent_path() : ".";
  if (!std::filesystem::is_directory(folder, error))
    throw base::HostError(
        base::ExitCode::environment,
        fmt::format("cannot write {}: {} is not a folder", file.string(), folder.string()));
}

std::filesystem::path sheet_in(const Invocation& invocation) {
  const std::filesystem::path sheet = invocation.one("sheet").value_or("");
  if (!sheet.empty()) require_folder_of(sheet);
  return sheet;
}

std::vector<engine::ImageRequest> images_in(const Invocation& invocation) {
  std::vector<engine::ImageRequest> images;
  for (const std::string& text : invocation.all("image")) {
    engine::ImageRequest image;
    const char* const end = text.data() + text.size();
    const auto label = std::from_chars(text.data(), end, image.label);
    const bool slash = label.ec == std::errc{} && label.ptr != end && *label.ptr == '/';
    const auto number = slash ? std::from_chars(label.ptr + 1, end, image.number) : label;
    if (!slash || number.ec != std::errc{} || number.ptr == end || *number.ptr != '=' ||
        number.ptr + 1 == end || image.label < 0 || image.number < 0)
      throw base::HostError(
          base::ExitCode::usage,
          fmt::format("option `--image` must have the form LABEL/N=FILE.png, got `{}`", text),
          "`--image 9/0=truck.png` writes the first training image of class 9");
    image.file = number.ptr + 1;
    require_folder_of(image.file);
    images.push_back(std::move(image));
  }
  return images;
}

// -- the report --

std::string numbers(const json& values) {
  std::string text;
  if (values.is_array())
    for (const auto& value : values)
      text += (text.empty() ? "" : " ") + base::fixed(value.get<double>(), 4);
  return text;
}

std::string size_of(const json& split) {
  const auto side = [&](const char* key) { return std::to_string(split[key].get<std::int64_t>()); };
  return fmt::format("{} x {} x {}", side("channels"), side("height"), side("width"));
}

std::string split_table(const json& report) {
  std::vector<std::vector<base::Cell>> rows{
      {{"split"}, {"images"}, {"size"}, {"channel means"}, {"channel deviations"}}};
  for (const auto& split : report["splits"]) {
    const auto name = split["split"].get<std::string>();
    if (split["status"] == "ok")
      rows.push_back({{name},
                      {base::grouped(split["images"].get<std::int64_t>())},
                      {size_of(split)},
                      {numbers(split["mean"])},
                      {numbers(split["deviation"])}});
    else
      rows.push_back({{name}, {}, {split["status"] == "absent" ? "missing" : "cannot be read"}});
  }
  const auto& stated = report["stated"];
  if (!stated.is_null())
    rows.push_back({{"plugin"},
                    {},
                    {"normalizes with"},
                    {numbers(stated["mean"])},
                    {numbers(stated["deviation"])}});
  return base::columns(rows, "lrlll", "  ");
}

std::string class_table(const json& report) {
  constexpr std::size_t kMostRows = 20;
  const auto names = report["classes"].get<std::vector<std::string>>();
  std::vector<base::Cell> header;
  std::vector<std::vector<std::int64_t>> counts;
  for (const auto& split : report["splits"]) {
    if (!split["per_class"].is_array()) continue;
    header.push_back({split["split"].get<std::string>()});
    counts.push_back(split["per_class"].get<std::vector<std::int64_t>>());
  }
  if (counts.empty()) return {};
  std::vector<std::vector<base::Cell>> rows;
  const std::string alignment = "rl" + std::string(counts.size(), 'r');
  if (names.size() <= kMostRows) {
    rows.push_back({{"label"}, {"class"}});
    rows.back().insert(rows.back().end(), header.begin(), header.end());
    for (std::size_t label = 0; label < names.size(); ++label) {
      rows.push_back({{std::to_string(label)}, {names[label]}});
      for (const auto& of : counts) rows.back().push_back({base::grouped(of[label])});
    }
    return base::columns(rows, alignment, "  ");
  }
  rows.push_back({{fmt::format("{} classes", names.size())}, {"fewest"}, {"median"}, {"most"}});
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto fewest = std::min_element(counts[i].begin(), counts[i].end()) - counts[i].begin();
    const auto most = std::max_element(counts[i].begin(), counts[i].end()) - counts[i].begin();
    auto sorted = counts[i];
    std::nth_element(sorted.begin(), sorted.begin() + std::ssize(sorted) / 2, sorted.end());
    const auto cell = [&](std::ptrdiff_t label) {
      const auto at = static_cast<std::size_t>(label);
      return fmt::format("{} ({})", base::grouped(counts[i][at]), names[at]);
    };
    rows.push_back(
        {header[i], {cell(fewest)}, {base::grouped(sorted[sorted.size() / 2])}, {cell(most)}});
  }
  return base::columns(rows, "llll", "  ") + "  `--json` lists all of them\n";
}

std::string file_table(const json& report, bool color) {
  constexpr int kMostUnknown = 8;  // per split: a folder of images may have hundreds
  std::vector<std::vector<base::Cell>> rows;
  for (const auto& split : report["splits"]) {
    const base::Cell name{split["split"].get<std::string>()};
    int unknown = 0;
    for (const auto& file : split["files"]) {
      const auto status = file["status"].get<std::string>();
      if (status == "unknown" && ++unknown > kMostUnknown) continue;
      const bool bad = status == "differs" || status == "unreadable";
      const std::string_view style = bad ? base::kRed : status == "matches" ? base::kGreen : "";
      rows.push_back({name,
                      {status, color ? style : ""},
                      {file["md5"].is_string() ? file["md5"].get<std::string>() : ""},
                      {file["path"].get<std::string>()}});
    }
    if (unknown > kMostUnknown)
      rows.push_back(
          {name,
           {"unknown"},
           {},
           {fmt::format("{} more; `--json` lists all of them", unknown - kMostUnknown)}});
  }
  return base::columns(rows, "llll", "  ");
}

std::string text_of(const json& report, const catalog::Manifest& manifest, bool color) {
  std::string text = base::columns(
      {{{manifest.name, color ? base::kBold : ""}, {manifest.version}, {manifest.summary}}}, "lll");
  std::vector<std::vector<base::Cell>> facts;
  for (const auto& [key, value] : report["parameters"].items())
    if (value != "")
      facts.push_back({{key}, {value.is_string() ? value.get<std::string>() : value.dump()}});
  if (report["fingerprint"].is_string())
    facts.push_back({{"fingerprint"}, {report["fingerprint"].get<std::string>()}});
  text += base::columns(facts, "ll", "  ");
  const auto section = [&](const char* title, const std::string& table) {
    if (!table.empty()) text += std::string("\n") + title + "\n" + table;
  };
  section("SPLITS", split_table(report));
  section("IMAGES PER CLASS", class_table(report));
  section("FILES (MD5, compared with the published one)", file_table(report, color));
  return text;
}

json parameters_of(const recipe::PluginUse& dataset) {
  std::ostringstream text;
  text << toml::json_formatter(dataset.parameters);
  return json::parse(text.str());
}

base::ExitCode data(const Invocation& invocation) {
  const catalog::Catalog catalog = invocation.catalog();
  const recipe::CheckedRecipe checked = parameters(invocation, catalog);
  print_diagnostics(checked, invocation.color_err);
  if (const base::ExitCode code = exit_code_of(checked); code != base::ExitCode::done) return code;
  const recipe::PluginUse& dataset = checked.recipes[0].dataset.use;

  probe_plugins(checked.recipes);
  engine::DataRequest request;
  request.sheet = sheet_in(invocation);
  request.images = images_in(invocation);
  auto& engine_data =
      engine_function<void(const engine::DataRequest&, engine::DataOutcome&)>(engine::kEngineData);
  spdlog::set_level(spdlog::level::info);
  ConsoleObserver observer({.groups = {""}});
  request.dataset = &dataset;
  request.interrupted = &catch_signals();
  request.observer = &observer.of(0);
  engine::DataOutcome outcome;
  reserve_standard_output();
  {
    const ProcessEndWatch watch;
    engine_data(request, outcome);
  }
  observer.end();
  if (outcome.code == base::ExitCode::bug) {
    print_internal_error(outcome.error);
    return outcome.code;
  }
  if (!outcome.error.empty()) throw base::HostError(outcome.code, outcome.error, outcome.hint);
  json& report = outcome.report;
  const catalog::Manifest& manifest = dataset.plugin->manifest;
  report["parameters"] = parameters_of(dataset);
  if (invocation.has("json"))
    print_json(report, true);
  else
    print(text_of(report, manifest, invocation.color_out));
  for (const auto& problem : report["problems"])
    print_error(problem["message"].get<std::string>(), problem["hint"].get<std::string>());
  if (report["sheet"].is_string())
    spdlog::info("wrote {}", base::printable(report["sheet"].get<std::string>()));
  for (const auto& file : report["images"])
    spdlog::info("wrote {}", base::printable(file.get<std::string>()));
  return outcome.code;
}

}  // namespace

const Command kData{"data",      "check that a dataset is complete and intact",
                    "PLUGIN",    kDescription,
                    add_options, data};

}  // namespace backstop::cli
