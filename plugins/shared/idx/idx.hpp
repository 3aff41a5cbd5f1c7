// The datasets in MNIST's format: for each split an IDX file of images and one of labels, plain or
// compressed with gzip. The file without `.gz` is taken where both are there.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "shared/files/official.hpp"
#include "backstop/dataset.hpp"

namespace backstop::idx {

struct Expected {
  std::int64_t images = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t classes = 0;
};

/// The images, uint8 [images, 1, height, width], and labels of `<prefix>-images-idx3-ubyte[.gz]`
/// and `<prefix>-labels-idx1-ubyte[.gz]`. `source` is the hint for somebody who lacks the files.
/// Throws EnvironmentError for everything that is missing or not as expected.
Samples read_files(const std::filesystem::path& folder, const std::string& prefix,
                   const Expected& expected, const std::string& source);

/// MD5 of a split's two compressed files, as their makers published them.
struct Published {
  std::string_view images, labels;
};

/// A dataset of MNIST's own shape: 60,000 training and 10,000 test images of 28 x 28 in 10 classes.
class Reader {
 public:
  /// Looks in `root`, in its folder `raw` and in `inner` of it, where torchvision puts the files.
  Reader(const std::filesystem::path& root, std::string_view inner, const Published& train,
         const Published& test, std::string source);

  [[nodiscard]] Samples load(Split split) const;
  [[nodiscard]] std::span<const DataFile> files(Split split) const;

 private:
  std::filesystem::path folder_;
  std::string source_;
  std::map<Split, files::DataFiles> files_;
};

}  // namespace backstop::idx
