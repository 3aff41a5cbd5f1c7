#include "host/catalog/manifest.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <tuple>
#include <utility>

#include "backstop/build_facts.hpp"
#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/catalog/catalog.hpp"

namespace backstop::catalog {
namespace {

using Names = std::vector<std::string>;

/// Indexed by Kind and ParameterType.
constexpr std::string_view kKindNames[] = {"attack", "defense", "scheduler", "dataset"};
constexpr std::string_view kTypeNames[] = {"boolean", "integer", "float",     "string",
                                           "choice",  "path",    "scheduler", "optimizer"};

const Names kNeeds = {"clean-data", "training-data", "feature-maps", "batch-norm", "cuda"};
/// Keys of the recipe's tables that the host reads itself.
const Names kReservedKeys = {"name",         "plugin",       "file",           "limit",
                             "test_limit",   "augmentation", "poison_ratio",   "target",
                             "labels",       "training",     "clean_fraction", "clean_images",
                             "measure_every"};
const Names kManifestKeys = {"name",      "kind",  "version",    "summary",      "license",
                             "reference", "needs", "parameters", "augmentation", "poisons"};
const Names kParameterKeys = {"type",
                              "list",
                              "default",
                              "optional",
                              "must_exist",
                              "minimum",
                              "exclusive_minimum",
                              "maximum",
                              "exclusive_maximum",
                              "choices",
                              "unit",
                              "help"};
const Names kAugmentationKeys = {"crop_padding", "image_size", "horizontal_flip"};
const Names kOptimizers = {"sgd", "adam", "adamw"};
const Names kSgdKeys = {"name", "momentum", "weight_decay", "nesterov"};
const Names kAdamKeys = {"name", "beta1", "beta2", "epsilon", "weight_decay"};

/// toml++ and its tables recurse along dotted keys: more dots than any manifest has could exhaust
/// the stack. Its own limit covers brackets and braces only.
constexpr std::ptrdiff_t kMaximumDots = 2000;

bool contains(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_control(std::string_view text, std::size_t i) {
  const auto at = [&](std::size_t k) { return static_cast<unsigned char>(text[k]); };
  // U+0080 .. U+009F are control characters too, and some terminals obey them.
  const bool c1 = at(i) == 0xC2 && i + 1 < text.size() && at(i + 1) < 0xA0;
  return at(i) < 0x20 || at(i) == 0x7F || c1;
}

bool is_printable(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_control(text, i)) return false;
  }
  return true;
}

/// `text` with every control character made a question mark.
std::string harmless(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool control = is_control(text, i);
    result += control ? '?' : text[i];
    if (control && text[i] == '\xC2') ++i;
  }
  return result;
}

/// `text` in back-ticks, harmless on a terminal and short.
std::string in_ticks(std::string_view text) {
  return "`" + harmless(text.substr(0, 80)) + (text.size() > 80 ? "...`" : "`");
}

std::string list_of(const Names& names) {
  std::string result;
  for (const std::string& name : names) result += (result.empty() ? "" : ", ") + name;
  return result;
}

std::string did_you_mean(std::string_view word, const Names& candidates) {
  const auto near = base::nearest(word, candidates);
  return near ? ", did you mean `" + *near + "`?" : "";
}

std::string text_of(double value) {
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  return {buffer.data(), end};
}

/// A lower-case letter, then lower-case letters, digits and `separator`.
bool is_identifier(std::string_view text, char separator) {
  const auto lower = [](char c) { return c >= 'a' && c <= 'z'; };
  return !text.empty() && lower(text[0]) && std::all_of(text.begin(), text.end(), [&](char c) {
    return lower(c) || (c >= '0' && c <= '9') || c == separator;
  });
}

