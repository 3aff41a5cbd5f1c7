// Images from two files, train.bin and test.bin, in the binary format of CIFAR-10: one record an
// image, a byte with its label and then the pixels, channel by channel and row by row. Without the
// parameter `path` the records are made up, so that everything runs at once; delete made_up() when
// you have files.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::Split;

constexpr std::string_view kNames[] = {"horizontal", "vertical", "diagonal"};
constexpr std::int64_t kChannels = 3, kSide = 16;  // in CIFAR-10, the side is 32
constexpr std::int64_t kRecord = 1 + kChannels * kSide * kSide;
constexpr double kMeans[] = {0.5, 0.5, 0.5}, kDeviations[] = {0.19, 0.19, 0.19};

[[noreturn]] void refuse(const fs::path& file, const std::string& problem) {
  throw backstop::EnvironmentError(file.string() + ": " + problem,
                                   "`path` must be the folder with train.bin and test.bin, whole");
}

/// All records of a file, uint8 [n, kRecord]. The file may hold anything.
at::Tensor read(const fs::path& file) {
  std::error_code error;
  const auto size = static_cast<std::int64_t>(fs::file_size(file, error));
  if (error) refuse(file, error.message());
  if (size == 0 || size % kRecord != 0)
    refuse(file, "has " + std::to_string(size) + " bytes, but must have a multiple of " +
                     std::to_string(kRecord));
  const at::Tensor records = at::empty({size / kRecord, kRecord}, at::kByte);
  std::ifstream stream(file, std::ios::binary);
  if (!stream.read(static_cast<char*>(records.data_ptr()), size)) refuse(file, "cannot be read");
  return records;
}

/// Records with stripes, whose direction is the class.
at::Tensor made_up(Split split) {
  // Not the run's generator, because the recipe's seed must not change the data.
  std::mt19937 random(split == Split::train ? 1 : 2);
  const at::Tensor records = at::empty({split == Split::train ? 512 : 256, kRecord}, at::kByte);
  auto* byte = records.data_ptr<std::uint8_t>();
  for (std::int64_t i = 0; i < records.size(0); ++i) {
    const std::int64_t label = i % std::ssize(kNames), shift = random() % 8;
    *byte++ = static_cast<std::uint8_t>(label);
    for (std::int64_t pixel = 0; pixel < kRecord - 1; ++pixel) {
      const std::int64_t x = pixel % kSide, y = pixel / kSide % kSide;
      const std::int64_t across = label == 0 ? y : label == 1 ? x : x + y;
      const std::uint32_t stripe = (across + shift) / 4 % 2 == 0 ? 64 : 160;
      *byte++ = static_cast<std::uint8_t>(stripe + random() % 32);
    }
  }
  return records;
}

class @Class@ final : public backstop::Dataset {
 public:
  explicit @Class@(const backstop::Params& params) {
    if (params.has("path")) folder_ = params.string("path");
  }

  void load(backstop::Services&, Split split, backstop::SampleSink& sink) override {
    const at::Tensor records = folder_.empty() ? made_up(split) : read(file(split));
    const at::Tensor labels = records.select(1, 0).to(at::kLong);
    if (const auto largest = labels.max().item<std::int64_t>(); largest >= classes())
      refuse(file(split), "has the label " + std::to_string(largest) +
                              ", but labels must be below " + std::to_string(classes()));
    const at::Tensor pixels = records.narrow(1, 1, kRecord - 1).contiguous();
    sink.add(pixels.view({-1, kChannels, kSide, kSide}), labels);
  }

  std::int64_t classes() const override { return std::ssize(kNames); }
  std::string_view class_name(std::int64_t label) const override { return kNames[label]; }
  std::span<const double> means() const override { return kMeans; }
  std::span<const double> deviations() const override { return kDeviations; }
  void files(Split split, backstop::FileSink& sink) const override {
    std::error_code ignored;
    if (!folder_.empty() && fs::exists(file(split), ignored)) sink.file(file(split).string(), "");
  }

 private:
  [[nodiscard]] fs::path file(Split split) const {
    return folder_ / (split == Split::train ? "train.bin" : "test.bin");
  }

  fs::path folder_;  ///< empty: the records are made up
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, @Class@)
