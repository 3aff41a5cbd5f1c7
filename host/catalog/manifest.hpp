// What a plugin says about itself: the TOML manifest that its author wrote.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/schema/parameter.hpp"

namespace backstop::catalog {

enum class Kind { attack, defense, scheduler, dataset };
inline constexpr Kind kKinds[] = {Kind::attack, Kind::defense, Kind::scheduler, Kind::dataset};
std::string_view to_string(Kind kind);
std::optional<Kind> kind_from(std::string_view text);

/// [calibration]: what a detector's score was for models of which the truth is known, with its
/// default parameters.
struct Calibration {
  std::string source;                     ///< where the measurement is described
  std::vector<double> clean_scores;       ///< ascending
  std::vector<double> backdoored_scores;  ///< ascending
};

struct Manifest {
  std::string name;
  Kind kind = Kind::attack;
  std::string version;
  std::string summary;
  std::string license;
  std::string reference;             ///< paper or public source; may be empty
  std::vector<std::string> authors;  ///< "Name <address>", who answers for the plugin; may be empty
  std::string homepage;              ///< may be empty
  std::vector<std::string> needs;    ///< "clean-data", "training-data", "feature-maps", ...
  schema::Parameters parameters;     ///< in the author's order
  bool poisons = true;               ///< kind = "attack": it changes the training set
  /// kind = "defense": what it judges, beside or instead of repairing a model: "model", "inputs".
  std::vector<std::string> detects;
  [[nodiscard]] bool judges_models() const;
  [[nodiscard]] bool scores_inputs() const;
  /// Whether `needs` names it.
  [[nodiscard]] bool asks_for(std::string_view what) const;
  bool repairs = true;  ///< kind = "defense": it can be a [[defense]]
  std::optional<Calibration> calibration;
  std::vector<std::string> unknown_keys;  ///< of a newer SDK's manifest, which this host ignores
  /// kind = "dataset": the augmentation of its training images by default, `[augmentation]`.
  std::int64_t crop_padding = 0;  ///< pixels, of images `crop_image_size` pixels wide
  /// Images of another size get a proportional padding. 0: any size gets the same padding.
  std::int64_t crop_image_size = 0;
  bool horizontal_flip = false;

  /// The padding of images `image_size` pixels wide.
  [[nodiscard]] std::int64_t crop_padding_for(std::int64_t image_size) const;
};

/// Reads a manifest. Throws HostError(plugin) that names every problem (one a line), with `where`
/// (the file) and the line. Unknown keys are problems too, except those that begin with "x-", or,
/// where `newer` says that the plugin's SDK is newer than this host, all: see unknown_keys.
Manifest parse_manifest(std::string_view text, const std::string& where, bool newer = false);

}  // namespace backstop::catalog
