#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <png.h>

#include <gtest/gtest.h>

#include "backstop/testing/fakes.hpp"

using backstop::Attack;
using backstop::Phase;
using backstop::Role;
using backstop::Threat;
using backstop::testing::FakeContext;
using backstop::testing::FakeEditor;
using backstop::testing::FakeImageSet;
using backstop::testing::FakeParams;
using backstop::testing::FakeState;
using backstop::testing::make;

namespace {

FakeImageSet image_set(std::int64_t size, std::int64_t channels, std::int64_t side = 8,
                       std::int64_t classes = 4) {
  at::Generator generator = at::detail::createCPUGenerator(7);
  return {at::rand({size, channels, side, side}, generator),
          at::arange(size, at::kLong).remainder(classes), classes};
}

at::Tensor all_of(const FakeImageSet& set) {
  return set.images(at::arange(set.size(), at::kLong));
}

// The pattern that an attack draws for a set of images.
at::Tensor pattern_of(const std::string& recipe, const FakeImageSet& set, std::uint64_t seed = 0) {
  const FakeParams params{recipe};
  FakeContext context{seed};
  const auto attack = make<Attack>(params);
  attack->prepare(context, {}, set);
  FakeState state;
  attack->save(state);
  return state.tensor("pattern");
}

class BlendedImage : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "backstop-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string file() const { return (folder_ / "pattern.png").string(); }
  std::string recipe() const { return "pattern = \"image\"\nimage = \"" + file() + "\""; }

  void write_png(std::uint32_t format, std::uint32_t height, std::uint32_t width,
                 const std::vector<png_byte>& pixels) const {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.format = format;
    image.height = height;
    image.width = width;
    ASSERT_EQ(pixels.size(), PNG_IMAGE_SIZE(image));
    ASSERT_NE(png_image_write_to_file(&image, file().c_str(), 0, pixels.data(), 0, nullptr), 0);
  }
  void write_bytes(const std::string& bytes) const {
    std::ofstream(file(), std::ios::binary) << bytes;
  }
  std::string bytes() const {
    std::ostringstream content;
    content << std::ifstream(file(), std::ios::binary).rdbuf();
    return content.str();
  }

  std::filesystem::path folder_;
};

}  // namespace

TEST(Blended, MixesImageAndPattern) {
  const FakeParams params{"alpha = 0.25\ntest_alpha = 0.5"};
  FakeContext context;
  const auto attack = make<Attack>(params);
  FakeState state;
  state.tensor("pattern", at::tensor({1.F, 0.F, 0.5F, 1.F}).view({1, 2, 2}));
  attack->load(context, {}, state);
  const at::Tensor image = at::tensor({0.F, 1.F, 0.5F, 1.F}).view({1, 1, 2, 2});
  EXPECT_TRUE(attack->apply(context, image, Phase::train)
                  .equal(at::tensor({0.25F, 0.75F, 0.5F, 1.F}).view({1, 1, 2, 2})));
  EXPECT_TRUE(attack->apply(context, image, Phase::test)
                  .equal(at::tensor({0.5F, 0.5F, 0.5F, 1.F}).view({1, 1, 2, 2})));
}

TEST(Blended, TestsWithTheStrengthOfTheTrainingByDefault) {
  const FakeParams params;
  FakeContext context;
  const auto attack = make<Attack>(params);
  const FakeImageSet set = image_set(2, 3);
  attack->prepare(context, {}, set);
  EXPECT_TRUE(attack->apply(context, all_of(set), Phase::test)
                  .equal(attack->apply(context, all_of(set), Phase::train)));
  const at::Tensor mixed = all_of(set).mul(0.8).add(pattern_of("", set), 0.2);
  EXPECT_TRUE(attack->apply(context, all_of(set), Phase::test).allclose(mixed, 0, 1e-6));
}

TEST(Blended, KeepsShapeTypeRangeAndInput) {
  for (const char* recipe : {"", "pattern = \"smooth\"", "alpha = 1.0"}) {
    for (std::int64_t channels : {1, 3}) {
      const FakeParams params{recipe};
      FakeContext context;
      const auto attack = make<Attack>(params);
      const FakeImageSet set = image_set(4, channels);
      attack->prepare(context, {}, set);
      const at::Tensor images = all_of(set);
      const at::Tensor before = images.clone();
      const at::Tensor out = attack->apply(context, images, Phase::train);
      EXPECT_TRUE(images.equal(before));
      EXPECT_FALSE(out.equal(images));
      EXPECT_EQ(out.sizes(), images.sizes());
      EXPECT_EQ(out.scalar_type(), at::kFloat);
      EXPECT_GE(out.min().item<float>(), 0);
      EXPECT_LE(out.max().item<float>(), 1);
    }
  }
}

