#include "pickle.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <unordered_map>

#include "batch.hpp"

namespace backstop::cifar {
namespace {

// The largest official file, CIFAR-100's training set, needs about 200,000: one per label and two
// per file name.
constexpr int kMostInstructions = 500'000;
constexpr std::size_t kLongestName = 200;

enum class Type : std::uint32_t {
  none,
  boolean,  // number
  integer,  // number
  text,     // number: offset in the file, size: length
  mark,
  sequence,     // size: index in sequences (lists and tuples)
  dictionary,   // size: index in sequences; key, value, key, value ...
  reconstruct,  // the three known names
  ndarray,
  dtype,
  byte_type,  // a dtype object of unsigned bytes
  array,      // size: index in arrays
};

constexpr const char* describe(Type type) {
  switch (type) {
    case Type::none:
      return "none";
    case Type::boolean:
      return "a boolean";
    case Type::integer:
      return "an integer";
    case Type::text:
      return "a string";
    case Type::mark:
      return "a mark";
    case Type::sequence:
      return "a list";
    case Type::dictionary:
      return "a dictionary";
    case Type::reconstruct:
    case Type::ndarray:
    case Type::dtype:
      return "a name";
    case Type::byte_type:
      return "an element type";
    case Type::array:
      return "an array";
  }
  return "nothing";
}

/// Containers are indices into tables, so that neither a deep nor a circular pickle can exhaust the
/// stack.
struct Value {
  Type type = Type::none;
  std::uint32_t size = 0;
  std::int64_t number = 0;
};

struct Array {
  bool filled = false;
  std::int64_t rows = 0, columns = 0;
  bool column_major = false;
  Value bytes;
};

class Machine {
 public:
  explicit Machine(const files::File& file) : file_(file) {}

  /// Runs the pickle to its end and returns the object that it leaves on the stack.
  Value run() {
    for (int i = 0; i < kMostInstructions; ++i) {
      const std::uint8_t code = byte();
      if (code == '.') {
        if (stack_.size() != 1) unexpected("more than one object", "one dictionary");
        if (position() != file_.size())
          file_.refuse("the pickle ends after " + std::to_string(position()) +
                       " bytes, but the file has " + std::to_string(file_.size()));
        return stack_.back();
      }
      step(code);
    }
    file_.refuse("has more than " + std::to_string(kMostInstructions) +
                 " pickle instructions, too many for a CIFAR file");
  }

  const std::vector<Value>& elements(const Value& container) const {
    return sequences_[container.size];
  }
  const Array& array(const Value& value) const { return arrays_[value.size]; }

  bool equals(const Value& text, std::string_view expected) {
    if (text.type != Type::text || text.size != expected.size()) return false;
    std::array<char, kLongestName> bytes{};
    file_.read(static_cast<std::uint64_t>(text.number), bytes.data(), expected.size());
    return std::string_view(bytes.data(), expected.size()) == expected;
  }

  [[noreturn]] void unexpected(const std::string& found, const std::string& expected) const {
    file_.refuse("the pickle has " + found + " before byte " + std::to_string(position()) +
                 ", expected " + expected);
  }

 private:
  // -- the file --

  std::uint64_t position() const { return buffer_start_ + next_; }

  std::uint8_t byte() {
    if (next_ == filled_) {
      buffer_start_ += filled_;
      next_ = 0;
      filled_ = static_cast<std::size_t>(
          std::min<std::uint64_t>(buffer_.size(), file_.size() - buffer_start_));
      if (filled_ == 0)
        file_.refuse("the pickle is cut off after " + std::to_string(file_.size()) + " bytes");
      file_.read(buffer_start_, buffer_.data(), filled_);
    }
    return buffer_[next_++];
  }

  std::uint32_t little_endian(int bytes) {
    std::uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= std::uint32_t{byte()} << 8 * i;
    return value;
  }

  std::string line() {
    std::string text;
    for (std::uint8_t c = byte(); c != '\n'; c = byte()) {
      if (text.size() == kLongestName)
        unexpected("a name of more than " + std::to_string(kLongestName) + " bytes",
                   "a shorter one");
      text += static_cast<char>(c);
    }
    return text;
  }

  void text(std::uint32_t length) {
    const std::uint64_t start = position();
    if (length > file_.size() - start)
      file_.refuse("the pickle is cut off after " + std::to_string(file_.size()) +
                   " bytes, within a string of " + std::to_string(length) +
                   " bytes that starts at byte " + std::to_string(start));
    push({Type::text, length, static_cast<std::int64_t>(start)});
    if (length <= filled_ - next_) {
      next_ += length;
    } else {
      buffer_start_ = start + length;
      next_ = filled_ = 0;
    }
  }

  // -- the stack --

  void push(Value value) { stack_.push_back(value); }

