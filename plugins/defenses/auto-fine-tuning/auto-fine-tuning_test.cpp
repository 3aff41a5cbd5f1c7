#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"
#include "rule.hpp"
#include "two_phases.hpp"

using backstop::Defense;
using backstop::Model;
using backstop::TrainingOptions;
using backstop::TrainingPosition;
using backstop::auto_fine_tuning::at_chance;
using backstop::auto_fine_tuning::comes_back;
using backstop::auto_fine_tuning::largest;
using backstop::auto_fine_tuning::split;
using backstop::auto_fine_tuning::TwoPhases;
using backstop::testing::FakeContext;
using backstop::testing::FakeData;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeModel;
using backstop::testing::FakeParams;
using backstop::testing::images_with_features;
using backstop::testing::make;
using ::testing::HasSubstr;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// `wrong` of `n` images are not right: the first ones.
at::Tensor correct(std::int64_t n, std::int64_t wrong) {
  return at::arange(n).ge(wrong);
}

double highest_rate(const TrainingOptions& options) {
  TrainingPosition position;
  position.epochs = options.epochs;
  double highest = 0;
  for (; position.iteration < position.total_iterations(); ++position.iteration)
    highest = std::max(highest, options.scheduler->rate(position));
  return highest;
}

/// Images of two classes and of difficulties 0.005, 0.015, ... 0.995, half of each class, for a model
/// with one number, its skill: it gets right what is less difficult. What a training makes of the
/// skill is scripted by its peak.
class Scripted : public ::testing::Test {
 protected:
  explicit Scripted() {
    set_skill(model, 1);
    context.trainer().learns = true;
    context.trainer().after_epoch = [this](Model& trained) {
      const double peak = highest_rate(context.trainer().fits.back());
      const auto scripted = std::find_if(skills.begin(), skills.end(), [&](const auto& entry) {
        return std::abs(entry.first - peak) < 1e-9;
      });
      set_skill(trained, scripted == skills.end() ? 0 : scripted->second);
    };
  }

  static void set_skill(Model& model, double skill) {
    const at::NoGradGuard no_gradients;
    const backstop::Layer layer = model.layers()[0];
    layer.weight.zero_();
    layer.weight[1][0] = skill;
    layer.weight[1][1] = -1;
    layer.bias.zero_();
  }
  static double skill(Model& model) { return model.layers()[0].weight[1][0].item<double>(); }

  static FakeImageSet images(std::int64_t size) {
    const at::Tensor labels = at::arange(size, at::kLong).remainder(2);
    const at::Tensor sign = labels.mul(2).sub(1).to(at::kFloat);
    const at::Tensor difficulty =
        at::arange(size).div(2, "floor").mul(2).add(1).div(static_cast<double>(size));
    return images_with_features(at::stack({sign, sign.mul(difficulty)}, 1), labels, 2);
  }

  void defend(const std::string& recipe = "") { defend(images(200), recipe); }
  void defend(const FakeImageSet& clean, const std::string& recipe = "") {
    const FakeParams params{recipe + "\nphase_1_steps = 10\nphase_2_steps = 10\nbatch_size = 1000"};
    make<Defense>(params)->run(context, model, FakeData{clean});
  }
  std::vector<double> artifact(const std::string& name) {
    const at::Tensor values = context.artifacts.at(name).to(at::kDouble);
    return {values.data_ptr<double>(), values.data_ptr<double>() + values.numel()};
  }

  FakeContext context;
  FakeModel model{2, 2};
  std::map<double, double> skills;  ///< by peak; others end with none
};

}  // namespace

BACKSTOP_TEST_DEFENSE(AutoFineTuning, {.recipe = "phase_1_steps = 20\nphase_2_steps = 20"},
                      {.recipe = "peaks = [0.1]\nphase_1_steps = 2\nphase_2_steps = 2"});

