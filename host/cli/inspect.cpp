// backstop inspect: everything that is known about one plugin, without running its code.
#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include <nlohmann/json.hpp>

#include "host/cli/command.hpp"
#include "host/recipe/recipe.hpp"
#include "host/recipe/write.hpp"
#include "host/report/text.hpp"

namespace backstop::host {
namespace {

constexpr const char* kDescription =
    "Shows what a plugin says of itself, how it was built, its parameters and a recipe to start "
    "from.\n"
    "PLUGIN is a name, KIND/NAME, or the path of an .so file. No code of the plugin is run; when "
    "it\n"
    "cannot be used, the reason is shown and the exit status is 3.\n";

// -- finding it --

PluginEntry entry_of_file(const std::string& file) {
  std::error_code error;
  const auto path = std::filesystem::absolute(file, error);
  if (!std::filesystem::is_regular_file(path, error))
    throw HostError(ExitCode::plugin, "there is no plugin file `" + file + "`");
  const Catalog catalog = Catalog::scan({{.folder = path.parent_path(), .given = true}});
  for (const auto& entry : catalog.entries())
    if (std::filesystem::equivalent(entry.path, path, error)) return entry;
  throw HostError(ExitCode::plugin, "`" + file + "` is no plugin", "a plugin's file ends in .so");
}

/// One name can belong to several kinds; then the user has to say which.
void require_one_kind(const std::vector<const PluginEntry*>& found, const std::string& name) {
  std::set<Kind> kinds;
  for (const auto* entry : found) kinds.insert(entry->manifest.kind);
  if (kinds.size() < 2) return;
  std::string list, hint;
  for (const Kind kind : kinds) {
    list += (list.empty() ? "" : ", ") + std::string(to_string(kind));
    hint += (hint.empty() ? "" : " or ") +
            ("`backstop inspect " + std::string(to_string(kind)) + "/" + name + "`");
  }
  throw HostError(ExitCode::usage, "there are several plugins `" + name + "`: " + list,
                  "use " + hint);
}

PluginEntry entry_of_name(const Catalog& catalog, std::optional<Kind> kind,
                          const std::string& name) {
  std::vector<const PluginEntry*> usable, refused;
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
  const auto meant = nearest(name, names);
  throw HostError(
      ExitCode::plugin,
      "there is no " + (kind ? std::string(to_string(*kind)) : "plugin") + " `" + name + "`",
      meant ? "did you mean `" + *meant + "`?" : "`backstop list` shows those that are there");
}

PluginEntry find_entry(const Invocation& invocation) {
  const std::string& word = invocation.arguments[0];
  const auto slash = word.find('/');
  if (word.ends_with(".so")) return entry_of_file(word);
  if (slash == std::string::npos) return entry_of_name(invocation.catalog(), std::nullopt, word);
  if (const auto kind = kind_from(word.substr(0, slash)))
    return entry_of_name(invocation.catalog(), kind, word.substr(slash + 1));
  return entry_of_file(word);
}

// -- showing it --

std::string type_of(const Parameter& parameter) {
  return (parameter.list ? "list of " : "") + std::string(to_string(parameter.type));
}

std::string default_of(const Parameter& parameter) {
  if (parameter.default_value.empty()) return parameter.optional ? "optional" : "required";
  return value_text(parameter.default_value[0]);
}

std::string range_of(const Parameter& parameter) {
  std::string text;
  for (const auto& choice : parameter.choices) text += (text.empty() ? "" : ", ") + choice;
  if (!text.empty()) return text;
  const auto& [minimum, maximum] = std::tie(parameter.minimum, parameter.maximum);
  const bool whole = parameter.type == ParameterType::integer;
  const auto bound = [whole](double value) {
    return whole ? std::to_string(static_cast<std::int64_t>(value)) : shortest(value);
  };
  const bool exclusive = parameter.minimum_exclusive || parameter.maximum_exclusive;
  if (minimum && maximum && !exclusive) return bound(*minimum) + " .. " + bound(*maximum);
  if (minimum) text = (parameter.minimum_exclusive ? "> " : ">= ") + bound(*minimum);
  if (minimum && maximum) text += ", ";
  if (maximum) text += (parameter.maximum_exclusive ? "< " : "<= ") + bound(*maximum);
  return text;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

std::string built(const BuildFacts& facts) {
  return "SDK ABI " + facts.abi + ", LibTorch " + facts.torch + ", " +
         (facts.cxx11_abi ? "C++11 ABI" : "old C++ ABI") +
         (facts.glibcxx_debug ? ", debug mode" : "") +
         (facts.sanitizer == "none" ? "" : ", " + facts.sanitizer + " sanitizer") + ", compiler " +
         facts.compiler;
}

/// `text` in lines of at most `width` columns where words allow it, each after `indent`.
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

std::string parameter_list(const std::vector<Parameter>& parameters, std::string_view bold) {
  std::vector<std::vector<Cell>> rows;
  for (const auto& parameter : parameters)
    rows.push_back({{parameter.key, bold},
                    {type_of(parameter)},
                    {default_of(parameter)},
                    {range_of(parameter)},
                    {parameter.unit}});
  std::istringstream lines(columns(rows, "lllll", "  "));
  std::string text, line;
  for (const auto& parameter : parameters) {
    std::getline(lines, line);
    text += line + "\n" + wrapped(parameter.help, "      ", 100);
  }
  return text;
}

std::string text_of(const PluginEntry& entry, const std::string& sha256, bool color) {
  const Manifest& manifest = entry.manifest;
  const bool readable = !manifest.version.empty();
  const std::string_view bold = color ? kBold : "";
  std::vector<std::vector<Cell>> head{{{manifest.name, bold}}}, facts;
  if (readable) {
    head[0].push_back({manifest.version + " (" + std::string(to_string(manifest.kind)) + ")"});
    head.push_back({{manifest.summary}});
  }
  const auto fact = [&](const char* name, const std::string& value) {
    if (!value.empty()) facts.push_back({{name}, {value}});
  };
  fact("license", manifest.license);
  fact("reference", manifest.reference);
  fact("needs", joined(manifest.needs));
  if (manifest.crop_padding != 0 || manifest.horizontal_flip)
    fact("augmentation", "crop padding " + std::to_string(manifest.crop_padding) + " pixels" +
                             (manifest.horizontal_flip ? ", horizontal flip" : ""));
  fact("built", entry.facts ? built(*entry.facts) : "");
  fact("file", entry.path.string() + (entry.built_in ? " (built-in)" : ""));
  fact("sha256", sha256);
  if (entry.shadowed) fact("not used", "an earlier folder has one of this name");

  std::string text;
  // Each line on its own: the summary must not push the version to the right.
  for (const auto& line : head) text += columns({line}, "ll");
  text += columns(facts, "ll", "  ");
  if (!manifest.parameters.empty())
    text += "\nPARAMETERS\n" + parameter_list(manifest.parameters, bold);
  if (readable) text += "\nRECIPE\n" + recipe_fragment(manifest);
  return text;
}

nlohmann::json or_null(const std::optional<double>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}

nlohmann::json to_json(const Parameter& parameter) {
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

nlohmann::json to_json(const PluginEntry& entry, const std::string& sha256) {
  const Manifest& manifest = entry.manifest;
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
                      {"sha256", sha256},
                      {"built_in", entry.built_in},
                      {"shadowed", entry.shadowed},
                      {"built", nullptr},
                      {"refusal", nullptr}};
  if (readable) json["kind"] = to_string(manifest.kind);
  if (readable) json["recipe"] = recipe_fragment(manifest);
  if (manifest.kind == Kind::dataset)
    json["augmentation"] = {{"crop_padding", manifest.crop_padding},
                            {"horizontal_flip", manifest.horizontal_flip}};
  if (entry.facts)
    json["built"] = {{"abi", entry.facts->abi},
                     {"torch", entry.facts->torch},
                     {"cxx11_abi", entry.facts->cxx11_abi},
                     {"glibcxx_debug", entry.facts->glibcxx_debug},
                     {"sanitizer", entry.facts->sanitizer},
                     {"compiler", entry.facts->compiler}};
  if (entry.refusal)
    json["refusal"] = {{"message", entry.refusal->message}, {"hint", entry.refusal->hint}};
  return json;
}

ExitCode inspect(const Invocation& invocation) {
  const PluginEntry entry = find_entry(invocation);
  std::string sha256;
  try {
    sha256 = sha256_of_file(entry.path);
  } catch (const HostError&) {
    // What cannot be read is refused for that, which says more.
    if (!entry.refusal) throw;
  }
  if (invocation.has("json"))
    print_json(to_json(entry, sha256), true);
  else
    print(text_of(entry, sha256, invocation.color_out));
  if (entry.refusal) throw HostError(ExitCode::plugin, entry.refusal->message, entry.refusal->hint);
  return ExitCode::done;
}

}  // namespace

const Command kInspect{"inspect",    "show everything that is known about a plugin",      "PLUGIN",
                       kDescription, [](boost::program_options::options_description&) {}, inspect};

}  // namespace backstop::host
