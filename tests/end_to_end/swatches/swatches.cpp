// Images of one color each: red, green or blue, the later the brighter.
#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include "backstop/dataset.hpp"
#include "backstop/error.hpp"
#include "backstop/plugin.hpp"

namespace {

using backstop::Split;

constexpr std::array<std::string_view, 3> kNames = {"red", "green", "blue"};
constexpr std::array kSplits = {Split::train, Split::test, Split::extra};
constexpr std::array kFiles = {"train.txt", "test.txt", "extra.txt"};
/// Of "012", ten times.
constexpr std::string_view kPublished = "5eaf2bdf0f3644db02c975b82703f2af";

constexpr double kMeans[] = {0.25, 0.25, 0.25}, kDeviations[] = {0.5, 0.5, 0.5};

struct Samples {
  at::Tensor images, labels;
};

class Swatches final : public backstop::Dataset {
 public:
  explicit Swatches(const backstop::Params& params)
      : root_(params.string("root")),
        height_(params.integer("height")),
        width_(params.integer("width")),
        mapped_(params.integer("mapped")),
        fingerprint_(params.string("fingerprint")) {
    for (std::size_t i = 0; i < kFiles.size(); ++i) paths_[i] = (root_ / kFiles[i]).string();
  }

  void load(backstop::Services&, Split split, backstop::SampleSink& sink) override {
    const Samples samples = mapped_ > 0 && split == Split::train ? map() : read(split);
    // In two pieces, as a large dataset may come.
    const std::int64_t half = mapped_ > 0 ? samples.labels.numel() : samples.labels.numel() / 2;
    sink.add(samples.images.slice(0, 0, half), samples.labels.slice(0, 0, half));
    if (half < samples.labels.numel())
      sink.add(samples.images.slice(0, half), samples.labels.slice(0, half));
  }
  std::int64_t classes() const override { return std::ssize(kNames); }
  std::string_view class_name(std::int64_t label) const override {
    return kNames.at(static_cast<std::size_t>(label));
  }
  std::span<const double> means() const override { return kMeans; }
  std::span<const double> deviations() const override { return kDeviations; }
  std::span<const Split> splits() const override { return kSplits; }
  void files(Split split, backstop::FileSink& sink) const override {
    const auto i = static_cast<std::size_t>(split);
    if (std::filesystem::exists(paths_.at(i)))
      sink.file(paths_.at(i), i == 0 ? kPublished : std::string_view());
  }
  std::string_view fingerprint(Split) const override { return fingerprint_; }

 private:
  Samples read(Split split) const {
    const std::string& path = paths_.at(static_cast<std::size_t>(split));
    std::ifstream stream(path);
    const std::string labels{std::istreambuf_iterator<char>(stream), {}};
    if (!stream) throw backstop::EnvironmentError(path + " is missing", "write it");
    const auto count = std::ssize(labels);
    Samples samples{at::empty({count, 3, height_, width_}, at::kByte),
                    at::empty({count}, at::kLong)};
    auto* pixel = samples.images.data_ptr<std::uint8_t>();
    for (std::int64_t i = 0; i < count; ++i) {
      const int label = labels[static_cast<std::size_t>(i)] - '0';
      if (label < 0 || label > 2)
        throw backstop::EnvironmentError(path + " holds something else than 0, 1 and 2");
      samples.labels.data_ptr<std::int64_t>()[i] = label;
      for (int channel = 0; channel < 3; ++channel)
        pixel = std::fill_n(pixel, height_ * width_,
                            static_cast<std::uint8_t>(channel == label ? 200 + i % 50 : 20));
    }
    return samples;
  }

  Samples map() const {
    const std::size_t bytes = static_cast<std::size_t>(mapped_) << 20;
    const auto count = static_cast<std::int64_t>(bytes) / (3 * height_ * width_);
    const int file = ::open((root_ / "mapped").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ::ftruncate(file, static_cast<off_t>(bytes)) != 0)
      throw backstop::EnvironmentError("cannot make the mapped file");
    void* memory = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    ::close(file);
    if (memory == MAP_FAILED) throw backstop::EnvironmentError("cannot map the mapped file");
    return {at::from_blob(
                memory, {count, 3, height_, width_}, [bytes](void* from) { ::munmap(from, bytes); },
                at::kByte),
            at::arange(count, at::kLong).remainder(3)};
  }

  std::filesystem::path root_;
  std::int64_t height_, width_, mapped_;
  std::string fingerprint_;
  std::array<std::string, kFiles.size()> paths_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Swatches)