TEST_F(Scripted, FromThePapersPeakLargerOnesAreTriedWhileTheyComeBack) {
  skills = {{0.1, 1}, {0.2, 1}, {0.4, 1}, {0.8, 0.5}, {1.6, 1}};
  defend();
  EXPECT_EQ(context.metrics.at("peak"), 0.4);
  EXPECT_EQ(skill(model), 1);
  EXPECT_EQ(context.metrics.at("held_out_images"), 40);
  EXPECT_EQ(context.metrics.at("held_out_accuracy_before"), 1);
  EXPECT_EQ(context.metrics.at("held_out_accuracy_after"), 1);
  EXPECT_EQ(artifact("held-out accuracy by peak.x"), (std::vector<double>{0.1, 0.2, 0.4, 0.8}));
  EXPECT_EQ(artifact("held-out accuracy by peak.y").front(), 1);
  EXPECT_LT(artifact("held-out accuracy by peak.y").back(), 1);
  EXPECT_LT(artifact("held-out loss by peak.y").front(),
            artifact("held-out loss by peak.y").back());
  EXPECT_THAT(context.messages.back(),
              HasSubstr("peak 0.4: the largest from which held-out accuracy "
                        "comes back (1 before, 1 after; 0.8 ends at 0."));
}

TEST_F(Scripted, IfThePapersPeakIsTooLargeSmallerOnesAreTriedUntilOneComesBack) {
  skills = {{0.01, 1}, {0.02, 1}, {0.05, 0.5}};
  defend();
  EXPECT_EQ(context.metrics.at("peak"), 0.02);
  EXPECT_EQ(skill(model), 1);
  EXPECT_EQ(artifact("held-out accuracy by peak.x"), (std::vector<double>{0.02, 0.05, 0.1}));
  EXPECT_THAT(context.messages.back(), HasSubstr("; 0.05 ends at 0."));
}

TEST_F(Scripted, APeakThatDivergesDoesNotComeBack) {
  skills = {{0.1, 1}, {0.2, 1}, {0.4, kNaN}};
  defend();
  EXPECT_EQ(context.metrics.at("peak"), 0.2);
  EXPECT_EQ(artifact("held-out accuracy by peak.y"), (std::vector<double>{1, 1, 0}));
  EXPECT_EQ(artifact("held-out loss by peak.x"), (std::vector<double>{0.1, 0.2}));
  EXPECT_THAT(context.messages.back(), HasSubstr("; 0.4 diverges)"));
}

TEST_F(Scripted, WhereNoPeakComesBackTheLargestNearTheBestIsTaken) {
  skills = {{0.005, 0.2}, {0.01, 0.5}, {0.02, 0.5}, {0.05, 0.2}, {0.1, kNaN}};
  defend();
  EXPECT_EQ(context.metrics.at("peak"), 0.02);
  EXPECT_EQ(skill(model), 0.5);
  EXPECT_THAT(context.messages.back(), HasSubstr("no peak from 0.005 to 0.1 brings"));
}

TEST_F(Scripted, AModelThatKnowsNothingYetIsHeldAgainstTheBest) {
  set_skill(model, 0);
  skills = {{0.05, 1}, {0.1, 0.9}, {0.2, 1}, {0.4, 0.5}};
  defend();
  EXPECT_EQ(context.metrics.at("peak"), 0.2);
  EXPECT_THAT(context.messages.back(), HasSubstr("no more than chance"));
}

TEST_F(Scripted, TheModelStaysWhenEveryTrainingDiverges) {
  for (const double peak : {0.1, 0.2}) skills[peak] = kNaN;
  EXPECT_THROW(defend("peaks = [0.1, 0.2]"), backstop::ParameterError);
  EXPECT_EQ(skill(model), 1);
}

TEST_F(Scripted, AModelWithoutFiniteOutputsIsRefused) {
  set_skill(model, kNaN);
  EXPECT_THROW(defend(), backstop::ParameterError);
  EXPECT_TRUE(context.trainer().fits.empty());
}

TEST_F(Scripted, TheResultHasNotSeenTheHeldOutImages) {
  skills[0.1] = 1;
  defend("peaks = [0.1]");
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{160});
}

TEST_F(Scripted, FewImagesGetAsManyStepsAsMany) {
  skills[0.1] = 1;
  for (const std::int64_t size : {10, 25, 200}) {
    context.metrics.clear();
    defend(images(size), "peaks = [0.1]\ntolerance = 1.0");
    EXPECT_EQ(context.metrics.at("steps"), 20) << size;
  }
}