  Value pop() {
    if (stack_.empty() || stack_.back().type == Type::mark)
      unexpected("an instruction without its operand", "an operand");
    const Value value = stack_.back();
    stack_.pop_back();
    return value;
  }

  Value pop(Type type) {
    const Value value = pop();
    if (value.type != type) unexpected(describe(value.type), describe(type));
    return value;
  }

  /// Pops all that was pushed since the last mark, and the mark itself.
  std::vector<Value> pop_to_mark() {
    const auto mark = std::find_if(stack_.rbegin(), stack_.rend(),
                                   [](const Value& value) { return value.type == Type::mark; });
    if (mark == stack_.rend()) unexpected("an instruction without its mark", "a mark");
    std::vector<Value> values(mark.base(), stack_.end());
    stack_.erase(mark.base() - 1, stack_.end());
    return values;
  }

  std::vector<Value> pop_many(std::size_t count) {
    std::vector<Value> values(count);
    for (std::size_t i = count; i > 0; --i) values[i - 1] = pop();
    return values;
  }

  void push_container(Type type, std::vector<Value> elements) {
    push({type, static_cast<std::uint32_t>(sequences_.size()), 0});
    sequences_.push_back(std::move(elements));
  }

  void append(Type type, const std::vector<Value>& elements) {
    const Value container = pop(type);
    if (type == Type::dictionary && elements.size() % 2 != 0)
      unexpected("a key without a value", "key-value pairs");
    auto& all = sequences_[container.size];
    all.insert(all.end(), elements.begin(), elements.end());
    push(container);
  }

  void remember(std::uint32_t key) {
    const Value value = pop();
    push(value);
    memory_[key] = value;
  }

  void recall(std::uint32_t key) {
    const auto found = memory_.find(key);
    if (found == memory_.end())
      unexpected("a reference to object " + std::to_string(key),
                 "a reference to an earlier object");
    push(found->second);
  }

  // -- the instructions --

  void step(std::uint8_t code) {
    switch (code) {
      case 0x80:  // PROTO
        if (const auto protocol = byte(); protocol > 2)
          unexpected("protocol " + std::to_string(protocol), "2, as in the official files");
        return;
      case '(':
        return push({Type::mark});
      case ')':
        return push_container(Type::sequence, {});
      case ']':
        return push_container(Type::sequence, {});
      case '}':
        return push_container(Type::dictionary, {});
      case 't':
        return push_container(Type::sequence, pop_to_mark());
      case 0x85:
      case 0x86:
      case 0x87:
        return push_container(Type::sequence, pop_many(code - 0x84U));
      case 'a':
        return append(Type::sequence, pop_many(1));
      case 'e':
        return append(Type::sequence, pop_to_mark());
      case 's':
        return append(Type::dictionary, pop_many(2));
      case 'u':
        return append(Type::dictionary, pop_to_mark());
      case 'N':
        return push({Type::none});
      case 0x88:
      case 0x89:
        return push({Type::boolean, 0, code == 0x88});
      case 'I':
        return integer_line();
      case 'J':
        return push({Type::integer, 0, static_cast<std::int32_t>(little_endian(4))});
      case 'K':
        return push({Type::integer, 0, little_endian(1)});
      case 'M':
        return push({Type::integer, 0, little_endian(2)});
      case 0x8a:
        return long_integer();
      case 'U':
        return text(little_endian(1));
      case 'T':
        return text(little_endian(4));
      case 'q':
        return remember(little_endian(1));
      case 'r':
        return remember(little_endian(4));
      case 'h':
        return recall(little_endian(1));
      case 'j':
        return recall(little_endian(4));
      case 'c':
        return name();
      case 'R':
        return call();
      case 'b':
        return build();
      default:
        unexpected("instruction " + std::to_string(code), "one of those in the official files");
    }
  }

  /// Booleans of protocol 1 are the integers 00 and 01.
  void integer_line() {
    const std::string digits = line();
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc{} || end != digits.data() + digits.size())
      unexpected("the integer " + files::printable(digits), "digits");
    push({digits == "00" || digits == "01" ? Type::boolean : Type::integer, 0, value});
  }

  /// Python writes its long integers in two's complement, with as many bytes as they need.
  void long_integer() {
    const std::uint8_t bytes = byte();
    if (bytes > 8) unexpected("an integer of " + std::to_string(bytes) + " bytes", "at most 8");
    std::uint64_t value = 0;
    int bit = 0;
    for (; bit < 8 * bytes; bit += 8) value |= std::uint64_t{byte()} << bit;
    if (bit > 0 && bit < 64 && (value >> (bit - 1) & 1) != 0) value |= ~std::uint64_t{0} << bit;
    push({Type::integer, 0, static_cast<std::int64_t>(value)});
  }

