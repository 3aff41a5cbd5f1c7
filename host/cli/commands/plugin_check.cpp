// backstop plugin check: tests whether a plugin keeps the rules of its interface. Each test runs in
// a process of its own, because a plugin that fails may take the process with it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include <boost/program_options/value_semantic.hpp>
#include <nlohmann/json.hpp>

#include "host/base/text.hpp"
#include "host/catalog/elf/elf_symbols.hpp"
#include "host/catalog/library.hpp"
#include "host/cli/checked_recipe.hpp"
#include "host/cli/child.hpp"
#include "host/cli/engine_library.hpp"

namespace backstop::cli {
namespace {

constexpr const char* kDescription =
    "Tests whether the plugin in FILE (an .so file) keeps the rules of its interface. Each test "
    "runs "
    "in\n"
    "a process of its own with a time limit. Parameters have their default values unless --set "
    "changes\n"
    "them. The exit status is 0 if no test failed, 1 if one did, and 3 if FILE is not a plugin "
    "that "
    "this\n"
    "host can use.\n";

void add_options(boost::program_options::options_description& options) {
  namespace po = boost::program_options;
  auto add = options.add_options();
  add("set", po::value<std::vector<std::string>>()->value_name("KEY=VALUE"),
      "set a parameter of the plugin; may be repeated");
  add("test", po::value<std::vector<std::string>>()->value_name("NAME"),
      "run only this test, in this process (for a debugger)");
  add("time-limit", po::value<std::vector<std::string>>()->value_name("SECONDS"),
      "stop a test that takes longer; the default is 60");
}

// -- the plugin under test --

/// The plugin's file, before all other plugins, which the recipe needs beside it.
catalog::Catalog catalog_with(const catalog::PluginEntry& entry, const catalog::Catalog& others) {
  std::vector<catalog::PluginEntry> entries{entry};
  for (catalog::PluginEntry other : others.entries()) {
    std::error_code error;
    if (std::filesystem::equivalent(other.path, entry.path, error)) continue;
    if (other.manifest.kind == entry.manifest.kind && other.manifest.name == entry.manifest.name)
      other.shadowed = true;
    entries.push_back(std::move(other));
  }
  return catalog::Catalog(std::move(entries));
}

/// A recipe that uses the plugin, and small built-in plugins for the rest.
std::string recipe_with(const catalog::Manifest& plugin) {
  const auto use = [&](catalog::Kind kind, const char* otherwise) {
    return "plugin = \"" + (plugin.kind == kind ? plugin.name : otherwise) + "\"\n";
  };
  return "schema = 1\nname = \"plugin-check\"\n[dataset]\n" +
         use(catalog::Kind::dataset, "synthetic") +
         "[model]\narchitecture = \"small-cnn\"\nwidth = 8\n[attack]\n" +
         use(catalog::Kind::attack, "badnets") + "[attack.training]\nepochs = 1\n" +
         "[attack.training.scheduler]\n" +
         (plugin.kind == catalog::Kind::scheduler ? use(catalog::Kind::scheduler, "")
                                                  : "plugin = \"constant\"\nrate = 0.01\n") +
         (plugin.repairs ? "[[defense]]\n" : "[[detector]]\n") +
         (plugin.kind == catalog::Kind::defense
              ? use(catalog::Kind::defense, "")
              : "plugin = \"fine-tuning\"\nscheduler = { plugin = \"constant\", rate = 0.01 }\n");
}

/// The path of the plugin's parameters in that recipe.
std::string parameters_path(const catalog::Manifest& plugin) {
  switch (plugin.kind) {
    case catalog::Kind::attack:
      return "attack.";
    case catalog::Kind::defense:
      return plugin.repairs ? "defense.0." : "detector.0.";
    case catalog::Kind::scheduler:
      return "attack.training.scheduler.";
    case catalog::Kind::dataset:
      return "dataset.";
  }
  throw base::HostError(base::ExitCode::bug, "no such kind of plugin");
}

struct Subject {
  catalog::PluginEntry entry;
  catalog::Catalog catalog;
  std::vector<std::string> settings;  ///< from --set, as overrides of the recipe

  Subject(const Invocation& invocation)
      : entry(catalog::Catalog::of_file(invocation.arguments[0])),
        catalog(catalog_with(entry, invocation.catalog())) {
    for (const auto& setting : invocation.all("set"))
      settings.push_back(parameters_path(entry.manifest) + setting);
  }

