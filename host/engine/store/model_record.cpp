// What a run records of its models, and how it is compared with what a recipe asks for.
#include <cmath>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/engine/store/model_file.hpp"

namespace backstop::engine {

namespace {

std::vector<double> first(const std::array<double, 3>& values, std::int64_t channels) {
  return {values.begin(), values.begin() + channels};
}

}  // namespace

std::map<std::string, std::string> record_of(const Classifier& model) {
  const Architecture& a = model.architecture();
  const auto list = [&](const std::array<double, 3>& values) {
    return nlohmann::json(first(values, a.channels)).dump();
  };
  return {{"format", "pt"},
          {"architecture", a.name},
          {"width", std::to_string(a.width)},
          {"channels", std::to_string(a.channels)},
          {"classes", std::to_string(a.classes)},
          {"mean", list(model.normalization().mean)},
          {"deviation", list(model.normalization().deviation)}};
}

void require_same_model(const ModelFacts& facts, const Architecture& architecture,
                        const std::string& where) {
  std::vector<std::string> differences;
  const auto compare = [&](const char* what, const auto& recorded, const auto& expected) {
    if (recorded && *recorded != expected)
      differences.push_back(fmt::format("{} {} instead of {}", what, *recorded, expected));
  };
  compare("architecture", facts.architecture, architecture.name);
  compare("width", facts.width, architecture.width);
  compare("channels", facts.channels, architecture.channels);
  compare("classes", facts.classes, architecture.classes);
  if (differences.empty()) return;
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("{} holds another model: {}", where, fmt::join(differences, ", ")),
      "set [model] architecture and width to those of the file; the classes and channels are the "
      "dataset's");
}

std::string text_of(const Normalization& normalization, std::int64_t channels) {
  return fmt::format("mean {}, deviation {}", first(normalization.mean, channels),
                     first(normalization.deviation, channels));
}

bool same_normalization(const Normalization& a, const Normalization& b, std::int64_t channels) {
  constexpr double kTolerance = 1e-6;
  for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c)
    if (std::abs(a.mean[c] - b.mean[c]) > kTolerance ||
        std::abs(a.deviation[c] - b.deviation[c]) > kTolerance)
      return false;
  return true;
}

}  // namespace backstop::engine