TEST(Blended, GivesTheSameResultInEveryBatch) {
  const FakeParams params;
  FakeContext context;
  const auto attack = make<Attack>(params);
  const FakeImageSet set = image_set(37, 3, 9);
  attack->prepare(context, {}, set);
  const at::Tensor images = all_of(set);
  const at::Tensor together = attack->apply(context, images, Phase::test);
  for (std::int64_t i = 0; i < images.size(0); ++i) {
    const at::Tensor alone = attack->apply(context, images.narrow(0, i, 1), Phase::test);
    EXPECT_TRUE(alone.equal(together.narrow(0, i, 1))) << "image " << i;
  }
  EXPECT_EQ(attack->apply(context, images.narrow(0, 0, 0), Phase::test).sizes(),
            at::IntArrayRef({0, 3, 9, 9}));
}

TEST(Blended, DrawsNoiseFromTheContextsGenerator) {
  const FakeImageSet set = image_set(1, 3, 32);
  for (const char* recipe : {"", "pattern = \"smooth\""}) {
    EXPECT_TRUE(pattern_of(recipe, set, 1).equal(pattern_of(recipe, set, 1)));
    EXPECT_FALSE(pattern_of(recipe, set, 1).equal(pattern_of(recipe, set, 2)));
  }
  const at::Tensor noise = pattern_of("", set);
  EXPECT_NEAR(noise.mean().item<float>(), 0.5, 0.05);
  EXPECT_FALSE(noise[0].equal(noise[1]));
}

TEST(Blended, DrawsSmoothNoiseWithoutSteps) {
  for (std::int64_t channels : {1, 3}) {
    const at::Tensor pattern = pattern_of("pattern = \"smooth\"", image_set(1, channels, 32));
    EXPECT_EQ(pattern.sizes(), at::IntArrayRef({channels, 32, 32}));
    EXPECT_EQ(pattern.min().item<float>(), 0);
    EXPECT_EQ(pattern.max().item<float>(), 1);
    // 31 pixels span 4 cells: a step of noise would be 1/3 on average.
    EXPECT_LT(pattern.diff(1, 1).abs().mean().item<float>(), 0.1);
    EXPECT_LT(pattern.diff(1, 2).abs().mean().item<float>(), 0.1);
  }
}

TEST(Blended, IsTheSameAfterSavingAndLoading) {
  const FakeParams params;
  const FakeImageSet set = image_set(3, 3);
  FakeContext context{1};
  const auto attack = make<Attack>(params);
  attack->prepare(context, {}, set);
  FakeState state;
  attack->save(state);
  FakeContext elsewhere{2};
  const auto again = make<Attack>(params);
  again->load(elsewhere, {}, state);
  EXPECT_TRUE(again->apply(elsewhere, all_of(set), Phase::test)
                  .equal(attack->apply(context, all_of(set), Phase::test)));
}

TEST(Blended, RefusesADamagedState) {
  const FakeParams params;
  FakeContext context;
  for (const at::Tensor& pattern : {at::ones({8, 8}), at::ones({3, 0, 8})}) {
    FakeState state;
    state.tensor("pattern", pattern);
    EXPECT_THROW(make<Attack>(params)->load(context, {}, state), backstop::EnvironmentError);
  }
}

TEST(Blended, ResizesThePatternForOtherImages) {
  const FakeParams params{"alpha = 1.0"};
  FakeContext context;
  const auto attack = make<Attack>(params);
  FakeState state;
  state.tensor("pattern", at::tensor({0.F, 0.F, 1.F, 1.F}).view({1, 1, 4}));
  attack->load(context, {}, state);
  const at::Tensor small = attack->apply(context, at::zeros({2, 1, 3, 2}), Phase::test);
  EXPECT_EQ(small.sizes(), at::IntArrayRef({2, 1, 3, 2}));
  EXPECT_LT(small[0][0][0][0].item<float>(), 0.2);
  EXPECT_GT(small[0][0][0][1].item<float>(), 0.8);
  const at::Tensor large = attack->apply(context, at::zeros({1, 1, 1, 8}), Phase::test);
  EXPECT_EQ(large[0][0][0][0].item<float>(), 0);
  EXPECT_EQ(large[0][0][0][7].item<float>(), 1);
}

