// Fashion-MNIST: small grey images of clothes.
#include <array>
#include <filesystem>
#include <iterator>
#include <span>
#include <string_view>
#include <system_error>

#include "shared/idx/idx.hpp"
#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"

namespace {

using namespace std::string_view_literals;

constexpr std::array kNames = {"T-shirt/top"sv, "Trouser"sv,   "Pullover"sv, "Dress"sv,
                               "Coat"sv,        "Sandal"sv,    "Shirt"sv,    "Sneaker"sv,
                               "Bag"sv,         "Ankle boot"sv};

struct Checksums {
  backstop::idx::Published train, test;
};
constexpr Checksums kZalando = {
    {"8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"},
    {"bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"}};
/// Debian's package compresses the same files anew; these are in its md5sums.
constexpr Checksums kDebian = {
    {"cf8536b0aa1a6ac5fa3f23001093305c", "10bea18fdb374794d4bb42e356e600c9"},
    {"f78720b4224f21cce2f2ccf2d7a94c9a", "0d30e22e447f3c33dab9ed536400ac01"}};

Checksums checksums_for(const std::filesystem::path& root) {
  std::error_code none;
  return std::filesystem::equivalent(root, "/usr/share/datasets/fashion-mnist", none) ? kDebian
                                                                                      : kZalando;
}

class FashionMnist final : public backstop::Dataset {
 public:
  explicit FashionMnist(const backstop::Params& params)
      : FashionMnist(params.string("root"), checksums_for(params.string("root"))) {}
  FashionMnist(std::string_view root, const Checksums& published)
      : reader_(root, "FashionMNIST/raw", published.train, published.test,
                "install Debian's dataset-fashion-mnist, or set `root` to the folder with the IDX "
                "files") {}

  backstop::Samples load(backstop::Context&, backstop::Split split) override {
    backstop::files::check_split(*this, "fashion-mnist", split);
    return reader_.load(split);
  }
  std::span<const backstop::DataFile> files(backstop::Split split) const override {
    return reader_.files(split);
  }

  std::int64_t classes() const override { return std::ssize(kNames); }
  std::string_view class_name(std::int64_t label) const override {
    return kNames.at(static_cast<std::size_t>(label));
  }

  /// Computed from the 60,000 training images.
  backstop::ChannelStatistics statistics() const override { return {{0.2860}, {0.3530}}; }

 private:
  backstop::idx::Reader reader_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, FashionMnist)
