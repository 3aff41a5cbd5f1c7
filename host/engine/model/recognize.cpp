#include "host/engine/model/recognize.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/base/text.hpp"
#include "host/engine/model/registry.hpp"
#include "host/schema/architectures.hpp"

namespace backstop::engine {

namespace {

// No network is made with these numbers of a file; beyond them it is no network of ours.
constexpr std::int64_t kMostClasses = 1 << 16;
constexpr std::int64_t kMostPixels = 1 << 20;
constexpr std::int64_t kWidest = 1024;  ///< as in recipes

/// The file's tensors by common name; a hash table could be filled with collisions.
using Tensors = std::map<std::string, const TensorShape*>;

/// The shapes of a network of any width, told from two small ones.
class Shapes {
 public:
  explicit Shapes(std::string_view name) : name_(name) {
    for (const std::int64_t width : {1, 2}) {
      const auto network = make_network({std::string(name), width, 1, 1, 1});
      std::vector<TensorShape>& shapes = width == 1 ? one_ : two_;
      for (const auto& item : network->named_parameters())
        shapes.push_back({item.key(), item.value().sizes().vec()});
      input_ = shapes.front().name;
      head_ = network->head_name();
      for (const auto& item : network->named_buffers())
        shapes.push_back({item.key(), item.value().sizes().vec()});
    }
    for (const TensorShape& tensor : one_) common_names_.push_back(common_name(tensor.name));
  }

  [[nodiscard]] std::vector<TensorShape> of(const Architecture& a) const {
    std::vector<TensorShape> shapes = one_;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      auto& [name, shape] = shapes[i];
      for (std::size_t d = 0; d < shape.size(); ++d)
        shape[d] += (a.width - 1) * (two_[i].shape[d] - one_[i].shape[d]);
      if (name == input_) shape[1] = a.channels * (shape.size() == 2 ? a.pixels : 1);
      if (name == head_ + ".weight" || name == head_ + ".bias") shape[0] = a.classes;
    }
    return shapes;
  }

  /// The architecture that `file` is most probably meant to be.
  [[nodiscard]] Architecture guess(const Tensors& file) const {
    Architecture a;
    a.name = name_;
    a.width = schema::find_architecture(name_)->width;
    const TensorShape* input = find(file, input_);
    const TensorShape* head = find(file, head_ + ".weight");
    if (const auto width = input == nullptr ? std::nullopt : width_of(*input, input_, 0))
      a.width = *width;
    else if (const auto by_head =
                 head == nullptr ? std::nullopt : width_of(*head, head_ + ".weight", 1))
      a.width = *by_head;
    if (head != nullptr && head->shape.size() == 2 && head->shape[0] >= 1 &&
        head->shape[0] <= kMostClasses)
      a.classes = head->shape[0];
    if (input != nullptr && input->shape.size() == 4 && input->shape[1] == 1) a.channels = 1;
    const bool linear = one_.front().shape.size() == 2;  // an mlp
    if (linear && input != nullptr && input->shape.size() == 2 && input->shape[1] >= 1 &&
        input->shape[1] <= 3 * kMostPixels)
      set_pixels(a, input->shape[1]);
    return a;
  }

  /// Between 0, nothing in common, and 1, the same.
  [[nodiscard]] double likeness(const Tensors& file, const std::vector<TensorShape>& shapes) const {
    double names = 0, same = 0, all = static_cast<double>(file.size());
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      if (is_batch_counter(shapes[i].name)) continue;
      const auto found = file.find(common_names_[i]);
      if (found == file.end()) {
        ++all;
      } else {
        ++names;
        same += found->second->shape == shapes[i].shape ? 1 : 0;
      }
    }
    return (names + same) / (2 * all);
  }

 private:
  [[nodiscard]] static const TensorShape* find(const Tensors& file, const std::string& name) {
    const auto found = file.find(common_name(name));
    return found == file.end() ? nullptr : found->second;
  }

  /// Of which width the network has such a tensor `name`, by its side `d`.
  [[nodiscard]] std::optional<std::int64_t> width_of(const TensorShape& tensor,
                                                     const std::string& name, std::size_t d) const {
    const auto is_it = [&](const TensorShape& own) { return own.name == name; };
    const auto i = std::find_if(one_.begin(), one_.end(), is_it) - one_.begin();
    const auto& own = one_[static_cast<std::size_t>(i)].shape;
    if (tensor.shape.size() != own.size()) return std::nullopt;
    const std::int64_t side = tensor.shape[d];
    if (side < own[d] || side % own[d] != 0 || side / own[d] > kWidest) return std::nullopt;
    return side / own[d];
  }

  /// Images are taken to be square if that is possible, and of three channels if it is not.
  static void set_pixels(Architecture& a, std::int64_t inputs) {
    const auto is_square = [](std::int64_t n) {
      const auto root = std::llround(std::sqrt(static_cast<double>(n)));
      return root * root == n;
    };
    a.channels = inputs % 3 == 0 && !is_square(inputs) ? 3 : 1;
    a.pixels = inputs / a.channels;
  }

  std::string name_, input_, head_;
  std::vector<TensorShape> one_, two_;  ///< of width 1 and 2
  std::vector<std::string> common_names_;
};

const std::vector<Shapes>& networks() {
  static const std::vector<Shapes> all = [] {
    std::vector<Shapes> shapes;
    for (const RegisteredNetwork& network : registered_networks())
      shapes.emplace_back(network.name);
    return shapes;
  }();
  return all;
}

}  // namespace

Recognition recognize(const std::vector<TensorShape>& tensors) {
  constexpr double kAlike = 0.25;  // below that, names like "conv1" are all that is shared
  Tensors file;
  for (const TensorShape& tensor : tensors)
    if (!is_batch_counter(tensor.name)) file.emplace(common_name(tensor.name), &tensor);
  double best = kAlike;
  std::optional<Architecture> likeliest;
  std::vector<TensorShape> shapes;
  for (const Shapes& network : networks()) {
    const Architecture candidate = network.guess(file);
    std::vector<TensorShape> expected = network.of(candidate);
    const double likeness = network.likeness(file, expected);
    if (likeness <= best) continue;
    best = likeness;
    likeliest = candidate;
    shapes = std::move(expected);
  }
  Recognition result;
  if (!likeliest) return result;
  Differences found = differences(tensors, shapes);
  result.names = std::move(found.names);
  (found.all == 0 ? result.network : result.nearest) = likeliest;
  result.differences = std::move(found.phrases);
  result.all_differences = found.all;
  return result;
}

std::string text_of(const Architecture& a) {
  std::string text = fmt::format("{}, width {}, {}", a.name, a.width,
                                 a.classes == 1 ? "1 class" : fmt::format("{} classes", a.classes));
  if (a.channels == 1) text += ", grey images";
  if (a.name == "mlp") text += fmt::format(", {} pixels", a.pixels);
  return text;
}

std::string text_of(const Recognition& recognition) {
  if (recognition.network) return text_of(*recognition.network);
  if (!recognition.nearest) return "no built-in network is like it";
  const std::size_t more = recognition.all_differences - recognition.differences.size();
  return fmt::format("nearest is {}, but {}{}", recognition.nearest->name,
                     fmt::join(recognition.differences, "; "),
                     more == 0 ? "" : "; and " + base::count_of(more, "more difference"));
}

std::vector<TensorShape> shapes_of(const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  std::vector<TensorShape> shapes;
  for (const auto& [name, tensor] : tensors) shapes.push_back({name, tensor.sizes().vec()});
  return shapes;
}

}  // namespace backstop::engine
