#include <cmath>
#include <string>
#include <vector>

#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/eye.h>
#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"
#include "masks.hpp"
#include "search.hpp"

namespace nc = backstop::neural_cleanse;
namespace ts = backstop::trigger_search;

using backstop::Defense;
using backstop::Part;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::make;

namespace {

at::Tensor drawn(at::IntArrayRef shape, std::uint64_t seed, at::ScalarType type = at::kFloat) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::rand(shape, generator, at::TensorOptions(type));
}

/// Images of class c are bright in channel c. There are `normal` classes, and one more channel that
/// is black everywhere.
FakeImageSet images_of(std::int64_t normal, std::int64_t size, std::int64_t side = 8) {
  at::Tensor images = drawn({size, normal + 1, side, side}, 5).mul_(0.2).add_(0.2);
  const at::Tensor labels = at::arange(size, at::kLong).remainder(normal);
  for (std::int64_t i = 0; i < size; ++i) {
    images.select(0, i).select(0, i % normal).add_(0.5);
    images.select(0, i).select(0, normal).zero_();
  }
  return {images, labels, normal + 1};
}

/// Assigns an image the class of its brightest channel; the last class needs `shortcut` times less
/// brightness.
FakeModel model_of(std::int64_t normal, double shortcut) {
  FakeModel model{normal + 1, normal + 1};
  const at::Tensor weight = model.layers()[0].weight.detach();
  weight.copy_(at::eye(normal + 1)).mul_(20);
  weight.select(0, normal).mul_(shortcut);
  return model;
}

void run(FakeContext& context, backstop::Model& model, const backstop::ImageSet& clean,
         const std::string& recipe = "") {
  const FakeParams params{recipe};
  make<Defense>(params)->run(context, model, FakeData{clean});
}

constexpr std::int64_t kNormal = 5;

}  // namespace

BACKSTOP_TEST_DEFENSE(NeuralCleanse, {.recipe = "epochs = 5\nanomaly_threshold = 1e-3"});

TEST(Objective, IsCrossEntropyPlusTheWeightedNorm) {
  FakeModel model{2, 3};
  const at::Tensor weight = model.layers()[0].weight.detach();
  weight.copy_(drawn({3, 2}, 1).sub(0.5).mul(6));
  const at::Tensor images = drawn({4, 2, 3, 3}, 2);
  const at::Tensor raw = drawn({2, 3, 3, 3}, 3).mul(4).sub(2);
  const at::Tensor targets = at::tensor({2, 0}, at::kLong), costs = at::tensor({0.1F, 0.3F});
  const ts::Objective found = ts::objective(model, nc::Masks(), images, raw, targets, costs);

  double expected = 0;
  for (std::int64_t k = 0; k < 2; ++k) {
    const at::Tensor m = raw.select(0, k).narrow(0, 0, 1).tanh().mul(0.5).add(0.5);
    const at::Tensor p = raw.select(0, k).narrow(0, 1, 2).tanh().mul(0.5).add(0.5);
    const at::Tensor logits = model.forward(images.mul(m.neg().add(1)).add(p.mul(m))).detach();
    const at::Tensor labels = targets.select(0, k).expand({4});
    expected += at::cross_entropy_loss(logits, labels).item<double>() +
                costs.select(0, k).item<double>() * m.sum().item<double>();
    EXPECT_EQ(found.hits.select(0, k).item<std::int64_t>(),
              logits.argmax(1).eq(labels).sum().item<std::int64_t>());
  }
  EXPECT_NEAR(found.loss.item<double>(), expected, 1e-5);
}

