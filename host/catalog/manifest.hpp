// What a plugin says of itself: the TOML manifest that its author wrote, and the build's facts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <toml++/toml.h>

namespace backstop::catalog {

enum class Kind { attack, defense, scheduler, dataset };
inline constexpr Kind kKinds[] = {Kind::attack, Kind::defense, Kind::scheduler, Kind::dataset};
std::string_view to_string(Kind kind);
std::optional<Kind> kind_from(std::string_view text);

enum class ParameterType {
  boolean,
  integer,
  floating,  ///< "float"; an integer in a recipe is accepted
  string,
  choice,
  path,
  scheduler,  ///< a table { plugin = "...", <the scheduler's parameters> }
  optimizer,  ///< a table { name = "sgd" | "adam" | "adamw", ... }
};
std::string_view to_string(ParameterType type);

/// One `[parameters.KEY]` of a manifest. The host describes its own recipe keys the same way.
struct Parameter {
  std::string key;  ///< [a-z][a-z0-9_]*
  ParameterType type = ParameterType::string;
  bool list = false;        ///< `list = true`: an array of the type
  bool optional = false;    ///< `optional = true`: may be left out, and then has no value
  bool must_exist = false;  ///< path: the file or folder must be there when a run starts
  /// Empty: none, then the parameter is required unless optional; else one element, the default. It
  /// has the parameter's own type (a float is a float even where the author wrote an integer), is
  /// within range and one of the choices. What a scheduler's table holds beyond `plugin` is not
  /// checked.
  toml::array default_value;
  std::optional<double> minimum, maximum;
  bool minimum_exclusive = false, maximum_exclusive = false;  ///< `exclusive_minimum = 0.0` in TOML
  std::vector<std::string> choices;
  std::string unit;
  std::string help;
};

struct Manifest {
  std::string name;
  Kind kind = Kind::attack;
  std::string version;
  std::string summary;
  std::string license;
  std::string reference;              ///< paper or public source; may be empty
  std::vector<std::string> needs;     ///< "clean-data", "training-data", "feature-maps", ...
  std::vector<Parameter> parameters;  ///< in the author's order
  bool poisons = true;                ///< kind = "attack": it changes the training set
  /// kind = "dataset": what its training images may go through, `[augmentation]`.
  std::int64_t crop_padding = 0;  ///< pixels, of images `crop_image_size` pixels wide
  /// Images of another size get a proportional padding. 0: any size gets the same padding.
  std::int64_t crop_image_size = 0;
  bool horizontal_flip = false;
};

/// Reads a manifest. Throws HostError(plugin) that names every problem found (one a line), with
/// `where` (the file) and the line; unknown keys are problems too.
Manifest parse_manifest(std::string_view text, const std::string& where);

/// The first ELF note: see sdk/include/backstop/build_facts.hpp.
struct BuildFacts {
  std::string abi;    ///< "0.1"
  std::string torch;  ///< "1.13.0"
  bool cxx11_abi = true;
  bool glibcxx_debug = false;
  std::string sanitizer;  ///< none | address | thread | memory
  std::string compiler;
};
BuildFacts parse_build_facts(std::string_view text, const std::string& where);
/// "1.13.0" gives {1, 13}, whatever follows; nothing where the text is no version.
std::optional<std::pair<unsigned, unsigned>> major_minor(std::string_view version);
/// Those of this program.
const BuildFacts& own_build_facts();

}  // namespace backstop::catalog
