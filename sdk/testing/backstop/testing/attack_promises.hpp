// Tests of what every attack must hold, as backstop/attack.hpp says it. In the test of a plugin,
//
//   #include "backstop/testing/attack_promises.hpp"
//   BACKSTOP_TEST_ATTACK(MyAttack, {}, {.recipe = "size = 2"});
//
// runs all of them with the manifest's defaults, {}, and with a size of 2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

namespace backstop::testing {

/// What the tests run with, and what is different about an attack.
struct AttackCase {
  std::string recipe = {};  ///< the plugin's table as TOML
  bool poisons = true;      ///< false: the training set stays as it is
  bool all_to_all = true;   ///< false: all-to-all labels are a ParameterError
  /// False: a poisoned image of the training set shows something else than apply() gives.
  bool whole_trigger = true;
  std::int64_t target = 2;  ///< in 0 .. 3
  /// How much a pixel may depend on the images beside it in a batch: convolutions round
  /// differently.
  double tolerance = 0;
};

inline std::ostream& operator<<(std::ostream& stream, const AttackCase& c) {
  return stream << '"' << c.recipe << '"';
}

/// One case with the manifest's defaults where none is given.
inline std::vector<AttackCase> attack_cases(std::initializer_list<AttackCase> cases) {
  return cases.size() == 0 ? std::vector<AttackCase>(1) : std::vector<AttackCase>(cases);
}

class AttackPromises : public ::testing::TestWithParam<AttackCase> {
 protected:
  static constexpr std::int64_t kClasses = 4;
  static constexpr std::int64_t kImages = 42;
  static constexpr double kRatio = 0.18;       // 7.56 images
  static constexpr std::size_t kPoisoned = 8;  // fewer than a class has

  /// Gray images of 28 x 28 pixels, or images of three channels and 32 x 32 pixels.
  static FakeImageSet images_of(std::int64_t channels) {
    return random_images(kImages, channels, channels == 1 ? 28 : 32, kClasses);
  }
  static Threat threat() {
    return {.target = GetParam().target, .classes = kClasses, .poison_ratio = kRatio};
  }
  static bool same(const at::Tensor& a, const at::Tensor& b) {
    return GetParam().tolerance == 0 ? a.equal(b) : a.allclose(b, 0, GetParam().tolerance);
  }

  /// An attack on a set of images.
  struct Run {
    explicit Run(const FakeImageSet& images, std::uint64_t seed = 1)
        : params(GetParam().recipe),
          context(images, seed),
          set(images),
          editor(set),
          attack(make<Attack>(params)) {}

    /// All calls that the host makes before it measures the backdoor.
    void train(const Threat& threat) {
      attack->prepare(context, threat, set);
      attack->poison(context, threat, editor);
      const FixedRate rate;
      TrainingOptions options;
      options.batch_size = 16;
      options.scheduler = &rate;
      FakeModel model{set.channels(), set.classes()};
      attack->train(context, threat, model, set, editor, options);
    }
    at::Tensor apply(const at::Tensor& images, Phase phase = Phase::test) {
      return attack->apply(context, images, phase);
    }
    FakeState saved() const {
      FakeState state;
      attack->save(state);
      return state;
    }