TEST(Objective, GradientMatchesFiniteDifferences) {
  FakeModel model{2, 3};
  at::Tensor(model.layers()[0].weight).set_data(drawn({3, 2}, 1, at::kDouble).sub(0.5).mul(6));
  at::Tensor(model.layers()[0].bias).set_data(drawn({3}, 4, at::kDouble));
  const at::Tensor images = drawn({4, 2, 2, 2}, 2, at::kDouble);
  const at::Tensor targets = at::tensor({2, 0}, at::kLong);
  const at::Tensor costs = at::tensor({0.1, 0.3}, at::kDouble);
  const at::Tensor raw = drawn({2, 3, 2, 2}, 3, at::kDouble).mul(2).sub(1).set_requires_grad(true);
  ts::objective(model, nc::Masks(), images, raw, targets, costs).loss.backward();
  const at::Tensor gradient = raw.grad().flatten();
  constexpr double kStep = 1e-6;
  for (std::int64_t i = 0; i < raw.numel(); ++i) {
    const auto moved = [&](double by) {
      const at::Tensor there = raw.detach().clone();
      there.flatten().select(0, i).add_(by);
      return ts::objective(model, nc::Masks(), images, there, targets, costs).loss.item<double>();
    };
    EXPECT_NEAR(gradient.select(0, i).item<double>(), (moved(kStep) - moved(-kStep)) / (2 * kStep),
                1e-8);
  }
  EXPECT_GT(gradient.abs().min().item<double>(), 1e-6);
}

TEST(Inversion, ClassesSideBySideGiveTheSameAsOneByOne) {
  const FakeImageSet clean = images_of(kNormal, 30);
  const auto find = [&](std::int64_t at_once) {
    FakeModel model = model_of(kNormal, 100);
    FakeContext context{clean, 3};
    ts::Settings settings;
    settings.rounds = 60;
    settings.batch_size = 8;  // the last batch is smaller
    settings.penalty = {.initial = 0.01, .multiplier = 2, .patience = 2, .early_stop = 4};
    settings.classes_at_once = at_once;
    return ts::find_triggers(context, model, clean, nc::Masks(), settings, "epochs");
  };
  const ts::Triggers loop = find(1);
  for (const std::int64_t at_once : {4, 0}) {
    const ts::Triggers batched = find(at_once);
    for (const auto part : {nc::Masks::masks, nc::Masks::patterns})
      EXPECT_TRUE(part(batched.raw).allclose(part(loop.raw), 0, 1e-3)) << at_once;
    EXPECT_EQ(batched.found, loop.found);
    for (std::size_t c = 0; c < loop.sizes.size(); ++c)
      EXPECT_NEAR(batched.sizes[c], loop.sizes[c], 1e-2) << at_once;
  }
}

TEST(Inversion, TriggersWorkAndStayInRange) {
  for (const std::int64_t side : {8, 28}) {
    const FakeImageSet clean = images_of(kNormal, 30, side);
    FakeModel model = model_of(kNormal, 100);
    FakeContext context{clean};
    const ts::Triggers triggers =
        ts::find_triggers(context, model, clean, nc::Masks(), {}, "epochs");
    const at::Tensor masks = nc::Masks::masks(triggers.raw);
    const at::Tensor patterns = nc::Masks::patterns(triggers.raw);
    EXPECT_EQ(masks.sizes(), at::IntArrayRef({kNormal + 1, 1, side, side}));
    EXPECT_EQ(patterns.sizes(), at::IntArrayRef({kNormal + 1, kNormal + 1, side, side}));
    for (const at::Tensor& t : {masks, patterns}) {
      EXPECT_GE(t.min().item<float>(), 0);
      EXPECT_LE(t.max().item<float>(), 1);
    }
    const at::Tensor images = clean.images(at::arange(30, at::kLong));
    for (std::int64_t c = 0; c <= kNormal; ++c) {
      ASSERT_TRUE(triggers.found[static_cast<std::size_t>(c)]) << c;
      const at::Tensor stamped = nc::stamped(images, masks.select(0, c), patterns.select(0, c));
      EXPECT_GE(model.forward(stamped).argmax(1).eq(c).sum().item<std::int64_t>(), 27) << c;
      EXPECT_NEAR(triggers.sizes[static_cast<std::size_t>(c)],
                  masks.select(0, c).sum().item<double>(), 1e-2);
      // The initial mask has half the weight of all pixels.
      EXPECT_LT(triggers.sizes[static_cast<std::size_t>(c)],
                0.45 * static_cast<double>(side * side));
    }
  }
}

