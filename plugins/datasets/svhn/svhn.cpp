// SVHN: house numbers in street views, cropped to single digits.
#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <string_view>

#include <ATen/ops/empty.h>

#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"
#include "mat.hpp"
#include "shared/files/official.hpp"

namespace {

using namespace backstop::svhn;
using backstop::Split;
namespace files = backstop::files;

constexpr std::array<std::string_view, kClasses> kNames = {"0", "1", "2", "3", "4",
                                                           "5", "6", "7", "8", "9"};
constexpr std::array kSplits = {Split::train, Split::test, Split::extra};

/// The MD5s are torchvision's.
struct OfficialFile {
  Split split;
  std::string_view name, md5;
  std::int64_t images;
};
constexpr std::array<OfficialFile, 3> kOfficial = {
    {{Split::train, "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 73257},
     {Split::test, "test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 26032},
     {Split::extra, "extra_32x32.mat", "a93ce644f1a588dc4d68dda5feec44a7", 531131}}};

/// Of the 73,257 training images, as public code states them.
constexpr double kMeans[] = {0.4377, 0.4438, 0.4728};
constexpr double kDeviations[] = {0.1980, 0.2010, 0.1970};

class Svhn final : public backstop::Dataset {
 public:
  explicit Svhn(const backstop::Params& params)
      : folder_(files::find_folder(params.string("root"), {"svhn", "SVHN"},
                                   {kOfficial[0].name, kOfficial[1].name, kOfficial[2].name})) {
    if (folder_.empty()) folder_ = params.string("root");
    for (const OfficialFile& official : kOfficial)
      files_.add(official.split, folder_ / official.name, official.md5);
  }

  void load(backstop::Services& services, Split split, backstop::SampleSink& sink) override {
    files::check_split(*this, "svhn", split);
    const OfficialFile& official = *std::ranges::find(kOfficial, split, &OfficialFile::split);
    const std::string name(official.name);
    const files::File file(
        folder_ / name,
        {"a MATLAB file", "set `root` to the folder with SVHN's " + name + " (cropped digits)",
         "get " + name + " (cropped digits) again"});
    MatFile mat(file, official.images);
    for (const OfficialFile& other : kOfficial)
      if (other.split != split && other.images == mat.images())
        file.refuse("has " + std::to_string(mat.images()) + " images like the official " +
                    std::string(other.name) + ", expected " + std::to_string(official.images));
    files::warn_if_partial(services, file.path(), mat.images(), official.images);
    services.stop_if_cancelled();
    const files::Samples samples{files::empty_images(mat.images(), kSide),
                                 at::empty({mat.images()}, at::kLong)};
    mat.read_labels(samples.labels.data_ptr<std::int64_t>());
    mat.read_images(samples.images.data_ptr<std::uint8_t>());
    sink.add(samples.images, samples.labels);
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
  std::filesystem::path folder_;
  files::DataFiles files_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Svhn)
