#include <cmath>
#include <string>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "../../shared/pattern/testing.hpp"
#include "backstop/testing/attack_promises.hpp"
#include "backstop/testing/fakes.hpp"
#include "losses.hpp"
#include "views.hpp"

namespace be = backstop::badencoder;

using backstop::Attack;
using backstop::Phase;
using backstop::Threat;
using backstop::testing::FakeContext;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::make;

namespace {

class Steady final : public backstop::Scheduler {
 public:
  double rate(const backstop::TrainingPosition&) const override { return 0.1; }
};

at::Generator seeded(std::uint64_t seed) {
  return at::detail::createCPUGenerator(seed);
}

at::Tensor drawn(at::IntArrayRef shape, std::uint64_t seed) {
  at::Generator generator = seeded(seed);
  return at::rand(shape, generator);
}

/// The attack with `recipe` as its parameters.
struct Made {
  explicit Made(const std::string& recipe)
      : params{recipe}, attack(make<Attack>(with_scheduler())) {}
  Attack* operator->() const { return &*attack; }

  const FakeParams& with_scheduler() {
    params.set_scheduler("injection_scheduler", steady);
    return params;
  }

  Steady steady;
  FakeParams params;
  decltype(make<Attack>(params)) attack;
};

/// The features are a linear map of the mean color, so that there is a body to train.
class Encoder final : public backstop::Model {
 public:
  at::Tensor body = drawn({3, 4}, 9).sub_(0.5).set_requires_grad(true);

  std::vector<at::Tensor> seen;  ///< every batch that features() was given

  at::Tensor features(const at::Tensor& images) override {
    seen.push_back(images);
    return images.mean({2, 3}).mm(body);
  }
  at::Tensor forward(const at::Tensor& images) override { return classify(features(images)); }
  at::Tensor observe(const at::Tensor& images, backstop::ActivationSink&) override {
    return forward(images);
  }
  at::Tensor classify(const at::Tensor& features) override { return features.narrow(1, 0, 2); }
  std::span<const std::string_view> stages() const override { return {}; }
  std::int64_t layer_count() override { return 0; }
  void read_layer(std::int64_t, backstop::Layer&) override {}
  void set_precision(backstop::Precision) override {}
  backstop::Precision precision() const noexcept override { return backstop::Precision::run; }
  std::int64_t classes() const noexcept override { return 2; }
  std::int64_t feature_size() const noexcept override { return 4; }
  void set_training(bool) override {}
  bool training() const noexcept override { return false; }
  void set_trainable(backstop::Part) override {}
  void set_batch_norm(backstop::BatchNormMode) override {}
  void reset(backstop::Part, at::Generator&) override {}
  void replace_head(std::int64_t, at::Generator&) override {}
  void mask_channels(std::string_view, const at::Tensor&) override {}
  void copy_from(const backstop::Model&) override {}
  void* query(std::string_view) noexcept override { return nullptr; }
};

at::Tensor cosine(const at::Tensor& a, const at::Tensor& b) {
  return a.mul(b).sum().div(a.norm().mul(b.norm()));
}

}  // namespace

// A FakeModel has no body to inject anything into.
BACKSTOP_TEST_ATTACK(BadEncoder, {.recipe = "encoder = \"supervised\"\ninjection_epochs = 0",
                                  .poisons = false,
                                  .all_to_all = false});

TEST(NtXent, EqualsTheFormulaComputedByHand) {
  const at::Tensor codes = drawn({4, 3}, 1).sub(0.5);
  double expected = 0;
  for (int i = 0; i < 4; ++i) {
    double others = 0;
    for (int j = 0; j < 4; ++j)
      if (j != i) others += std::exp(cosine(codes[i], codes[j]).item<double>() / 0.5);
    const double partner = cosine(codes[i], codes[(i + 2) % 4]).item<double>() / 0.5;
    expected += std::log(others) - partner;
  }
  EXPECT_NEAR(be::nt_xent(codes, 0.5).item<double>(), expected / 4, 1e-5);
}

TEST(NtXent, GradientAgreesWithFiniteDifferences) {
  const at::Tensor codes = drawn({6, 4}, 2).to(at::kDouble).sub_(0.5).set_requires_grad(true);
  be::nt_xent(codes, 0.5).backward();
  const auto at_step = [&](double step) {
    const at::NoGradGuard no_gradients;
    const at::Tensor moved = codes.detach().clone();
    moved[1][2].add_(step);
    return be::nt_xent(moved, 0.5).item<double>();
  };
  EXPECT_NEAR(codes.grad()[1][2].item<double>(), (at_step(1e-5) - at_step(-1e-5)) / 2e-5, 1e-8);
}