TEST(Inversion, AClassThatIsNeverReachedHasNoTrigger) {
  const FakeImageSet clean = images_of(kNormal, 20);
  FakeModel model = model_of(kNormal, 100);
  model.layers()[0].bias.detach().select(0, 2).fill_(-1e4);
  FakeContext context{clean};
  ts::Settings settings;
  settings.rounds = 10;
  const ts::Triggers triggers =
      ts::find_triggers(context, model, clean, nc::Masks(), settings, "epochs");
  EXPECT_FALSE(triggers.found[2]);
  EXPECT_GT(triggers.sizes[2], 0);
}

TEST(NeuralCleanse, FlagsAndUnlearnsTheShortcut) {
  const FakeImageSet clean = images_of(kNormal, 50);
  FakeModel model = model_of(kNormal, 100);
  FakeContext context{clean};
  run(context, model, clean, "batch_size = 25\nunlearning_epochs = 3\nunlearning_batch_size = 7");

  EXPECT_EQ(context.metrics.at("flagged_classes"), 1);
  EXPECT_GT(context.metrics.at("anomaly_index"), 2);
  ASSERT_EQ(context.messages.size(), 1U);
  EXPECT_NE(context.messages[0].find("class 5 is flagged: its anomaly index is "),
            std::string::npos)
      << context.messages[0];
  const at::Tensor norms = context.artifacts.at("norms");
  EXPECT_EQ(norms.sizes(), at::IntArrayRef({kNormal + 1}));
  EXPECT_EQ(norms.argmin().item<std::int64_t>(), kNormal);
  const at::Tensor mask = context.artifacts.at("mask 5"),
                   pattern = context.artifacts.at("pattern 5");
  EXPECT_EQ(mask.sizes(), at::IntArrayRef({1, 8, 8}));
  EXPECT_EQ(pattern.sizes(), at::IntArrayRef({kNormal + 1, 8, 8}));
  EXPECT_TRUE(context.artifacts.at("trigger 5").equal(pattern.mul(mask)));

  ASSERT_EQ(context.trainer().fits.size(), 1U);
  const backstop::TrainingOptions& options = context.trainer().fits[0];
  EXPECT_EQ(options.epochs, 3);
  EXPECT_EQ(options.batch_size, 7);
  const backstop::ImageSet& set = *context.trainer().sets[0];
  EXPECT_TRUE(set.labels().equal(clean.labels()));
  const at::Tensor all = at::arange(50, at::kLong);
  const at::Tensor before = clean.images(all), after = set.images(all);
  const at::Tensor changed = after.ne(before).flatten(1).any(1);
  EXPECT_EQ(changed.sum().item<std::int64_t>(), 10);  // 20 %
  const at::Tensor stamped = nc::stamped(before, mask, pattern);
  for (std::int64_t i = 0; i < 50; ++i) {
    const at::Tensor expected = changed.select(0, i).item<bool>() ? stamped : before;
    EXPECT_TRUE(after.select(0, i).equal(expected.select(0, i))) << i;
  }
  EXPECT_EQ(model.trainable, Part::whole);
  EXPECT_FALSE(model.training());
}