std::string_view type_of(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a float";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

/// Collects what is wrong with a TOML text, to be told at once.
class Problems {
 public:
  explicit Problems(std::string where) : where_(std::move(where)) {}

  void add(const toml::source_region& place, std::string text) {
    found_.emplace_back(place.begin.line, std::move(text));
  }
  void add(const toml::node& node, std::string text) { add(node.source(), std::move(text)); }

  void throw_if_any(const std::string& hint) {
    if (found_.empty()) return;
    std::stable_sort(found_.begin(), found_.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::string message;
    for (const auto& [line, text] : found_) {
      if (!message.empty()) message += '\n';
      message += where_;
      if (line != 0) message += ":" + std::to_string(line);
      message += ": " + text;
    }
    throw base::HostError(base::ExitCode::plugin, message, hint);
  }

 private:
  std::string where_;
  std::vector<std::pair<toml::source_index, std::string>> found_;
};

toml::table parse_toml(std::string_view text, Problems& problems) {
  if (std::count(text.begin(), text.end(), '.') > kMaximumDots) {
    problems.add(toml::source_region{}, "has more than " + std::to_string(kMaximumDots) + " dots");
    return {};
  }
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& e) {
    std::string description = harmless(e.description());
    if (!description.empty() && description[0] >= 'A' && description[0] <= 'Z') {
      description[0] = static_cast<char>(description[0] - 'A' + 'a');
    }
    problems.add(e.source(), std::move(description));
    return {};
  }
}

/// One TOML table, read key by key. Messages call a key `prefix` + key.
class TableReader {
 public:
  TableReader(const toml::table& table, std::string prefix, Problems& problems)
      : table_(table), prefix_(std::move(prefix)), problems_(problems) {}

  void require_known(const Names& keys) {
    for (const auto& [key, node] : table_) {
      if (contains(keys, key.str())) continue;
      problems_.add(key.source(), "unknown key " + in_ticks(prefix_ + std::string(key.str())) +
                                      did_you_mean(key.str(), keys));
    }
  }

  [[nodiscard]] const toml::node* find(std::string_view key) const { return table_.get(key); }

  /// The key's value, or nothing after noting a problem.
  template <typename T>
  std::optional<T> get(std::string_view key, std::string_view expected) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    if (const auto value = node->value_exact<T>()) return *value;
    wrong_type(key, *node, expected);
    return std::nullopt;
  }

  std::string text(std::string_view key, bool line_feeds_allowed = false) {
    const auto value = get<std::string>(key, "a string");
    if (!value) return {};
    std::string rest = *value;
    if (line_feeds_allowed) std::erase(rest, '\n');
    if (!is_printable(rest)) problem(key, "must not hold control characters");
    return *value;
  }

  bool required(std::string_view key) {
    if (find(key) != nullptr) return true;
    problems_.add(table_, in_ticks(prefix_ + std::string(key)) + " is missing");
    return false;
  }

  std::string required_text(std::string_view key) {
    if (!required(key)) return {};
    std::string value = text(key);
    if (value.empty() && find(key)->is_string()) problem(key, "must not be empty");
    return value;
  }

  std::optional<double> number(std::string_view key) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    if (!node->is_number()) {
      wrong_type(key, *node, "a number");
      return std::nullopt;
    }
    const auto value = node->value<double>();
    if (!value || !std::isfinite(*value)) {
      problem(key, "must be finite");
      return std::nullopt;
    }
    return value;
  }

  Names texts(std::string_view key) {
    Names result;
    const toml::node* node = find(key);
    if (node == nullptr) return result;
    const toml::array* array = node->as_array();
    if (array == nullptr) {
      wrong_type(key, *node, "an array of strings");
      return result;
    }
    for (const toml::node& element : *array) {
      const auto value = element.value_exact<std::string>();
      if (!value) {
        wrong_type(key, element, "an array of strings");
      } else if (value->empty() || !is_printable(*value)) {
        problems_.add(element, in_ticks(prefix_ + std::string(key)) +
                                   " must not hold empty strings or control characters");
      } else if (contains(result, *value)) {
        problems_.add(element, in_ticks(prefix_ + std::string(key)) + " holds " + in_ticks(*value) +
                                   " twice");
      } else {
        result.push_back(*value);
      }
    }
    return result;
  }

  /// `key` is there.
  void problem(std::string_view key, const std::string& text) {
    problems_.add(*find(key), in_ticks(prefix_ + std::string(key)) + " " + text);
  }

 private:
  void wrong_type(std::string_view key, const toml::node& node, std::string_view expected) {
    problems_.add(node, in_ticks(prefix_ + std::string(key)) + " holds " +
                            std::string(type_of(node)) + ", expected " + std::string(expected));
  }

  const toml::table& table_;
  std::string prefix_;
  Problems& problems_;
};

