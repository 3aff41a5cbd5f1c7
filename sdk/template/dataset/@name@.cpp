// Sinusoidal gratings: class k is a wave in direction pi * k / classes, with a random phase and
// added noise. These images are generated; a dataset that reads files must check everything that it
// reads and throw backstop::EnvironmentError with the file, what was found and what was expected.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"

namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr std::int64_t kSide = 16;  // pixels
constexpr double kWaves = 3;        // across the image
constexpr double kHeight = 0.3;     // of a wave, above and below gray

class @Class@ final : public backstop::Dataset {
 public:
  explicit @Class@(const backstop::Params& params)
      : classes_(params.integer("classes")),
        images_(params.integer("images")),
        noise_(params.number("noise")),
        seed_(static_cast<std::uint64_t>(params.integer("seed"))) {
    for (std::int64_t label = 0; label < classes_; ++label)
      names_.push_back(std::to_string(180 * label / classes_) + " degrees");
  }

  backstop::Samples load(backstop::Context&, backstop::Split split) override {
    const bool train = split == backstop::Split::train;
    // Not the run's generator, because the recipe's seed must not change the data.
    std::mt19937_64 engine(2 * seed_ + (train ? 0 : 1));
    const std::int64_t count = train ? images_ : images_ / 2;
    backstop::Samples samples{at::empty({count, 1, kSide, kSide}, at::kByte),
                              at::arange(count, at::kLong).remainder(classes_)};
    auto* pixel = samples.images.data_ptr<std::uint8_t>();
    for (std::int64_t i = 0; i < count; ++i, pixel += kSide * kSide)
      draw(kPi * static_cast<double>(i % classes_) / static_cast<double>(classes_), engine, pixel);
    return samples;
  }

  std::int64_t classes() const override { return classes_; }
  std::string_view class_name(std::int64_t label) const override {
    return names_.at(static_cast<std::size_t>(label));
  }
  backstop::ChannelStatistics statistics() const override {
    backstop::ChannelStatistics result;
    result.mean[0] = 0.5;
    result.deviation[0] = std::sqrt(kHeight * kHeight / 2 + noise_ * noise_ / 3);
    return result;
  }

 private:
  void draw(double direction, std::mt19937_64& engine, std::uint8_t* pixel) const {
    std::uniform_real_distribution<double> any_phase(0, 2 * kPi), any_noise(-noise_, noise_);
    const double phase = any_phase(engine), step = 2 * kPi * kWaves / double(kSide);
    for (std::int64_t y = 0; y < kSide; ++y) {
      for (std::int64_t x = 0; x < kSide; ++x) {
        const double along = double(x) * std::cos(direction) + double(y) * std::sin(direction);
        const double value = 0.5 + kHeight * std::sin(step * along + phase) + any_noise(engine);
        *pixel++ = static_cast<std::uint8_t>(value * 255 + 0.5);
      }
    }
  }

  std::int64_t classes_, images_;
  double noise_;
  std::uint64_t seed_;
  std::vector<std::string> names_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, @Class@)
