// The normalization of a model whose file does not record it.
#pragma once

#include <nlohmann/json.hpp>

#include "host/engine/run/inputs.hpp"
#include "host/engine/store/opened_model.hpp"

namespace backstop::engine {

struct NormalizationChoice {
  Normalization normalization;
  /// {name, mean, deviation, by: "file", "recipe" or "accuracy"}; with the last, {images,
  /// accuracies: {name: share}} too, over images of the training set, never of the test set.
  nlohmann::json record;
};

/// Tries those of schema::normalizations() and the dataset's own ("dataset") on at most 2,000
/// training images and takes the one with the highest accuracy, of equals the first.
/// `architecture`: the model's, whose classes are those of the images.
NormalizationChoice choose_normalization(const OpenedModel& model, const Architecture& architecture,
                                         const DatasetInput& dataset, const Compute& compute,
                                         const StageServices& services);

/// The record of one that is known.
nlohmann::json record_of(const Normalization& normalization, std::int64_t channels,
                         const std::string& by);

}  // namespace backstop::engine
