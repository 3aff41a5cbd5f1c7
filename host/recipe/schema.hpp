// The keys of a recipe that are the host's own, described the way plugins describe theirs, so that
// one validator serves both.
#pragma once

#include <vector>

#include "host/catalog/manifest.hpp"

namespace backstop::recipe {

/// Each list is in the order in which a resolved recipe shows its keys. Plugin parameters follow
/// the host's keys of their table.
struct Sections {
  std::vector<catalog::Parameter> recipe;  ///< the keys outside every table
  /// A parameter of the dataset's plugin takes the place of the host's key of that name.
  std::vector<catalog::Parameter> dataset;
  std::vector<catalog::Parameter> augmentation, model, attack, training, defense, compute;
  catalog::Parameter clean_fraction, clean_images;  ///< of a defense that needs "clean-data"
  std::vector<catalog::Parameter> scheduler;        ///< the keys before the scheduler's own
  catalog::Parameter optimizer_name;
  std::vector<catalog::Parameter> sgd, adam;   ///< after the name; adam's are adamw's too
  std::vector<catalog::Parameter> share;       ///< what [expect] says of a metric in 0 .. 1
  std::vector<catalog::Parameter> difference;  ///< and of one in -1 .. 1
};

const Sections& sections();

}  // namespace backstop::recipe
