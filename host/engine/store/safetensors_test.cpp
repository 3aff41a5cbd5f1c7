#include "host/engine/store/safetensors.hpp"

#include <cstring>
#include <fstream>
#include <random>

#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;

class Safetensors : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("safetensors-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  [[nodiscard]] fs::path path() const { return folder_ / "model.safetensors"; }

  void write_raw(const std::string& bytes) const {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << bytes;
  }
  void write_header(const std::string& header, const std::string& data) const {
    const std::uint64_t size = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &size, 8);
    write_raw(bytes + header + data);
  }
  [[nodiscard]] std::string problem() const {
    try {
      static_cast<void>(read_safetensors(path()));
    } catch (const base::HostError& e) {
      EXPECT_EQ(e.code(), base::ExitCode::environment);
      return e.what();
    }
    return "no problem";
  }
  void expect_problem(const std::string& part) const {
    const std::string text = problem();
    EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_NE(text.find("model.safetensors"), std::string::npos) << text;
  }

  fs::path folder_;
};

TEST_F(Safetensors, KeepsEveryTypeAndShape) {
  const NamedTensors tensors = {
      {"float", at::rand({2, 3})},        {"bfloat16", at::rand({4}).to(at::kBFloat16)},
      {"long", at::arange(5, at::kLong)}, {"byte", at::arange(7, at::kByte)},
      {"bool", at::ones({2}, at::kBool)}, {"scalar", at::scalar_tensor(3.5, at::kDouble)},
      {"empty", at::empty({0, 4})}};
  write_safetensors(path(), tensors, {{"architecture", "resnet18"}});
  const TensorFile file = read_safetensors(path());
  ASSERT_EQ(file.tensors.size(), tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(file.tensors[i].first, tensors[i].first);
    EXPECT_EQ(file.tensors[i].second.scalar_type(), tensors[i].second.scalar_type());
    EXPECT_TRUE(file.tensors[i].second.equal(tensors[i].second)) << tensors[i].first;
  }
  EXPECT_EQ(file.metadata.at("architecture"), "resnet18");
}

TEST_F(Safetensors, KeepsTensorsWithoutElementsAlone) {
  write_safetensors(path(), {{"none", at::empty({0, 3, 32, 32}, at::kByte)}}, {});
  const TensorFile file = read_safetensors(path());
  EXPECT_EQ(file.tensors.at(0).second.sizes(), at::IntArrayRef({0, 3, 32, 32}));
  write_header(R"({"none":{"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})",
               "");
  expect_problem("tensor `none` has a shape larger than the file");
}

TEST_F(Safetensors, WritesTensorsOfAnyLayoutInRowOrder) {
  const at::Tensor x = at::rand({2, 3, 4, 5}).contiguous(at::MemoryFormat::ChannelsLast);
  write_safetensors(path(), {{"x", x}});
  EXPECT_TRUE(read_safetensors(path()).tensors[0].second.equal(x));
}

TEST_F(Safetensors, ReadsTheDocumentedLayout) {
  write_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
               std::string("\0\0\x80\x3f", 4));
  EXPECT_EQ(read_safetensors(path()).tensors[0].second.item<float>(), 1.0f);
}

TEST_F(Safetensors, SaysWhatIsWrong) {
  EXPECT_NE(problem().find("it cannot be opened as a file"), std::string::npos);
  write_raw("abc");
  expect_problem("it has 3 bytes, fewer than the 8 of a header's length");
  write_raw(std::string(8, '\xff') + "{}");
  expect_problem("it announces a header of 18446744073709551615 bytes in a file of 10");
  write_header("[1]", "");
  expect_problem("its header is not a JSON object");
  write_header("{\"a\"", "");
  expect_problem("its header is not a JSON object");
  write_header(R"({"a":{"dtype":"F32","shape":[1]}})", "");
  expect_problem("tensor `a` lacks a dtype, a shape or two data_offsets");
  write_header(R"({"a":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}})", "0000");
  expect_problem("tensor `a` has the unknown dtype F7");
  write_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "0000");
  expect_problem("tensor `a` lies at bytes 0 to 8 of 4");
  write_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "00000000");
  expect_problem("needs 8 bytes by its shape and has 4");
  write_header(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "0000");
  expect_problem("tensor `a` has a shape that is not a list of sizes");
  write_header(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", "");
  expect_problem("tensor `a` has a shape larger than the file");
}

TEST_F(Safetensors, SurvivesAnyDamage) {
  write_safetensors(path(), {{"weight", at::rand({3, 4})}, {"bias", at::rand({3})}}, {{"k", "v"}});
  const std::string whole = base::read_file(path());
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = whole;
    if (i % 3 == 0) bytes.resize(random() % bytes.size());
    for (std::size_t n = random() % 4; n > 0 && !bytes.empty(); --n)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    write_raw(bytes);
    refused += problem() == "no problem" ? 0 : 1;
  }
  EXPECT_GT(refused, 1000);
}

TEST_F(Safetensors, LeavesNothingBehindWhenWritingFails) {
  EXPECT_THROW(
      base::write_file(folder_ / "x", [](std::ostream& out) { out.setstate(std::ios::badbit); }),
      base::HostError);
  EXPECT_TRUE(fs::is_empty(folder_));
}

}  // namespace
}  // namespace backstop::engine
