// Reads the pickles of PyTorch. A pickle is a program for a machine that may call any Python
// function. This reader builds a tree of plain values out of it: numbers, texts, containers, and
// tensors as descriptions of where their numbers lie. It imports and calls nothing: whatever else a
// pickle asks for becomes a node that says what was asked for, and that nothing comes of.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "host/engine/formats/element_type.hpp"

namespace backstop::engine {

/// "the pickle ...", in what() without a file's name.
class PickleError : public std::runtime_error {
 public:
  PickleError(const std::string& message, bool cut_off)
      : std::runtime_error(message), cut_off_(cut_off) {}
  /// The bytes ended before the pickle did.
  [[nodiscard]] bool cut_off() const noexcept { return cut_off_; }

 private:
  bool cut_off_;
};

/// A range of numbers that tensors share, kept outside of the pickle.
struct PickledStorage {
  std::string key;  ///< its name among the file's storages
  ElementType type = ElementType::float32;
  std::int64_t elements = 0;
  std::int64_t first = 0;  ///< where it begins, in elements, within what has this key
};

/// As the pickle states it; nothing of it has been checked.
struct PickledTensor {
  std::size_t storage = 0;  ///< in Pickle::storages
  std::int64_t offset = 0;
  std::vector<std::int64_t> shape, strides;
};

struct Pickle {
  using NodeId = std::uint32_t;

  enum class Kind : std::uint8_t {
    none,
    boolean,     ///< integer
    integer,     ///< integer
    real,        ///< real
    text,        ///< text
    bytes,       ///< text
    list,        ///< items
    tuple,       ///< items
    set,         ///< items
    dictionary,  ///< items: key, value, key, value, ...; of equal keys, Python keeps the last
    global,      ///< text: what is imported, "torch.float32"
    storage,     ///< index
    tensor,      ///< index
    /// A Python object. text: its class, or the function that would make it; items: its arguments,
    /// then what it was filled with and its state.
    object,
  };

  struct Span {
    std::uint32_t begin, size;
  };

  struct Node {
    Kind kind = Kind::none;
    std::uint32_t index = 0;  ///< of items, storages or tensors
    union {
      std::int64_t integer = 0;
      double real;
      Span text;  ///< in `bytes`, or in `names` where the kind is global or object
    };
  };

  NodeId root = 0;
  std::uint64_t size = 0;  ///< bytes that the pickle takes
  std::vector<Node> nodes;
  std::vector<std::vector<NodeId>> items;
  std::vector<PickledStorage> storages;
  std::vector<PickledTensor> tensors;
  std::string bytes;  ///< what was read
  std::string names;  ///< "module.name" of what is imported

  [[nodiscard]] const Node& operator[](NodeId id) const { return nodes[id]; }
  [[nodiscard]] std::string_view text(NodeId id) const;
  /// Empty for what has no items.
  [[nodiscard]] const std::vector<NodeId>& items_of(NodeId id) const;
  /// The value of the last entry with this text as key; nothing when there is none, or `id` is no
  /// dictionary.
  [[nodiscard]] std::optional<NodeId> find(NodeId id, std::string_view key) const;
  [[nodiscard]] bool is_text(NodeId id, std::string_view expected) const;
};

/// Reads the pickle that `bytes`, less than 4 GiB, begin with. Takes time in proportion to its size,
/// and not more than some 500 MB besides `bytes`. Throws PickleError.
Pickle read_pickle(std::string bytes);

}  // namespace backstop::engine
