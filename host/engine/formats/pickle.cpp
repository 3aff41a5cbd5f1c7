#include "host/engine/formats/pickle.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include <fmt/format.h>

namespace backstop::engine {

namespace {

using NodeId = Pickle::NodeId;
using Kind = Pickle::Kind;
using Node = Pickle::Node;

// SECURITY.md states these bounds.
constexpr std::size_t kMostNodes = 4'000'000;
constexpr std::size_t kMostItems = 8'000'000;
constexpr std::size_t kLongestName = 1000;
constexpr std::size_t kMostNames = 16u << 20;  // bytes of all names
constexpr int kHighestProtocol = 5;

constexpr std::pair<std::string_view, ElementType> kStorages[] = {
    {"FloatStorage", ElementType::float32},
    {"DoubleStorage", ElementType::float64},
    {"HalfStorage", ElementType::float16},
    {"BFloat16Storage", ElementType::bfloat16},
    {"LongStorage", ElementType::int64},
    {"IntStorage", ElementType::int32},
    {"ShortStorage", ElementType::int16},
    {"CharStorage", ElementType::int8},
    {"ByteStorage", ElementType::uint8},
    {"BoolStorage", ElementType::boolean},
    {"ComplexFloatStorage", ElementType::complex64},
    {"ComplexDoubleStorage", ElementType::complex128},
};

/// "torch.FloatStorage" or "torch.cuda.FloatStorage".
std::optional<ElementType> type_of_storage(std::string_view name) {
  if (!name.starts_with("torch.")) return std::nullopt;
  for (const auto& entry : kStorages)
    if (name.substr(name.rfind('.') + 1) == entry.first) return entry.second;
  return std::nullopt;
}

bool is_dictionary(std::string_view name) {
  return name == "collections.OrderedDict" || name == "collections.defaultdict" ||
         name == "builtins.dict" || name == "__builtin__.dict";
}

bool is_set(std::string_view name) {
  return name == "builtins.set" || name == "__builtin__.set" || name == "builtins.frozenset" ||
         name == "__builtin__.frozenset";
}

class Machine {
 public:
  explicit Machine(std::string bytes) { tree_.bytes = std::move(bytes); }

  Pickle run() {
    while (true) {
      const std::uint64_t start = at_;
      const std::uint8_t code = byte();
      if (code == '.') break;
      step(code, start);
    }
    if (stack_.size() != 1 || !marks_.empty()) fail("ends with more than one object");
    tree_.root = stack_.back();
    tree_.size = at_;
    return std::move(tree_);
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw PickleError(fmt::format("the pickle {}, at byte {}", why, at_), false);
  }

  // -- the bytes --

  std::string_view take(std::uint64_t count) {
    if (count > tree_.bytes.size() - at_)
      throw PickleError(fmt::format("the pickle is cut off after {} bytes", tree_.bytes.size()),
                        true);
    const std::string_view part = std::string_view(tree_.bytes).substr(at_, count);
    at_ += count;
    return part;
  }
  std::uint8_t byte() { return static_cast<std::uint8_t>(take(1).front()); }
  std::uint64_t number(int bytes) {
    const std::string_view part = take(static_cast<std::uint64_t>(bytes));
    std::uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; --i)
      value = value << 8 | static_cast<std::uint8_t>(part[static_cast<std::size_t>(i)]);
    return value;
  }
  std::string_view line() {
    const std::size_t end = tree_.bytes.find('\n', at_);
    // A name that is too long is no reason to look for more bytes.
    if (std::min(end, tree_.bytes.size()) - at_ > kLongestName)
      fail(fmt::format("has a name of more than {} bytes", kLongestName));
    const std::string_view text = take(std::min(end, tree_.bytes.size()) - at_);
    take(1);
    return text;
  }

  // -- the tree --