  /// The required parameters that were not given.
  [[nodiscard]] std::string missing() const {
    std::string names;
    for (const auto& parameter : entry.manifest.parameters) {
      if (parameter.optional || !parameter.default_value.empty()) continue;
      const std::string key = parameters_path(entry.manifest) + parameter.key;
      const bool given = std::any_of(settings.begin(), settings.end(), [&](const auto& setting) {
        return setting.starts_with(key + "=") || setting.starts_with(key + ".");
      });
      if (!given) names += (names.empty() ? "`" : ", `") + parameter.key + "`";
    }
    return names;
  }

  [[nodiscard]] recipe::CheckedRecipe check(const std::vector<std::string>& more = {}) const {
    auto overrides = settings;
    for (const auto& setting : more) overrides.push_back(parameters_path(entry.manifest) + setting);
    return recipe::check_recipe_text(recipe_with(entry.manifest), entry.manifest.name + "'s recipe",
                                     overrides, catalog);
  }
};

// -- the tests --

struct Verdict {
  enum class Result { passed, failed, skipped } result = Result::passed;
  std::string message;
  std::string hint;
};

Verdict failed(std::string message, std::string hint = "") {
  return {Verdict::Result::failed, std::move(message), std::move(hint)};
}

std::string first_error(const recipe::CheckedRecipe& checked) {
  for (const auto& diagnostic : checked.diagnostics)
    if (diagnostic.severity == recipe::Diagnostic::Severity::error) return diagnostic.message;
  return "";
}

/// Why the plugin cannot be used, if it cannot: skipped if parameters or files are missing, failed
/// if the host refuses a default.
std::optional<Verdict> unusable(const Subject& subject, const recipe::CheckedRecipe& checked) {
  if (const std::string missing = subject.missing(); !missing.empty())
    return Verdict{Verdict::Result::skipped, "there is no default for " + missing,
                   "give a value with --set KEY=VALUE"};
  const base::ExitCode code = exit_code_of(checked);
  if (code == base::ExitCode::done) return std::nullopt;
  if (code == base::ExitCode::environment)
    return Verdict{Verdict::Result::skipped, first_error(checked),
                   "give existing data with --set KEY=VALUE"};
  return failed(first_error(checked));
}

Verdict loads(const Subject& subject) {
  engine_library();
  catalog::load_library(subject.entry);
  return {};
}

Verdict symbols(const Subject& subject) {
  std::string extra;
  bool entry = false;
  for (const auto& symbol : catalog::exported_symbols(subject.entry.path))
    if (symbol == catalog::kPluginEntry)
      entry = true;
    else
      extra += (extra.empty() ? "" : ", ") + symbol;
  if (!entry)
    return failed(fmt::format("it does not export {}", catalog::kPluginEntry),
                  "end the plugin's source with BACKSTOP_PLUGIN(Interface, Class)");
  if (extra.empty()) return {};
  return failed("it also exports " + extra,
                "build it with backstop_add_plugin(), which hides everything else");
}

Verdict manifest(const Subject& subject) {
  const catalog::Manifest& manifest = subject.entry.manifest;
  std::string missing;
  const auto need = [&](bool there, const std::string& what) {
    if (!there) missing += (missing.empty() ? "" : ", ") + what;
  };
  need(!manifest.summary.empty(), "summary");
  need(!manifest.license.empty(), "license");
  for (const auto& parameter : manifest.parameters)
    need(!parameter.help.empty(), "the `help` of `" + parameter.key + "`");
  if (!missing.empty()) return failed("the manifest lacks " + missing);
  return unusable(subject, subject.check()).value_or(Verdict{});
}

/// A value just outside a bound, as TOML.
std::string outside(const schema::Parameter& parameter, bool below) {
  const double bound = below ? *parameter.minimum : *parameter.maximum;
  const bool exclusive = below ? parameter.minimum_exclusive : parameter.maximum_exclusive;
  if (parameter.type == schema::ParameterType::integer)
    return std::to_string(static_cast<std::int64_t>(bound) + (exclusive ? 0 : below ? -1 : 1));
  if (exclusive) return base::shortest(bound);
  const double infinity = std::numeric_limits<double>::infinity();
  return base::shortest(std::nextafter(bound, below ? -infinity : infinity));
}

Verdict refusals(const Subject& subject) {
  std::vector<std::string> wrong{"no_such_parameter=1"};
  for (const auto& parameter : subject.entry.manifest.parameters) {
    const auto value = [&](const std::string& text) {
      wrong.push_back(parameter.key + "=" + (parameter.list ? "[" + text + "]" : text));
    };
    if (parameter.minimum) value(outside(parameter, true));
    if (parameter.maximum) value(outside(parameter, false));
    if (!parameter.choices.empty()) value("\"no-such-choice\"");
    if (parameter.type != schema::ParameterType::string) value("{ wrong = \"type\" }");
  }
  // Something else may be wrong too (a missing parameter): the error has to be about this value.
  const auto refused = [&](const std::string& setting) {
    const auto diagnostics = subject.check({setting}).diagnostics;
    return std::any_of(diagnostics.begin(), diagnostics.end(),
                       [&](const recipe::Diagnostic& diagnostic) {
                         return diagnostic.severity == recipe::Diagnostic::Severity::error &&
                                !diagnostic.environment && diagnostic.file.ends_with(setting);
                       });
  };
  std::string accepted;
  for (const auto& setting : wrong)
    if (!refused(setting)) accepted += (accepted.empty() ? "" : ", ") + setting;
  if (accepted.empty()) return {};
  return failed("it accepted " + accepted);
}

/// The recipe as it is, and with each number at each limit of its range.
std::vector<recipe::Recipe> recipes_for_ranges(const Subject& subject) {
  std::vector<recipe::Recipe> recipes = subject.check().recipes;
  for (const auto& parameter : subject.entry.manifest.parameters) {
    if (parameter.list) continue;
    for (const auto& [bound, exclusive] :
         {std::pair(parameter.minimum, parameter.minimum_exclusive),
          std::pair(parameter.maximum, parameter.maximum_exclusive)}) {
      if (!bound || exclusive) continue;
      const std::string value = parameter.type == schema::ParameterType::integer
                                    ? std::to_string(static_cast<std::int64_t>(*bound))
                                    : base::shortest(*bound);
      for (auto& recipe : subject.check({parameter.key + "=" + value}).recipes)
        recipes.push_back(std::move(recipe));
    }
  }
  return recipes;
}

Verdict in_engine(const Subject& subject, const char* test) {
  const recipe::CheckedRecipe checked = subject.check();
  if (const auto verdict = unusable(subject, checked)) return *verdict;
  const auto recipes =
      std::string_view(test) == "ranges" ? recipes_for_ranges(subject) : checked.recipes;
  engine::ConformanceRequest request;
  request.test = test;
  request.plugin = subject.catalog.find(subject.entry.manifest.kind, subject.entry.manifest.name);
  request.recipes = &recipes;
  engine::ConformanceOutcome outcome;
  engine_function<void(const engine::ConformanceRequest&, engine::ConformanceOutcome&)>(
      engine::kEngineCheckPlugin)(request, outcome);
  if (outcome.passed) return {};
  const auto result = outcome.checked ? Verdict::Result::failed : Verdict::Result::skipped;
  return {result, outcome.message, outcome.hint};
}

constexpr std::string_view kState = "state";

struct Test {
  const char* name;
  const char* title;
  Verdict (*run)(const Subject&);  ///< null if the engine runs it
  std::vector<catalog::Kind> kinds;
};

const std::vector<Test>& tests() {
  static const std::vector<catalog::Kind> kAll(std::begin(catalog::kKinds),
                                               std::end(catalog::kKinds));
  static const std::vector<catalog::Kind> kModels{catalog::Kind::attack, catalog::Kind::defense};
  static const std::vector<catalog::Kind> kScheduler{catalog::Kind::scheduler},
      kDataset{catalog::Kind::dataset};
  static const std::vector<catalog::Kind> kLong{catalog::Kind::attack, catalog::Kind::defense,
                                                catalog::Kind::dataset};
  static const std::vector<Test> kTests{
      {"loads", "loads in a process of its own", loads, kAll},
      {"symbols", "exports exactly one symbol", symbols, kAll},
      {"manifest", "has a complete manifest, with every default in range", manifest, kAll},
      {"refusals", "refuses unknown and out-of-range parameters", refusals, kAll},
      {"ranges", "accepts the limits of every range, or explains why not", nullptr, kAll},
      {"deterministic", "gives the same result for the same seed", nullptr, kAll},
      {"state", "leaves the global state alone", nullptr, kAll},
      {"cancellation", "stops within 2 s of cancellation", nullptr, kLong},
      {"images", "accepts 1, 7 and 64 images, with 1 and 3 channels", nullptr, kModels},
      {"images", "gives rates that depend only on the position", nullptr, kScheduler},
      {"images", "gives valid images, labels and class names", nullptr, kDataset},
      {"failures", "survives a model that throws", nullptr, kModels},
      {"resume", "goes on with the same bits after it was stopped", nullptr, kModels},
  };
  return kTests;
}

std::vector<const Test*> tests_for(catalog::Kind kind) {
  std::vector<const Test*> chosen;
  for (const auto& test : tests())
    if (std::find(test.kinds.begin(), test.kinds.end(), kind) != test.kinds.end())
      chosen.push_back(&test);
  return chosen;
}

const Test& require_test(catalog::Kind kind, const std::string& name) {
  std::vector<std::string> names;
  for (const auto* test : tests_for(kind)) {
    if (name == test->name) return *test;
    names.emplace_back(test->name);
  }
  throw base::HostError(base::ExitCode::usage,
                        fmt::format("there is no test `{}` for a plugin of this kind", name),
                        fmt::format("the tests are {}", fmt::join(names, ", ")));
}

Verdict run_here(const Subject& subject, const Test& test) {
  try {
    return test.run != nullptr ? test.run(subject) : in_engine(subject, test.name);
  } catch (const base::HostError& e) {
    return failed(e.what(), e.hint());
  }
}

// -- reports --

constexpr const char* kResults[] = {"passed", "failed", "skipped"};

nlohmann::json to_json(const Test& test, const Verdict& verdict) {
  return {{"test", test.name},
          {"title", test.title},
          {"result", kResults[static_cast<std::size_t>(verdict.result)]},
          {"message", verdict.message},
          {"hint", verdict.hint}};
}

/// What else than the verdict, its last line, a child has written to standard output.
std::string other_output(const std::string& out) {
  std::string text = out.substr(0, out.size() - last_line(out).size() - 1);
  const auto begin = text.find_first_not_of('\n');
  return begin == std::string::npos ? "" : text.substr(begin);
}

/// The verdict that a child wrote as the last line of its output.
Verdict from_child(const ChildOutcome& child, const Test& test, std::chrono::seconds limit,
                   const std::string& debugger) {
  const std::string wrote = child.err.empty() ? "" : "; it wrote: " + last_line(child.err);
  if (child.timed_out)
    return failed(fmt::format("it did not finish within {} s", limit.count()),
                  "give it more time with --time-limit SECONDS");
  if (child.signal != 0)
    return failed(fmt::format("it crashed: {}{}", signal_name(child.signal), wrote),
                  fmt::format("`{}` shows where", debugger));
  try {
    const auto json = nlohmann::json::parse(last_line(child.out));
    const auto* result =
        std::find(std::begin(kResults), std::end(kResults), json.at("result").get<std::string>());
    const Verdict verdict{static_cast<Verdict::Result>(result - std::begin(kResults)),
                          json.at("message").get<std::string>(),
                          json.at("hint").get<std::string>()};
    const std::string other = other_output(child.out);
    const bool judged = verdict.result == Verdict::Result::passed && test.name == kState;
    if (judged && !other.empty())
      return failed("it writes to standard output: " + base::shortened(last_line(other)),
                    "standard output belongs to the host: use Context::log(), or stderr");
    return verdict;
  } catch (const nlohmann::json::exception&) {
    return failed(fmt::format("it ended the process with exit status {}{}", child.code, wrote),
                  child.err.empty() ? "a plugin must not end the process" : "");
  }
}

Verdict run_in_child(const Invocation& invocation, const Test& test, std::chrono::seconds limit) {
  std::vector<std::string> words{"plugin", "check",  invocation.arguments[0],
                                 "--json", "--test", test.name};
  for (const char* option : {"set", "plugin-path"})
    for (const auto& value : invocation.all(option)) {
      words.push_back("--" + std::string(option));
      words.push_back(value);
    }
  return from_child(run_self(words, limit), test, limit, debugger_line(words, {"--json"}));
}

void print_verdict(const Test& test, const Verdict& verdict, bool color) {
  constexpr std::size_t kWidth = 76;
  std::string line = fmt::format("{}: {} ", test.name, test.title);
  line.append(line.size() < kWidth ? kWidth - line.size() : 0, '.');
  constexpr const char* kWords[] = {" ok", " FAILED", " not checked"};
  constexpr std::string_view kStyles[] = {base::kGreen, base::kRed, base::kYellow};
  const auto result = static_cast<std::size_t>(verdict.result);
  line += color ? std::string(kStyles[result]) + kWords[result] + std::string(base::kReset)
                : kWords[result];
  line += "\n";
  std::istringstream lines(base::printable(verdict.message, "\n"));
  for (std::string text; std::getline(lines, text);) line += "    " + text + "\n";
  if (!verdict.hint.empty()) line += "    hint: " + base::printable(verdict.hint) + "\n";
  print(line);
}

/// The verdict without its text if that is among `causes`, which are the texts of failed tests so far.
Verdict told_once(const Verdict& verdict, std::vector<std::string>& causes) {
  if (verdict.result != Verdict::Result::failed) return verdict;
  for (const std::string& cause : causes)
    if (verdict.message.find(cause) != std::string::npos) return failed("for the reason above");
  causes.push_back(verdict.message);
  return verdict;
}

std::chrono::seconds time_limit(const Invocation& invocation) {
  const std::string text = invocation.one("time-limit").value_or("60");
  try {
    std::size_t end = 0;
    const long seconds = std::stol(text, &end);
    if (end == text.size() && seconds >= 1 && seconds <= 86400)
      return std::chrono::seconds(seconds);
  } catch (const std::logic_error&) {  // not a number: the error below
  }
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("option `--time-limit` must be a whole number of seconds between "
                  "1 and 86400, got `{}`",
                  text));
}

base::ExitCode check_all(const Invocation& invocation, const Subject& subject) {
  const auto limit = time_limit(invocation);
  const bool json = invocation.has("json");
  nlohmann::json results = nlohmann::json::array();
  std::size_t counts[3] = {0, 0, 0};
  std::vector<std::string> causes;
  for (const auto* test : tests_for(subject.entry.manifest.kind)) {
    const Verdict verdict = run_in_child(invocation, *test, limit);
    ++counts[static_cast<std::size_t>(verdict.result)];
    if (json)
      results.push_back(to_json(*test, verdict));
    else
      print_verdict(*test, told_once(verdict, causes), invocation.color_out);
  }
  const auto [passed, wrong, skipped] = counts;
  if (json)
    print_json({{"schema", 1},
                {"kind", to_string(subject.entry.manifest.kind)},
                {"name", subject.entry.manifest.name},
                {"path", subject.entry.path.string()},
                {"passed", passed},
                {"failed", wrong},
                {"skipped", skipped},
                {"tests", results}},
               true);
  else
    print(fmt::format("{} passed, {} failed{}\n", passed, wrong,
                      skipped > 0 ? fmt::format(", {} not checked", skipped) : ""));
  return wrong > 0 ? base::ExitCode::failed : base::ExitCode::done;
}

base::ExitCode check(const Invocation& invocation) {
  const Subject subject(invocation);
  if (subject.entry.refusal)
    throw base::HostError(base::ExitCode::plugin,
                          fmt::format("{} cannot be used: {}", subject.entry.path.string(),
                                      subject.entry.refusal->message),
                          subject.entry.refusal->hint);
  if (const auto name = invocation.one("test")) {
    const Test& test = require_test(subject.entry.manifest.kind, *name);
    const Verdict verdict = run_here(subject, test);
    if (invocation.has("json")) {
      print("\n");  // the plugin may have written half a line
      print_json(to_json(test, verdict), false);
    } else {
      print_verdict(test, verdict, invocation.color_out);
    }
    return verdict.result == Verdict::Result::failed ? base::ExitCode::failed
                                                     : base::ExitCode::done;
  }
  return check_all(invocation, subject);
}

}  // namespace

const Command kPluginCheck{"plugin check", "test whether a plugin keeps the rules of its interface",
                           "FILE",         kDescription,
                           add_options,    check};

}  // namespace backstop::cli
