// backstop inspect: shows everything about one plugin, without running its code.
#include <algorithm>
#include <array>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <set>
#include <sstream>

#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "host/base/hash.hpp"
#include "host/base/text.hpp"
#include "host/catalog/elf/elf_symbols.hpp"
#include "host/catalog/library.hpp"
#include "host/cli/command.hpp"
#include "host/cli/engine_library.hpp"
#include "host/cli/needed_libraries.hpp"
#include "host/cli/own_model.hpp"
#include "host/cli/plugin_folders.hpp"
#include "host/recipe/recipe.hpp"
#include "host/report/model_text.hpp"
#include "host/schema/toml_text.hpp"

namespace backstop::cli {
namespace {

constexpr const char* kDescription =
    "Shows what is in the file of a model: its format, its network, and what it says of its "
    "images.\n"
    "Or shows the manifest of a plugin, where its file comes from, how it was built and how that "
    "differs\n"
    "from this host, the libraries that it needs, its parameters, and a recipe to start from.\n"
    "THING is the file of a model; or a plugin's name, KIND/NAME, or the path of an .so file. No "
    "code of\n"
    "a plugin is run, and of a model only TorchScript that passed its check. If it cannot be used, "
    "the\n"
    "reason is shown, and the exit status is 4 for a model and 3 for a plugin.\n";

// -- finding it --

catalog::PluginEntry entry_of_file(const catalog::Catalog& catalog, const std::string& file) {
  std::error_code error;
  const auto path = std::filesystem::absolute(file, error);
  // A path that exists but is not a regular file is refused later, for that reason.
  if (!std::filesystem::exists(std::filesystem::symlink_status(path, error)))
    throw base::HostError(base::ExitCode::plugin,
                          fmt::format("there is no plugin file `{}`", file));
  const auto folder = std::filesystem::canonical(path.parent_path(), error);
  // Only the catalog knows whether the folder is trusted and has no other plugin of that name.
  for (const auto& entry : catalog.entries())
    if (entry.path == folder / path.filename()) return entry;
  return catalog::Catalog::of_file(path);
}

/// Plugins of several kinds can share a name; then the user has to choose the kind.
void require_one_kind(const std::vector<const catalog::PluginEntry*>& found,
                      const std::string& name) {
  std::set<catalog::Kind> kinds;
  for (const auto* entry : found) kinds.insert(entry->manifest.kind);
  if (kinds.size() < 2) return;
  std::string list, hint;
  for (const catalog::Kind kind : kinds) {
    list += (list.empty() ? "" : ", ") + std::string(to_string(kind));
    hint += fmt::format("{}`backstop inspect {}/{}`", hint.empty() ? "use " : " or ",
                        to_string(kind), name);
  }
  throw base::HostError(base::ExitCode::usage,
                        fmt::format("several plugins are called `{}`: {}", name, list), hint);
}

catalog::PluginEntry entry_of_name(const catalog::Catalog& catalog,
                                   std::optional<catalog::Kind> kind, const std::string& name) {
  std::vector<const catalog::PluginEntry*> usable, refused;
  std::vector<std::string> names;
  for (const auto& entry : catalog.entries()) {
    if (kind && entry.manifest.kind != *kind) continue;
    names.push_back(entry.manifest.name);
    if (entry.manifest.name == name && !entry.shadowed)
      (entry.refusal ? refused : usable).push_back(&entry);
  }
  require_one_kind(usable, name);
  if (!usable.empty()) return *usable.front();
  if (!refused.empty()) return *refused.front();
  const auto meant = base::nearest(name, names);
  throw base::HostError(
      base::ExitCode::plugin,
      fmt::format("there is no {} `{}`", kind ? to_string(*kind) : "plugin", name),
      meant ? fmt::format("did you mean `{}`?", *meant)
            : "run `backstop list` to see the available plugins");
}

catalog::PluginEntry find_entry(const catalog::Catalog& catalog, const std::string& word) {
  const auto slash = word.find('/');
  if (word.ends_with(".so")) return entry_of_file(catalog, word);
  if (slash == std::string::npos) return entry_of_name(catalog, std::nullopt, word);
  if (const auto kind = catalog::kind_from(word.substr(0, slash)))
    return entry_of_name(catalog, kind, word.substr(slash + 1));
  return entry_of_file(catalog, word);
}

// -- what only its file tells --

struct Details {
  std::optional<Origin> origin;  ///< none if it is not in a plugin folder
  std::string sha256;
  std::uint64_t size = 0;
  std::optional<std::time_t> modified;  ///< none if there is no such file
  bool library = false;                 ///< whether the two below could be read
  std::vector<NeededLibrary> libraries;
  std::vector<std::string> exports;
  std::optional<catalog::Refusal> refusal;  ///< that of the entry, or why loading it will fail
};

/// The dynamic linker would report the same, but only for the first library, and only in a run.
std::optional<catalog::Refusal> unloadable(const Details& details) {
  if (!details.library) return std::nullopt;
  if (const auto names = missing(details.libraries); !names.empty())
    return catalog::Refusal{
        fmt::format("needs {}, which {} not on this machine", base::list_of(names),
                    names.size() == 1 ? "is" : "are"),
        fmt::format(
            "install the package that provides it (`apt-file search {}`), or add its folder "
            "to LD_LIBRARY_PATH",
            names.front())};
  if (std::find(details.exports.begin(), details.exports.end(), catalog::kPluginEntry) ==
      details.exports.end())
    return catalog::Refusal{fmt::format("does not export {}", catalog::kPluginEntry),
                            "end the plugin's source with BACKSTOP_PLUGIN(Interface, Class)"};
  return std::nullopt;
}

Details details_of(const catalog::PluginEntry& entry, const std::vector<PluginFolder>& folders) {
  Details details;
  if (const auto at = folder_of(entry.path, folders)) details.origin = folders[*at].origin;
  struct stat status {};
  if (::stat(entry.path.c_str(), &status) == 0) {
    details.size = static_cast<std::uint64_t>(status.st_size);
    details.modified = status.st_mtime;
  }
  details.refusal = entry.refusal;
  try {
    details.sha256 = base::sha256_of_file(entry.path);
    details.libraries = find_needed_libraries(entry.path, engine_file());
    details.exports = catalog::exported_symbols(entry.path);
    details.library = true;
  } catch (const base::HostError&) {
    // The refusal of a file that cannot be read explains more than this error.
    if (!entry.refusal) throw;
  }
  if (!details.refusal) details.refusal = unloadable(details);
  return details;
}

// -- showing it --

std::string type_of(const schema::Parameter& parameter) {
  return (parameter.list ? "list of " : "") + std::string(to_string(parameter.type));
}

std::string default_of(const schema::Parameter& parameter) {
  if (parameter.default_value.empty()) return parameter.optional ? "optional" : "required";
  return schema::value_text(parameter.default_value[0]);
}

std::string range_of(const schema::Parameter& parameter) {
  std::string text;
  for (const auto& choice : parameter.choices) text += (text.empty() ? "" : ", ") + choice;
  if (!text.empty()) return text;
  const auto& [minimum, maximum] = std::tie(parameter.minimum, parameter.maximum);
  const bool whole = parameter.type == schema::ParameterType::integer;
  const auto bound = [whole](double value) {
    return whole ? std::to_string(static_cast<std::int64_t>(value)) : base::shortest(value);
  };
  const bool exclusive = parameter.minimum_exclusive || parameter.maximum_exclusive;
  if (minimum && maximum && !exclusive)
    return fmt::format("{} .. {}", bound(*minimum), bound(*maximum));
  if (minimum) text = (parameter.minimum_exclusive ? "> " : ">= ") + bound(*minimum);
  if (minimum && maximum) text += ", ";
  if (maximum) text += (parameter.maximum_exclusive ? "< " : "<= ") + bound(*maximum);
  return text;
}

struct FactOfBuild {
  const char* name;
  std::string plugin, host;
};

std::vector<FactOfBuild> compared(const catalog::BuildFacts& plugin) {
  const catalog::BuildFacts& host = catalog::own_build_facts();
  const auto libstdcxx = [](const catalog::BuildFacts& facts) {
    return std::string(facts.cxx11_abi ? "C++11 ABI" : "old C++ ABI");
  };
  const auto containers = [](const catalog::BuildFacts& facts) {
    return std::string(facts.glibcxx_debug ? "debug" : "release");
  };
  return {{"SDK ABI", plugin.abi, host.abi},
          {"LibTorch", plugin.torch, host.torch},
          {"libstdc++", libstdcxx(plugin), libstdcxx(host)},
          {"containers", containers(plugin), containers(host)},
          {"sanitizer", plugin.sanitizer, host.sanitizer},
          {"compiler", plugin.compiler, host.compiler}};
}

std::string built(const catalog::BuildFacts& facts) {
  return fmt::format(
      "SDK ABI {}, LibTorch {}, {}{}{}, compiler {}", facts.abi, facts.torch,
      facts.cxx11_abi ? "C++11 ABI" : "old C++ ABI", facts.glibcxx_debug ? ", debug mode" : "",
      facts.sanitizer == "none" ? "" : ", " + facts.sanitizer + " sanitizer", facts.compiler);
}

/// Whether a host of ABI `host` runs plugins for ABI `plugin`, which may be older.
bool serves(std::string_view host, std::string_view plugin) {
  const auto has = catalog::major_minor(host), wanted = catalog::major_minor(plugin);
  return has && wanted && has->first == wanted->first && has->second >= wanted->second;
}

/// What differs from this host, side by side; empty if nothing does.
std::string differences(const catalog::BuildFacts& facts) {
  std::vector<std::vector<base::Cell>> rows{{{"BUILT WITH"}, {"plugin"}, {"this host"}}};
  for (const auto& [name, plugin, host] : compared(facts))
    if (plugin != host && !(name == std::string_view("SDK ABI") && serves(host, plugin)))
      rows.push_back({{std::string("  ") + name}, {plugin}, {host}});
  return rows.size() == 1 ? "" : "\n" + base::columns(rows, "lll");
}

std::string utc(std::time_t time, const char* format) {
  std::tm parts{};
  std::array<char, 64> text{};
  if (gmtime_r(&time, &parts) == nullptr) return {};
  return {text.data(), std::strftime(text.data(), text.size(), format, &parts)};
}

std::string exports_of(const std::vector<std::string>& exports) {
  std::vector<std::string> others;
  for (const auto& symbol : exports)
    if (symbol != catalog::kPluginEntry) others.push_back(symbol);
  std::string text(others.size() == exports.size() ? std::string_view("nothing")
                                                   : catalog::kPluginEntry);
  if (others.empty()) return text;
  constexpr std::size_t kShown = 5;
  const std::size_t count = others.size();
  others.resize(std::min(count, kShown));
  return fmt::format("{} and {} that it should hide: {}{}", text, base::count_of(count, "symbol"),
                     base::list_of(others), count > kShown ? ", ..." : "");
}

/// `text` in indented lines of at most `width` columns, unless a single word is longer.
std::string wrapped(const std::string& text, const std::string& indent, std::size_t width) {
  std::istringstream words(text);
  std::string result, line;
  for (std::string word; words >> word;) {
    if (!line.empty() && indent.size() + line.size() + 1 + word.size() > width) {
      result += indent + line + "\n";
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return line.empty() ? result : result + indent + line + "\n";
}

std::string parameter_list(const std::vector<schema::Parameter>& parameters,
                           std::string_view bold) {
  std::vector<std::vector<base::Cell>> rows;
  for (const auto& parameter : parameters)
    rows.push_back({{parameter.key, bold},
                    {type_of(parameter)},
                    {default_of(parameter)},
                    {range_of(parameter)},
                    {parameter.unit}});
  std::istringstream lines(base::columns(rows, "lllll", "  "));
  std::string text, line;
  for (const auto& parameter : parameters) {
    std::getline(lines, line);
    text += line + "\n" + wrapped(parameter.help, "      ", 100);
  }
  return text;
}

std::string text_of(const catalog::PluginEntry& entry, const Details& details, bool color) {
  const catalog::Manifest& manifest = entry.manifest;
  const bool readable = !manifest.version.empty();
  const std::string_view bold = color ? base::kBold : "";
  std::vector<std::vector<base::Cell>> head{{{manifest.name, bold}}}, facts;
  if (readable) {
    head[0].push_back({fmt::format("{} ({})", manifest.version, to_string(manifest.kind))});
    head.push_back({{manifest.summary}});
  }
  const auto fact = [&](const char* name, const std::string& value) {
    if (!value.empty()) facts.push_back({{name}, {value}});
  };
  fact("license", manifest.license);
  fact("authors", base::list_of(manifest.authors));
  fact("homepage", manifest.homepage);
  fact("reference", manifest.reference);
  fact("needs", base::list_of(manifest.needs));
  if (manifest.crop_padding != 0 || manifest.horizontal_flip)
    fact("augmentation",
         fmt::format("crop padding of {} pixels{}{}", manifest.crop_padding,
                     manifest.crop_image_size != 0
                         ? fmt::format(" for images of {}", manifest.crop_image_size)
                         : "",
                     manifest.horizontal_flip ? ", horizontal flip" : ""));
  fact("built", entry.facts ? built(*entry.facts) : "");
  fact("file", entry.path.string());
  fact("origin",
       std::string(details.origin ? description(*details.origin) : "not in a plugin folder"));
  if (details.modified)
    fact("size", fmt::format("{} bytes, modified {}",
                             base::grouped(static_cast<std::int64_t>(details.size)),
                             utc(*details.modified, "%Y-%m-%d %H:%M:%S UTC")));
  fact("sha256", details.sha256);
  fact("exports", details.library ? exports_of(details.exports) : "");
  std::vector<std::string> libraries;
  for (const auto& library : details.libraries) libraries.push_back(library.name);
  fact("libraries", base::list_of(libraries));
  fact("not found", base::list_of(missing(details.libraries)));
  fact("ignored", base::list_of(manifest.unknown_keys));
  if (entry.shadowed) fact("not used", "an earlier folder has a plugin with this name");

  std::string text;
  // Each line is laid out on its own, so that the summary does not push the version to the right.
  for (const auto& line : head) text += base::columns({line}, "ll");
  text += base::columns(facts, "ll", "  ");
  if (entry.facts) text += differences(*entry.facts);
  if (!manifest.parameters.empty())
    text += "\nPARAMETERS\n" + parameter_list(manifest.parameters, bold);
  if (readable) text += "\nRECIPE\n" + recipe::recipe_fragment(manifest);
  return text;
}

nlohmann::json or_null(const std::optional<double>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}

nlohmann::json to_json(const schema::Parameter& parameter) {
  nlohmann::json default_value;
  if (!parameter.default_value.empty()) {
    std::ostringstream text;
    text << toml::json_formatter(parameter.default_value);
    default_value = nlohmann::json::parse(text.str()).at(0);
  }
  return {{"key", parameter.key},
          {"type", to_string(parameter.type)},
          {"list", parameter.list},
          {"optional", parameter.optional},
          {"must_exist", parameter.must_exist},
          {"default", default_value},
          {"minimum", or_null(parameter.minimum)},
          {"maximum", or_null(parameter.maximum)},
          {"minimum_exclusive", parameter.minimum_exclusive},
          {"maximum_exclusive", parameter.maximum_exclusive},
          {"choices", parameter.choices},
          {"unit", parameter.unit},
          {"help", parameter.help}};
}

nlohmann::json to_json(const catalog::BuildFacts& facts) {
  return {{"abi", facts.abi},
          {"torch", facts.torch},
          {"cxx11_abi", facts.cxx11_abi},
          {"glibcxx_debug", facts.glibcxx_debug},
          {"sanitizer", facts.sanitizer},
          {"compiler", facts.compiler}};
}

nlohmann::json to_json(const std::vector<NeededLibrary>& libraries) {
  nlohmann::json json = nlohmann::json::array();
  for (const auto& [name, found] : libraries) {
    json.push_back({{"name", name}, {"path", nullptr}});
    if (!found.empty()) json.back()["path"] = found.string();
  }
  return json;
}

nlohmann::json to_json(const catalog::PluginEntry& entry, const Details& details) {
  const catalog::Manifest& manifest = entry.manifest;
  const bool readable = !manifest.version.empty();
  nlohmann::json parameters = nlohmann::json::array();
  for (const auto& parameter : manifest.parameters) parameters.push_back(to_json(parameter));
  nlohmann::json json{{"schema", 1},
                      {"name", manifest.name},
                      {"kind", nullptr},
                      {"version", manifest.version},
                      {"summary", manifest.summary},
                      {"license", manifest.license},
                      {"reference", manifest.reference},
                      {"needs", manifest.needs},
                      {"parameters", parameters},
                      {"path", entry.path.string()},
                      {"origin", nullptr},
                      {"size", details.size},
                      {"modified", nullptr},
                      {"sha256", details.sha256},
                      {"built_in", entry.built_in},
                      {"shadowed", entry.shadowed},
                      {"built", nullptr},
                      {"host", to_json(catalog::own_build_facts())},
                      {"libraries", to_json(details.libraries)},
                      {"exports", details.exports},
                      {"refusal", nullptr}};
  if (readable) json["kind"] = to_string(manifest.kind);
  if (readable) json["recipe"] = recipe::recipe_fragment(manifest);
  if (manifest.kind == catalog::Kind::dataset)
    json["augmentation"] = {{"crop_padding", manifest.crop_padding},
                            {"image_size", manifest.crop_image_size},
                            {"horizontal_flip", manifest.horizontal_flip}};
  if (details.modified) json["modified"] = utc(*details.modified, "%Y-%m-%dT%H:%M:%SZ");
  if (details.origin) json["origin"] = to_string(*details.origin);
  if (entry.facts) json["built"] = to_json(*entry.facts);
  if (details.refusal)
    json["refusal"] = {{"message", details.refusal->message}, {"hint", details.refusal->hint}};
  return json;
}

/// Whether the word is a file that is no plugin: a model's.
bool is_model_file(const catalog::Catalog& catalog, const std::string& word) {
  if (word.ends_with(".so")) return false;
  const auto& entries = catalog.entries();
  const auto slash = word.find('/');
  const std::string name = slash == std::string::npos ? word : word.substr(slash + 1);
  const auto kind =
      slash == std::string::npos ? std::nullopt : catalog::kind_from(word.substr(0, slash));
  if ((slash == std::string::npos || kind) &&
      std::any_of(entries.begin(), entries.end(), [&](const catalog::PluginEntry& entry) {
        return entry.manifest.name == name && (!kind || entry.manifest.kind == *kind);
      }))
    return false;
  std::error_code error;
  return std::filesystem::exists(word, error);
}

base::ExitCode inspect_model(const Invocation& invocation) {
  const nlohmann::json facts = model_facts(invocation.arguments[0]);
  if (invocation.has("json"))
    print_json(facts, true);
  else
    print(report::model_text(facts));
  require_usable(facts);
  return base::ExitCode::done;
}

base::ExitCode inspect(const Invocation& invocation) {
  if (is_model_file(invocation.catalog(), invocation.arguments[0]))
    return inspect_model(invocation);
  const catalog::PluginEntry entry = find_entry(invocation.catalog(), invocation.arguments[0]);
  const Details details = details_of(entry, plugin_folders(invocation.all("plugin-path")));
  if (invocation.has("json"))
    print_json(to_json(entry, details), true);
  else
    print(text_of(entry, details, invocation.color_out));
  if (details.refusal)
    throw base::HostError(base::ExitCode::plugin, details.refusal->message, details.refusal->hint);
  return base::ExitCode::done;
}

}  // namespace

const Command kInspect{"inspect",    "show everything about a model's file or a plugin",  "THING",
                       kDescription, [](boost::program_options::options_description&) {}, inspect};

}  // namespace backstop::cli