  NodeId add(Node node) {
    if (tree_.nodes.size() == kMostNodes) fail(fmt::format("has more than {} objects", kMostNodes));
    tree_.nodes.push_back(node);
    return static_cast<NodeId>(tree_.nodes.size() - 1);
  }
  NodeId add(Kind kind) { return add(Node{kind, 0, {}}); }
  NodeId add_integer(std::int64_t value, Kind kind = Kind::integer) {
    Node node{kind, 0, {}};
    node.integer = value;
    return add(node);
  }
  NodeId add_text(Kind kind, std::uint64_t size) {
    Node node{kind, 0, {}};
    const std::uint64_t begin = at_;
    take(size);
    node.text = {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(size)};
    return add(node);
  }
  NodeId add_container(Kind kind, std::vector<NodeId> items) {
    count(items.size());
    Node node{kind, static_cast<std::uint32_t>(tree_.items.size()), {}};
    tree_.items.push_back(std::move(items));
    return add(node);
  }
  /// What may be looked at any number of times is counted each time, so that time has a bound, too.
  const std::vector<NodeId>& counted_items(NodeId id) {
    const auto& items = tree_.items_of(id);
    count(items.size());
    return items;
  }
  void count(std::size_t items) {
    items_ += items;
    if (items_ > kMostItems) fail(fmt::format("has more than {} items", kMostItems));
  }
  NodeId add_global(std::string_view module, std::string_view name) {
    const std::size_t begin = tree_.names.size();
    if (module.size() + name.size() + 1 > kMostNames - begin)
      fail(fmt::format("has more than {} bytes of names", kMostNames));
    tree_.names.append(module).append(".").append(name);
    Node node{Kind::global, 0, {}};
    node.text = {static_cast<std::uint32_t>(begin),
                 static_cast<std::uint32_t>(tree_.names.size() - begin)};
    return add(node);
  }
  NodeId add_object(NodeId maker, std::vector<NodeId> items) {
    const NodeId object = add_container(Kind::object, std::move(items));
    const bool named = tree_[maker].kind == Kind::global || tree_[maker].kind == Kind::object;
    tree_.nodes[object].text = named ? tree_[maker].text : Pickle::Span{0, 0};
    return object;
  }

  // -- the stack --

