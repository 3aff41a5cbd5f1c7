// Which built-in network a file's tensors belong to, told from their names and shapes. Strides and
// pooling leave no trace in a file of weights: docs/model-files.md says what is assumed of them.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "host/engine/model/differences.hpp"
#include "host/engine/model/network.hpp"

namespace backstop::engine {

struct Recognition {
  /// Where every tensor fits: name, width, channels, classes and, of an mlp, pixels.
  std::optional<Architecture> network;
  /// The file's name of a tensor to the network's, where the two differ. With `nearest` it has the
  /// tensors that have a counterpart.
  std::map<std::string, std::string> names;

  // Otherwise:
  /// The network that has the most tensors in common with the file; none if it is like no network.
  std::optional<Architecture> nearest;
  std::vector<std::string> differences;  ///< phrases, at most kNamedDifferences
  std::size_t all_differences = 0;
};

/// Prefixes that all names share are already taken off. Never fails, whatever the names and shapes
/// are, and takes time in proportion to their number.
Recognition recognize(const std::vector<TensorShape>& tensors);

/// "resnet56, width 16, 10 classes"; "nearest is resnet18, width 64, 10 classes, but conv1 is 5x5,
/// not 3x3; and 12 more differences"; "no built-in network is like it".
std::string text_of(const Recognition& recognition);
/// "resnet56, width 16, 10 classes"; images of other than three channels are added.
std::string text_of(const Architecture& architecture);

/// The names and shapes of tensors that have been read.
std::vector<TensorShape> shapes_of(const std::vector<std::pair<std::string, at::Tensor>>& tensors);

}  // namespace backstop::engine