bool is_number(ParameterType type) {
  return type == ParameterType::integer || type == ParameterType::floating;
}

/// Checks a default against its own parameter.
class DefaultReader {
 public:
  DefaultReader(const Parameter& parameter, Problems& problems)
      : parameter_(parameter),
        problems_(problems),
        name_("parameters." + parameter.key + ".default") {}

  /// One element, the default, or none after noting a problem.
  toml::array read(const toml::node& node) {
    toml::array result;
    if (!parameter_.list) {
      append(node, result);
      return result;
    }
    const toml::array* elements = node.as_array();
    if (elements == nullptr) {
      problem(node, "holds " + std::string(type_of(node)) + ", expected an array");
      return result;
    }
    toml::array list;
    for (const toml::node& element : *elements) append(element, list);
    result.push_back(std::move(list));
    return result;
  }

 private:
  void problem(const toml::node& node, const std::string& text) {
    problems_.add(node, in_ticks(name_) + " " + text);
  }

  bool expect(bool right, const toml::node& node, std::string_view expected) {
    if (!right) {
      problem(node, "holds " + std::string(type_of(node)) + ", expected " + std::string(expected));
    }
    return right;
  }

  void append(const toml::node& node, toml::array& to) {
    switch (parameter_.type) {
      case ParameterType::boolean:
        if (expect(node.is_boolean(), node, "a boolean")) to.push_back(*node.as_boolean());
        break;
      case ParameterType::integer:
        if (expect(node.is_integer(), node, "an integer")) {
          check_range(node);
          to.push_back(*node.as_integer());
        }
        break;
      case ParameterType::floating:
        if (expect(node.is_number(), node, "a number")) {
          check_range(node);
          to.push_back(node.value_or(0.0));
        }
        break;
      case ParameterType::string:
      case ParameterType::choice:
      case ParameterType::path:
        if (expect(node.is_string(), node, "a string")) {
          check_text(node);
          to.push_back(*node.as_string());
        }
        break;
      case ParameterType::scheduler:
        if (expect(node.is_table(), node, "a table { plugin = ... }")) {
          check_scheduler(*node.as_table());
          to.push_back(*node.as_table());
        }
        break;
      case ParameterType::optimizer:
        if (expect(node.is_table(), node, "a table { name = ... }")) {
          check_optimizer(*node.as_table());
          to.push_back(*node.as_table());
        }
        break;
    }
  }

  void check_range(const toml::node& node) {
    const double value = node.value_or(0.0);
    const auto& [minimum, maximum] = std::pair(parameter_.minimum, parameter_.maximum);
    const auto out = [&](const std::string& must) {
      problem(node, "is " + text_of(value) + ", must be " + must);
    };
    if (std::isnan(value)) out("a number");
    if (minimum && parameter_.minimum_exclusive && value <= *minimum) {
      out("greater than " + text_of(*minimum));
    } else if (minimum && value < *minimum) {
      out("at least " + text_of(*minimum));
    }
    if (maximum && parameter_.maximum_exclusive && value >= *maximum) {
      out("less than " + text_of(*maximum));
    } else if (maximum && value > *maximum) {
      out("at most " + text_of(*maximum));
    }
  }

  void check_text(const toml::node& node) {
    const std::string value = node.value_or(std::string());
    if (!is_printable(value)) problem(node, "must not hold control characters");
    if (parameter_.type != ParameterType::choice || contains(parameter_.choices, value)) return;
    problem(node, "is " + in_ticks(value) + ", must be one of " + list_of(parameter_.choices));
  }