TEST_F(Scripted, ImagesOfOneClassJudgeNothing) {
  skills[0.1] = 0.7;
  const at::Tensor pictures = backstop::testing::all_images(images(40));
  defend(FakeImageSet(pictures, at::ones({40}, at::kLong), 2));
  EXPECT_EQ(skill(model), static_cast<float>(0.7));
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{40});
  EXPECT_EQ(context.metrics.at("peak"), 0.1);
  EXPECT_EQ(context.metrics.at("held_out_images"), 0);
  EXPECT_THAT(context.messages.back(), HasSubstr("all clean images are of one class"));
}

TEST_F(Scripted, OneImageOfEachClassJudgesNothing) {
  skills[0.1] = 0.7;
  defend(images(2));
  EXPECT_EQ(context.trainer().sizes, std::vector<std::int64_t>{2});
  EXPECT_EQ(context.metrics.at("peak"), 0.1);
  EXPECT_THAT(context.messages.back(), HasSubstr("no class has two clean images"));
}

TEST_F(Scripted, ClassesWithoutImagesAreNamed) {
  const FakeImageSet set = images(40);
  skills[0.1] = 1;
  defend(FakeImageSet(backstop::testing::all_images(set), set.labels(), 5));
  EXPECT_THAT(context.messages.front(), HasSubstr("unlearn classes without clean images: 3 of 5"));
}

TEST(AutoFineTuning, MakesTheBatchesOfAnEpochEqual) {
  const FakeParams params{"batch_size = 16\nphase_1_steps = 5\nphase_2_steps = 20"};
  FakeContext context;
  FakeModel model{3, 4};
  const FakeImageSet clean = backstop::testing::random_images(41);  // 33 to train on
  make<Defense>(params)->run(context, model, FakeData{clean});
  const TrainingOptions& options = context.trainer().fits.at(0);
  EXPECT_EQ(options.batch_size, 11);  // 11 + 11 + 11, not 16 + 16 + 1
  EXPECT_EQ(options.epochs, 2 + 7);
  EXPECT_EQ(context.metrics.at("phase_1_epochs"), 2);
  EXPECT_EQ(context.metrics.at("phase_2_epochs"), 7);
  EXPECT_EQ(context.metrics.at("steps"), 27);
}

TEST(AutoFineTuning, RefusesRatesThatDecrease) {
  for (const char* recipe :
       {"peaks = []", "peaks = [0.2, 0.1]", "peaks = [0.0005, 0.1]", "base = 0.02"}) {
    const FakeParams params{recipe};
    EXPECT_THROW(make<Defense>(params), backstop::Error) << recipe;
  }
}

TEST(ComesBack, AllowsForTheToleranceAndOneStandardError) {
  const at::Tensor all = correct(100, 0);
  // 3 lost: 0.03 <= 0.02 + sqrt(3 - 0.09) / 100; 4 lost: 0.04 > 0.02 + sqrt(4 - 0.16) / 100.
  EXPECT_TRUE(comes_back(all, correct(100, 3), 0.02));
  EXPECT_FALSE(comes_back(all, correct(100, 4), 0.02));
  // 1 lost: 0.01 > sqrt(1 - 0.01) / 100.
  EXPECT_FALSE(comes_back(all, correct(100, 1), 0));
  EXPECT_TRUE(comes_back(correct(100, 1), all, 0));
  // Ten lost and eight gained are an uncertain loss of two.
  EXPECT_TRUE(comes_back(at::arange(100).ge(8),
                         at::arange(100).lt(8).logical_or(at::arange(100).ge(18)), 0));
  EXPECT_FALSE(comes_back(all, {}, 1));
}

