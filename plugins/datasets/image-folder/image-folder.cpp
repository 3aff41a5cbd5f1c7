// Images of any size, with one folder per class.
#include "backstop/plugin.hpp"
#include "layout.hpp"
#include "shared/images/image_dataset.hpp"

namespace {

class ImageFolder final : public backstop::images::ImageDataset {
 public:
  explicit ImageFolder(const backstop::Params& params)
      : ImageDataset(params, "image-folder"),
        test_fraction_(params.number("test_fraction")),
        split_seed_(params.integer("split_seed")) {}

 private:
  backstop::images::Listing list() const override {
    return backstop::image_folder::find_images(root(), test_fraction_, split_seed_);
  }

  double test_fraction_;
  std::int64_t split_seed_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, ImageFolder)
