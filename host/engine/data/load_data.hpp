// The dataset of a run: loaded through its plugin, checked, and reduced to what the recipe selects.
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
  std::string fingerprint;  ///< of all images and labels, before the selection
  /// The selection, for the key of a stage: image_size (0: unchanged), classes (labels of the
  /// dataset; empty: all), per_class, limit, test_limit (0: all), channels (0: unchanged).
  nlohmann::json choice;
  std::string train_fingerprint = {};  ///< of the split `train`, before the selection
};

/// Random selections follow from `seed`. Only selected images are copied, because the plugin's
/// tensors may be mapped files larger than memory. Throws HostError, also if the plugin returns what
/// the interface does not allow. `channels`: those that the model takes: colored images become gray
/// with Pillow's weights (0.299, 0.587, 0.114), gray ones get three equal channels; 0: unchanged.
Data load_data(const PluginObject& plugin, const recipe::DatasetUse& use, std::int64_t seed,
               StageContext& ctx, c10::Device device, std::int64_t channels = 0);

/// All images of a split.
struct Samples {
  at::Tensor
      images;  ///< uint8 [N, 1 or 3, H, W], contiguous, perhaps a read-only mapping of a file
  at::Tensor labels;  ///< int64 [N]; -1 in Split::unlabeled
};

/// What the dataset's plugin gives for `split`. Throws HostError, also if the interface does not
/// allow it.
Samples load_split(const PluginObject& plugin, Split split, StageContext& ctx);

/// The constants that the dataset's plugin states, after load_split(); gray images have the first
/// channel's in all three places.
Normalization statistics_of(const PluginObject& plugin, std::int64_t channels, StageContext& ctx);

/// Identifies the content of a split that was just loaded: by the plugin's own text, or else by the
/// SHA-256 of the tensors, which are read once, in pieces.
std::string fingerprint_of(const PluginObject& plugin, Split split, const Samples& samples,
                           StageContext& ctx);
/// Identifies a dataset by the fingerprints of its two splits.
std::string joint_fingerprint(const std::string& train, const std::string& test);

/// The images at `rows` (int64 [k]), resized to `size` x `size` pixels.
at::Tensor resized(const at::Tensor& images, const at::Tensor& rows, std::int64_t size,
                   StageContext& ctx);

/// A separate seed for every purpose: from the SHA-256 of the recipe's seed and the purpose.
std::uint64_t seed_for(std::int64_t seed, const std::string& purpose);

}  // namespace backstop::engine
