#include "host/engine/formats/state_dict.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string_view>
#include <unordered_set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/base/text.hpp"
#include "host/engine/formats/recognize.hpp"

namespace backstop::engine {

namespace {

using NodeId = Pickle::NodeId;
using Kind = Pickle::Kind;

constexpr std::string_view kWrappers[] = {
    "state_dict", "model_state_dict", "model_state",   "model",       "net",    "network",
    "module",     "best_state_dict",  "best_model",    "state_dicts", "params", "weights",
    "ema",        "model_ema",        "state_dict_ema"};
/// Parts of keys that are never looked into: optimizers keep tensors for each weight.
constexpr std::string_view kNeverWeights[] = {"optim", "sched", "scaler", "callbacks", "loops"};
constexpr std::string_view kPrefixes[] = {"module.", "_orig_mod.", "model.", "net.", "backbone."};

// SECURITY.md states these bounds.
constexpr int kDeepest = 5;
constexpr std::size_t kMostTensors = 100'000;
constexpr std::size_t kMostVisits = 1'000'000;
constexpr int kDeepestModule = 64;
constexpr std::size_t kMostWords = 40;  ///< entries of `rest`

/// Takes off what all names begin with, again and again. An empty name would be none.
std::string take_prefix(std::vector<std::pair<std::string, NodeId>>& tensors) {
  std::string taken;
  while (true) {
    const auto* prefix = std::find_if(
        std::begin(kPrefixes), std::end(kPrefixes), [&](const std::string_view candidate) {
          return std::all_of(tensors.begin(), tensors.end(), [&](const auto& tensor) {
            return tensor.first.size() > candidate.size() && tensor.first.starts_with(candidate);
          });
        });
    if (tensors.empty() || prefix == std::end(kPrefixes)) return taken;
    taken += *prefix;
    for (auto& tensor : tensors) tensor.first.erase(0, prefix->size());
  }
}

/// One or three numbers, such as Python programs keep beside their weights.
std::optional<std::array<double, 3>> constants(const Pickle& pickle, std::optional<NodeId> node) {
  if (!node) return std::nullopt;
  const auto& items = pickle.items_of(*node);
  const Kind kind = pickle[*node].kind;
  if ((kind != Kind::list && kind != Kind::tuple) || (items.size() != 1 && items.size() != 3))
    return std::nullopt;
  std::array<double, 3> values{};
  for (std::size_t c = 0; c < values.size(); ++c) {
    const auto& number = pickle[items[items.size() == 1 ? 0 : c]];
    if (number.kind != Kind::real && number.kind != Kind::integer) return std::nullopt;
    values[c] = number.kind == Kind::real ? number.real : static_cast<double>(number.integer);
    if (!std::isfinite(values[c]) || std::abs(values[c]) > 1e6) return std::nullopt;
  }
  return values;
}

class Finder {
 public:
  Finder(const Pickle& pickle, const InputFile& file) : pickle_(pickle), file_(file) {}

  FoundWeights find() {
    const auto path = search(pickle_.root, 0);
    if (!path) refuse_without_weights();
    FoundWeights found;
    std::vector<std::string> keys;
    NodeId node = pickle_.root;
    for (const Step& step : *path) {
      describe_others(node, step.child, fmt::format("{}", fmt::join(keys, ".")));
      keys.push_back(step.name);
      node = step.child;
    }
    found.location = fmt::format("{}", fmt::join(keys, "."));
    take(node, found);
    found.prefix = take_prefix(found.tensors);
    read_facts(found.facts);
    found.rest = std::move(rest_);
    if (unsaid_ > 0) found.rest.push_back(fmt::format("and {} more", unsaid_));
    return found;
  }

 private:
  struct Step {
    std::string name;
    NodeId child;
  };
  using Path = std::vector<Step>;

  static std::string name_of(std::string_view key) { return base::printable(base::shortened(key)); }

  /// The entries of a dictionary with texts as keys, or the first items of a list.
  [[nodiscard]] std::vector<std::pair<std::string_view, NodeId>> children(NodeId node) const {
    static constexpr std::string_view kPlaces[] = {"0", "1", "2", "3", "4", "5", "6", "7"};
    std::vector<std::pair<std::string_view, NodeId>> all;
    const auto& items = pickle_.items_of(node);
    const Kind kind = pickle_[node].kind;
    if (kind == Kind::dictionary)
      for (std::size_t i = 0; i + 1 < items.size(); i += 2)
        if (pickle_[items[i]].kind == Kind::text)
          all.emplace_back(pickle_.text(items[i]), items[i + 1]);
    if (kind == Kind::list || kind == Kind::tuple)
      for (std::size_t i = 0; i < std::min(items.size(), std::size(kPlaces)); ++i)
        all.emplace_back(kPlaces[i], items[i]);
    return all;
  }

