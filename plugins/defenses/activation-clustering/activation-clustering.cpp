// Activation clustering (Chen et al., 2018): in the features of one class, poisoned images form a
// cluster of their own. For every label of the training set:
//
//   features of the suspicious model -> `components` principal components -> 2-means
//   "size":        the smaller cluster is poisoned if its share of the class < size_threshold
//   "silhouette":  the smaller cluster is poisoned if the mean silhouette > silhouette_threshold
//
// The images taken for poisoned are removed, and the model is trained from scratch on the rest.
//
// Defaults: 10 components, as in the paper and BackdoorBench; a share of 0.35, as in ART; a
// silhouette of 0.1, which is about where the paper draws the line. The training is that of
// BackdoorBench: SGD with a cosine learning rate from 0.01, momentum 0.9, weight decay 5e-4,
// batches of 256, 100 epochs. 2-means restarts ten times with k-means++ and runs for at most 300
// iterations, as in the library that ART uses.
//
// Deviations: principal components, as in BackdoorBench and ART, where the paper uses independent
// components. Images are grouped by label, as in both, where the paper groups them by prediction; a
// backdoored model predicts nearly all labels of its training set. The features are those of the
// unaugmented images in their original order, a whole class at a time. BackdoorBench augments the
// images, then reduces and clusters them batch by batch, and its verdicts are applied to other
// images, so its numbers say little about the method. The silhouette is computed on at most 2000
// images of a class.
//
// Blind spot: both rules take the smaller cluster to be the poison. If a tenth of a dataset with
// ten equally large classes is poisoned, the target class holds more poisoned than clean images
// (5000 and 4500 in CIFAR-10): "size" then flags little, and "silhouette" removes the clean images.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>

#include <ATen/core/Tensor.h>
#include <ATen/ops/cdist.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/multinomial.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "../../shared/retraining/retraining.hpp"
#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"

namespace {

constexpr int kRestarts = 10;
constexpr int kIterations = 300;
constexpr std::int64_t kSilhouetteRows = 2000;  // whose pairwise distances take 32 MB

/// Projects rows [n, d] to [n, min(components, d)]; the direction of largest variance comes last.
at::Tensor principal_components(const at::Tensor& rows, std::int64_t components) {
  const at::Tensor centered = rows.sub(rows.mean(0, true));
  const at::Tensor directions = std::get<1>(at::linalg_eigh(centered.t().matmul(centered)));
  const std::int64_t kept = std::min(components, rows.size(1));
  return centered.matmul(directions.narrow(1, rows.size(1) - kept, kept));
}

at::Tensor squared_distances(const at::Tensor& rows, const at::Tensor& center) {
  return rows.sub(center).square().sum(1);
}

struct Clusters {
  at::Tensor in_second;  ///< bool [n]
  double scatter = std::numeric_limits<double>::infinity();
};

/// Runs Lloyd's algorithm from two rows drawn by k-means++. Rows that are all equal form a single
/// cluster.
Clusters two_means_once(backstop::Context& ctx, const at::Tensor& rows) {
  at::Tensor first = rows.select(
      0, at::randint(rows.size(0), {1}, ctx.generator(), at::kLong).item<std::int64_t>());
  const at::Tensor odds = squared_distances(rows, first);
  if (odds.sum().item<double>() == 0) return {at::zeros({rows.size(0)}, at::kBool), 0};
  at::Tensor second =
      rows.select(0, at::multinomial(odds, 1, false, ctx.generator()).item<std::int64_t>());

  Clusters clusters;
  for (int i = 0; i < kIterations; ++i) {
    ctx.stop_if_cancelled();
    const at::Tensor to_first = squared_distances(rows, first);
    const at::Tensor to_second = squared_distances(rows, second);
    const at::Tensor in_second = to_second.lt(to_first);
    clusters.scatter = at::minimum(to_first, to_second).sum().item<double>();
    if (clusters.in_second.defined() && in_second.equal(clusters.in_second)) break;
    clusters.in_second = in_second;
    const at::Tensor weights = in_second.to(at::kDouble);
    const at::Tensor others = weights.neg().add(1);
    first = others.matmul(rows).div(others.sum());
    second = weights.matmul(rows).div(weights.sum());
  }
  return clusters;
}

/// Marks the rows of the smaller of two clusters: bool [n].
at::Tensor smaller_cluster(backstop::Context& ctx, const at::Tensor& rows) {
  Clusters best;
  for (int restart = 0; restart < kRestarts; ++restart) {
    const Clusters clusters = two_means_once(ctx, rows);
    if (clusters.scatter < best.scatter) best = clusters;
  }
  const bool second_is_smaller =
      2 * best.in_second.sum().item<std::int64_t>() <= best.in_second.numel();
  return second_is_smaller ? best.in_second : best.in_second.logical_not();
}

/// The mean silhouette of two clusters. The silhouette of a row is (b - a) / max(a, b), with a its
/// mean distance to the rest of its own cluster and b that to the other one; it is 0 for a row
/// alone in its cluster, and when there is only one cluster.
double mean_silhouette(backstop::Context& ctx, const at::Tensor& all_rows,
                       const at::Tensor& all_inside) {
  const at::Tensor chosen = at::randperm(all_rows.size(0), ctx.generator(), at::kLong)
                                .narrow(0, 0, std::min(all_rows.size(0), kSilhouetteRows));
  const at::Tensor rows = all_rows.index_select(0, chosen);
  const at::Tensor inside = all_inside.index_select(0, chosen);
  const auto m = static_cast<double>(rows.size(0));
  const double m_inside = inside.sum().item<double>();
  if (m_inside == 0 || m_inside == m) return 0;

  constexpr std::int64_t kNoMatrixProduct = 2;  // a product would be inexact for small distances
  const at::Tensor distances = at::cdist(rows, rows, 2, kNoMatrixProduct);
  const at::Tensor to_inside = distances.matmul(inside.to(at::kDouble));
  const at::Tensor to_outside = distances.sum(1).sub(to_inside);
  const at::Tensor a = at::where(inside, to_inside.div(std::max(m_inside - 1, 1.0)),
                                 to_outside.div(std::max(m - m_inside - 1, 1.0)));
  const at::Tensor b = at::where(inside, to_outside.div(m - m_inside), to_inside.div(m_inside));
  at::Tensor silhouettes =
      b.sub(a).div(at::maximum(a, b).clamp_min(std::numeric_limits<double>::min()));
  if (m_inside == 1) silhouettes.masked_fill_(inside, 0);
  if (m - m_inside == 1) silhouettes.masked_fill_(inside.logical_not(), 0);
  return silhouettes.mean().item<double>();
}

class ActivationClustering final : public backstop::Defense {
 public:
  explicit ActivationClustering(const backstop::Params& params)
      : components_(params.integer("components")),
        by_silhouette_(params.string("analysis") == "silhouette"),
        size_threshold_(params.number("size_threshold")),
        silhouette_threshold_(params.number("silhouette_threshold")),
        options_(backstop::training_options(params)) {}

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    const backstop::ImageSet& training = data.training();
    const at::Tensor suspicious = find_poison(ctx, model, training);
    backstop::retraining::remove_and_retrain(ctx, model, training, suspicious, options_);
  }

