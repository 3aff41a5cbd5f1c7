#include "host/engine/run/suspect_stage.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>

#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/run/measurements.hpp"
#include "host/engine/store/opened_model.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;

/// The column of each row, no two rows the same, so that the sum of `value` is the largest: the
/// Hungarian method with potentials, O(n^3).
std::vector<std::size_t> best_assignment(const std::vector<std::vector<double>>& value) {
  const std::size_t n = value.size();
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  std::vector<double> row_potential(n + 1), column_potential(n + 1);
  std::vector<std::size_t> row_of(n + 1), way(n + 1);  // counted from 1; 0 is none
  for (std::size_t row = 1; row <= n; ++row) {
    row_of[0] = row;
    std::size_t column = 0;
    std::vector<double> slack(n + 1, kInfinite);
    std::vector<bool> visited(n + 1);
    do {
      visited[column] = true;
      const std::size_t from = row_of[column];
      double smallest = kInfinite;
      std::size_t next = 0;
      for (std::size_t j = 1; j <= n; ++j) {
        if (visited[j]) continue;
        const double reduced = -value[from - 1][j - 1] - row_potential[from] - column_potential[j];
        if (reduced < slack[j]) {
          slack[j] = reduced;
          way[j] = column;
        }
        if (slack[j] < smallest) {
          smallest = slack[j];
          next = j;
        }
      }
      for (std::size_t j = 0; j <= n; ++j) {
        if (visited[j]) {
          row_potential[row_of[j]] += smallest;
          column_potential[j] -= smallest;
        } else {
          slack[j] -= smallest;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    for (; column != 0; column = way[column]) row_of[column] = row_of[way[column]];
  }
  std::vector<std::size_t> assigned(n);
  for (std::size_t j = 1; j <= n; ++j) assigned[row_of[j] - 1] = j - 1;
  return assigned;
}

/// See measure_suspect(); null where the order that is given fits as well.
json label_order(const at::Tensor& predicted, const at::Tensor& labels, std::int64_t classes) {
  constexpr std::int64_t kMostClasses = 300;  // the search for the best order is cubic
  // A few images fit some order by chance.
  constexpr double kClearly = 0.1, kChance = 1.5;
  if (classes > kMostClasses) return nullptr;
  const auto size = static_cast<std::size_t>(classes);
  std::vector<std::vector<double>> counts(size, std::vector<double>(size));
  const auto n = labels.numel();
  for (std::int64_t i = 0; i < n; ++i)
    ++counts[static_cast<std::size_t>(predicted[i].item<std::int64_t>())]
            [static_cast<std::size_t>(labels[i].item<std::int64_t>())];
  const auto order = best_assignment(counts);
  double right = 0, best = 0;
  for (std::size_t label = 0; label < size; ++label) {
    right += counts[label][label];
    best += counts[label][order[label]];
  }
  const auto images = static_cast<double>(n);
  if ((best - right) / images <= kClearly + kChance / std::sqrt(images)) return nullptr;
  return {{"accuracy", right / images},
          {"best_accuracy", best / images},
          {"images", n},
          {"order", order}};
}

}  // namespace

ImageStore some_images(const ImageStore& images) {
  constexpr std::int64_t kMost = 2000;
  if (images.size() <= kMost) return images;
  at::Generator generator = make_generator(seed_for(0, "some images"));
  return images.subset(at::randperm(images.size(), generator, at::kLong).narrow(0, 0, kMost));
}

at::Tensor predictions_of(HostTrainer& trainer, Classifier& model, const ImageStore& images) {
  return trainer.logits(model, images).argmax(1).to(at::kCPU);
}

Stage measure_suspect(const SuspectInputs& inputs, const StageServices& services) {
  StageContext ctx(services.label, 0, inputs.compute, {}, services.observer, services.interrupted);
  const OpenedModel opened = open_model(inputs.model_file.path);
  at::Generator unused = make_generator(0);
  Classifier model(inputs.architecture, inputs.normalization, inputs.compute, unused);
  model.load_state(opened.weights(), inputs.model_file.path.string());
  const ImageStore& test = inputs.task->data.test;
  Measurements measurements(ctx, inputs.measured ? &test : nullptr, [] { return nullptr; });
  measurements.before_training(model, 0, nullptr);

  Stage stage;
  stage.row = {{"name", recipe::kUndefended},
               {"plugin", nullptr},
               {"given", {{"clean_images", 0}, {"training_images", 0}}}};
  stage.row.update(measurements.after_training(model));
  if (inputs.measured) {
    stage.artifacts = {{kPredictions, predictions_of(ctx.trainer(), model, test)}};
    const ImageStore images = some_images(inputs.task->data.train);
    json order = label_order(predictions_of(ctx.trainer(), model, images),
                             images.labels().to(at::kCPU), inputs.architecture.classes);
    if (!order.is_null()) stage.row["label_order"] = std::move(order);
  }
  stage.row["extra"] = json::object();
  stage.row["cost"] = ctx.cost().stop();
  stage.epochs = ctx.epochs();
  stage.model = {model.state(), record_of(model)};
  return stage;
}

}  // namespace backstop::engine