  void check_scheduler(const toml::table& table) {
    TableReader reader(table, name_ + ".", problems_);
    const std::string plugin = reader.required_text("plugin");
    if (!plugin.empty() && !is_identifier(plugin, '-')) {
      reader.problem("plugin", "is " + in_ticks(plugin) + ", which cannot be a plugin's name");
    }
  }

  void check_optimizer(const toml::table& table) {
    TableReader reader(table, name_ + ".", problems_);
    const std::string name = reader.required_text("name");
    if (name.empty()) return;
    if (!contains(kOptimizers, name)) {
      reader.problem("name", "is " + in_ticks(name) + ", must be one of " + list_of(kOptimizers));
      return;
    }
    reader.require_known(name == "sgd" ? kSgdKeys : kAdamKeys);
    reader.get<bool>("nesterov", "a boolean");
    for (const char* key : {"momentum", "weight_decay", "beta1", "beta2", "epsilon"}) {
      reader.number(key);
    }
  }

  const Parameter& parameter_;
  Problems& problems_;
  std::string name_;
};

class ParameterReader {
 public:
  ParameterReader(const std::string& key, const toml::table& table, Problems& problems)
      : table_(table), problems_(problems), reader_(table, "parameters." + key + ".", problems) {
    parameter_.key = key;
  }

  Parameter read() {
    reader_.require_known(kParameterKeys);
    parameter_.unit = reader_.text("unit");
    parameter_.help = reader_.text("help", /*line_feeds_allowed=*/true);
    if (!read_type()) return parameter_;  // nothing else can be judged without it
    parameter_.list = reader_.get<bool>("list", "a boolean").value_or(false);
    parameter_.optional = reader_.get<bool>("optional", "a boolean").value_or(false);
    parameter_.must_exist = reader_.get<bool>("must_exist", "a boolean").value_or(false);
    const ParameterType type = parameter_.type;
    if (parameter_.list && (type == ParameterType::boolean || type == ParameterType::scheduler ||
                            type == ParameterType::optimizer)) {
      reader_.problem("list", "does not go with type " + in_ticks(to_string(type)));
    }
    if (reader_.find("must_exist") != nullptr && type != ParameterType::path) {
      reader_.problem("must_exist", "goes with type `path` only");
    }
    read_choices();
    read_range();
    if (const toml::node* value = reader_.find("default")) {
      if (parameter_.optional) {
        reader_.problem("default", "does not go with `optional`: what is left out has no value");
      }
      parameter_.default_value = DefaultReader(parameter_, problems_).read(*value);
    }
    return parameter_;
  }

 private:
  bool read_type() {
    if (!reader_.required("type")) return false;
    const std::string name = reader_.text("type");
    const auto* found = std::find(std::begin(kTypeNames), std::end(kTypeNames), name);
    if (found == std::end(kTypeNames)) {
      const Names names(std::begin(kTypeNames), std::end(kTypeNames));
      if (reader_.find("type")->is_string()) {
        reader_.problem("type", "is " + in_ticks(name) + ", must be one of " + list_of(names));
      }
      return false;
    }
    parameter_.type = static_cast<ParameterType>(found - std::begin(kTypeNames));
    return true;
  }

  void read_choices() {
    parameter_.choices = reader_.texts("choices");
    if (reader_.find("choices") == nullptr) {
      if (parameter_.type == ParameterType::choice) {
        reader_.problem("type", "is `choice`, which needs `choices = [\"...\"]`");
      }
    } else if (parameter_.type != ParameterType::choice) {
      reader_.problem("choices", "goes with type `choice` only");
    } else if (parameter_.choices.empty()) {
      reader_.problem("choices", "must not be empty");
    }
  }

