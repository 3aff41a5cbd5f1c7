// A square in the bottom right corner: yellow on color images, white on gray ones. The host poisons
// the training set and trains the model; backstop/attack.hpp says what else can be overridden.
#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"

namespace {

class @Class@ final : public backstop::Attack {
 public:
  explicit @Class@(const backstop::Params& params) : size_(params.integer("size")) {}

  at::Tensor apply(backstop::Context&, const at::Tensor& images, backstop::Phase) override {
    const std::int64_t top = images.size(2) - size_, left = images.size(3) - size_;
    if (top < 0 || left < 0)
      throw backstop::ParameterError("a square of `size` " + std::to_string(size_) +
                                         " does not fit into images of " +
                                         std::to_string(images.size(2)) + " x " +
                                         std::to_string(images.size(3)) + " pixels",
                                     "lower `size`");
    at::Tensor triggered = images.clone();  // the images passed in must not change
    const at::Tensor square = triggered.narrow(2, top, size_).narrow(3, left, size_);
    square.fill_(1);
    if (images.size(1) == 3) square.select(1, 2).fill_(0);  // no blue: yellow
    return triggered;
  }

 private:
  std::int64_t size_;
};

}  // namespace

BACKSTOP_PLUGIN(Attack, @Class@)