TEST(Injection, ComparesDirectionsNotLengths) {
  const at::Tensor right = at::tensor({2.0F, 0.0F}).view({1, 2});
  const at::Tensor up = at::tensor({0.0F, 3.0F}).view({1, 2});
  const be::Injection loss =
      be::injection(right.mul(5), right, up, up.neg(), right.mul(2), up.neg());
  EXPECT_NEAR(loss.effectiveness.item<double>(), 0, 1e-6) << "compared with the plain reference";
  EXPECT_NEAR(loss.reference.item<double>(), -1, 1e-6) << "compared with the augmented ones";
  EXPECT_NEAR(loss.utility.item<double>(), -1, 1e-6);
}

TEST(Views, KeepShapeRangeAndSeed) {
  for (const std::int64_t channels : {1, 3})
    for (const std::int64_t side : {28, 32, 96}) {
      const at::Tensor images = drawn({4, channels, side, side}, 3);
      at::Generator one = seeded(7), same = seeded(7), other = seeded(8);
      const auto view = [&](at::Generator& generator) {
        return be::recolored(be::cropped(images, generator), generator);
      };
      const at::Tensor first = view(one);
      EXPECT_EQ(first.sizes(), images.sizes());
      EXPECT_GE(first.min().item<double>(), 0);
      EXPECT_LE(first.max().item<double>(), 1);
      EXPECT_TRUE(first.equal(view(same)));
      EXPECT_FALSE(first.equal(view(other)));
    }
}

TEST(Views, CropsShowPartsOfTheImage) {
  // Each pixel says where it is: columns in the first channel, rows in the second.
  const at::Tensor line = at::arange(32, at::kFloat).div(31);
  const at::Tensor images =
      at::stack({line.expand({32, 32}), line.unsqueeze(1).expand({32, 32})}).repeat({64, 1, 1, 1});
  at::Generator generator = seeded(1);
  const at::Tensor views = be::cropped(images, generator);
  const auto span = [](const at::Tensor& values) {
    return values.amax({1, 2}).sub(values.amin({1, 2}));
  };
  const at::Tensor width = span(views.select(1, 0)), height = span(views.select(1, 1));
  const at::Tensor area = width.mul(height);
  EXPECT_GT(area.min().item<double>(), 0.04) << "a border pixel is lost on either side";
  EXPECT_LT(area.min().item<double>(), 0.4);
  EXPECT_GT(area.max().item<double>(), 0.7);
  const at::Tensor rising = views.select(1, 0).select(2, 31).gt(views.select(1, 0).select(2, 0));
  const double mirrored = rising.select(1, 0).to(at::kDouble).mean().item<double>();
  EXPECT_GT(mirrored, 0.3);
  EXPECT_LT(mirrored, 0.7);
}

TEST(Views, SomeBecomeGrayAndSomeStay) {
  const at::Tensor images = drawn({400, 3, 4, 4}, 4);
  at::Generator generator = seeded(2);
  const at::Tensor views = be::recolored(images, generator);
  const auto share = [](const at::Tensor& mask) {
    return mask.to(at::kDouble).mean().item<double>();
  };
  const at::Tensor gray = views.amax(1).sub(views.amin(1)).amax({1, 2}).lt(1e-6);
  EXPECT_NEAR(share(gray), 0.2, 0.06);
  EXPECT_NEAR(share(views.sub(images).abs().amax({1, 2, 3}).lt(1e-4)), 0.2 * 0.8, 0.06);
}

TEST(BadEncoder, StampsAWhitePatchOnePixelFromTheCorner) {
  const Made attack("patch_size = 2");
  FakeContext context;
  const at::Tensor images = drawn({2, 3, 6, 6}, 5).mul_(0.5);
  const at::Tensor triggered = attack->apply(context, images, Phase::test);
  const at::Tensor changed = triggered.ne(images).all(1)[0].nonzero();
  EXPECT_TRUE(changed.equal(at::tensor({3, 3, 3, 4, 4, 3, 4, 4}, at::kLong).view({4, 2})));
  EXPECT_TRUE(triggered.slice(2, 3, 5).slice(3, 3, 5).eq(1).all().item<bool>());
}

TEST(BadEncoder, TakesTheReferenceFromTheTrainingSetOrAFile) {
  const FakeImageSet set(drawn({6, 3, 12, 12}, 6), at::tensor({0, 1, 2, 0, 1, 2}, at::kLong), 3);
  Threat threat;
  threat.target = 1;
  threat.classes = 3;
  const auto reference = [&](const std::string& recipe) {
    const Made attack(recipe);
    FakeContext context;
    attack->prepare(context, threat, set);
    return context.pictures.at("reference image");
  };
  EXPECT_TRUE(reference("").equal(set.images(at::tensor({1}, at::kLong))));
  EXPECT_TRUE(reference("reference_class = 2\nreference_index = 1")
                  .equal(set.images(at::tensor({5}, at::kLong))));
  EXPECT_THROW(reference("reference_index = 2"), backstop::ParameterError);
  EXPECT_THROW(reference("reference_class = 3"), backstop::ParameterError);
  EXPECT_THROW(reference("patch_size = 12"), backstop::ParameterError);
  threat.all_to_all = 1;
  EXPECT_THROW(reference(""), backstop::ParameterError);
}

