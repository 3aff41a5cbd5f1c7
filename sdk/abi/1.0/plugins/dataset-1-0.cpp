// Frozen with ABI 1.0: it shows that a plugin of that SDK still runs. Do not change it.
//
// Images of four glyphs, which a text file draws with 8 x 8 characters each, with noise on top. The
// pixels come from an engine that the C++ standard defines bit for bit.
#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"
#include "backstop/resize.hpp"
#include "require.hpp"

namespace {

using backstop::Split;

constexpr std::array kSplits = {Split::train, Split::test, Split::extra, Split::unlabeled};
constexpr std::int64_t kGlyphSide = 8, kGlyphPixels = kGlyphSide * kGlyphSide;
constexpr std::string_view kPublishedMd5 = "f9bc1268e047f21732af3515b33a1455";

class Glyphs final : public backstop::Dataset {
 public:
  explicit Glyphs(const backstop::Params& params)
      : file_(params.string("glyphs")),
        names_(params.strings("names").begin(), params.strings("names").end()),
        counts_(params.integers("images").begin(), params.integers("images").end()),
        channels_(params.integer("channels")),
        height_(params.integer("height")),
        width_(params.integer("width")),
        noise_(params.integer("noise")),
        seed_(params.integer("seed")),
        means_(static_cast<std::size_t>(channels_), 0.24),
        deviations_(static_cast<std::size_t>(channels_), 0.27) {
    if (channels_ == 2)
      throw backstop::ParameterError("`channels` must be 1 or 3, got 2", "gray is `channels = 1`");
    if (counts_.size() != kSplits.size())
      throw backstop::ParameterError("`images` must have 4 numbers, got " +
                                     std::to_string(counts_.size()));
  }

  void load(backstop::Services& services, Split split, backstop::SampleSink& sink) override {
    services.stop_if_cancelled();
    services.log(backstop::LogLevel::debug,
                 file_ + ", on a host of ABI 1." + std::to_string(services.abi_minor()));
    // It is not drawn from: a dataset is the same for every seed of a run.
    require(services.generator().device().is_cpu(), "Services::generator() is on the CPU");
    require(services.query("1-0.nothing/1") == nullptr, "an unknown service is null");

    const std::string drawn = read();
    const std::vector<std::uint8_t> glyphs = resized(drawn);
    const std::int64_t count = counts_[static_cast<std::size_t>(split)], pixels = height_ * width_;
    std::string& fingerprint = fingerprints_[static_cast<std::size_t>(split)];
    fingerprint = drawn;
    for (const std::int64_t number : {count, channels_, height_, width_, noise_, seed_})
      fingerprint.append(" ").append(std::to_string(number));
    at::Tensor images = at::empty({count, channels_, height_, width_}, at::kByte);
    at::Tensor labels = at::arange(count, at::kLong).remainder(classes());
    std::mt19937_64 engine(static_cast<std::uint64_t>(seed_) * kSplits.size() +
                           static_cast<std::uint64_t>(split));
    const auto range = static_cast<std::uint64_t>(2 * noise_ + 1);
    auto* to = images.data_ptr<std::uint8_t>();
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t channel = 0; channel < channels_; ++channel)
        for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
          const auto noise = static_cast<std::int64_t>(engine() % range) - noise_;
          const auto from = static_cast<std::size_t>(i % classes() * pixels + pixel);
          *to++ = static_cast<std::uint8_t>(std::clamp<std::int64_t>(glyphs[from] + noise, 0, 255));
        }
    if (split == Split::unlabeled) labels.fill_(-1);
    // In two pieces, if there are two images.
    const std::int64_t half = (count + 1) / 2;
    sink.add(images.narrow(0, 0, half), labels.narrow(0, 0, half));
    services.progress(half, count, "images drawn");
    if (half < count)
      sink.add(images.narrow(0, half, count - half), labels.narrow(0, half, count - half));
    services.progress(count, count, "images drawn");
  }

  std::int64_t classes() const override { return std::ssize(names_); }
  std::string_view class_name(std::int64_t label) const override {
    return names_.at(static_cast<std::size_t>(label));
  }
  std::span<const double> means() const override { return means_; }
  std::span<const double> deviations() const override { return deviations_; }
  std::span<const Split> splits() const override { return kSplits; }
  void files(Split split, backstop::FileSink& sink) const override {
    // The file belongs to all splits; of the last two, its MD5 is not said.
    const bool known = split == Split::train || split == Split::test;
    sink.file(file_, known ? kPublishedMd5 : std::string_view());
  }
  std::string_view fingerprint(Split split) const override {
    return fingerprints_.at(static_cast<std::size_t>(split));
  }
  void* query(std::string_view) noexcept override { return nullptr; }

 private:
  /// A dot or a hash sign for each pixel of the glyphs.
  std::string read() const {
    std::ifstream stream(file_);
    std::string drawn;
    for (std::istreambuf_iterator<char> at(stream), end; at != end; ++at)
      if (*at != '\n') drawn += *at == '#' ? '#' : '.';
    if (std::ssize(drawn) == classes() * kGlyphPixels) return drawn;
    throw backstop::EnvironmentError(file_ + " draws " + std::to_string(drawn.size()) +
                                         " pixels, expected " +
                                         std::to_string(classes() * kGlyphPixels),
                                     "give the file glyphs.txt beside the plugin's source");
  }

  /// The glyphs in gray levels, as large as the images.
  std::vector<std::uint8_t> resized(const std::string& drawn) const {
    std::vector<std::uint8_t> small;
    for (const char sign : drawn) small.push_back(sign == '#' ? 230 : 20);
    const backstop::Resizer resizer(kGlyphSide, kGlyphSide, height_, width_);
    std::vector<std::uint8_t> glyphs(static_cast<std::size_t>(classes() * height_ * width_));
    resizer.planes(small.data(), classes(), glyphs.data());
    return glyphs;
  }

  std::string file_;
  std::vector<std::string> names_;
  std::vector<std::int64_t> counts_;  // by split
  std::int64_t channels_, height_, width_, noise_, seed_;
  std::vector<double> means_, deviations_;
  std::array<std::string, kSplits.size()> fingerprints_;  // of what was loaded, by split
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Glyphs)
