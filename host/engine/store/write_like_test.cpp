#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/engine/formats/testing.hpp"
#include "host/engine/store/model_file.hpp"

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;
using namespace testing;
using ::testing::HasSubstr;

class WriteLike : public ::testing::Test {
 protected:
  /// What is wrong with writing these weights, like the file of two overlapping tensors and a narrow
  /// one, to out_.
  [[nodiscard]] std::string why(const NamedTensors& weights) const {
    return problem([&] { write_like(path_, out_, weights); });
  }

  Folder folder_;
  const fs::path path_ = folder_.write(
      "model.pt", checkpoint(dictionary({{"a", tensor({"0", {2}, {1}, 0, 4})},
                                         {"b", tensor({"0", {2}, {1}, 1, 4})},
                                         {"half", tensor({"1", {2}, {1}, 0, 2, "HalfStorage"})}}),
                             {{"0", floats({1, 2, 3, 4})}, {"1", std::string(4, '\0')}}));
  const fs::path out_ = folder_.path() / "out.pt";
};

TEST_F(WriteLike, KeepsAllElse) {
  const fs::path path = folder_.path() / "model.safetensors";
  write_safetensors(path, {{"w", at::ones({2, 2}, at::kHalf)}, {"n", at::ones({1}, at::kLong)}},
                    {{"k", "v"}});
  write_like(path, path, {{"w", at::full({2, 2}, 0.5)}, {"bn.num_batches_tracked", at::ones({})}});
  const TensorFile written = read_safetensors(path);
  EXPECT_EQ(written.metadata.at("k"), "v");
  ASSERT_EQ(written.tensors.size(), 2U);
  EXPECT_TRUE(written.tensors[0].second.equal(at::full({2, 2}, 0.5, at::kHalf)));
  EXPECT_TRUE(written.tensors[1].second.equal(at::ones({1}, at::kLong)));
}

TEST_F(WriteLike, WritesTensorsThatShareNumbers) {
  ASSERT_EQ(why({{"a", at::arange(2)}, {"b", at::arange(1, 3)}}), "none");
  const ModelFile read = read_model_file(out_);
  EXPECT_TRUE(read.weights[0].second.equal(at::arange(2, at::kFloat)));
  EXPECT_TRUE(read.weights[1].second.equal(at::arange(1, 3, at::kFloat)));
  EXPECT_TRUE(read.weights[2].second.equal(at::zeros({2}, at::kHalf)));
}

TEST_F(WriteLike, RefusesWhatCannotBeLikeTheOriginal) {
  EXPECT_THAT(why({{"c", at::ones({2})}}), HasSubstr("it has no tensor `c`"));
  EXPECT_THAT(why({{"a", at::ones({3})}}), HasSubstr("`a` is [2] there, not [3]"));
  EXPECT_THAT(why({{"half", at::full({2}, 1e6)}}),
              HasSubstr("the values of `half` are too large for float16"));
  EXPECT_THAT(why({{"a", at::ones({2})}, {"b", at::zeros({2})}}),
              HasSubstr("elements of `a` that are one number there have become different"));
  EXPECT_FALSE(fs::exists(out_));
}

}  // namespace
}  // namespace backstop::engine
