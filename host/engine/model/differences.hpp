// The tensors of a file beside those of a network: which are which, and what differs, for people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace backstop::engine {

struct TensorShape {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// As many differences are put into words; the others are counted.
inline constexpr std::size_t kNamedDifferences = 5;

struct Differences {
  /// The file's name of a tensor to the network's, where the two differ: "shortcut" and
  /// "downsample", "linear" and "fc", and the like.
  std::map<std::string, std::string> names;
  std::size_t matches = 0;           ///< tensors that both have, in the same shape
  std::vector<std::string> phrases;  ///< "conv1 is 7x7, not 3x3", at most kNamedDifferences
  std::size_t all = 0;
};

/// Counters of batches (`num_batches_tracked`) make no difference.
Differences differences(const std::vector<TensorShape>& file,
                        const std::vector<TensorShape>& network);

}  // namespace backstop::engine