TEST(NeuralCleanse, DividesTheStampedImagesAmongTheFlaggedClasses) {
  const FakeImageSet clean = images_of(kNormal, 50);
  FakeModel model = model_of(kNormal, 100);
  FakeContext context{clean};
  run(context, model, clean, "batch_size = 25\nanomaly_threshold = 1e-3");
  const auto flagged = static_cast<std::int64_t>(context.metrics.at("flagged_classes"));
  ASSERT_GE(flagged, 2);
  const at::Tensor all = at::arange(50, at::kLong);
  const at::Tensor before = clean.images(all);
  const at::Tensor after = context.trainer().sets.at(0)->images(all);
  std::int64_t stamped = 0;
  for (std::int64_t c = 0; c <= kNormal; ++c) {
    const std::string name = std::to_string(c);
    const at::Tensor with = nc::stamped(before, context.artifacts.at("mask " + name),
                                        context.artifacts.at("pattern " + name));
    const auto count = after.eq(with).flatten(1).all(1).sum().item<std::int64_t>();
    if (count > 0) {
      EXPECT_LE(std::abs(count - 10 / flagged), 1) << c;
    }
    stamped += count;
  }
  EXPECT_EQ(stamped, 10);
}

TEST(NeuralCleanse, LeavesACleanModelUnchangedAndSaysSo) {
  const FakeImageSet clean = images_of(kNormal, 50);
  FakeModel model = model_of(kNormal, 1);
  const at::Tensor before = model.layers()[0].weight.detach().clone();
  FakeContext context{clean};
  run(context, model, clean, "batch_size = 25");
  EXPECT_EQ(context.metrics.at("flagged_classes"), 0);
  EXPECT_LE(context.metrics.at("anomaly_index"), 2);
  EXPECT_TRUE(context.trainer().fits.empty());
  EXPECT_TRUE(model.layers()[0].weight.equal(before));
  ASSERT_FALSE(context.messages.empty());
  EXPECT_NE(context.messages.back().find("no class is flagged, and the model is left unchanged"),
            std::string::npos);
}

TEST(NeuralCleanse, FlagsNothingInCleanModelsOfAnySeed) {
  const FakeImageSet clean = images_of(kNormal, 50);
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    FakeModel model = model_of(kNormal, 1);
    const at::Tensor weight = model.layers()[0].weight.detach();
    weight.add_(drawn(weight.sizes(), seed).sub(0.5).mul(2));  // a tenth of the deciding weight
    FakeContext context{clean, seed};
    run(context, model, clean, "batch_size = 25");
    EXPECT_EQ(context.metrics.at("flagged_classes"), 0) << "seed " << seed;
    EXPECT_TRUE(context.trainer().fits.empty()) << "seed " << seed;
  }
}

TEST(NeuralCleanse, DetectsWithoutUnlearning) {
  const FakeImageSet clean = images_of(kNormal, 50);
  FakeModel model = model_of(kNormal, 100);
  FakeContext context{clean};
  run(context, model, clean, "batch_size = 25\nunlearn = false");
  EXPECT_EQ(context.metrics.at("flagged_classes"), 1);
  EXPECT_TRUE(context.trainer().fits.empty());
}

TEST(NeuralCleanse, DoesNotFlagAClassWithoutAWorkingTrigger) {
  const FakeImageSet clean = images_of(kNormal, 20);
  FakeModel model = model_of(kNormal, 1);
  FakeContext context{clean};
  run(context, model, clean, "epochs = 1\nanomaly_threshold = 1e-6\nsuccess_threshold = 1.0");
  EXPECT_EQ(context.metrics.at("flagged_classes"), 0);
  EXPECT_EQ(context.messages.size(), static_cast<std::size_t>(kNormal) + 2);
}

TEST(NeuralCleanse, DrawsOnlyFromTheContextsGenerator) {
  const FakeImageSet clean = images_of(kNormal, 20);
  const auto masks = [&](std::uint64_t seed) {
    FakeModel model = model_of(kNormal, 100);
    FakeContext context{clean, seed};
    run(context, model, clean, "epochs = 3\nbatch_size = 8\nclasses_at_once = 2");
    return context.artifacts.at("mask 1");
  };
  EXPECT_TRUE(masks(1).equal(masks(1)));
  EXPECT_FALSE(masks(1).equal(masks(2)));
}

