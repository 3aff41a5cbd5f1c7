#include "host/engine/store/safetensors.hpp"

#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <random>

#include <unistd.h>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "backstop/error.hpp"
#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/base/interrupt.hpp"

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
  EXPECT_NE(problem().find("model.safetensors: No such file or directory"), std::string::npos);
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

TEST_F(Safetensors, RefusesTensorsThatShareBytes) {
  const auto tensor = [](const char* name, int begin, int end) {
    return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", name,
                       end - begin, begin, end);
  };
  const std::string data(8, 'x');
  write_header("{" + tensor("b", 4, 8) + "," + tensor("a", 0, 5) + "}", data);
  expect_problem("tensors `a` and `b` overlap: they lie at bytes 0 to 5 and 4 to 8");
  write_header("{" + tensor("a", 0, 8) + "," + tensor("b", 0, 8) + "}", data);
  expect_problem("overlap");
  write_header("{" + tensor("b", 4, 8) + "," + tensor("a", 0, 4) + "," + tensor("c", 2, 2) + "}",
               data);
  EXPECT_EQ(read_safetensors(path()).tensors.size(), 3U);
}

TEST_F(Safetensors, RefusesKeysThatAreGivenTwiceOrUnknown) {
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  write_header("{" + a + "," + a + "}", "x");
  expect_problem("its header has the key `a` twice");
  write_header(R"({"__metadata__":{},"__metadata__":{}})", "");
  expect_problem("its header has the key `__metadata__` twice");
  write_header(R"({"__metadata__":{"k":"1","k":"1"}})", "");
  expect_problem("the metadata has the key `k` twice");
  write_header(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x");
  expect_problem("a tensor has the key `dtype` twice");
  write_header(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"k":1}})", "x");
  expect_problem("tensor `a` has the unknown key `k`");
}

TEST_F(Safetensors, RefusesMetadataThatAreNotStrings) {
  for (const char* value : {"1", "-1", "0.5", "null", "true", "[]", "{}"}) {
    write_header(fmt::format(R"({{"__metadata__":{{"k":{}}}}})", value), "");
    expect_problem("`k` in its metadata is not a string");
  }
  write_header(R"({"__metadata__":"k"})", "");
  expect_problem("its metadata is not an object");
}

TEST_F(Safetensors, BoundsTensorsAndDimensions) {
  std::string dimensions = "1";
  for (int i = 0; i < 64; ++i) dimensions += ",1";
  write_header(R"({"a":{"dtype":"U8","shape":[)" + dimensions + R"(],"data_offsets":[0,1]}})", "x");
  expect_problem("tensor `a` has more than 64 dimensions");

  std::string names = "{";
  for (int i = 0; i <= 100'000; ++i)
    names +=
        fmt::format(R"({}"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", i ? "," : "", i);
  write_header(names + "}", "");
  expect_problem("it has more than 100000 tensors");
}

TEST_F(Safetensors, ReadsManyKeysInLinearTime) {
  std::string metadata = R"({"__metadata__":{)";
  for (int i = 0; i < 150'000; ++i) metadata += fmt::format(R"({}"{}":"")", i ? "," : "", i);
  write_header(metadata + "}}", "");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(read_safetensors(path()).metadata.size(), 150'000U);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST_F(Safetensors, RefusesWhatIsNoFileAtOnce) {
  fs::create_directory(path());
  expect_problem("model.safetensors: it is a folder");
  fs::remove(path());
  ASSERT_EQ(::mkfifo(path().c_str(), 0600), 0);
  expect_problem("model.safetensors: it is not a regular file");
  fs::remove(path());
  fs::create_symlink("/dev/zero", path());
  expect_problem("model.safetensors: it is not a regular file");
}

TEST_F(Safetensors, StopsReadingAfterCtrlC) {
  write_safetensors(path(), {{"x", at::rand({4})}});
  const std::atomic<int> signal_number{2};
  base::watch_for_interrupt(&signal_number);
  EXPECT_THROW(read_safetensors(path()), Cancelled);
  base::watch_for_interrupt(nullptr);
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
