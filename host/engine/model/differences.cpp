#include "host/engine/model/differences.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/base/text.hpp"

namespace backstop::engine {

namespace {

/// A word of a tensor's name, in the common spelling.
struct Word {
  std::string text;
  std::size_t end;  ///< where it ends in the name as it is written
};

bool is_number(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

std::vector<Word> words_of(std::string_view name) {
  constexpr std::size_t kMost = 8;  // no network is nested as deeply
  std::vector<Word> words;
  std::size_t begin = 0;
  while (words.size() < kMost) {
    const std::size_t dot = words.size() + 1 < kMost ? name.find('.', begin) : name.npos;
    const std::size_t end = std::min(dot, name.size());
    words.push_back({std::string(name.substr(begin, end - begin)), end});
    if (dot == name.npos) break;
    begin = dot + 1;
  }
  return words;
}

/// Makes one word of two.
void join(std::vector<Word>& words, std::size_t first, std::string_view text) {
  words[first] = {std::string(text), words[first + 1].end};
  words.erase(words.begin() + static_cast<std::ptrdiff_t>(first) + 1);
}

constexpr std::string_view kHead = "fc";

std::vector<Word> common_words(std::string_view name) {
  std::vector<Word> words = words_of(name);
  // A stem that is a sequence, a head that comes after a dropout.
  if (words.size() == 3 && is_one_of(words[0].text, {"conv1", "stem"})) {
    if (is_one_of(words[1].text, {"0", "conv"}))
      join(words, 0, "conv1");
    else if (is_one_of(words[1].text, {"1", "bn"}))
      join(words, 0, "bn1");
  }
  if (is_one_of(words[0].text, {"fc", "linear", "classifier", "head", "last_linear"})) {
    if (words.size() == 2) words[0].text = kHead;
    if (words.size() == 3 && is_number(words[1].text)) join(words, 0, kHead);
  }
  std::string& stage = words[0].text;
  if (stage.size() == 7 && stage.starts_with("conv") && stage.ends_with("_x") && stage[4] >= '2' &&
      stage[4] <= '5')
    stage = std::string("layer") + static_cast<char>(stage[4] - 1);
  for (std::size_t i = 1; i < words.size(); ++i) {
    if (words[i].text == "downsample") words[i].text = "shortcut";
    if (words[i].text == "residual_function" && i + 1 < words.size()) {
      // A sequence with a ReLU after all but the last normalization.
      constexpr std::array<std::string_view, 8> kParts{"conv1", "bn1", "",      "conv2",
                                                       "bn2",   "",    "conv3", "bn3"};
      const std::string& part = words[i + 1].text;
      const auto index = part.size() == 1 ? static_cast<std::size_t>(part[0] - '0') : kParts.size();
      if (index < kParts.size() && !kParts[index].empty()) join(words, i, kParts[index]);
    }
  }
  return words;
}

std::string text_of(const std::vector<std::int64_t>& shape) {
  constexpr std::size_t kMost = 6;
  if (shape.size() > kMost) return fmt::format("of {} dimensions", shape.size());
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// A word of names: what file and network have below it.
struct Node {
  std::vector<std::pair<std::string, std::unique_ptr<Node>>> parts;  ///< in order of appearance
  std::map<std::string, Node*> part_named;         ///< a hash table could be filled with collisions
  std::optional<std::string> in_file, in_network;  ///< the name up to here, if it occurs there
  const TensorShape* file = nullptr;
  const TensorShape* network = nullptr;

  Node& part(const std::string& word) {
    Node*& found = part_named[word];
    if (found == nullptr) found = parts.emplace_back(word, std::make_unique<Node>()).second.get();
    return *found;
  }
  [[nodiscard]] const Node* find(const std::string& word) const {
    const auto found = part_named.find(word);
    return found == part_named.end() ? nullptr : found->second;
  }
  [[nodiscard]] bool is_tensor() const { return file != nullptr || network != nullptr; }
};

void insert(Node& root, const std::vector<Word>& words, const TensorShape& tensor,
            const TensorShape* Node::*side, std::optional<std::string> Node::*name) {
  Node* node = &root;
  for (const Word& word : words) {
    node = &node->part(word.text);
    if (!(node->*name)) node->*name = tensor.name.substr(0, word.end);
  }
  node->*side = &tensor;
}

/// Puts into words what differs, one sentence for what is missing or superfluous as a whole and one
/// for a layer.
class Teller {
 public:
  explicit Teller(Differences& result) : result_(result) {}

  void tell(const Node& node) {
    const bool sequence = std::all_of(node.parts.begin(), node.parts.end(),
                                      [](const auto& item) { return is_number(item.first); });
    const bool lengths_differ = sequence && tell_lengths(node);
    tell_tensors(node);
    for (const auto& [word, part] : node.parts) {
      if (part->is_tensor()) {
        if (!part->parts.empty()) tell(*part);
      } else if (part->in_file && part->in_network) {
        tell(*part);
      } else if (!lengths_differ) {
        result_.add(part->in_file ? superfluous(*part) : missing(*part));
      }
    }
  }

 private:
  static std::string shown(const std::string& name) {
    return name.empty() ? "a tensor without a name" : base::shortened(name);
  }
  static std::string missing(const Node& node) { return shown(*node.in_network) + " is missing"; }
  static std::string superfluous(const Node& node) {
    return shown(*node.in_file) + " is not part of the network";
  }

  /// Whether a sequence, such as a stage, has another length.
  bool tell_lengths(const Node& node) {
    std::size_t in_file = 0, in_network = 0;
    bool nested = false;
    for (const auto& [word, part] : node.parts) {
      in_file += part->in_file ? 1U : 0U;
      in_network += part->in_network ? 1U : 0U;
      nested = nested || std::none_of(part->parts.begin(), part->parts.end(),
                                      [](const auto& item) { return item.second->is_tensor(); });
    }
    if (in_file == in_network || !node.in_file) return false;
    result_.add(fmt::format("{} has {}, not {}", shown(*node.in_file),
                            base::count_of(in_file, nested ? "block" : "layer"), in_network));
    return true;
  }

  void tell_tensors(const Node& layer) {
    const Node* weight = layer.find("weight");
    if (weight != nullptr && weight->file != nullptr && weight->network != nullptr &&
        tell_weights(layer, *weight))
      return;
    for (const auto& [word, part] : layer.parts) {
      if (!part->is_tensor()) continue;
      const bool is_bias = word == "bias" && layer.in_file && layer.in_network;
      if (part->file == nullptr)
        result_.add(is_bias ? shown(*layer.in_file) + " has no bias" : missing(*part));
      else if (part->network == nullptr)
        result_.add(is_bias ? shown(*layer.in_file) + " has a bias" : superfluous(*part));
      else if (part->file->shape != part->network->shape)
        tell_shapes(*part);
    }
  }

  /// Whether the weights differ in shape.
  bool tell_weights(const Node& layer, const Node& weight) {
    const auto &found = weight.file->shape, &expected = weight.network->shape;
    const std::string name = shown(*layer.in_file);
    if (found == expected) return false;
    const bool is_head = common_name(weight.file->name) == std::string(kHead) + ".weight";
    if (found.size() != expected.size()) {
      tell_shapes(weight);
    } else if (found.size() == 4 && (found[2] != expected[2] || found[3] != expected[3])) {
      result_.add(fmt::format("{} is {}x{}, not {}x{}", name, found[2], found[3], expected[2],
                              expected[3]));
    } else if (found.size() == 2 && is_head) {
      if (found[0] != expected[0]) {
        result_.classes = found[0];
        result_.add(fmt::format("the file has {} classes, not {}", found[0], expected[0]));
      }
      if (found[1] != expected[1])
        result_.add(fmt::format("{} takes {} features, not {}", name, found[1], expected[1]));
    } else if (found.size() == 1 || (found.size() == 4 && found[0] != expected[0])) {
      result_.add(fmt::format("{} has {} channels, not {}", name, found[0], expected[0]));
    } else if (found.size() == 4) {
      result_.add(fmt::format("{} takes {} channels, not {}", name, found[1], expected[1]));
    } else if (found.size() == 2) {
      const std::size_t side = found[0] != expected[0] ? 0 : 1;
      result_.add(fmt::format("{} has {} {}, not {}", name, found[side],
                              side == 0 ? "outputs" : "inputs", expected[side]));
    } else {
      tell_shapes(weight);
    }
    return true;
  }

  void tell_shapes(const Node& tensor) {
    result_.add(fmt::format("{} is {}, not {}", shown(tensor.file->name),
                            text_of(tensor.file->shape), text_of(tensor.network->shape)));
  }

  Differences& result_;
};

}  // namespace

void Differences::add(std::string phrase) {
  if (phrases.size() < kNamedDifferences) phrases.push_back(std::move(phrase));
  ++all;
}

std::string common_name(std::string_view name) {
  const std::vector<Word> words = common_words(name);
  std::string result = words[0].text;
  for (std::size_t i = 1; i < words.size(); ++i) result += '.' + words[i].text;
  return result;
}

Differences differences(const std::vector<TensorShape>& file,
                        const std::vector<TensorShape>& network) {
  Differences result;
  std::unordered_map<std::string, const TensorShape*> wanted;
  for (const TensorShape& tensor : network) wanted.emplace(common_name(tensor.name), &tensor);

  std::vector<const TensorShape*> found, superfluous;
  std::size_t same = 0;
  for (const TensorShape& tensor : file) {
    const auto match = wanted.find(common_name(tensor.name));
    if (match == wanted.end() || match->second == nullptr) {
      if (!is_batch_counter(tensor.name)) superfluous.push_back(&tensor);
      continue;
    }
    const TensorShape& counterpart = *match->second;
    match->second = nullptr;  // taken
    if (tensor.name != counterpart.name) result.names.emplace(tensor.name, counterpart.name);
    if (is_batch_counter(tensor.name)) continue;
    found.push_back(&tensor);
    if (tensor.shape == counterpart.shape) ++same;
  }
  const auto needed = static_cast<std::size_t>(
      std::count_if(network.begin(), network.end(),
                    [](const TensorShape& tensor) { return !is_batch_counter(tensor.name); }));
  if (same == needed && superfluous.empty()) return result;

  Node root;
  for (const TensorShape& tensor : network)
    if (!is_batch_counter(tensor.name))
      insert(root, common_words(tensor.name), tensor, &Node::network, &Node::in_network);
  for (const TensorShape* tensor : found)
    insert(root, common_words(tensor->name), *tensor, &Node::file, &Node::in_file);
  Teller teller(result);
  Node others;
  for (const TensorShape* tensor : superfluous) {
    // One that has the meaning of another keeps its own name.
    const bool taken = wanted.contains(common_name(tensor->name));
    insert(taken ? others : root, taken ? words_of(tensor->name) : common_words(tensor->name),
           *tensor, &Node::file, &Node::in_file);
  }
  teller.tell(root);
  teller.tell(others);
  return result;
}

}  // namespace backstop::engine
