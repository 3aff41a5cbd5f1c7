// STL-10: color photographs of animals and vehicles, and many more without labels.
//
// A run loads only the splits `train` and `test`. The STL-10 encoder of BadEncoder and the paper
// was pre-trained on the split `unlabeled`; an encoder that is pre-trained here sees the 5,000
// training images instead of those 100,000.
#include <algorithm>
#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"
#include "shared/files/official.hpp"
#include "stl10_files.hpp"

namespace {

using namespace backstop::stl10;
using backstop::Split;
namespace files = backstop::files;
namespace fs = std::filesystem;

constexpr std::array<std::string_view, kClasses> kNames = {
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"};
constexpr std::array kSplits = {Split::train, Split::test, Split::unlabeled};

/// The MD5s are torchvision's.
struct OfficialSplit {
  Split split;
  std::int64_t images;
  std::string_view images_file, images_md5, labels_file, labels_md5;
};
constexpr std::array<OfficialSplit, 3> kOfficial = {
    {{Split::train, kTrainImages, "train_X.bin", "918c2871b30a85fa023e0c44e0bee87f", "train_y.bin",
      "5a34089d4802c674881badbb80307741"},
     {Split::test, kTestImages, "test_X.bin", "7f263ba9f9e0b06b93213547f721ac82", "test_y.bin",
      "36f9794fa4beb8a2c72628de14fa638e"},
     {Split::unlabeled, kUnlabeledImages, "unlabeled_X.bin", "5242ba1fed5e4be9e1e742405eb56ca4", "",
      ""}}};

/// Of the 5,000 training images, as public code states them for torchvision's split `train`.
constexpr double kMeans[] = {0.4467, 0.4398, 0.4066};
constexpr double kDeviations[] = {0.2603, 0.2566, 0.2713};

class Stl10 final : public backstop::Dataset {
 public:
  explicit Stl10(const backstop::Params& params)
      : folder_(files::find_folder(params.string("root"), {"stl10_binary"},
                                   {"train_X.bin", "test_X.bin", "unlabeled_X.bin"})) {
    if (folder_.empty()) folder_ = params.string("root");
    for (const OfficialSplit& official : kOfficial) {
      files_.add(official.split, folder_ / official.images_file, official.images_md5);
      if (!official.labels_file.empty())
        files_.add(official.split, folder_ / official.labels_file, official.labels_md5);
    }
  }

  void load(backstop::Services& services, Split split, backstop::SampleSink& sink) override {
    files::check_split(*this, "stl10", split);
    const OfficialSplit& official = *std::ranges::find(kOfficial, split, &OfficialSplit::split);
    const files::Kind kind{"a file of STL-10",
                           "set `root` to the folder that stl10_binary.tar.gz unpacks to",
                           "unpack stl10_binary.tar.gz again"};
    const files::File images(folder_ / official.images_file, kind);
    const std::int64_t count = count_images(images, official.images);
    files::warn_if_partial(services, images.path(), count, official.images);

    at::Tensor labels;
    if (official.labels_file.empty()) {
      labels = at::full({count}, -1, at::kLong);
    } else {
      labels = at::empty({count}, at::kLong);
      read_labels({folder_ / official.labels_file, kind}, count, labels.data_ptr<std::int64_t>());
    }
    at::Tensor pixels = files::empty_images(count, kSide);
    // Small enough to stay in the cache between being read and being transposed.
    constexpr std::int64_t kChunk = 16;
    for (std::int64_t first = 0; first < count; first += kChunk) {
      services.stop_if_cancelled();
      read_images(images, first, std::min(kChunk, count - first),
                  pixels.data_ptr<std::uint8_t>() + first * kImageSize);
    }
    sink.add(pixels, labels);
  }

  std::int64_t classes() const override { return kClasses; }
  std::string_view class_name(std::int64_t label) const override {
    return kNames.at(static_cast<std::size_t>(label));
  }

  std::span<const double> means() const override { return kMeans; }
  std::span<const double> deviations() const override { return kDeviations; }
  std::span<const Split> splits() const override { return kSplits; }
  void files(Split split, backstop::FileSink& sink) const override { files_.name(split, sink); }

 private:
  fs::path folder_;
  files::DataFiles files_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Stl10)
