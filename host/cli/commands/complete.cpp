// backstop --complete: answers the shells' completion scripts, without LibTorch.
#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "host/base/text.hpp"
#include "host/cli/command.hpp"
#include "host/recipe/recipe.hpp"
#include "host/schema/toml_text.hpp"

namespace backstop::cli {
namespace {

using Words = std::vector<std::string>;

/// Collects the candidates that begin with the word to complete, each once. `before` is the part of
/// the shell's word before it, such as "--set=".
class Candidates {
 public:
  explicit Candidates(std::string word, std::string before = {})
      : word_(std::move(word)), before_(std::move(before)) {}

  [[nodiscard]] const std::string& word() const { return word_; }
  void add(const std::string& text, const std::string& description = {}) {
    if (!text.starts_with(word_) || !seen_.insert(text).second) return;
    lines_ +=
        before_ + text + (description.empty() ? "" : "\t" + base::printable(description)) + "\n";
  }
  /// Asks the shell to complete it.
  void ask(const std::string& what) { lines_ += ":" + what + "\n"; }
  [[nodiscard]] const std::string& lines() const { return lines_; }

 private:
  std::string word_, before_, lines_;
  std::set<std::string> seen_;
};

Words split(const std::string& text) {
  std::istringstream stream(text);
  Words words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

bool begins_with(const Words& words, const Words& beginning) {
  return words.size() >= beginning.size() &&
         std::equal(beginning.begin(), beginning.end(), words.begin());
}

/// The next word of every command that begins with the words `before`.
void add_commands(const Words& before, Candidates& candidates) {
  for (const auto* command : commands()) {
    const Words name = split(command->name);
    if (name.size() > before.size() && begins_with(name, before))
      candidates.add(name[before.size()], name.size() == before.size() + 1 ? command->summary : "");
  }
}

/// The words between the command and the word to complete.
struct Line {
  Words arguments;
  Words plugin_path;
  std::string value_for;  ///< the option whose value comes next, or empty
};

const OptionText* find(const std::vector<OptionText>& options, const std::string& word) {
  for (const auto& option : options)
    if (!word.empty() && (word == option.name || word == option.letter)) return &option;
  return nullptr;
}

Line read(const Words& words, const std::vector<OptionText>& options) {
  Line line;
  const auto give = [&line](const std::string& option, const std::string& value) {
    if (option == "--plugin-path") line.plugin_path.push_back(value);
  };
  for (const auto& word : words) {
    const auto equals = word.find('=');
    if (!line.value_for.empty()) {
      give(std::exchange(line.value_for, {}), word);
    } else if (!word.starts_with('-')) {
      line.arguments.push_back(word);
    } else if (equals != std::string::npos) {
      give(word.substr(0, equals), word.substr(equals + 1));
    } else if (const auto* option = find(options, word); option && !option->value.empty()) {
      line.value_for = option->name;
    }
  }
  return line;
}

// -- candidates for each kind of argument --

catalog::Catalog catalog_of(const Line& line) {
  return catalog::Catalog::scan(catalog::Catalog::search_path(line.plugin_path));
}

void add_kinds(Candidates& candidates) {
  for (const catalog::Kind kind : catalog::kKinds) candidates.add(std::string(to_string(kind)));
}

void add_plugins(const catalog::Catalog& catalog, std::optional<catalog::Kind> only,
                 const std::string& prefix, Candidates& candidates) {
  for (const auto& entry : catalog.entries())
    if (!entry.refusal && !entry.shadowed && (!only || entry.manifest.kind == *only))
      candidates.add(prefix + entry.manifest.name, entry.manifest.summary);
}

/// Names, KIND/NAME if the word has a slash, and the files that the shell is asked for.
void add_any_plugin(const Line& line, const std::string& files, Candidates& candidates) {
  const std::string& word = candidates.word();
  const catalog::Catalog catalog = catalog_of(line);
  if (const auto slash = word.find('/'); slash == std::string::npos) {
    add_plugins(catalog, {}, "", candidates);
  } else if (const auto kind = catalog::kind_from(word.substr(0, slash))) {
    add_plugins(catalog, kind, word.substr(0, slash + 1), candidates);
  }
  candidates.ask(files);
}

/// Every key of a recipe with its value, in the form that --set takes; leaves out keys that need
/// quotes.
void add_keys(const toml::node& node, const std::string& path, Candidates& candidates) {
  const auto below = [&path](const std::string& key) {
    return path.empty() ? key : path + "." + key;
  };
  if (const auto* table = node.as_table()) {
    for (const auto& [key, value] : *table)
      if (schema::key_text(key.str()) == key.str())
        add_keys(value, below(std::string(key.str())), candidates);
  } else if (const auto* array = node.as_array(); array && array->is_homogeneous<toml::table>()) {
    for (std::size_t i = 0; i < array->size(); ++i)
      add_keys((*array)[i], below(std::to_string(i)), candidates);
  } else {
    candidates.add(path + "=", schema::value_text(node));
  }
}

/// The kind of plugin that a key such as `attack.plugin` or `defense.0.scheduler.plugin` names.
std::optional<catalog::Kind> kind_of_key(const std::string& key) {
  if (key.ends_with("scheduler.plugin")) return catalog::Kind::scheduler;
  return key.ends_with(".plugin") ? catalog::kind_from(key.substr(0, key.find('.'))) : std::nullopt;
}

/// The resolved recipe, so that defaults can be completed too; as written if it has mistakes.
toml::table table_of(const std::string& file, const catalog::Catalog& catalog) {
  auto checked = recipe::check_recipe(file, {}, catalog);
  if (!checked.recipes.empty()) return std::move(checked.recipes.front().table);
  return toml::parse(std::string_view(checked.source), file);
}

void add_overrides(const Line& line, Candidates& candidates) {
  if (line.arguments.empty()) return;
  const catalog::Catalog catalog = catalog_of(line);
  const auto equals = candidates.word().find('=');
  if (equals == std::string::npos) {
    add_keys(table_of(line.arguments[0], catalog), "", candidates);
  } else if (const auto kind = kind_of_key(candidates.word().substr(0, equals))) {
    add_plugins(catalog, kind, candidates.word().substr(0, equals + 1), candidates);
  }
}

/// `what` is the name in the help: "RECIPE", "[KIND]", "DIR", "FILE.png", "KEY=VALUE".
void add_place(std::string what, const Command& command, const Line& line, Candidates& candidates) {
  std::erase_if(what, [](char c) { return c == '[' || c == ']'; });
  if (what.ends_with("...")) what.resize(what.size() - 3);
  if (what == "KIND")
    add_kinds(candidates);
  else if (what == "PLUGIN" && command.name == std::string_view("data"))
    add_plugins(catalog_of(line), catalog::Kind::dataset, "", candidates);
  else if (what == "PLUGIN")
    add_any_plugin(line, "files .so", candidates);
  else if (what == "THING")
    add_any_plugin(line, "files", candidates);
  else if (what == "KEY=VALUE")
    add_overrides(line, candidates);
  else if (what == "WHEN")
    for (const char* when : {"auto", "always", "never"}) candidates.add(when);
  else if (what == "RECIPE")
    candidates.ask("files .toml");
  else if (what == "MODEL")
    candidates.ask("files");
  else if (what.starts_with("FILE"))
    candidates.ask(what.size() == 4 ? "files" : "files " + what.substr(4));
  else if (what == "DIR" || what == "RUN")
    candidates.ask("folders");
}

std::string behind(const Command& command, const Words& before, const std::string& word) {
  // What is handed on to another program is that program's.
  if (!usage_of(command).passed_on.empty() &&
      std::find(before.begin(), before.end(), "--") != before.end())
    return {};
  const auto options = option_texts(command);
  const Line line = read(before, options);
  if (const auto* option = find(options, line.value_for)) {
    Candidates candidates(word);
    add_place(option->value, command, line, candidates);
    return candidates.lines();
  }
  if (const auto equals = word.find('='); word.starts_with("--") && equals != std::string::npos) {
    const auto* option = find(options, word.substr(0, equals));
    Candidates candidates(word.substr(equals + 1), word.substr(0, equals + 1));
    if (option) add_place(option->value, command, line, candidates);
    return candidates.lines();
  }
  Candidates candidates(word);
  if (word.starts_with('-')) {
    for (const auto& option : options) candidates.add(option.name, option.description);
    return candidates.lines();
  }
  const Words places = split(usage_of(command).argument);
  if (line.arguments.size() < places.size())
    add_place(places[line.arguments.size()], command, line, candidates);
  else if (!places.empty() && places.back().find("...") != std::string::npos)
    add_place(places.back(), command, line, candidates);
  return candidates.lines();
}

std::string answer(Words before, const std::string& word) {
  for (const auto* command : commands()) {
    const Words name = split(command->name);
    if (begins_with(before, name))
      return behind(*command, {before.begin() + std::ssize(name), before.end()}, word);
  }
  Candidates candidates(word);
  if (before.empty()) {
    candidates.add("help", "show the help, or the help of a command");
    candidates.add("--help", "show the help");
    candidates.add("--version", "show the version");
  } else if (before[0] == "help") {
    before.erase(before.begin());
  }
  add_commands(before, candidates);
  return candidates.lines();
}

}  // namespace

std::string completions(const std::vector<std::string>& words) {
  if (words.empty()) return {};
  try {
    return answer({words.begin(), words.end() - 1}, words.back());
  } catch (const std::exception&) {
    return {};  // whatever is wrong, the command itself will report it
  }
}

}  // namespace backstop::cli