  void read_range() {
    std::tie(parameter_.minimum, parameter_.minimum_exclusive) =
        read_bound("minimum", "exclusive_minimum");
    std::tie(parameter_.maximum, parameter_.maximum_exclusive) =
        read_bound("maximum", "exclusive_maximum");
    if (!parameter_.minimum || !parameter_.maximum) return;
    const bool open = parameter_.minimum_exclusive || parameter_.maximum_exclusive;
    if (*parameter_.minimum > *parameter_.maximum ||
        (open && *parameter_.minimum == *parameter_.maximum)) {
      problems_.add(table_, in_ticks("parameters." + parameter_.key) +
                                " has an empty range: its minimum is " +
                                text_of(*parameter_.minimum) + ", its maximum " +
                                text_of(*parameter_.maximum));
    }
  }

  std::pair<std::optional<double>, bool> read_bound(std::string_view inclusive,
                                                    std::string_view exclusive) {
    for (const std::string_view key : {inclusive, exclusive}) {
      if (reader_.find(key) != nullptr && !is_number(parameter_.type)) {
        reader_.problem(key, "goes with types `integer` and `float` only");
        return {};
      }
    }
    const auto closed = reader_.number(inclusive);
    const auto open = reader_.number(exclusive);
    if (closed && open) reader_.problem(exclusive, "excludes " + in_ticks(inclusive));
    return {closed ? closed : open, open && !closed};
  }

  const toml::table& table_;
  Problems& problems_;
  TableReader reader_;
  Parameter parameter_;
};

std::vector<Parameter> read_parameters(const toml::table& table, Problems& problems) {
  std::vector<std::pair<toml::source_position, Parameter>> found;
  for (const auto& [toml_key, node] : table) {
    const std::string key(toml_key.str());
    if (!is_identifier(key, '_')) {
      problems.add(toml_key.source(),
                   "a parameter is called " + in_ticks(key) + ", expected [a-z][a-z0-9_]*");
    } else if (contains(kReservedKeys, key)) {
      problems.add(toml_key.source(),
                   "a parameter is called " + in_ticks(key) + ", which is a key of the host's own");
    } else if (const toml::table* description = node.as_table()) {
      found.emplace_back(toml_key.source().begin,
                         ParameterReader(key, *description, problems).read());
    } else {
      problems.add(node, in_ticks("parameters." + key) + " holds " + std::string(type_of(node)) +
                             ", expected a table");
    }
  }
  // The author's order, which TOML tables forget.
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Parameter> parameters;
  for (auto& [position, parameter] : found) parameters.push_back(std::move(parameter));
  return parameters;
}

void read_augmentation(const toml::node& node, Manifest& manifest, Problems& problems) {
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    problems.add(node, "`augmentation` holds " + std::string(type_of(node)) + ", expected a table");
    return;
  }
  if (manifest.kind != Kind::dataset) {
    problems.add(node, "`augmentation` goes with kind `dataset` only");
    return;
  }
  TableReader reader(*table, "augmentation.", problems);
  reader.require_known(kAugmentationKeys);
  manifest.horizontal_flip = reader.get<bool>("horizontal_flip", "a boolean").value_or(false);
  manifest.crop_padding = reader.get<std::int64_t>("crop_padding", "an integer").value_or(0);
  manifest.crop_image_size = reader.get<std::int64_t>("image_size", "an integer").value_or(0);
  for (const auto& [key, value] : {std::pair{"crop_padding", manifest.crop_padding},
                                   std::pair{"image_size", manifest.crop_image_size}}) {
    if (value < 0) reader.problem(key, "is " + std::to_string(value) + ", must be at least 0");
  }
}

}  // namespace

std::string_view to_string(Kind kind) {
  return kKindNames[static_cast<std::size_t>(kind)];
}

std::optional<Kind> kind_from(std::string_view text) {
  for (const Kind kind : kKinds) {
    if (to_string(kind) == text) return kind;
  }
  return std::nullopt;
}

std::string_view to_string(ParameterType type) {
  return kTypeNames[static_cast<std::size_t>(type)];
}