  void push(NodeId node) {
    if (stack_.size() == kMostNodes)
      fail(fmt::format("has more than {} objects waiting", kMostNodes));
    stack_.push_back(node);
  }
  NodeId pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back()))
      fail("has an instruction without its operand");
    const NodeId node = stack_.back();
    stack_.pop_back();
    return node;
  }
  NodeId pop(Kind kind) {
    const NodeId node = pop();
    if (tree_[node].kind != kind) fail("has an instruction with an operand of another kind");
    return node;
  }
  std::vector<NodeId> pop_many(std::size_t count) {
    std::vector<NodeId> nodes(count);
    for (std::size_t i = count; i > 0; --i) nodes[i - 1] = pop();
    return nodes;
  }
  std::vector<NodeId> pop_to_mark() {
    if (marks_.empty()) fail("has an instruction without its mark");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<NodeId> nodes(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return nodes;
  }

  /// Lists, sets and dictionaries are filled after they were made; so are objects that derive from
  /// them.
  void fill(Kind kind, const std::vector<NodeId>& items) {
    const NodeId container = pop();
    push(container);
    const Node& node = tree_[container];
    if (node.kind != kind && node.kind != Kind::object)
      fail("fills what is no container of this kind");
    if (kind == Kind::dictionary && items.size() % 2 != 0) fail("has a key without a value");
    count(items.size());
    auto& all = tree_.items[node.index];
    all.insert(all.end(), items.begin(), items.end());
  }

  void remember(std::uint64_t key) {
    const NodeId node = pop();
    push(node);
    if (key >= kMostNodes) fail(fmt::format("remembers more than {} objects", kMostNodes));
    if (key >= memory_.size()) memory_.resize(key + 1, kNothing);
    memory_[key] = node;
    ++remembered_;
  }
  void recall(std::uint64_t key) {
    if (key >= memory_.size() || memory_[key] == kNothing)
      fail(fmt::format("refers to object {}, which it has not made", key));
    push(memory_[key]);
  }

  // -- the instructions --

  void step(std::uint8_t code, std::uint64_t start) {
    switch (code) {
      case 0x80:  // PROTO
        if (const std::uint8_t protocol = byte(); protocol > kHighestProtocol)
          fail(fmt::format("has protocol {}; at most {} is known", protocol, kHighestProtocol));
        return;
      case 0x95:  // FRAME
        number(8);
        return;
      case '(':
        if (marks_.size() == kMostNodes) fail(fmt::format("has more than {} marks", kMostNodes));
        return marks_.push_back(stack_.size());
      case '0':  // POP
        if (!marks_.empty() && marks_.back() == stack_.size()) return marks_.pop_back();
        pop();
        return;
      case '1':  // POP_MARK
        pop_to_mark();
        return;
      case '2': {  // DUP
        const NodeId top = pop();
        push(top);
        return push(top);
      }
      case 'N':
        return push(add(Kind::none));
      case 0x88:
      case 0x89:
        return push(add_integer(code == 0x88, Kind::boolean));
      case 'K':
        return push(add_integer(static_cast<std::int64_t>(number(1))));
      case 'M':
        return push(add_integer(static_cast<std::int64_t>(number(2))));
      case 'J':
        return push(add_integer(static_cast<std::int32_t>(number(4))));
      case 0x8a:
        return long_integer(number(1));
      case 0x8b:
        return long_integer(number(4));
      case 'G':
        return real();
      case 'X':
      case 'T':
        return push(add_text(Kind::text, number(4)));
      case 0x8c:
      case 'U':
        return push(add_text(Kind::text, number(1)));
      case 0x8d:
        return push(add_text(Kind::text, number(8)));
      case 'C':
        return push(add_text(Kind::bytes, number(1)));
      case 'B':
        return push(add_text(Kind::bytes, number(4)));
      case 0x8e:
      case 0x96:
        return push(add_text(Kind::bytes, number(8)));
      case ')':
        return push(add_container(Kind::tuple, {}));
      case ']':
        return push(add_container(Kind::list, {}));
      case '}':
        return push(add_container(Kind::dictionary, {}));
      case 0x8f:
        return push(add_container(Kind::set, {}));
      case 't':
        return push(add_container(Kind::tuple, pop_to_mark()));
      case 'l':
        return push(add_container(Kind::list, pop_to_mark()));
      case 0x91:
        return push(add_container(Kind::set, pop_to_mark()));
      case 0x85:
      case 0x86:
      case 0x87:
        return push(add_container(Kind::tuple, pop_many(code - 0x84U)));
      case 'a':
        return fill(Kind::list, pop_many(1));
      case 'e':
        return fill(Kind::list, pop_to_mark());
      case 0x90:
        return fill(Kind::set, pop_to_mark());
      case 's':
        return fill(Kind::dictionary, pop_many(2));
      case 'u':
        return fill(Kind::dictionary, pop_to_mark());
      case 'q':
        return remember(number(1));
      case 'r':
        return remember(number(4));
      case 0x94:
        return remember(remembered_);
      case 'h':
        return recall(number(1));
      case 'j':
        return recall(number(4));
      case 'c': {
        const std::string_view module = line(), name = line();
        return push(add_global(module, name));
      }
      case 0x93: {
        const NodeId name = pop(Kind::text), module = pop(Kind::text);
        if (std::max(tree_.text(name).size(), tree_.text(module).size()) > kLongestName)
          fail(fmt::format("has a name of more than {} bytes", kLongestName));
        return push(add_global(tree_.text(module), tree_.text(name)));
      }
      case 'R':
      case 0x81: {  // REDUCE, NEWOBJ
        const NodeId arguments = pop(Kind::tuple), maker = pop();
        return push(make(maker, counted_items(arguments)));
      }
      case 0x92: {  // NEWOBJ_EX
        const NodeId named = pop(Kind::dictionary), arguments = pop(Kind::tuple), maker = pop();
        return push(add_object(maker, {arguments, named}));
      }
      case 'b': {
        const NodeId state = pop(), object = pop();
        if (tree_[object].kind == Kind::object) {  // that of a dictionary or a tensor is not needed
          count(1);
          tree_.items[tree_[object].index].push_back(state);
        }
        return push(object);
      }
      case 'Q':
        return push(persistent(pop()));
      default:
        at_ = start;
        fail(fmt::format("has the instruction 0x{:02x}, which PyTorch does not write", code));
    }
  }

  /// Python writes its long integers in two's complement, with as many bytes as they need.
  void long_integer(std::uint64_t bytes) {
    if (bytes > 8) {  // PyTorch needs no such number
      take(bytes);
      return push(add_object(add_global("builtins", "int"), {}));
    }
    std::uint64_t value = number(static_cast<int>(bytes));
    const int bits = static_cast<int>(8 * bytes);
    if (bits > 0 && bits < 64 && value >> (bits - 1) != 0) value |= ~std::uint64_t{0} << bits;
    push(add_integer(static_cast<std::int64_t>(value)));
  }

  void real() {
    std::uint64_t bits = 0;
    for (const char c : take(8)) bits = bits << 8 | static_cast<std::uint8_t>(c);  // big-endian
    Node node{Kind::real, 0, {}};
    node.real = std::bit_cast<double>(bits);
    push(add(node));
  }

  /// What `maker` would give for these arguments. (A copy: new nodes move what they refer to.)
  NodeId make(NodeId maker, std::vector<NodeId> arguments) {
    if (tree_[maker].kind != Kind::global) return add_object(maker, std::move(arguments));
    std::string_view name = tree_.text(maker);
    if (name == "torch._tensor._rebuild_from_type_v2" && arguments.size() == 4 &&
        tree_[arguments[0]].kind == Kind::global) {
      name = tree_.text(arguments[0]);
      arguments = std::vector<NodeId>(counted_items(arguments[2]));
    }
    if (is_dictionary(name)) return add_container(Kind::dictionary, pairs(arguments));
    if (is_set(name) && arguments.size() <= 1)
      return add_container(Kind::set, arguments.empty()
                                          ? std::vector<NodeId>{}
                                          : std::vector(tree_.items_of(arguments[0])));
    if (name == "torch.Size" && arguments.size() == 1) return arguments[0];
    if ((name == "torch._utils._rebuild_parameter" ||
         name == "torch._utils._rebuild_parameter_with_state") &&
        !arguments.empty())
      return arguments[0];
    if (name == "torch._utils._rebuild_tensor" || name == "torch._utils._rebuild_tensor_v2")
      if (const auto tensor = rebuild_tensor(arguments)) return *tensor;
    return add_object(maker, std::move(arguments));
  }

  /// Python 2 gave OrderedDict a list of pairs.
  std::vector<NodeId> pairs(const std::vector<NodeId>& arguments) {
    std::vector<NodeId> items;
    if (arguments.size() == 1)
      for (const NodeId pair : counted_items(arguments[0]))
        if (const auto& both = tree_.items_of(pair); both.size() == 2)
          items.insert(items.end(), both.begin(), both.end());
    return items;
  }

  std::optional<std::vector<std::int64_t>> integers(NodeId tuple) {
    std::vector<std::int64_t> values;
    if (tree_[tuple].kind != Kind::tuple && tree_[tuple].kind != Kind::list) return std::nullopt;
    for (const NodeId item : counted_items(tuple)) {
      if (tree_[item].kind != Kind::integer) return std::nullopt;
      values.push_back(tree_[item].integer);
    }
    return values;
  }

  /// _rebuild_tensor(storage, offset, size, stride); v2 has more arguments, which do not matter here.
  std::optional<NodeId> rebuild_tensor(const std::vector<NodeId>& arguments) {
    if (arguments.size() < 4 || tree_[arguments[0]].kind != Kind::storage ||
        tree_[arguments[1]].kind != Kind::integer)
      return std::nullopt;
    auto shape = integers(arguments[2]), strides = integers(arguments[3]);
    if (!shape || !strides) return std::nullopt;
    Node node{Kind::tensor, static_cast<std::uint32_t>(tree_.tensors.size()), {}};
    tree_.tensors.push_back({tree_[arguments[0]].index, tree_[arguments[1]].integer,
                             std::move(*shape), std::move(*strides)});
    return add(node);
  }

  /// ("storage", type, key, device, elements), and in the older form (view's key, offset, elements)
  /// or None; or ("module", class, its file, its source).
  NodeId persistent(NodeId id) {
    const std::vector<NodeId> items = counted_items(id);
    if (items.size() >= 2 && tree_.is_text(items[0], "module")) return items[1];
    const auto unknown = [&] { return add_object(id, items); };
    if (items.size() < 5 || !tree_.is_text(items[0], "storage") ||
        tree_[items[1]].kind != Kind::global || tree_[items[2]].kind != Kind::text ||
        tree_[items[4]].kind != Kind::integer)
      return unknown();
    const auto type = type_of_storage(tree_.text(items[1]));
    const std::string_view key = tree_.text(items[2]);
    if (!type || key.size() > kLongestName) return unknown();
    PickledStorage storage{std::string(key), *type, tree_[items[4]].integer, 0};
    if (items.size() > 5 && tree_[items[5]].kind == Kind::tuple) {
      const auto& view = tree_.items_of(items[5]);
      if (view.size() != 3 || tree_[view[1]].kind != Kind::integer) return unknown();
      storage.first = tree_[view[1]].integer;
    }
    Node node{Kind::storage, static_cast<std::uint32_t>(tree_.storages.size()), {}};
    tree_.storages.push_back(std::move(storage));
    return add(node);
  }

  static constexpr NodeId kNothing = 0xffffffff;

  Pickle tree_;
  std::uint64_t at_ = 0;
  std::size_t items_ = 0;  ///< in all containers
  std::vector<NodeId> stack_;
  std::vector<std::size_t> marks_;  ///< sizes of the stack
  std::vector<NodeId> memory_;
  std::uint64_t remembered_ = 0;
};

}  // namespace

