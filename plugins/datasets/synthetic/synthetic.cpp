// Generated images that need no files: every class has its own smooth random pattern, and an image
// is the pattern of its class, shifted, made lighter or darker, with noise on top. A seed gives the
// same bytes on every machine, because the C++ standard defines the random number engine bit for
// bit, and no function of the math library is called.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include "backstop/dataset.hpp"
#include "backstop/error.hpp"
#include "backstop/plugin.hpp"

namespace {

using backstop::Split;

enum class Stream : std::uint64_t { patterns, train, test };
constexpr std::uint64_t kStreams = 3;

/// Draws the random numbers of one stream.
class Draws {
 public:
  Draws(std::uint64_t seed, Stream stream)
      : engine_(seed * kStreams + static_cast<std::uint64_t>(stream)) {}

  double between(double low, double high) {
    return low + (high - low) * (static_cast<double>(engine_() >> 11) * 0x1p-53);
  }
  /// An integer in -limit .. limit.
  std::int64_t shift(std::int64_t limit) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(2 * limit + 1)) - limit;
  }

 private:
  std::mt19937_64 engine_;
};

class Synthetic final : public backstop::Dataset {
 public:
  explicit Synthetic(const backstop::Params& params)
      : classes_(params.integer("classes")),
        train_images_(params.integer("train_images")),
        test_images_(params.integer("test_images")),
        size_(params.integer("image_size")),
        channels_(params.integer("channels")),
        noise_(params.number("noise")),
        seed_(static_cast<std::uint64_t>(params.integer("seed"))) {
    if (channels_ == 2)
      throw backstop::ParameterError("`channels` must be 1 or 3, got 2",
                                     "write `channels = 1` for gray or `channels = 3` for color");
    for (std::int64_t label = 0; label < classes_; ++label)
      names_.push_back("pattern " + std::to_string(label));
  }

  void load(backstop::Services&, Split split, backstop::SampleSink& sink) override {
    const Samples samples = make(split);
    if (split == Split::train) measure(samples.images);
    sink.add(samples.images, samples.labels);
  }
  std::int64_t classes() const override { return classes_; }
  std::string_view class_name(std::int64_t label) const override {
    return names_.at(static_cast<std::size_t>(label));
  }

  // The exact values of the training images, which are made for this if they were not loaded.
  std::span<const double> means() const override {
    if (means_.empty()) measure(make(Split::train).images);
    return means_;
  }
  std::span<const double> deviations() const override {
    if (means_.empty()) measure(make(Split::train).images);
    return deviations_;
  }

 private:
  struct Samples {
    at::Tensor images, labels;
  };

  void measure(const at::Tensor& images) const {
    means_.clear();
    deviations_.clear();
    for (std::int64_t channel = 0; channel < channels_; ++channel) {
      const at::Tensor pixels = images.select(1, channel).to(at::kDouble).div(255);
      means_.push_back(pixels.mean().item<double>());
      deviations_.push_back(pixels.std(/*unbiased=*/false).item<double>());
    }
  }

  /// The patterns of all classes, [classes, channels, size, size] in 0.2 .. 0.8: random values at
  /// the knots of a coarse periodic grid, with linear interpolation between them.
  std::vector<double> patterns() const {
    constexpr std::int64_t kKnots = 4;
    Draws draws(seed_, Stream::patterns);
    std::vector<double> result;
    result.reserve(static_cast<std::size_t>(classes_ * channels_ * size_ * size_));
    double knots[kKnots][kKnots];
    for (std::int64_t plane = 0; plane < classes_ * channels_; ++plane) {
      for (auto& row : knots)
        for (double& knot : row) knot = draws.between(0.2, 0.8);
      for (std::int64_t y = 0; y < size_; ++y) {
        const std::int64_t top = y * kKnots / size_, bottom = (top + 1) % kKnots;
        const double down = static_cast<double>(y * kKnots % size_) / static_cast<double>(size_);
        for (std::int64_t x = 0; x < size_; ++x) {
          const std::int64_t left = x * kKnots / size_, right = (left + 1) % kKnots;
          const double across =
              static_cast<double>(x * kKnots % size_) / static_cast<double>(size_);
          result.push_back(
              (1 - down) * ((1 - across) * knots[top][left] + across * knots[top][right]) +
              down * ((1 - across) * knots[bottom][left] + across * knots[bottom][right]));
        }
      }
    }
    return result;
  }

  Samples make(Split split) const {
    const bool train = split == Split::train;
    const std::int64_t count = train ? train_images_ : test_images_;
    const std::vector<double> pattern = patterns();
    Draws draws(seed_, train ? Stream::train : Stream::test);

    Samples samples;
    samples.labels = at::arange(count, at::kLong).remainder(classes_);
    samples.images = at::empty({count, channels_, size_, size_}, at::kByte);
    auto* pixel = samples.images.data_ptr<std::uint8_t>();
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t down = size_ + draws.shift(size_ / 8);
      const std::int64_t across = size_ + draws.shift(size_ / 8);
      const double brightness = draws.between(-0.1, 0.1);
      for (std::int64_t channel = 0; channel < channels_; ++channel) {
        const std::int64_t plane = (i % classes_ * channels_ + channel) * size_ * size_;
        for (std::int64_t y = 0; y < size_; ++y) {
          for (std::int64_t x = 0; x < size_; ++x) {
            const std::int64_t from = plane + (y + down) % size_ * size_ + (x + across) % size_;
            const double value = pattern[static_cast<std::size_t>(from)] + brightness +
                                 draws.between(-noise_, noise_);
            *pixel++ = static_cast<std::uint8_t>(std::clamp(value, 0.0, 1.0) * 255 + 0.5);
          }
        }
      }
    }
    return samples;
  }

  std::int64_t classes_, train_images_, test_images_, size_, channels_;
  double noise_;
  std::uint64_t seed_;
  std::vector<std::string> names_;
  mutable std::vector<double> means_, deviations_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Synthetic)
