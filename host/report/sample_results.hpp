// Results as a run writes them, for the tests of what is made from them.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace backstop::report {

inline nlohmann::json sample_row(const std::string& name, double clean_accuracy,
                                 double attack_success) {
  return {{"name", name},
          {"plugin", nullptr},
          {"given", {{"clean_images", 3000}, {"training_images", 0}}},
          {"metrics",
           {{"clean_accuracy", clean_accuracy},
            {"attack_success_rate", attack_success},
            {"attack_success_rate_all", attack_success},
            {"robust_accuracy", nullptr},
            {"clean_accuracy_drop", 0.0}}},
          {"counts", {{"clean", 10000}, {"triggered", 9000}, {"triggered_all", 10000}}},
          {"extra", nlohmann::json::object()},
          {"cost",
           {{"wall_seconds", 312.4},
            {"cpu_seconds", 600.5},
            {"gpu_seconds", 0.0},
            {"evaluation_seconds", 2.0},
            {"samples_seen", 120000},
            {"peak_memory_bytes", 1000000}}}};
}

inline nlohmann::json sample_results() {
  nlohmann::json undefended = sample_row("no defense", 0.912, 1.0);
  undefended["trigger"] = {
      {"psnr", 20.14}, {"ssim", 0.8912}, {"changed_images", 10000}, {"images", 10000}};
  nlohmann::json tuned = sample_row("fine-tuning", 0.905, 0.25);
  tuned["plugin"] = "fine-tuning";
  nlohmann::json pruned = sample_row("pruned, then \"tuned\"", 0.9, 0.012);
  pruned["extra"] = {{"pruned", 12}};
  pruned["detection"] = {
      {"true_positive_rate", 0.98}, {"false_positive_rate", 0.01}, {"flagged", 6100}};
  return {{"schema", 1},
          {"name", "quick<start>"},
          {"seed", 7},
          {"rows", {undefended, tuned, pruned}},
          {"expectations",
           {{{"row", "fine-tuning"},
             {"metric", "attack_success_rate"},
             {"value", 0.25},
             {"minimum", nullptr},
             {"maximum", 0.1},
             {"met", false}},
            {{"row", "no defense"},
             {"metric", "clean_accuracy"},
             {"value", 0.912},
             {"minimum", 0.5},
             {"maximum", 1.0},
             {"met", true}}}}};
}

/// The last row has the best attack success, and this warning.
inline nlohmann::json collapsed_results() {
  nlohmann::json results = sample_results();
  results["rows"][2]["warning"] = "collapsed: predicts one class for 98 % of clean images";
  return results;
}

}  // namespace backstop::report