std::string_view Pickle::text(NodeId id) const {
  const Node& node = nodes[id];
  switch (node.kind) {
    case Kind::text:
    case Kind::bytes:
      return std::string_view(bytes).substr(node.text.begin, node.text.size);
    case Kind::global:
    case Kind::object:
      return std::string_view(names).substr(node.text.begin, node.text.size);
    default:
      return {};
  }
}

const std::vector<NodeId>& Pickle::items_of(NodeId id) const {
  static const std::vector<NodeId> kNone;
  switch (nodes[id].kind) {
    case Kind::list:
    case Kind::tuple:
    case Kind::set:
    case Kind::dictionary:
    case Kind::object:
      return items[nodes[id].index];
    default:
      return kNone;
  }
}

std::optional<NodeId> Pickle::find(NodeId id, std::string_view key) const {
  if (nodes[id].kind != Kind::dictionary) return std::nullopt;
  const auto& entries = items_of(id);
  for (std::size_t i = entries.size(); i >= 2; i -= 2)
    if (is_text(entries[i - 2], key)) return entries[i - 1];
  return std::nullopt;
}

bool Pickle::is_text(NodeId id, std::string_view expected) const {
  return nodes[id].kind == Kind::text && text(id) == expected;
}

Pickle read_pickle(std::string bytes) {
  return Machine(std::move(bytes)).run();
}

}  // namespace backstop::engine
