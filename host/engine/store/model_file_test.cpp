#include "host/engine/store/model_file.hpp"

#include <limits>

#include <unistd.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/error.hpp"
#include "host/base/error.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class ModelFiles : public testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::path(testing::TempDir()) / ("model-" + std::to_string(::getpid()) + ".safetensors");
  }
  void TearDown() override { fs::remove(path_); }

  static Classifier model() {
    at::Generator generator = make_generator(1);
    return {Architecture{"small-cnn", 4, 3, 5, 64},
            Normalization{{0.5, 0.4, 0.3}, {0.2, 0.25, 0.3}},
            {},
            generator};
  }
  [[nodiscard]] std::string problem(const std::map<std::string, std::string>& record) const {
    write_safetensors(path_, model().state(), record);
    try {
      read_model_file(path_);
    } catch (const base::HostError& e) {
      return e.what();
    }
    return "none";
  }

  fs::path path_;
};

TEST_F(ModelFiles, RecordTheirModel) {
  const Classifier saved = model();
  write_safetensors(path_, saved.state(), record_of(saved));
  const ModelFile file = read_model_file(path_);
  EXPECT_EQ(file.facts.architecture, "small-cnn");
  EXPECT_EQ(file.facts.width, 4);
  EXPECT_EQ(file.facts.channels, 3);
  EXPECT_EQ(file.facts.classes, 5);
  ASSERT_TRUE(file.facts.normalization);
  EXPECT_EQ(file.facts.normalization->mean, saved.normalization().mean);
  EXPECT_EQ(file.facts.normalization->deviation, saved.normalization().deviation);
  EXPECT_EQ(file.weights.size(), saved.state().size());
}

TEST_F(ModelFiles, OfOthersRecordNothing) {
  write_safetensors(path_, model().state(), {{"format", "pt"}, {"width", "not ours"}});
  const ModelFile file = read_model_file(path_);
  EXPECT_FALSE(file.facts.architecture || file.facts.width || file.facts.normalization);
  EXPECT_NO_THROW(require_same_model(file.facts, {"mlp", 1, 1, 2, 3}, "file"));
}

TEST_F(ModelFiles, AContradictionIsAnError) {
  const Classifier saved = model();
  write_safetensors(path_, saved.state(), record_of(saved));
  const ModelFacts facts = read_model_file(path_).facts;
  EXPECT_NO_THROW(require_same_model(facts, saved.architecture(), "x"));
  try {
    require_same_model(facts, {"resnet18", 8, 3, 10, 64}, "suspect.safetensors");
    FAIL();
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.code(), base::ExitCode::usage);
    EXPECT_STREQ(e.what(),
                 "suspect.safetensors holds another model: architecture small-cnn instead of "
                 "resnet18, width 4 instead of 8, classes 5 instead of 10");
  }
}

TEST_F(ModelFiles, ARecordThatIsNoneIsNamed) {
  EXPECT_EQ(problem({{"architecture", "mlp"}}), "none");
  EXPECT_THAT(problem({{"architecture", "mlp"}, {"width", "-1"}}),
              HasSubstr("records `width` = \"-1\""));
  EXPECT_THAT(problem({{"architecture", "mlp"}, {"classes", "ten"}}), HasSubstr("`classes`"));
  EXPECT_THAT(problem({{"architecture", "mlp"}, {"mean", "[0,1]"}}), HasSubstr("`mean`"));
  EXPECT_THAT(problem({{"mean", "[0.1]"}}), HasSubstr("`mean`")) << "and no deviation";
  EXPECT_THAT(problem({{"mean", "[0.1]"}, {"deviation", "[1e-300]"}}), HasSubstr("`deviation`"));
  EXPECT_EQ(problem({{"mean", "[0.1]"}, {"deviation", "[0.2]"}}), "none");
  EXPECT_THAT(problem({{"architecture", "mlp"}, {"deviation", "[0,1,1]"}}),
              HasSubstr("`deviation`"));
}

TEST_F(ModelFiles, OfWeightsThatAreNotFiniteAreErrors) {
  for (const double broken : {std::numeric_limits<double>::quiet_NaN(),
                              -std::numeric_limits<double>::infinity(), 1e300}) {
    auto state = model().state();
    at::Tensor& weight = state.front().second;
    if (broken == 1e300) weight = weight.to(at::kDouble);  // finite, but not in float32
    weight.flatten().narrow(0, 2, 3).fill_(broken);
    write_safetensors(path_, state, {});
    try {
      read_model_file(path_);
      FAIL() << broken;
    } catch (const base::HostError& e) {
      EXPECT_EQ(e.code(), base::ExitCode::environment);
      EXPECT_EQ(std::string(e.what()), path_.string() + ": 3 of the 108 numbers in `" +
                                           state.front().first + "` are not finite");
    }
  }
}

TEST_F(ModelFiles, NameTheAttackThatTrainedTheModel) {
  const Classifier saved = model();
  auto record = record_of(saved);
  EXPECT_FALSE(read_model_file((write_safetensors(path_, saved.state(), record), path_))
                   .facts.attack.has_value());
  record[kAttackKey] = "badnets";
  write_safetensors(path_, saved.state(), record);
  EXPECT_EQ(read_model_file(path_).facts.attack, "badnets");
}

TEST_F(ModelFiles, ModelsOfOtherConstantsAreNotCopied) {
  Classifier to = model();
  at::Generator generator = make_generator(1);
  const Classifier from(to.architecture(), {}, {}, generator);
  EXPECT_THROW(to.copy_from(from), backstop::Error);
  EXPECT_NO_THROW(to.copy_from(model()));
}

}  // namespace
}  // namespace backstop::engine