  /// The way from `node` to the first state dict at or below it.
  std::optional<Path> search(NodeId node, int depth) {
    if (depth > kDeepest || !seen_.insert(node).second) return std::nullopt;
    const auto entries = children(node);
    const auto tensors = static_cast<std::size_t>(std::count_if(
        entries.begin(), entries.end(),
        [&](const auto& entry) { return pickle_[entry.second].kind == Kind::tensor; }));
    const bool dictionary = pickle_[node].kind == Kind::dictionary;
    if (dictionary && tensors > 0 && tensors == entries.size()) return Path{};
    for (const std::string_view wrapper : kWrappers)
      if (const auto child = pickle_.find(node, wrapper))
        if (auto path = step(std::string(wrapper), *child, depth)) return path;
    if (dictionary && tensors > 0 && 2 * tensors >= entries.size()) return Path{};
    for (const auto& [key, child] : entries)
      if (std::none_of(std::begin(kNeverWeights), std::end(kNeverWeights),
                       [&, name = key](const std::string_view word) {
                         return name.find(word) != std::string_view::npos;
                       }))
        if (auto path = step(name_of(key), child, depth)) return path;
    if (dictionary && tensors > 0) return Path{};
    return std::nullopt;
  }
  std::optional<Path> step(std::string name, NodeId child, int depth) {
    auto path = search(child, depth + 1);
    if (path) path->insert(path->begin(), Step{std::move(name), child});
    return path;
  }

  void take(NodeId node, FoundWeights& found) {
    std::unordered_set<std::string_view> names;
    for (const auto& [key, value] : children(node)) {
      if (!names.insert(key).second)
        file_.refuse(
            fmt::format("two entries of its state dict are called {}", shown(std::string(key))),
            kDamaged);
      if (pickle_[value].kind == Kind::tensor) {
        found.tensors.emplace_back(key, value);
      } else if (pickle_[value].kind == Kind::object &&
                 pickle_.text(value).find("_rebuild") != std::string_view::npos) {
        file_.refuse(fmt::format("{} is made by {}, which is not read", shown(std::string(key)),
                                 shown(std::string(pickle_.text(value)))),
                     "only dense tensors of floats, integers and booleans are read: in Python, "
                     "convert the model (`dequantize()`, `to_dense()`) and save it again");
      } else {
        describe(name_of(key), value);
      }
    }
    if (found.tensors.size() > kMostTensors)
      file_.refuse(fmt::format("it has more than {} tensors", kMostTensors), kDamaged);
  }

  // -- all the rest, in words --

  void describe_others(NodeId node, NodeId taken, const std::string& location) {
    for (const auto& [key, value] : children(node))
      if (value != taken)
        describe(location.empty() ? name_of(key) : location + "." + name_of(key), value);
  }

  void describe(const std::string& name, NodeId node) {
    if (rest_.size() < kMostWords)
      rest_.push_back(description(name, node));
    else
      ++unsaid_;
  }

  [[nodiscard]] std::string description(const std::string& name, NodeId node) const {
    if (const auto value = plain_value(node)) return fmt::format("{} = {}", name, *value);
    const auto& items = pickle_.items_of(node);
    switch (pickle_[node].kind) {
      case Kind::list:
      case Kind::tuple:
        if (!items.empty() && items.size() <= 4) {
          std::vector<std::string> values;
          for (const NodeId item : items)
            if (const auto value = plain_value(item)) values.push_back(*value);
          if (values.size() == items.size())
            return fmt::format("{} = ({})", name, fmt::join(values, ", "));
        }
        return fmt::format("{} ({}, skipped)", name, base::count_of(items.size(), "item"));
      case Kind::dictionary:
        return fmt::format("{} ({}, skipped)", name,
                           holds_tensors(node) ? "another state dict"
                           : items.size() == 2
                               ? "dictionary of 1 entry"
                               : fmt::format("dictionary of {} entries", items.size() / 2));
      case Kind::tensor:
        return name + " (tensor, skipped)";
      case Kind::object:
        return fmt::format("{} (object of {}, skipped)", name, name_of(pickle_.text(node)));
      default:
        return name + " (skipped)";
    }
  }
  [[nodiscard]] std::optional<std::string> plain_value(NodeId node) const {
    switch (pickle_[node].kind) {
      case Kind::none:
        return "None";
      case Kind::boolean:
        return pickle_[node].integer != 0 ? "True" : "False";
      case Kind::integer:
        return fmt::format("{}", pickle_[node].integer);
      case Kind::real:
        return fmt::format("{:.6g}", pickle_[node].real);
      case Kind::text:
        return fmt::format("\"{}\"", name_of(pickle_.text(node)));
      case Kind::global:
        return name_of(pickle_.text(node));
      default:
        return std::nullopt;
    }
  }
  [[nodiscard]] bool holds_tensors(NodeId node) const {
    const auto entries = children(node);
    return !entries.empty() && std::all_of(entries.begin(), entries.end(), [&](const auto& entry) {
      return pickle_[entry.second].kind == Kind::tensor;
    });
  }

