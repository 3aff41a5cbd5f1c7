// Datasets in MNIST's format: each split has an IDX file of images and one of labels, plain or
// compressed with gzip. Where both exist, the plain file is read.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "backstop/dataset.hpp"
#include "backstop/params.hpp"
#include "shared/files/official.hpp"

namespace backstop::idx {

struct Expected {
  std::int64_t images = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t classes = 0;
};

/// The images, uint8 [images, 1, height, width], and labels of `<prefix>-images-idx3-ubyte[.gz]`
/// and `<prefix>-labels-idx1-ubyte[.gz]`. `source` is the hint for a user who lacks the files.
/// Throws EnvironmentError when anything is missing or not as expected.
files::Samples read_files(const std::filesystem::path& folder, const std::string& prefix,
                          const Expected& expected, const std::string& source);

/// MD5 of the two compressed files of a split, as their makers published them.
struct Checksums {
  std::string_view images, labels;
};

/// What distinguishes the datasets of MNIST's shape from each other.
struct Description {
  std::string_view name;    ///< of the plugin
  std::string_view folder;  ///< below `root`, where torchvision puts the files
  std::string_view source;  ///< the hint for a user who lacks the files
  std::array<std::string_view, 10> class_names;
  double mean = 0, deviation = 1;  ///< of the 60,000 training images
  Checksums train, test;
};

/// A dataset of MNIST's shape: 60,000 training and 10,000 test images of 28 x 28 pixels in 10
/// classes. Reads the parameter `root`, and looks for the files there, in its folder `raw`, and
/// where torchvision puts them.
class IdxDataset : public Dataset {
 public:
  void load(Services& services, Split split, SampleSink& sink) final;
  [[nodiscard]] std::int64_t classes() const final;
  [[nodiscard]] std::string_view class_name(std::int64_t label) const final;
  [[nodiscard]] std::span<const double> means() const final { return {&description_.mean, 1}; }
  [[nodiscard]] std::span<const double> deviations() const final {
    return {&description_.deviation, 1};
  }
  void files(Split split, FileSink& sink) const final { files_.name(split, sink); }

 protected:
  IdxDataset(const Params& params, const Description& description);
  IdxDataset(const IdxDataset&) = delete;
  IdxDataset& operator=(const IdxDataset&) = delete;
  ~IdxDataset() = default;

 private:
  Description description_;
  std::filesystem::path folder_;
  files::DataFiles files_;
};

}  // namespace backstop::idx
