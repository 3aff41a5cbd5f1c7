// What detectors say of a model, as numbers and in sentences.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::report {

/// How the verdict's score compares with those of models whose truth is known:
/// {clean_models, clean_flagged, clean_as_high, backdoored_models, backdoored_flagged, source};
/// "flagged": at or above the verdict's threshold; "as_high": at or above its score.
nlohmann::json calibrated(const nlohmann::json& verdict, const std::vector<double>& clean_scores,
                          const std::vector<double>& backdoored_scores, const std::string& source);

/// Of two models on the same `images`: `lost` are those that only the first one classifies
/// correctly, `gained` those that only the second one does. {images, lost, gained, difference,
/// interval: [low, high]}: the accuracy of the second less that of the first, and the 95 % interval
/// of a paired difference of proportions.
nlohmann::json change_of(std::int64_t images, std::int64_t lost, std::int64_t gained);

/// An entry of results.json's `detectors` in a sentence each:
/// "neural-cleanse: suspicious: class 3 (cat) is reached by a patch of 2.0 % of the pixels; 1 of 21
/// clean models scores as high", "...: nothing found: ...", "...: no verdict: ...". None of one that
/// judges no model.
std::vector<std::string> verdict_sentences(const nlohmann::json& detector);

/// Whether the verdict is that the model is suspicious.
bool is_suspicious(const nlohmann::json& detector);
/// Whether there is a verdict at all.
bool is_conclusive(const nlohmann::json& detector);

/// How well the detectors of `results` that score images tell those with the trigger from those
/// without: a line each under a line of titles; empty if there is no such detector.
std::vector<std::vector<std::string>> input_table(const nlohmann::json& results);
/// What the columns of input_table() mean.
std::vector<std::string> input_definitions();

/// The classes of a verdict, a line each, under a line of titles; empty if the detector says
/// nothing by class.
std::vector<std::vector<std::string>> class_table(const nlohmann::json& detector);

}  // namespace backstop::report
