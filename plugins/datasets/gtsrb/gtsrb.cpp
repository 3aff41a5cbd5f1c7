// GTSRB: photographs of German traffic signs.
#include "shared/images/image_dataset.hpp"
#include "backstop/plugin.hpp"
#include "layout.hpp"

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
