// TorchScript archives, as torch.jit.script and torch.jit.trace save them, as networks. A file may
// come from anywhere: it is checked before anything of it runs (torchscript_safety.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "host/engine/model/network.hpp"

namespace backstop::engine {

/// An archive that was checked and loaded; it never changes.
class Script;

/// Throws HostError(environment) that names the file: it is damaged, is no TorchScript, calls an
/// operator that a classifier does not need, or its forward takes or gives something else than
/// images and scores.
std::shared_ptr<const Script> load_script(const std::filesystem::path& path);

/// Of the file's bytes.
const std::string& sha256_of(const Script& script);
/// The number of its parameters.
std::int64_t parameters_of(const Script& script);
/// Its parameters and buffers by name, on the CPU, floating-point numbers as float32: what
/// Classifier::load_state takes.
std::vector<std::pair<std::string, at::Tensor>> state_of(const Script& script);
/// Whether its outputs in training depend on more than the images, its parameters and its buffers: on
/// random numbers, or on attributes that its forward changes.
bool has_other_state(const Script& script);
/// What `check` and `inspect` say of a network.
struct ScriptFacts {
  std::optional<std::int64_t> classes;   ///< outputs of the head, or of the network if it has none
  std::optional<std::int64_t> channels;  ///< inputs of the first convolution
  std::optional<std::int64_t> side;  ///< of the smallest square images that it was found to take
  bool has_head = false;             ///< ends in a linear layer: features and a new head
  bool batch_norm = false;
  bool feature_maps = false;
  bool training_mode_can_change = false;  ///< or nothing in it has modes
  std::int64_t parameters = 0;
  std::string dtype;  ///< of most parameters, such as "float32"
  std::vector<std::string>
      notes;  ///< sentences about what cannot be offered, or why it does not run
};

/// Runs the network once or a few times on random images.
ScriptFacts describe_script(const std::shared_ptr<const Script>& script);

/// `architecture` has a script. The network has its weights. Throws HostError(usage) if the network
/// does not take images of that size or gives another number of classes.
std::shared_ptr<Network> make_script_network(const Architecture& architecture);

}  // namespace backstop::engine
