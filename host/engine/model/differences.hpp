// The tensors of a file beside those of a network: which are which, and what differs, for people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace backstop::engine {

struct TensorShape {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// As many differences are put into words; the others are counted.
inline constexpr std::size_t kNamedDifferences = 5;

struct Differences {
  /// The file's name of a tensor to the network's, where the two differ.
  std::map<std::string, std::string> names;
  std::vector<std::string> phrases;  ///< "conv1 is 7x7, not 3x3", at most kNamedDifferences
  std::size_t all = 0;
  std::optional<std::int64_t> classes;  ///< the file's, where they are one of the differences

  void add(std::string phrase);
};

/// Names that mean the same are taken for each other (see common_name), and counters of batches
/// (`num_batches_tracked`) make no difference.
Differences differences(const std::vector<TensorShape>& file,
                        const std::vector<TensorShape>& network);

/// The name of a tensor in one spelling for all the usual ones: "fc.1.weight" and "linear.weight"
/// are "fc.weight", "layer2.0.downsample.0.weight" is "layer2.0.shortcut.0.weight".
std::string common_name(std::string_view name);

inline bool is_batch_counter(std::string_view name) {
  return name.ends_with("num_batches_tracked");
}

}  // namespace backstop::engine