std::optional<std::pair<unsigned, unsigned>> major_minor(std::string_view version) {
  std::pair<unsigned, unsigned> result;
  const char* end = version.data() + version.size();
  const auto [dot, no_major] = std::from_chars(version.data(), end, result.first);
  if (no_major != std::errc() || dot == end || *dot != '.') return std::nullopt;
  const auto [rest, no_minor] = std::from_chars(dot + 1, end, result.second);
  if (no_minor != std::errc()) return std::nullopt;
  return result;
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  Problems problems(where);
  const std::string hint = "correct the plugin's manifest and build it again";
  const toml::table table = parse_toml(text, problems);
  problems.throw_if_any(hint);

  TableReader reader(table, "", problems);
  reader.require_known(kManifestKeys);
  Manifest manifest;
  manifest.name = reader.required_text("name");
  if (!manifest.name.empty() && !is_identifier(manifest.name, '-')) {
    reader.problem("name", "is " + in_ticks(manifest.name) + ", expected [a-z][a-z0-9-]*");
  }
  const std::string kind_name = reader.required_text("kind");
  const auto kind = kind_from(kind_name);
  manifest.kind = kind.value_or(Kind::attack);
  if (!kind_name.empty() && !kind) {
    reader.problem("kind", "is " + in_ticks(kind_name) +
                               ", must be one of attack, defense, scheduler, dataset");
  }
  manifest.version = reader.required_text("version");
  manifest.summary = reader.required_text("summary");
  manifest.license = reader.required_text("license");
  manifest.reference = reader.text("reference");
  manifest.needs = reader.texts("needs");
  for (const std::string& need : manifest.needs) {
    if (!contains(kNeeds, need)) {
      reader.problem("needs", "holds " + in_ticks(need) + ", which this host does not know" +
                                  did_you_mean(need, kNeeds));
    }
  }
  if (const toml::node* parameters = reader.find("parameters")) {
    if (const toml::table* all = parameters->as_table()) {
      manifest.parameters = read_parameters(*all, problems);
    } else {
      problems.add(*parameters, "`parameters` holds " + std::string(type_of(*parameters)) +
                                    ", expected a table");
    }
  }
  if (reader.find("poisons") != nullptr && kind != Kind::attack) {
    reader.problem("poisons", "goes with kind `attack` only");
  }
  manifest.poisons = reader.get<bool>("poisons", "a boolean").value_or(true);
  if (const toml::node* augmentation = reader.find("augmentation"); augmentation && kind) {
    read_augmentation(*augmentation, manifest, problems);
  }
  problems.throw_if_any(hint);
  return manifest;
}

BuildFacts parse_build_facts(std::string_view text, const std::string& where) {
  Problems problems(where);
  const std::string hint = "build the plugin again with backstop_add_plugin()";
  const toml::table table = parse_toml(text, problems);
  problems.throw_if_any(hint);

  // Unknown keys pass: a newer SDK may record more than this host asks for.
  TableReader reader(table, "", problems);
  BuildFacts facts;
  facts.abi = reader.required_text("abi");
  facts.torch = reader.required_text("torch");
  facts.sanitizer = reader.required_text("sanitizer");
  facts.compiler = reader.required_text("compiler");
  if (!facts.abi.empty() && !major_minor(facts.abi)) {
    reader.problem("abi", "is " + in_ticks(facts.abi) + ", expected MAJOR.MINOR");
  }
  if (!facts.torch.empty() && !major_minor(facts.torch)) {
    reader.problem("torch", "is " + in_ticks(facts.torch) + ", expected MAJOR.MINOR.PATCH");
  }
  if (reader.required("cxx11_abi")) {
    const auto value = reader.get<std::int64_t>("cxx11_abi", "0 or 1");
    facts.cxx11_abi = value.value_or(0) != 0;
  }
  if (reader.required("glibcxx_debug")) {
    facts.glibcxx_debug = reader.get<bool>("glibcxx_debug", "a boolean").value_or(false);
  }
  problems.throw_if_any(hint);
  return facts;
}

const BuildFacts& own_build_facts() {
  static const BuildFacts facts = parse_build_facts(BACKSTOP_BUILD_FACTS, "backstop");
  return facts;
}

}  // namespace backstop::catalog