namespace {

backstop::testing::FakeVerdict judged(FakeContext& context, FakeModel& model,
                                      const backstop::ImageSet& clean,
                                      const std::string& recipe = "") {
  const FakeParams params{recipe};
  const auto defense = make<Defense>(params);
  backstop::testing::FakeVerdict verdict{model.classes()};
  backstop::testing::detector(*defense).detect(context, model, FakeData{clean}, verdict);
  return verdict;
}

}  // namespace

TEST(NeuralCleanseDetector, SuspectsTheShortcutAndLeavesTheModelAsItWas) {
  const FakeImageSet clean = images_of(kNormal, 50);
  FakeModel model = model_of(kNormal, 100);
  const at::Tensor before = model.layers()[0].weight.detach().clone();
  FakeContext context{clean};
  const auto verdict = judged(context, model, clean);
  EXPECT_EQ(verdict.reason, "");
  ASSERT_EQ(verdict.scores.size(), 2U);
  EXPECT_GT(verdict.scores[0], verdict.scores[1]);
  ASSERT_EQ(verdict.suspects.size(), 1U);
  EXPECT_EQ(verdict.suspects.at(kNormal).find("is reached by a patch of "), 0U);
  EXPECT_EQ(verdict.columns.at("log_index").at(kNormal), verdict.scores[0]);
  EXPECT_GT(verdict.columns.at("anomaly_index").at(kNormal), 2);
  EXPECT_EQ(verdict.columns.at("mask_norm").size(), static_cast<std::size_t>(kNormal) + 1);
  EXPECT_EQ(context.pictures.size(), static_cast<std::size_t>(kNormal) + 1);
  // Every search came to its end before its last round.
  EXPECT_LT(context.progress_calls.back().first, context.progress_calls.back().second - 6);
  EXPECT_TRUE(model.layers()[0].weight.equal(before));
  EXPECT_EQ(model.trainable, Part::whole);
  EXPECT_TRUE(context.trainer().fits.empty());
}

TEST(NeuralCleanseDetector, FindsNothingInACleanModel) {
  const FakeImageSet clean = images_of(kNormal, 50);
  FakeModel model = model_of(kNormal, 1);
  FakeContext context{clean};
  const auto verdict = judged(context, model, clean);
  EXPECT_EQ(verdict.reason, "");
  EXPECT_LT(verdict.scores.at(0), verdict.scores.at(1));
  EXPECT_TRUE(verdict.suspects.empty());
}

TEST(NeuralCleanseDetector, HasNoVerdictBeforeTheMasksHaveSettled) {
  const FakeImageSet clean = images_of(kNormal, 50);
  FakeModel model = model_of(kNormal, 100);
  FakeContext context{clean};
  EXPECT_EQ(judged(context, model, clean, "detection_rounds = 40").reason,
            "the masks of 6 of 6 classes were still shrinking after 40 rounds of search");
  FakeModel normal = model_of(kNormal, 1);
  for (FakeModel* any : {&model, &normal})  // a class that is never reached
    any->layers()[0].bias.detach().select(0, 2).fill_(-1e4);
  EXPECT_NE(judged(context, normal, clean).reason.find("for 1 of 6 classes"), std::string::npos);
  const auto verdict = judged(context, model, clean);  // of the class that stands out all the same
  EXPECT_EQ(verdict.reason, "");
  EXPECT_EQ(verdict.suspects.size(), 1U);
  EXPECT_EQ(verdict.suspects.count(kNormal), 1U);
}

TEST(NeuralCleanseDetector, HasNoVerdictOfTwoClasses) {
  const FakeImageSet clean = images_of(1, 50);
  FakeModel model = model_of(1, 100);
  FakeContext context{clean};
  const auto verdict = judged(context, model, clean);
  EXPECT_NE(verdict.reason, "");
  EXPECT_TRUE(verdict.scores.empty());
}