TEST(Largest, StartsAtTheLargestThatIsAtMostTheStart) {
  std::vector<double> asked;
  const auto find = [&](const std::vector<double>& peaks, double limit) {
    asked.clear();
    return largest(peaks, 0.1, [&](double peak) {
      asked.push_back(peak);
      return peak <= limit;
    });
  };
  using Asked = std::vector<double>;
  EXPECT_EQ(find({0.05, 0.3, 0.6}, 0.3), 0.3);
  EXPECT_EQ(asked, (Asked{0.05, 0.3, 0.6}));
  EXPECT_EQ(find({0.02, 0.05, 0.1}, 1), 0.1);
  EXPECT_EQ(asked, Asked{0.1});
  EXPECT_EQ(find({0.02, 0.05, 0.1}, 0.02), 0.02);
  EXPECT_EQ(asked, (Asked{0.1, 0.05, 0.02}));
  EXPECT_EQ(find({0.2, 0.4}, 0.1), std::nullopt);
  EXPECT_EQ(asked, Asked{0.2});
}

TEST(AtChance, IsTheMostFrequentAnswerAndTwoStandardErrors) {
  const at::Tensor labels = at::arange(100, at::kLong).remainder(10);  // 0.1 + 2 * 0.03
  EXPECT_TRUE(at_chance(correct(100, 84), labels));
  EXPECT_FALSE(at_chance(correct(100, 83), labels));
  EXPECT_TRUE(at_chance(correct(100, 10), at::arange(100).lt(85).to(at::kLong)));
}

TEST(Split, HoldsAShareOfEachClassOut) {
  at::Generator generator = at::detail::createCPUGenerator(1);
  std::vector<at::Tensor> parts;
  const std::int64_t counts[] = {10, 0, 1, 2, 3, 100};
  for (std::int64_t c = 0; c < 6; ++c) parts.push_back(at::full({counts[c]}, c, at::kLong));
  const at::Tensor labels = at::cat(parts);
  const auto [training, held_out] = split(labels, 0.2, generator);
  const at::Tensor held_of_class = labels.index_select(0, held_out).bincount({}, 6);
  EXPECT_TRUE(held_of_class.equal(at::tensor({2, 0, 0, 1, 1, 20}, at::kLong))) << held_of_class;
  EXPECT_TRUE(std::get<0>(at::cat({training, held_out}).sort()).equal(at::arange(116, at::kLong)));
}

TEST(Split, AlwaysLeavesImagesToTrainOn) {
  at::Generator generator = at::detail::createCPUGenerator(1);
  const at::Tensor labels = at::tensor({0, 0, 1, 1, 1}, at::kLong);
  const auto [training, held_out] = split(labels, 0.99, generator);
  EXPECT_EQ(training.numel(), 2);
  EXPECT_TRUE(labels.index_select(0, training).sum().equal(at::ones({}, at::kLong)));
}

TEST(TwoPhases, HaveWholeTrianglesThatEndAtTheBase) {
  const TwoPhases scheduler(0.1, 1.1, 0.6, 5);
  TrainingPosition position;
  position.iterations_per_epoch = 8;
  position.epochs = 11;
  const auto rate = [&](std::int64_t iteration) {
    position.iteration = iteration;
    return scheduler.rate(position);
  };
  // Two triangles of 20 in the first 40 iterations.
  EXPECT_DOUBLE_EQ(rate(0), 0.1);
  EXPECT_DOUBLE_EQ(rate(5), 0.6);
  EXPECT_DOUBLE_EQ(rate(10), 1.1);
  EXPECT_DOUBLE_EQ(rate(15), 0.6);
  EXPECT_DOUBLE_EQ(rate(20), 0.1);
  EXPECT_DOUBLE_EQ(rate(30), 1.1);
  // Two of 24 in the last 48.
  EXPECT_DOUBLE_EQ(rate(40), 0.1);
  EXPECT_DOUBLE_EQ(rate(52), 0.6);
  EXPECT_DOUBLE_EQ(rate(64), 0.1);
  EXPECT_DOUBLE_EQ(rate(76), 0.6);
}

TEST(TwoPhases, EndAtTheBaseWhereTrianglesDoNotDivideThem) {
  const TwoPhases scheduler(0.1, 1.1, 0.6, 1);
  TrainingPosition position;
  position.iterations_per_epoch = 45;  // two triangles of 22, and one iteration
  position.epochs = 2;
  for (const std::int64_t last : {44, 89}) {
    position.iteration = last;
    EXPECT_DOUBLE_EQ(scheduler.rate(position), 0.1);
  }
  position.iteration = 11;
  EXPECT_DOUBLE_EQ(scheduler.rate(position), 1.1);
}