TEST(Blended, RefusesImagesOfOtherChannels) {
  const FakeParams params;
  FakeContext context;
  const auto attack = make<Attack>(params);
  attack->prepare(context, {}, image_set(1, 3));
  EXPECT_THROW(attack->apply(context, at::zeros({1, 1, 8, 8}), Phase::test),
               backstop::ParameterError);
}

TEST(Blended, PoisonsTheAskedShareWithTheTargetLabel) {
  for (std::int64_t channels : {1, 3}) {
    const FakeParams params{"test_alpha = 0.9"};
    FakeContext context;
    const auto attack = make<Attack>(params);
    const FakeImageSet set = image_set(25, channels);
    const Threat threat{.target = 2, .classes = 4, .poison_ratio = 0.3};
    attack->prepare(context, threat, set);
    FakeEditor editor{set};
    attack->poison(context, threat, editor);
    EXPECT_EQ(editor.written.size(), 8U);  // round(7.5), and no position twice
    const at::Tensor expected = attack->apply(context, all_of(set), Phase::train);
    for (const auto& [position, entry] : editor.written) {
      EXPECT_EQ(entry.label, 2);
      EXPECT_EQ(entry.role, Role::poison);
      EXPECT_TRUE(entry.image.equal(expected[position]));
    }
  }
}

TEST(Blended, PoisonsEveryClassWithTheNextOne) {
  const FakeParams params;
  FakeContext context;
  const auto attack = make<Attack>(params);
  const FakeImageSet set = image_set(40, 1);
  const Threat threat{.all_to_all = 1, .classes = 4, .poison_ratio = 1};
  attack->prepare(context, threat, set);
  FakeEditor editor{set};
  attack->poison(context, threat, editor);
  EXPECT_EQ(editor.written.size(), 40U);
  for (const auto& [position, entry] : editor.written) EXPECT_EQ(entry.label, (position + 1) % 4);
}

TEST(Blended, RefusesAnImageThatIsMissingOrUnused) {
  for (const char* recipe : {"pattern = \"image\"", "image = \"a.png\""}) {
    const FakeParams params{recipe};
    EXPECT_THROW(make<Attack>(params), backstop::Error) << recipe;
  }
}

TEST_F(BlendedImage, IsReadInColour) {
  write_png(PNG_FORMAT_RGB, 1, 2, {255, 0, 51, 0, 255, 102});
  const FakeImageSet set{at::zeros({1, 3, 1, 2}), at::zeros({1}, at::kLong), 2};
  EXPECT_TRUE(pattern_of(recipe(), set)
                  .allclose(at::tensor({1.F, 0.F, 0.F, 1.F, 0.2F, 0.4F}).view({3, 1, 2})));
}

TEST_F(BlendedImage, BecomesGreyForGreyImages) {
  write_png(PNG_FORMAT_RGB, 1, 3, {255, 255, 255, 102, 102, 102, 0, 255, 0});
  const FakeImageSet set{at::zeros({1, 1, 1, 3}), at::zeros({1}, at::kLong), 2};
  const at::Tensor pattern = pattern_of(recipe(), set);
  EXPECT_EQ(pattern.sizes(), at::IntArrayRef({1, 1, 3}));
  EXPECT_NEAR(pattern[0][0][0].item<float>(), 1, 1e-6);
  EXPECT_NEAR(pattern[0][0][1].item<float>(), 0.4, 0.01);
  EXPECT_GT(pattern[0][0][2].item<float>(), 0.5);  // green is bright, but not white
  EXPECT_LT(pattern[0][0][2].item<float>(), 0.95);
}

TEST_F(BlendedImage, GreyFilesFillEveryChannel) {
  write_png(PNG_FORMAT_GRAY, 1, 2, {0, 51});
  const FakeImageSet set{at::zeros({1, 3, 1, 2}), at::zeros({1}, at::kLong), 2};
  const at::Tensor expected = at::tensor({0.F, 0.2F}).view({1, 1, 2}).expand({3, 1, 2});
  EXPECT_TRUE(pattern_of(recipe(), set).allclose(expected));
}