  /// What BackdoorBench records, and constants of normalization as many programs do.
  void read_facts(ModelFacts& facts) const {
    const NodeId root = pickle_.root;
    if (const auto name = pickle_.find(root, "model_name")) {
      if (const auto classes = pickle_.find(root, "num_classes"))
        if (const auto& node = pickle_[*classes]; node.kind == Kind::integer && node.integer > 0)
          facts.classes = node.integer;
      // Its other networks have names of Backstop's, but are not the same.
      if (pickle_.is_text(*name, "preactresnet18")) facts.architecture = "preact-resnet18";
      if (const auto size = pickle_.find(root, "img_size"))
        if (const auto& items = pickle_.items_of(*size);
            items.size() == 3 && pickle_[items[2]].kind == Kind::integer &&
            (pickle_[items[2]].integer == 1 || pickle_[items[2]].integer == 3))
          facts.channels = pickle_[items[2]].integer;
    }
    const auto mean = constants(pickle_, pickle_.find(root, "mean")),
               deviation = constants(pickle_, pickle_.find(root, "std"));
    if (mean && deviation &&
        std::all_of(deviation->begin(), deviation->end(), [](double d) { return d > 1e-6; }))
      facts.normalization = Normalization{*mean, *deviation};
  }

  // -- nothing was found --

  [[nodiscard]] bool is_module(NodeId node) const {
    if (pickle_[node].kind != Kind::object) return false;
    for (const NodeId item : pickle_.items_of(node))
      if (pickle_.find(item, "_parameters") || pickle_.find(item, "_modules")) return true;
    return false;
  }
  [[noreturn]] void refuse_without_weights() const {
    const auto refuse_module = [&](const std::string& where, NodeId node) {
      file_.refuse(fmt::format("{} a whole module of class {}, which is Python code and not only "
                               "weights",
                               where, shown(std::string(pickle_.text(node)))),
                   kExport);
    };
    if (is_module(pickle_.root)) refuse_module("it holds", pickle_.root);
    std::vector<std::string> found;
    std::size_t looked_at = 0;
    for (const auto& [key, value] : children(pickle_.root)) {
      if (++looked_at > kMostWords) break;
      if (is_module(value)) refuse_module(shown(std::string(key)) + " is", value);
      if (found.size() < 5) found.push_back(shown(std::string(key)));
    }
    const Kind kind = pickle_[pickle_.root].kind;
    file_.refuse(fmt::format("it holds no state dict, a dictionary of names and tensors, but {}",
                             kind == Kind::dictionary && !found.empty()
                                 ? fmt::format("a dictionary with {}", fmt::join(found, ", "))
                             : kind == Kind::object
                                 ? "an object of " + shown(std::string(pickle_.text(pickle_.root)))
                             : kind == Kind::tensor ? "one tensor"
                                                    : "something else"),
                 kExport);
  }

  const Pickle& pickle_;
  const InputFile& file_;
  std::unordered_set<NodeId> seen_;
  std::vector<std::string> rest_;
  std::size_t unsaid_ = 0;  ///< what `rest_` has no place for
};

/// Follows the attributes of TorchScript's modules.
class Attributes {
 public:
  Attributes(const Pickle& pickle, const InputFile& file) : pickle_(pickle), file_(file) {}

  FoundWeights find() {
    visit(pickle_.root, "", 0);
    if (found_.tensors.empty()) file_.refuse("its module has no tensors", kExport);
    return std::move(found_);
  }

 private:
  void visit(NodeId module, const std::string& path, int depth) {
    if (depth > kDeepestModule)
      file_.refuse(fmt::format("its modules are nested more than {} deep", kDeepestModule),
                   kDamaged);
    for (const NodeId state : pickle_.items_of(module)) {
      if (pickle_[state].kind != Kind::dictionary) continue;
      const auto& entries = pickle_.items_of(state);
      for (std::size_t i = 0; i + 1 < entries.size(); i += 2) {
        if (++visits_ > kMostVisits)
          file_.refuse(fmt::format("its modules have more than {} attributes", kMostVisits),
                       kDamaged);
        const Kind kind = pickle_[entries[i + 1]].kind;
        if (pickle_[entries[i]].kind != Kind::text ||
            (kind != Kind::tensor && kind != Kind::object))
          continue;
        std::string name = path + std::string(pickle_.text(entries[i]));
        if (name.size() > kLongestPath)
          file_.refuse(fmt::format("an attribute has a path of more than {} bytes", kLongestPath),
                       kDamaged);
        if (kind == Kind::object)
          visit(entries[i + 1], name + ".", depth + 1);
        else if (!names_.insert(name).second)
          file_.refuse(fmt::format("two of its tensors are called {}", shown(name)), kDamaged);
        else if (names_.size() > kMostTensors)
          file_.refuse(fmt::format("it has more than {} tensors", kMostTensors), kDamaged);
        else
          found_.tensors.emplace_back(std::move(name), entries[i + 1]);
      }
    }
  }

  static constexpr std::size_t kLongestPath = 1000;

  const Pickle& pickle_;
  const InputFile& file_;
  FoundWeights found_;
  std::unordered_set<std::string> names_;
  std::size_t visits_ = 0;
};

}  // namespace

FoundWeights find_state_dict(const Pickle& pickle, const InputFile& file) {
  return Finder(pickle, file).find();
}

FoundWeights find_attributes(const Pickle& pickle, const InputFile& file) {
  return Attributes(pickle, file).find();
}

}  // namespace backstop::engine