using ReferenceFile = backstop::pattern::PngTest;

TEST_F(ReferenceFile, IsResizedToTheImages) {
  write_png(PNG_FORMAT_RGB, 1, 1, {255, 0, 51});
  const FakeImageSet set(drawn({2, 3, 12, 12}, 6), at::tensor({0, 1}, at::kLong), 2);
  const Made attack("reference = \"" + file() + "\"");
  FakeContext context;
  attack->prepare(context, Threat{}, set);
  const at::Tensor reference = context.pictures.at("reference image");
  EXPECT_EQ(reference.sizes(), (std::vector<std::int64_t>{1, 3, 12, 12}));
  EXPECT_NEAR(reference[0][2].mean().item<double>(), 0.2, 1e-6);
}

TEST(BadEncoder, TrainsTheEncoderThenInjectsWithFrozenBatchNorm) {
  const Steady steady;
  const FakeImageSet set(drawn({8, 3, 12, 12}, 6), at::tensor({0, 1, 0, 1, 0, 1, 0, 1}, at::kLong),
                         2);
  for (const std::string encoder : {"simclr", "supervised"}) {
    const Made attack("encoder = \"" + encoder + "\"\nshadow_images = 5");
    FakeContext context;
    Encoder model, clean;
    context.cloner = [&](const backstop::Model&) -> backstop::Model& { return clean; };
    Threat threat;
    threat.classes = 2;
    attack->prepare(context, threat, set);
    backstop::TrainingOptions options;
    options.scheduler = &steady;
    options.epochs = 3;
    backstop::testing::FakeEditor editor{set};
    attack->train(context, threat, model, set, editor, options);
    const auto& fits = context.trainer().fits;
    ASSERT_EQ(fits.size(), 2u) << encoder;
    EXPECT_EQ(fits[0].epochs, 3);
    EXPECT_EQ(fits[0].step != nullptr, encoder == "simclr");
    EXPECT_EQ(fits[1].batch_norm, backstop::BatchNormMode::frozen);
    EXPECT_EQ(fits[1].trainable, backstop::Part::body);
    EXPECT_EQ(context.trainer().sizes[1], 5);
    EXPECT_FALSE(clean.body.grad().defined()) << "the clean encoder stays as it is";
    EXPECT_TRUE(model.body.grad().defined());
    EXPECT_NEAR(context.metrics.at("clean_as_before"), 1, 1e-5) << "both are still the same";
    EXPECT_LT(context.metrics.at("triggered_like_reference"), 1);
  }
}

TEST(BadEncoder, TriggeredImagesAreComparedWithThePlainReference) {
  const Steady steady;
  const FakeImageSet set(drawn({8, 3, 12, 12}, 6), at::tensor({0, 1, 0, 1, 0, 1, 0, 1}, at::kLong),
                         2);
  for (int seed = 0; seed < 4; ++seed) {  // one seed might draw an augmentation that does nothing
    const Made attack("encoder = \"supervised\"");
    FakeContext context;
    context.generator().set_current_seed(static_cast<std::uint64_t>(seed));
    Encoder model, clean;
    context.cloner = [&](const backstop::Model&) -> backstop::Model& { return clean; };
    Threat threat;
    threat.classes = 2;
    attack->prepare(context, threat, set);
    backstop::TrainingOptions options;
    options.scheduler = &steady;
    backstop::testing::FakeEditor editor{set};
    attack->train(context, threat, model, set, editor, options);
    const at::Tensor& batch = model.seen.back();
    const std::int64_t n = (batch.size(0) - 1) / 3;
    const at::Tensor reference = context.pictures.at("reference image");
    EXPECT_TRUE(batch.narrow(0, 2 * n, 1).equal(reference));
    EXPECT_FALSE(batch.narrow(0, 2 * n + 1, n).equal(reference.expand({n, -1, -1, -1})));
  }
}

TEST(BadEncoder, RefusesAStateOfAnotherShape) {
  const Made attack("patch_size = 5");
  FakeContext context;
  const auto refusal = [&](at::IntArrayRef shape) -> std::string {
    backstop::testing::FakeState state;
    state.tensor("reference", at::zeros(shape));
    try {
      attack->load(context, Threat{}, state);
    } catch (const backstop::Error& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refusal({3, 12, 12}),
            "the saved reference image must have the shape [1, channels, height, width], got "
            "[3, 12, 12]");
  EXPECT_EQ(refusal({1, 0, 12, 12}),
            "the saved reference image must have the shape [1, channels, height, width], got "
            "[1, 0, 12, 12]");
  EXPECT_EQ(refusal({1, 3, 12, 5}),
            "a patch of 5 pixels with a margin of 1 does not fit into images of 12 x 5 pixels");
  EXPECT_EQ(refusal({1, 3, 12, 12}), "accepted");
}
