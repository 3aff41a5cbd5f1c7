#include "host/engine/run/normalization_choice.hpp"

#include <vector>

#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/run/suspect_stage.hpp"
#include "host/schema/normalizations.hpp"

namespace backstop::engine {

using nlohmann::json;

json record_of(const Normalization& normalization, std::int64_t channels, const std::string& by) {
  const auto first = [&](const std::array<double, 3>& values) {
    return json(std::vector<double>(values.begin(), values.begin() + channels));
  };
  return {{"mean", first(normalization.mean)},
          {"deviation", first(normalization.deviation)},
          {"by", by}};
}

NormalizationChoice choose_normalization(const OpenedModel& model, const Architecture& architecture,
                                         const DatasetInput& dataset, const Compute& compute,
                                         const StageServices& services) {
  StageContext ctx(services.label, 0, compute, {}, services.observer, services.interrupted);
  const ImageStore images = some_images(dataset.data.train);
  const NamedTensors weights = model.weights();
  std::vector<std::pair<std::string, Normalization>> candidates = {
      {"dataset", dataset.data.normalization}};
  for (const auto& [name, mean, deviation] : schema::normalizations())
    candidates.emplace_back(name, Normalization{mean, deviation});

  NormalizationChoice choice;
  json accuracies = json::object();
  double best = -1;
  for (const auto& [name, normalization] : candidates) {
    at::Generator unused = make_generator(0);
    Classifier classifier(architecture, normalization, compute, unused);
    classifier.load_state(weights, model.path.string());
    const double accuracy = ctx.trainer().accuracy(classifier, images);
    accuracies[name] = accuracy;
    if (accuracy <= best) continue;
    best = accuracy;
    choice = {normalization, record_of(normalization, architecture.channels, "accuracy")};
    choice.record["name"] = name;
  }
  choice.record["images"] = images.size();
  choice.record["accuracies"] = std::move(accuracies);
  return choice;
}

}  // namespace backstop::engine
