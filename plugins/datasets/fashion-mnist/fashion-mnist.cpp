// Fashion-MNIST: small gray images of clothes.
#include <filesystem>
#include <string_view>
#include <system_error>

#include "backstop/plugin.hpp"
#include "shared/idx/idx.hpp"

namespace {

using backstop::idx::Description;

constexpr Description kZalando = {
    "fashion-mnist",
    "FashionMNIST/raw",
    "install Debian's dataset-fashion-mnist, or set `root` to the folder with the IDX files",
    {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
     "Ankle boot"},
    0.2860,
    0.3530,
    {"8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"},
    {"bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"}};

/// Debian's package holds the same files, recompressed; these MD5s are from its md5sums file.
constexpr Description debian() {
  Description description = kZalando;
  description.train = {"cf8536b0aa1a6ac5fa3f23001093305c", "10bea18fdb374794d4bb42e356e600c9"};
  description.test = {"f78720b4224f21cce2f2ccf2d7a94c9a", "0d30e22e447f3c33dab9ed536400ac01"};
  return description;
}

Description description_for(std::string_view root) {
  std::error_code ignored;
  return std::filesystem::equivalent(root, "/usr/share/datasets/fashion-mnist", ignored) ? debian()
                                                                                         : kZalando;
}

class FashionMnist final : public backstop::idx::IdxDataset {
 public:
  explicit FashionMnist(const backstop::Params& params)
      : IdxDataset(params, description_for(params.string("root"))) {}
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, FashionMnist)