    FakeParams params;
    FakeContext context;
    const FakeImageSet& set;
    FakeEditor editor;
    decltype(make<Attack>(params)) attack;
  };
};

TEST_P(AttackPromises, KeepsShapeTypeRangeAndInput) {
  for (const std::int64_t channels : {1, 3}) {
    const FakeImageSet set = images_of(channels);
    Run run(set);
    run.train(threat());
    const at::Tensor images = all_images(set), before = images.clone();
    for (const Phase phase : {Phase::train, Phase::test}) {
      const at::Tensor triggered = run.apply(images, phase);
      EXPECT_EQ(triggered.sizes(), images.sizes());
      EXPECT_EQ(triggered.scalar_type(), at::kFloat);
      EXPECT_FALSE(triggered.requires_grad());
      EXPECT_TRUE(triggered.isfinite().all().item<bool>());
      EXPECT_GE(triggered.min().item<float>(), 0);
      EXPECT_LE(triggered.max().item<float>(), 1);
      EXPECT_TRUE(images.equal(before)) << "apply() wrote to the images that it was given";
      const at::Tensor none = images.narrow(0, 0, 0);
      EXPECT_EQ(run.apply(none, phase).sizes(), none.sizes());
    }
  }
}

TEST_P(AttackPromises, GivesTheSameResultInEveryBatch) {
  for (const std::int64_t channels : {1, 3}) {
    const FakeImageSet set = images_of(channels);
    Run run(set);
    run.train(threat());
    const at::Tensor images = all_images(set);
    for (const Phase phase : {Phase::train, Phase::test}) {
      const at::Tensor together = run.apply(images, phase);
      EXPECT_TRUE(same(run.apply(images, phase), together)) << "a second call differs";
      for (const std::int64_t size : {1, 5})
        for (std::int64_t first = 0; first + size <= kImages; first += 11)
          EXPECT_TRUE(same(run.apply(images.narrow(0, first, size), phase),
                           together.narrow(0, first, size)))
              << size << " images from image " << first;
    }
  }
}

TEST_P(AttackPromises, PoisonsAsManyImagesAsTheRecipeSaysAndNoOthers) {
  for (const std::int64_t channels : {1, 3}) {
    const FakeImageSet set = images_of(channels);
    const at::Tensor labels = set.labels().clone();
    Run run(set);
    run.train(threat());
    EXPECT_TRUE(set.labels().equal(labels)) << "write to the editor, not to the labels";
    const at::Tensor triggered = run.apply(all_images(set), Phase::train);
    std::size_t poisoned = 0;
    for (const auto& [position, entry] : run.editor.written) {
      SCOPED_TRACE("image " + std::to_string(position));
      EXPECT_GE(entry.image.min().item<float>(), 0);
      EXPECT_LE(entry.image.max().item<float>(), 1);
      if (entry.role == Role::cover) {
        EXPECT_EQ(entry.label, position % kClasses) << "a cover image keeps its label";
        continue;
      }
      ++poisoned;
      EXPECT_EQ(entry.label, GetParam().target);
      if (GetParam().whole_trigger) {
        EXPECT_TRUE(same(entry.image, triggered.select(0, position)));
      }
    }
    EXPECT_EQ(poisoned, GetParam().poisons ? kPoisoned : 0);
    if (!GetParam().poisons) {
      EXPECT_TRUE(run.editor.written.empty());
    }
  }
}

TEST_P(AttackPromises, SendsEveryClassToTheNextWhenAllGoToAll) {
  const FakeImageSet set = images_of(3);
  Run run(set);
  Threat all = threat();
  all.all_to_all = 1;
  if (!GetParam().all_to_all) {
    EXPECT_THROW(run.train(all), ParameterError);
    return;
  }
  run.train(all);
  for (const auto& [position, entry] : run.editor.written) {
    EXPECT_EQ(entry.label, (position + (entry.role == Role::poison ? 1 : 0)) % kClasses);
  }
}

TEST_P(AttackPromises, RefusesARatioThatPoisonsNoImage) {
  const FakeImageSet set = images_of(3);
  Run run(set);
  Threat none = threat();
  none.poison_ratio = 0.4 / kImages;
  if (GetParam().poisons) {
    EXPECT_THROW(run.train(none), ParameterError);
  } else {
    EXPECT_NO_THROW(run.train(none));
  }
}

TEST_P(AttackPromises, IsTheSameForTheSameSeed) {
  const FakeImageSet set = images_of(3);
  Run first(set), second(set);
  first.train(threat());
  at::rand({3});  // moves LibTorch's global generator, which an attack does not draw from
  second.train(threat());
  EXPECT_TRUE(first.apply(all_images(set)).equal(second.apply(all_images(set))));
  ASSERT_EQ(first.editor.written.size(), second.editor.written.size());
  for (const auto& [position, entry] : first.editor.written) {
    ASSERT_EQ(second.editor.written.count(position), 1U) << "image " << position;
    EXPECT_TRUE(entry.image.equal(second.editor.written.at(position).image));
  }
}

TEST_P(AttackPromises, IsTheSameAfterSavingAndLoading) {
  for (const std::int64_t channels : {1, 3}) {
    const FakeImageSet set = images_of(channels);
    Run run(set);
    run.train(threat());
    const FakeState state = run.saved();
    Run elsewhere(set, 2);
    elsewhere.attack->load(elsewhere.context, threat(), state);
    for (const Phase phase : {Phase::train, Phase::test})
      EXPECT_TRUE(elsewhere.apply(all_images(set), phase).equal(run.apply(all_images(set), phase)));
    const FakeState again = elsewhere.saved();
    EXPECT_EQ(again.tensors.size(), state.tensors.size());
    for (const auto& [name, tensor] : state.tensors)
      EXPECT_TRUE(again.has(name) && again.tensor(name).equal(tensor)) << name;
  }
}

TEST_P(AttackPromises, StopsWhenTheRunIsInterrupted) {
  const FakeImageSet set = images_of(3);
  Run run(set);
  run.context.cancel = true;
  EXPECT_THROW(run.train(threat()), Cancelled);
}

}  // namespace backstop::testing

/// Runs all tests of AttackPromises with each AttackCase, written in braces; without any, with the
/// manifest's defaults.
// NOLINTNEXTLINE(cppcoreguidelines-macro-usage): GoogleTest's own are macros
#define BACKSTOP_TEST_ATTACK(Name, ...)          \
  using backstop::testing::AttackPromises;       \
  INSTANTIATE_TEST_SUITE_P(Name, AttackPromises, \
                           ::testing::ValuesIn(backstop::testing::attack_cases({__VA_ARGS__})))
