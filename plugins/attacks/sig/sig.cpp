// SIG (Barni et al., 2019): vertical stripes on images of the target class, which keep their true
// labels.
//
//   x' = clip(x + v, 0, 1),   v(i, j) = delta * sin(2 pi j frequency / width)   in column j
//
// No image is relabeled: only images of the target class get the stripes, so the model learns that
// stripes indicate this class. As in the other attacks, poison_ratio is a share of the whole
// training set (BackdoorBench does the same; the authors' code uses a share of the class): 0.08 of
// a set of ten equal classes is 80 % of one class. Since only one class can be changed, all-to-all
// labels are refused.
//
// Defaults: delta is 40/255 for training and testing, and the frequency is 6, as in BackdoorBench.
// The authors' code has a frequency of 6 as well, and a delta of 30/255, or 60/255 for training and
// 40/255 for testing.
//
// Deviation: the authors' code adds in 8 bits and clips too late, so that very bright pixels turn
// dark; here they stay white.
#include <algorithm>
#include <cstdint>
#include <numbers>
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randperm.h>

#include "backstop/attack.hpp"
#include "backstop/plugin.hpp"

namespace {

class Sig final : public backstop::Attack {
 public:
  explicit Sig(const backstop::Params& params)
      : delta_(params.number("delta")),
        test_delta_(params.has("test_delta") ? params.number("test_delta") : delta_),
        frequency_(params.number("frequency")) {}

  void prepare(backstop::Context&, const backstop::Threat& threat,
               const backstop::ImageSet& training_set) override {
    if (threat.all_to_all != 0)
      throw backstop::ParameterError(
          "`labels` is \"all-to-all\", but sig changes images of one class and keeps their labels",
          "write labels = \"all-to-one\"");
    // From there on, the columns show a lower frequency instead, or no stripes at all.
    if (2 * frequency_ >= static_cast<double>(training_set.width()))
      throw backstop::ParameterError("`frequency` must be less than half of the images' " +
                                         std::to_string(training_set.width()) + " columns, got " +
                                         std::to_string(frequency_),
                                     "lower `frequency`, or raise `image_size`");
  }

  at::Tensor apply(backstop::Context&, const at::Tensor& images, backstop::Phase phase) override {
    const double delta = phase == backstop::Phase::train ? delta_ : test_delta_;
    const std::int64_t width = images.size(3);
    const at::Tensor wave =
        at::arange(width, at::kDouble)
            .mul_(2 * std::numbers::pi * frequency_ / static_cast<double>(width))
            .sin_()
            .mul_(delta);
    return images.add(wave.to(at::kFloat).to(images.device())).clamp_(0, 1);
  }

  void poison(backstop::Context& ctx, const backstop::Threat& threat,
              backstop::TrainingSetEditor& editor) override {
    const backstop::ImageSet& set = editor.images();
    const std::int64_t count = threat.poisoned_of(set.size());
    const at::Tensor own = set.labels().eq(threat.target).nonzero().squeeze(1).to(at::kCPU);
    if (count > own.size(0))
      throw backstop::ParameterError(
          "a `poison_ratio` of " + std::to_string(threat.poison_ratio) + " is " +
              std::to_string(count) + " of " + std::to_string(set.size()) + " images, but class " +
              std::to_string(threat.target) + " has only " + std::to_string(own.size(0)),
          "sig changes only images of the target class: lower `poison_ratio` to at most " +
              std::to_string(static_cast<double>(own.size(0)) / static_cast<double>(set.size())));
    const at::Tensor chosen =
        own.index_select(0, at::randperm(own.size(0), ctx.generator()).narrow(0, 0, count));
    constexpr std::int64_t kChunk = 1024;
    for (std::int64_t first = 0; first < count; first += kChunk) {
      ctx.stop_if_cancelled();
      const at::Tensor positions = chosen.narrow(0, first, std::min(kChunk, count - first));
      const at::Tensor labels = set.labels().index_select(0, ctx.to_device(positions));
      editor.write(positions, apply(ctx, set.images(positions), backstop::Phase::train), labels,
                   backstop::Role::poison);
    }
  }

 private:
  double delta_;
  double test_delta_;
  double frequency_;
};

}  // namespace

BACKSTOP_PLUGIN(Attack, Sig)
