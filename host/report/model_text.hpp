// What is said of one model from elsewhere: by `backstop inspect`, `scan` and `clean`.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace backstop::report {

/// What describe_model() of the engine found in a file: format, network, normalization, in lines of
/// "what: text".
std::string model_text(const nlohmann::json& description);

/// The results of a scan: accuracy, a sentence for each detector, and the table by class.
/// Empty if the run ended before the model was measured, and so is that below.
std::string scan_text(const nlohmann::json& results, bool color);

/// Accuracy of each row on each class of the test images, under a line of titles; empty where the
/// predictions are not known.
std::vector<std::vector<std::string>> accuracy_by_class(const nlohmann::json& results);

/// The results of a cleaning: accuracy before and after with the interval of the change.
/// `tolerance`: the loss of accuracy (0 .. 1) that is accepted.
std::string clean_text(const nlohmann::json& results, double tolerance, bool color);

/// Whether a detector found the model suspicious, or none came to a verdict.
bool suspicious_or_unknown(const nlohmann::json& results);
/// Whether the last row of `results` lost more accuracy than `tolerance`, or is no result.
bool lost_too_much(const nlohmann::json& results, double tolerance);

}  // namespace backstop::report