  void name() {
    const std::string module = line(), member = line(), full = module + "." + member;
    if (full == "numpy.core.multiarray._reconstruct") return push({Type::reconstruct});
    if (full == "numpy.ndarray") return push({Type::ndarray});
    if (full == "numpy.dtype") return push({Type::dtype});
    file_.refuse("the pickle asks for " + files::printable(full) +
                 ", but a CIFAR file needs only numpy arrays");
  }

  void call() {
    const Value arguments = pop(Type::sequence);
    const Value function = pop();
    const std::vector<Value>& values = elements(arguments);
    if (function.type == Type::reconstruct) {
      if (values.size() != 3 || values[0].type != Type::ndarray)
        unexpected("an unknown call of _reconstruct", "one for a numpy array");
      push({Type::array, static_cast<std::uint32_t>(arrays_.size()), 0});
      arrays_.emplace_back();
    } else if (function.type == Type::dtype) {
      if (values.empty() || !equals(values[0], "u1"))
        unexpected("an array of another element type", "unsigned bytes (u1)");
      push({Type::byte_type});
    } else {
      unexpected(std::string("a call of ") + describe(function.type), "a call of numpy");
    }
  }

  void build() {
    const Value state = pop(Type::sequence);
    const Value object = pop();
    push(object);
    if (object.type == Type::byte_type) return;  // sets byte order and alignment, which bytes lack
    if (object.type != Type::array)
      unexpected(std::string("a state for ") + describe(object.type), "one for an array");
    const std::vector<Value>& values = elements(state);  // version, shape, type, order, bytes
    constexpr std::array kTypes = {Type::integer, Type::sequence, Type::byte_type, Type::boolean,
                                   Type::text};
    if (!std::ranges::equal(values, kTypes, {}, &Value::type))
      unexpected("an array in another form", "numpy's version, shape, type, order and bytes");
    const std::vector<Value>& shape = elements(values[1]);
    if (shape.size() != 2 || shape[0].type != Type::integer || shape[1].type != Type::integer)
      unexpected("an array of another shape", "images x 3072");
    arrays_[object.size] = {true, shape[0].number, shape[1].number, values[3].number != 0,
                            values[4]};
  }

  const files::File& file_;
  std::vector<std::uint8_t> buffer_ = std::vector<std::uint8_t>(std::size_t{1} << 16);
  std::uint64_t buffer_start_ = 0;
  std::size_t next_ = 0, filled_ = 0;

  std::vector<Value> stack_;
  std::vector<std::vector<Value>> sequences_;
  std::vector<Array> arrays_;
  std::unordered_map<std::uint32_t, Value> memory_;
};

}  // namespace

Pickle read_pickle(const files::File& file, std::string_view labels_key) {
  Machine machine(file);
  const Value root = machine.run();
  if (root.type != Type::dictionary)
    file.refuse(std::string("the pickle holds ") + describe(root.type) +
                ", expected a dictionary with data and labels");
  const std::vector<Value>& entries = machine.elements(root);
  const auto find = [&](std::string_view key, Type type) {
    for (std::size_t i = entries.size(); i > 0; i -= 2) {  // Python keeps the last of equal keys
      if (!machine.equals(entries[i - 2], key)) continue;
      if (entries[i - 1].type != type)
        file.refuse("`" + std::string(key) + "` is " + describe(entries[i - 1].type) +
                    ", expected " + describe(type));
      return entries[i - 1];
    }
    file.refuse("has no `" + std::string(key) + "`, expected `data` and `" +
                std::string(labels_key) + "`");
  };

  const Array& array = machine.array(find("data", Type::array));
  const auto bytes = static_cast<std::int64_t>(array.bytes.size);
  if (!array.filled || array.columns != kImageSize || array.rows <= 0 ||
      array.rows != bytes / kImageSize || bytes % kImageSize != 0)
    file.refuse("its array is " + std::to_string(array.rows) + " x " +
                std::to_string(array.columns) + " in " + std::to_string(bytes) +
                " bytes, expected images x 3072 in as many bytes");

  Pickle pickle{static_cast<std::uint64_t>(array.bytes.number), array.rows, array.column_major, {}};
  const std::vector<Value>& labels = machine.elements(find(labels_key, Type::sequence));
  if (labels.size() != static_cast<std::size_t>(pickle.images))
    file.refuse("has " + std::to_string(labels.size()) + " labels and " +
                std::to_string(pickle.images) + " images, expected as many labels as images");
  for (const Value& label : labels) {
    if (label.type != Type::integer)
      file.refuse("label " + std::to_string(pickle.labels.size()) + " (counting from 0) is " +
                  describe(label.type) + ", expected an integer");
    pickle.labels.push_back(label.number);
  }
  return pickle;
}

}  // namespace backstop::cifar
