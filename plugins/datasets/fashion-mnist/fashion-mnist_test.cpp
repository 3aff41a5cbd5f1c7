#include <filesystem>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"
#include "shared/idx/testing.hpp"

using backstop::Dataset;
using backstop::Split;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;
using backstop::testing::Samples;

namespace {

/// Reads the real files, where Debian's package puts them.
class RealFashionMnist : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(params.string("root")))
      GTEST_SKIP() << "no " << params.string("root") << ": install dataset-fashion-mnist";
  }

  FakeParams params;
  FakeContext context;
};

TEST_F(RealFashionMnist, HasTheOfficialImages) {
  const auto dataset = make<Dataset>(params);
  for (const auto& [split, count] : {std::pair{Split::train, 60000}, {Split::test, 10000}}) {
    const Samples samples = backstop::testing::load(*dataset, context, split);
    EXPECT_EQ(samples.images.sizes(), at::IntArrayRef({count, 1, 28, 28}));
    EXPECT_TRUE(samples.labels.bincount().equal(at::full({10}, count / 10, at::kLong)));
  }
  const Samples train = backstop::testing::load(*dataset, context, Split::train);
  EXPECT_EQ(dataset->class_name(train.labels[0].item<std::int64_t>()), "Ankle boot");
}

TEST_F(RealFashionMnist, StatisticsAreThoseOfTheTrainingImages) {
  const auto dataset = make<Dataset>(params);
  const at::Tensor pixels =
      backstop::testing::load(*dataset, context, Split::train).images.to(at::kFloat).div(255);
  EXPECT_NEAR(dataset->means()[0], pixels.mean().item<double>(), 5e-5);
  EXPECT_NEAR(dataset->deviations()[0], pixels.std().item<double>(), 5e-5);
}

}  // namespace

TEST(FashionMnist, NamesItsClasses) {
  const FakeParams params;
  const auto dataset = make<Dataset>(params);
  EXPECT_EQ(dataset->classes(), 10);
  EXPECT_EQ(dataset->class_name(0), "T-shirt/top");
  EXPECT_EQ(dataset->class_name(9), "Ankle boot");
}

TEST(FashionMnist, HintsWhereToGetMissingFiles) {
  const backstop::idx::TemporaryFolder folder;
  const FakeParams params{"root = '" + folder.path().string() + "'"};
  FakeContext context;
  try {
    backstop::testing::load(*make<Dataset>(params), context, Split::test);
    FAIL();
  } catch (const backstop::EnvironmentError& error) {
    EXPECT_EQ(error.what(), (folder / "t10k-images-idx3-ubyte").string() +
                                ": is missing, and so is t10k-images-idx3-ubyte.gz");
    EXPECT_EQ(error.hint(),
              "install Debian's dataset-fashion-mnist, or set `root` to the folder with the IDX "
              "files");
  }
}
