// The host's own keys of a recipe, described the way plugins describe theirs.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "host/schema/parameter.hpp"

namespace backstop::schema {

/// Each list is in the order in which a resolved recipe shows its keys. The parameters of a plugin
/// follow the host's keys of their table.
struct Sections {
  Parameters recipe;                     ///< the keys outside every table
  Parameters dataset;                    ///< a plugin may replace `replaceable` ones
  std::vector<std::string> replaceable;  ///< by a parameter of the same name
  Parameters augmentation, model, attack, training, defense, detector, compute;
  Parameters audit;                                             ///< the keys before its tables:
  std::vector<std::pair<std::string, Parameters>> audit_parts;  ///< [audit.retuning], ...
  Parameter clean_fraction, clean_images;  ///< of a defense that needs "clean-data"
  Parameter test_images;                   ///< of a detector that scores images
  Parameters scheduler;                    ///< the keys before the scheduler's own
  Parameters share;                        ///< what [expect] says of a metric in 0 .. 1
  Parameters difference;                   ///< and of one in -1 .. 1
  Parameters amount;                       ///< and of a score of any size
};

const Sections& sections();

/// Keys of a plugin's tables in a recipe that the host reads itself, so that no parameter may have
/// their names.
const std::vector<std::string>& reserved_keys();

}  // namespace backstop::schema