 private:
  /// Marks the suspicious images: bool [size], in the set's order. Some images of every class
  /// remain.
  at::Tensor find_poison(backstop::Context& ctx, backstop::Model& model,
                         const backstop::ImageSet& training) const {
    const at::Tensor labels = training.labels().to(at::kCPU);
    const at::Tensor features = ctx.trainer().features(model, training).to(at::kCPU);
    const std::int64_t classes = training.classes();
    at::Tensor suspicious = at::zeros({training.size()}, at::kBool);
    at::Tensor shares = at::zeros({classes}, at::kDouble);
    at::Tensor silhouettes = at::zeros({classes}, at::kDouble);
    // How unlike its class an image's cluster is: what the analysis compares with its threshold.
    at::Tensor scores = at::zeros({training.size()}, at::kDouble);
    std::int64_t flagged_classes = 0;
    for (std::int64_t label = 0; label < classes; ++label) {
      ctx.stop_if_cancelled();
      const at::Tensor members = labels.eq(label).nonzero().squeeze(1);
      if (members.numel() > 0) {
        const at::Tensor rows =
            principal_components(features.index_select(0, members).to(at::kDouble), components_);
        const at::Tensor smaller = smaller_cluster(ctx, rows);
        const double share = smaller.to(at::kDouble).mean().item<double>();
        const double silhouette = mean_silhouette(ctx, rows, smaller);
        shares.select(0, label).fill_(share);
        silhouettes.select(0, label).fill_(silhouette);
        scores.index_copy_(0, members,
                           smaller.to(at::kDouble).mul(by_silhouette_ ? silhouette : 1 - share));
        const bool poisoned =
            by_silhouette_ ? silhouette > silhouette_threshold_ : share < size_threshold_;
        if (poisoned && share > 0) {
          suspicious.index_copy_(0, members, smaller);
          ++flagged_classes;
        }
      }
      ctx.progress(label + 1, classes, "classes clustered");
    }
    ctx.score_poison(training.indices(), scores);
    ctx.artifact("smaller_cluster_share", shares);
    ctx.artifact("silhouette", silhouettes);
    ctx.metric("flagged_classes", static_cast<double>(flagged_classes));
    ctx.metric("largest_silhouette", silhouettes.max().item<double>());
    return suspicious;
  }

  std::int64_t components_;
  bool by_silhouette_;
  double size_threshold_;
  double silhouette_threshold_;
  backstop::TrainingOptions options_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, ActivationClustering)
