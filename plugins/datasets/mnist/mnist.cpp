// MNIST: handwritten digits.
#include <array>
#include <filesystem>
#include <iterator>
#include <string_view>

#include "../idx/idx.hpp"
#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"

namespace {

using namespace std::string_view_literals;

constexpr std::array kNames = {"0"sv, "1"sv, "2"sv, "3"sv, "4"sv,
                               "5"sv, "6"sv, "7"sv, "8"sv, "9"sv};

class Mnist final : public backstop::Dataset {
 public:
  explicit Mnist(const backstop::Params& params) : root_(params.string("root")) {}

  backstop::Samples load(backstop::Context&, backstop::Split split) override {
    return backstop::idx::read_split(
        root_, split,
        "set `root` to the folder with MNIST's four IDX files (train-images-idx3-ubyte.gz ...)");
  }

  std::int64_t classes() const override { return std::ssize(kNames); }
  std::string_view class_name(std::int64_t label) const override {
    return kNames.at(static_cast<std::size_t>(label));
  }

  /// Mean and deviation of the 60,000 training images.
  backstop::ChannelStatistics statistics() const override { return {{0.1307}, {0.3081}}; }

 private:
  std::filesystem::path root_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Mnist)
