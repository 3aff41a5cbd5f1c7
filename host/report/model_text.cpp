#include "host/report/model_text.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "host/base/text.hpp"
#include "host/report/detectors.hpp"
#include "host/report/fields.hpp"
#include "host/report/table.hpp"
#include "host/report/verdict.hpp"

namespace backstop::report {
namespace {

using nlohmann::json;

/// "0.916 (916 of 1,000 images; 95 %: 0.897 to 0.932)": Wilson's interval.
std::string accuracy_text(const json& row) {
  const auto accuracy = number_in(section_of(row, "metrics"), "clean_accuracy");
  const auto images = number_in(section_of(row, "counts"), "clean");
  if (!accuracy || !images) return "not measured";
  constexpr double z = 1.96;
  const double n = *images, p = *accuracy;
  const double center = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  return fmt::format("{} ({} of {} images; 95 %: {} to {})", base::fixed(p, 3),
                     base::grouped(std::llround(p * n)), base::grouped(std::llround(n)),
                     base::fixed(std::max(0.0, center - half), 3),
                     base::fixed(std::min(1.0, center + half), 3));
}

std::string numbers(const json& list) {
  std::vector<std::string> texts;
  for (const auto& number : list) texts.push_back(fmt::format("{:.4g}", number.get<double>()));
  return base::list_of(texts);
}

/// Of a normalization that was tried.
std::string in_words(const std::string& name) {
  return name == "dataset" ? "that of the images" : name;
}

/// "imagenet, which fits 400 of the images best (0.916; cifar10 0.915, half 0.850, none 0.399)".
std::string normalization_text(const json& results) {
  const json& record = section_of(results, "normalization");
  const std::string by = record.value("by", "");
  const std::string constants =
      record.empty() ? ""
                     : fmt::format("mean {}, deviation {}", numbers(section_of(record, "mean")),
                                   numbers(section_of(record, "deviation")));
  if (by == "file") return constants + ", as the file says";
  if (by == "recipe") return constants + ", as given";
  if (by != "accuracy") return constants;
  const std::string name = record.value("name", "");
  std::vector<std::pair<double, std::string>> others;
  for (const auto& [other, accuracy] : section_of(record, "accuracies").items())
    if (other != name) others.emplace_back(-accuracy.get<double>(), other);
  std::stable_sort(others.begin(), others.end());
  std::string list;
  for (const auto& [accuracy, other] : others)
    list += fmt::format("{}{} {}", list.empty() ? "" : ", ", in_words(other),
                        base::fixed(-accuracy, 3));
  return fmt::format("{} ({}), chosen by accuracy on {} images: {}; {}", in_words(name), constants,
                     base::grouped(std::llround(number_in(record, "images").value_or(0))),
                     base::fixed(number_in(section_of(record, "accuracies"), name).value_or(0), 3),
                     list);
}

std::string line(const std::string& what, const std::string& text) {
  return fmt::format("{:<16}{}\n", what, base::printable(text));
}

/// What both commands say of the model itself.
std::string head(const json& results, bool color) {
  const json& rows = section_of(results, "rows");
  std::string text = line("normalization", normalization_text(results));
  if (!rows.empty()) text += line("accuracy", accuracy_text(rows[0]));
  text += line("precision", results.value("precision", ""));
  if (const auto order = results.find("label_order"); order != results.end())
    text += fmt::format(
        "\n{}warning:{} the classes may be in another order than the model's labels; in the order\n"
        "  {}\naccuracy is {} instead of {}\n",
        color ? base::kYellow : "", color ? base::kReset : "",
        base::printable(base::list_of((*order)["classes"].get<std::vector<std::string>>())),
        base::fixed((*order)["best_accuracy"].get<double>(), 3),
        base::fixed((*order)["accuracy"].get<double>(), 3));
  for (const auto& row : rows)
    if (const std::string warning = warning_of(row); !warning.empty())
      text +=
          fmt::format("\n{}warning:{} {}: {}\n", color ? base::kYellow : "",
                      color ? base::kReset : "", row.value("name", ""), base::printable(warning));
  return text;
}

/// Before the model could be measured; the error says why.
bool ended_early(const json& results) {
  const json& rows = section_of(results, "rows");
  return rows.empty() || has_failed(rows[0]);
}

const json& last_row(const json& results) {
  return section_of(results, "rows").back();
}

}  // namespace

std::string model_text(const json& description) {
  const auto text = [&](const char* key) { return description.value(key, ""); };
  std::string lines = line("file", text("file"));
  if (description.contains("format")) {
    std::string format = text("format");
    if (!text("location").empty()) format += fmt::format(", weights in `{}`", text("location"));
    if (!text("prefix").empty()) format += fmt::format(", prefix `{}` taken off", text("prefix"));
    lines += line("format", format);
  }
  if (description.contains("network")) lines += line("network", text("network"));
  if (description.contains("numbers")) {
    std::vector<std::string> types;
    for (const auto& [type, count] : description["numbers"].items())
      types.push_back(fmt::format("{} {}", base::grouped(count.get<std::int64_t>()), type));
    lines += line("numbers",
                  base::list_of(types) +
                      fmt::format(" in {} tensors", description.value("tensors", std::int64_t{0})));
  }
  if (description.contains("network"))
    lines += line("normalization", description["normalization"].is_string() ? text("normalization")
                                                                            : "not in the file");
  if (const json& attack = section_of(description, "trained_with"); attack.is_string())
    lines += line("trained with", "attack " + attack.get<std::string>());
  if (const json& offers = section_of(description, "offers"); !offers.empty())
    lines += line("offers", base::list_of(offers.get<std::vector<std::string>>()));
  for (const auto& note : section_of(description, "notes"))
    lines += line("", note.get<std::string>());
  const char* what = "also in it";
  for (const auto& entry : section_of(description, "rest")) {
    lines += line(what, entry.get<std::string>());
    what = "";
  }
  return lines;
}

std::string scan_text(const json& results, bool color) {
  if (ended_early(results)) return "";
  std::string text = head(results, color);
  for (const auto& detector : section_of(results, "detectors")) {
    text += '\n';
    for (const auto& sentence : verdict_sentences(detector))
      text += fmt::format("{}{}{}\n", color && is_suspicious(detector) ? base::kYellow : "",
                          base::printable(sentence),
                          color && is_suspicious(detector) ? base::kReset : "");
    text += text_columns(class_table(detector));
  }
  return text;
}

std::vector<std::vector<std::string>> accuracy_by_class(const json& results) {
  const json& rows = section_of(results, "rows");
  std::vector<std::vector<std::string>> lines;
  for (const auto& row : rows) {
    const json& classes = section_of(row, "by_class");
    if (classes.empty()) continue;
    if (lines.empty()) {
      lines.push_back({"class", "images"});
      for (const auto& entry : classes)
        lines.push_back({entry["class"].get<std::string>(), entry["images"].dump()});
    }
    lines[0].push_back(row.value("name", ""));
    for (std::size_t i = 0; i < classes.size() && i + 1 < lines.size(); ++i) {
      const double images = classes[i]["images"].get<double>();
      lines[i + 1].push_back(
          images > 0 ? base::fixed(classes[i]["correct"].get<double>() / images, 3) : "-");
    }
  }
  return lines;
}

std::string clean_text(const json& results, double tolerance, bool color) {
  if (ended_early(results)) return "";
  std::string text = head(results, color);
  const json& row = last_row(results);
  if (has_failed(row)) return text;
  text += line("accuracy after", accuracy_text(row));
  const json& change = section_of(row, "change");
  if (const auto difference = number_in(change, "difference")) {
    text +=
        line("change",
             fmt::format("{:+.1f} points (95 %: {:+.1f} to {:+.1f}): {} images lost, {} gained",
                         100 * *difference, 100 * change["interval"][0].get<double>(),
                         100 * change["interval"][1].get<double>(),
                         change["lost"].get<std::int64_t>(), change["gained"].get<std::int64_t>()));
    if (lost_too_much(results, tolerance))
      text += fmt::format("\n{}warning:{} accuracy fell by more than {:.1f} points\n",
                          color ? base::kYellow : "", color ? base::kReset : "", 100 * tolerance);
  }
  text += '\n' + text_columns(accuracy_by_class(results));
  text += "\nwhat is left of a backdoor cannot be measured: its trigger is unknown\n";
  return text;
}

bool suspicious_or_unknown(const json& results) {
  const json& detectors = section_of(results, "detectors");
  return std::any_of(detectors.begin(), detectors.end(), is_suspicious) ||
         std::none_of(detectors.begin(), detectors.end(), is_conclusive);
}

bool lost_too_much(const json& results, double tolerance) {
  const json& row = last_row(results);
  const auto difference = number_in(section_of(row, "change"), "difference");
  return is_void(row) || !difference || -*difference > tolerance;
}

}  // namespace backstop::report
