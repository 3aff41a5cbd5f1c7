// Fashion-MNIST: small grey images of clothes.
#include <array>
#include <filesystem>
#include <iterator>
#include <string_view>

#include "../idx/idx.hpp"
#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"

namespace {

using namespace std::string_view_literals;

constexpr std::array kNames = {"T-shirt/top"sv, "Trouser"sv,   "Pullover"sv, "Dress"sv,
                               "Coat"sv,        "Sandal"sv,    "Shirt"sv,    "Sneaker"sv,
                               "Bag"sv,         "Ankle boot"sv};

class FashionMnist final : public backstop::Dataset {
 public:
  explicit FashionMnist(const backstop::Params& params) : root_(params.string("root")) {}

  backstop::Samples load(backstop::Context&, backstop::Split split) override {
    return backstop::idx::read_split(
        root_, split,
        "install Debian's dataset-fashion-mnist, or set `root` to the folder with the IDX files");
  }

  std::int64_t classes() const override { return std::ssize(kNames); }
  std::string_view class_name(std::int64_t label) const override {
    return kNames.at(static_cast<std::size_t>(label));
  }

  /// Computed from the 60,000 training images.
  backstop::ChannelStatistics statistics() const override { return {{0.2860}, {0.3530}}; }

 private:
  std::filesystem::path root_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, FashionMnist)
