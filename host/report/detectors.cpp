#include "host/report/detectors.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/report/fields.hpp"
#include "host/report/metrics.hpp"

namespace backstop::report {
namespace {

std::int64_t at_least(const std::vector<double>& scores, double value) {
  return std::count_if(scores.begin(), scores.end(),
                       [value](double score) { return score >= value; });
}

std::int64_t count_in(const nlohmann::json& object, const char* key) {
  return std::llround(number_in(object, key).value_or(0));
}

/// "1 of 21 clean models scores as high".
std::string as_high(const nlohmann::json& calibration) {
  const auto high = count_in(calibration, "clean_as_high");
  return fmt::format("{} of {} clean models score{} as high", high,
                     count_in(calibration, "clean_models"), high == 1 ? "s" : "");
}

/// "it flags 15 of 21 backdoored models and 1 of 21 clean ones (docs/scan.md)".
std::string rates(const nlohmann::json& calibration) {
  return fmt::format("it flags {} of {} backdoored models and {} of {} clean ones ({})",
                     count_in(calibration, "backdoored_flagged"),
                     count_in(calibration, "backdoored_models"),
                     count_in(calibration, "clean_flagged"), count_in(calibration, "clean_models"),
                     calibration.value("source", ""));
}

}  // namespace

nlohmann::json calibrated(const nlohmann::json& verdict, const std::vector<double>& clean_scores,
                          const std::vector<double>& backdoored_scores, const std::string& source) {
  const auto score = number_in(verdict, "score");
  const auto threshold = number_in(verdict, "threshold");
  if (!score || !threshold) return nlohmann::json::object();
  return {{"clean_models", clean_scores.size()},
          {"clean_flagged", at_least(clean_scores, *threshold)},
          {"clean_as_high", at_least(clean_scores, *score)},
          {"backdoored_models", backdoored_scores.size()},
          {"backdoored_flagged", at_least(backdoored_scores, *threshold)},
          {"source", source}};
}

nlohmann::json change_of(std::int64_t images, std::int64_t lost, std::int64_t gained) {
  constexpr double kNormal = 1.96;
  const auto n = static_cast<double>(images), b = static_cast<double>(lost),
             c = static_cast<double>(gained);
  const double difference = (c - b) / n;
  const double error = std::sqrt(b + c - (c - b) * (c - b) / n) / n;
  return {{"images", images},
          {"lost", lost},
          {"gained", gained},
          {"difference", difference},
          {"interval",
           {std::max(-1.0, difference - kNormal * error),
            std::min(1.0, difference + kNormal * error)}}};
}

bool is_suspicious(const nlohmann::json& detector) {
  const auto& verdict = section_of(detector, "verdict");
  return verdict.contains("suspicious") && verdict["suspicious"] == true;
}

bool is_conclusive(const nlohmann::json& detector) {
  const auto& verdict = section_of(detector, "verdict");
  return verdict.contains("suspicious") && verdict["suspicious"].is_boolean();
}

std::vector<std::string> verdict_sentences(const nlohmann::json& detector) {
  const std::string name = detector.value("name", "");
  if (detector.contains("error"))
    return {fmt::format("{}: failed: {}", name, detector.value("error", ""))};
  if (!detector.contains("verdict")) return {};
  const auto& verdict = section_of(detector, "verdict");
  const auto& calibration = section_of(detector, "calibration");
  if (!is_conclusive(detector)) {
    std::string text = fmt::format("{}: no verdict: {}", name, verdict.value("reason", ""));
    // What an unfinished search has found so far may be the backdoor.
    for (const auto& suspect : section_of(verdict, "suspects"))
      text += fmt::format("; so far, class {} ({}) {}", count_in(suspect, "label"),
                          suspect.value("class", "?"), suspect.value("evidence", ""));
    return {text};
  }
  const std::string score =
      fmt::format("score {}, threshold {}", base::fixed(*number_in(verdict, "score"), 2),
                  base::fixed(*number_in(verdict, "threshold"), 2));
  if (!is_suspicious(detector))
    return {fmt::format("{}: nothing found ({}{})", name, score,
                        calibration.empty() ? "" : "; " + rates(calibration))};
  std::vector<std::string> sentences;
  const std::string rarity = calibration.empty() ? "" : "; " + as_high(calibration);
  for (const auto& suspect : section_of(verdict, "suspects"))
    sentences.push_back(fmt::format("{}: suspicious: class {} ({}) {}{}", name,
                                    count_in(suspect, "label"), suspect.value("class", "?"),
                                    suspect.value("evidence", ""), rarity));
  if (sentences.empty())
    sentences.push_back(fmt::format("{}: suspicious ({}{})", name, score, rarity));
  return sentences;
}

std::vector<std::vector<std::string>> input_table(const nlohmann::json& results) {
  std::vector<std::vector<std::string>> lines;
  for (const auto& detector : section_of(results, "detectors")) {
    const auto& inputs = section_of(detector, "inputs");
    if (inputs.empty()) continue;
    if (lines.empty()) {
      lines.push_back({"detector of inputs"});
      for (const Metric& metric : input_metrics()) lines[0].emplace_back(metric.title);
      for (const char* title : {"threshold", "clean", "triggered", "successful"})
        lines[0].emplace_back(title);
    }
    auto& line = lines.emplace_back(1, detector.value("name", ""));
    for (const Metric& metric : input_metrics())
      line.push_back(text_of(metric, value_of(detector, metric)));
    const auto threshold = number_in(inputs, "threshold");
    line.push_back(threshold ? base::fixed(*threshold, 3) : "-");
    for (const char* number : {"clean", "triggered", "successful"})
      line.push_back(base::grouped(count_in(inputs, number)));
  }
  return lines;
}

std::vector<std::string> input_definitions() {
  return {
      "AUROC: a triggered test image scores higher than a clean one, a tie counts half; images "
      "of the target class, and those that the trigger does not change, are not triggered",
      "TPR at 1 % FPR, 5 %: triggered images found where at most that share of the clean test "
      "images is called triggered; TPR and FPR: at the detector's own threshold, which is from "
      "the defender's clean images or from its paper",
      "successful: triggered images that the model classifies as their target"};
}

std::vector<std::vector<std::string>> class_table(const nlohmann::json& detector) {
  const auto& verdict = section_of(detector, "verdict");
  const auto& columns = section_of(verdict, "classes");
  const auto& names = section_of(verdict, "class_names");
  if (columns.empty()) return {};
  std::vector<std::vector<std::string>> lines(1, {"class"});
  for (const auto& [title, numbers] : columns.items()) lines[0].push_back(title);
  for (std::size_t label = 0; label < names.size(); ++label) {
    auto& line =
        lines.emplace_back(1, fmt::format("{} {}", label, names[label].get<std::string>()));
    for (const auto& [title, numbers] : columns.items()) {
      const nlohmann::json& number = numbers.at(label);
      line.push_back(number.is_number() ? base::fixed(number.get<double>(), 2) : "-");
    }
  }
  return lines;
}

}  // namespace backstop::report
