// The base of datasets made of image files. A plugin lists its files; this class decodes them once,
// on all cores, to squares of one size, and keeps the result in a cache file. What it reads from
// there must have the checksums of what was decoded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backstop/dataset.hpp"
#include "backstop/params.hpp"
#include "decode.hpp"
#include "folder.hpp"
#include "shared/files/official.hpp"

namespace backstop::images {

/// What is known about an image before it is read.
struct Annotation {
  std::string place;  ///< "FILE line N", for errors
  std::int64_t width = 0, height = 0;
  std::optional<Box> crop;  ///< within width and height
};

struct Item {
  std::string path;  ///< below the listing's root
  Stamp stamp;
  std::int64_t label = 0;
  std::optional<Annotation> annotation;
};

struct Listing {
  std::filesystem::path root;
  std::vector<std::string> class_names;
  std::vector<Item> train, test;                     ///< in the order of the tensors
  std::vector<std::string> train_files, test_files;  ///< annotations and class lists; may be empty
  std::vector<std::string> notes;                    ///< for the log
};

/// The images of a listing, uint8 [3, side, side] each. Reads the parameters `root`, `image_size`
/// (0: the side of the first training image) and `cache`.
class ImageDataset : public Dataset {
 public:
  void load(Services& services, Split split, SampleSink& sink) final;
  [[nodiscard]] std::int64_t classes() const final;
  [[nodiscard]] std::string_view class_name(std::int64_t label) const final;
  /// Of the training images after cropping and resizing, computed while decoding. A deviation is at
  /// least one gray level. Decodes the images, without progress, if load() has not been called.
  [[nodiscard]] std::span<const double> means() const final;
  [[nodiscard]] std::span<const double> deviations() const final;
  void files(Split split, FileSink& sink) const final;
  /// Of the decoded pixels and the labels; the same on every machine.
  [[nodiscard]] std::string_view fingerprint(Split split) const final;

 protected:
  /// `name` is the plugin's name.
  ImageDataset(const Params& params, std::string name);
  ImageDataset(const ImageDataset&) = delete;
  ImageDataset& operator=(const ImageDataset&) = delete;
  ~ImageDataset();

  /// The images to decode. Called once.
  virtual Listing list() const = 0;
  [[nodiscard]] const std::filesystem::path& root() const { return root_; }

 private:
  struct Loaded;
  const Listing& listing() const;
  /// The side of the first training image. Throws EnvironmentError if it is not a square.
  [[nodiscard]] std::int64_t own_side() const;
  const Loaded& loaded(Services* services) const;

  std::filesystem::path root_;
  std::string name_;
  mutable std::int64_t side_;  ///< 0: own_side(), until the images are loaded
  std::optional<std::filesystem::path> cache_folder_;  ///< without it, in memory
  mutable std::optional<Listing> listing_;             ///< without items once they are loaded
  mutable files::DataFiles files_;
  mutable std::unique_ptr<const Loaded> loaded_;
};

}  // namespace backstop::images