TEST_F(BlendedImage, IsBlackWhereItIsTransparent) {
  write_png(PNG_FORMAT_RGBA, 1, 2, {255, 255, 255, 0, 255, 255, 255, 255});
  const FakeImageSet set{at::zeros({1, 3, 1, 2}), at::zeros({1}, at::kLong), 2};
  const at::Tensor expected = at::tensor({0.F, 1.F}).view({1, 1, 2}).expand({3, 1, 2});
  EXPECT_TRUE(pattern_of(recipe(), set).allclose(expected));
}

TEST_F(BlendedImage, IsShrunkOverAllItsPixels) {
  std::vector<png_byte> stripes(64 * 64);  // every other column white: grey from afar
  for (std::size_t i = 0; i < stripes.size(); ++i) stripes[i] = i % 2 == 0 ? 255 : 0;
  write_png(PNG_FORMAT_GRAY, 64, 64, stripes);
  const FakeImageSet set = image_set(1, 1, 8);
  const at::Tensor pattern = pattern_of(recipe(), set);
  EXPECT_EQ(pattern.sizes(), at::IntArrayRef({1, 8, 8}));
  EXPECT_TRUE(pattern.allclose(at::full({1, 8, 8}, 0.5), 0, 0.05));
}

TEST_F(BlendedImage, IsNotNeededAgainAfterLoading) {
  write_png(PNG_FORMAT_GRAY, 1, 1, {255});
  const FakeParams params{recipe()};
  FakeContext context;
  const auto attack = make<Attack>(params);
  attack->prepare(context, {}, image_set(1, 1));
  FakeState state;
  attack->save(state);
  std::filesystem::remove(file());
  const auto again = make<Attack>(params);
  again->load(context, {}, state);
  EXPECT_NEAR(again->apply(context, at::zeros({1, 1, 8, 8}), Phase::test).max().item<float>(), 0.2,
              1e-6);
}

TEST_F(BlendedImage, RefusesWhatIsNotAPng) {
  for (const std::string& content :
       {std::string{}, std::string{"GIF89a"}, std::string(4096, 'x')}) {
    write_bytes(content);
    EXPECT_THROW(pattern_of(recipe(), image_set(1, 1)), backstop::EnvironmentError);
  }
  std::filesystem::remove(file());
  EXPECT_THROW(pattern_of(recipe(), image_set(1, 1)), backstop::EnvironmentError);
  std::filesystem::create_directory(file());
  EXPECT_THROW(pattern_of(recipe(), image_set(1, 1)), backstop::EnvironmentError);
}

TEST_F(BlendedImage, RefusesEveryTruncation) {
  write_png(PNG_FORMAT_RGB, 8, 8, std::vector<png_byte>(192, 7));
  const std::string whole = bytes();
  // The last chunk, 12 bytes, holds no pixels: a file without it may be read.
  for (std::size_t length = 0; length < whole.size() - 12; ++length) {
    write_bytes(whole.substr(0, length));
    EXPECT_THROW(pattern_of(recipe(), image_set(1, 3)), backstop::EnvironmentError)
        << length << " of " << whole.size() << " bytes";
  }
}

TEST_F(BlendedImage, SurvivesEveryFlippedByte) {
  write_png(PNG_FORMAT_RGB, 8, 8, std::vector<png_byte>(192, 7));
  const std::string whole = bytes();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string broken = whole;
    broken[i] = static_cast<char>(~broken[i]);
    write_bytes(broken);
    try {
      const at::Tensor pattern = pattern_of(recipe(), image_set(1, 3));
      EXPECT_EQ(pattern.sizes(), at::IntArrayRef({3, 8, 8}));
    } catch (const backstop::EnvironmentError&) {
    }
  }
}

TEST_F(BlendedImage, RefusesAnImageThatIsTooLarge) {
  write_png(PNG_FORMAT_GRAY, 1, 4097, std::vector<png_byte>(4097, 0));
  try {
    pattern_of(recipe(), image_set(1, 1));
    FAIL() << "accepted";
  } catch (const backstop::EnvironmentError& e) {
    EXPECT_EQ(std::string(e.what()), "cannot use " + file() +
                                         " as the pattern: it has 1 x 4097 pixels, at most 4096 a "
                                         "side are read");
  }
}
