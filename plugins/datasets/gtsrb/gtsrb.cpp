// GTSRB: photographs of German traffic signs.
//
// Images are normalized by the mean and deviation of the training images as they are after cropping
// and resizing. This differs from BackdoorBench, which does not normalize GTSRB (mean 0, deviation
// 1).
#include "backstop/plugin.hpp"
#include "layout.hpp"
#include "shared/images/image_dataset.hpp"

namespace {

class Gtsrb final : public backstop::images::ImageDataset {
 public:
  explicit Gtsrb(const backstop::Params& params)
      : ImageDataset(params, "gtsrb"), crop_(params.boolean("crop")) {}

 private:
  backstop::images::Listing list() const override {
    return backstop::gtsrb::find_signs(root(), crop_);
  }

  bool crop_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Gtsrb)
