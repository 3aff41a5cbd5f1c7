// A run's dataset: loaded through its plugin, checked, and reduced to what the recipe asks for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backstop/dataset.hpp"
#include "host/engine/data/image_store.hpp"
#include "host/engine/plugins/plugin_object.hpp"
#include "host/engine/plugins/stage_context.hpp"

namespace backstop::engine {

struct Data {
  ImageStore train, test;
  Normalization normalization;
  std::vector<std::string> class_names;
  std::string fingerprint;  ///< of all images and labels, before anything is chosen
  /// What was chosen of them, for a stage's key: image_size (0: as it is), classes (labels of the
  /// dataset; empty: all), per_class, limit, test_limit (0: all).
  nlohmann::json choice;
};

/// What `use` chooses of `plugin`'s images is drawn from `seed`. Nothing that is not chosen is
/// copied: the plugin's tensors may be mapped files larger than memory. Throws HostError, also when
/// the plugin returns what the interface does not allow.
Data load_data(const PluginObject& plugin, const recipe::DatasetUse& use, std::int64_t seed,
               StageContext& ctx, c10::Device device);

/// What the dataset's plugin returns for `split`. Throws HostError, also when that is not what the
/// interface allows.
Samples load_split(const PluginObject& plugin, Split split, StageContext& ctx);

/// Names the content of a split that was just loaded: the plugin's own text, or else SHA-256 of the
/// tensors. Reads them once, in pieces.
std::string fingerprint_of(const PluginObject& plugin, Split split, const Samples& samples,
                           StageContext& ctx);
/// Names a dataset by what fingerprint_of() says of its two splits.
std::string joint_fingerprint(const std::string& train, const std::string& test);

/// The images at `rows` (int64 [k]) with `size` x `size` pixels.
at::Tensor resized(const at::Tensor& images, const at::Tensor& rows, std::int64_t size,
                   StageContext& ctx);

/// A seed of its own for every purpose: SHA-256 of the recipe's seed and the purpose.
std::uint64_t seed_for(std::int64_t seed, const std::string& purpose);

}  // namespace backstop::engine
