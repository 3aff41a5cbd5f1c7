// A model from elsewhere: its file, and the network that the file's tensors belong to.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "host/engine/model/classifier.hpp"
#include "host/engine/model/torchscript.hpp"
#include "host/engine/store/model_file.hpp"

namespace backstop::engine {

struct OpenedModel {
  std::filesystem::path path;
  ModelFile file;
  Architecture architecture;                 ///< as recognized; `pixels` is set only for an mlp
  std::map<std::string, std::string> names;  ///< the file's to the network's, where they differ
  std::optional<ScriptFacts> script;         ///< of TorchScript

  /// Whether the file was written by this program, which records all of what it trains.
  [[nodiscard]] bool ours() const { return file.facts.width.has_value(); }
  /// The file's tensors under the network's names.
  [[nodiscard]] NamedTensors weights() const;
  /// `weights`, which have the network's names, under the file's.
  [[nodiscard]] NamedTensors as_in_file(NamedTensors weights) const;
};

/// Throws HostError(environment) when the file cannot be read or belongs to no network; says which
/// one is nearest.
OpenedModel open_model(const std::filesystem::path& path);

/// What is known of a model's file without images, for people and for `backstop check`:
///   {file, format, location, prefix, rest: [text], tensors (how many), numbers: {type: how many},
///    network: text, architecture, width, channels, classes, normalization: text or null,
///    offers: [text], notes: [text] (TorchScript), trained_with: attack or null}
/// or {file, format, ..., error, hint} when it cannot be opened. A TorchScript network is run, after
/// it was checked. Throws only for a bug.
nlohmann::json describe_model(const std::filesystem::path& path);

}  // namespace backstop::engine
