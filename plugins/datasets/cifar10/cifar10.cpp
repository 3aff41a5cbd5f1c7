// CIFAR-10: small colour photographs of animals and vehicles.
#include <array>
#include <filesystem>
#include <string_view>

#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"
#include "batches.hpp"

namespace {

using namespace backstop::cifar10;

constexpr std::array<std::string_view, kClasses> kNames = {
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};

class Cifar10 final : public backstop::Dataset {
 public:
  explicit Cifar10(const backstop::Params& params) : root_(params.string("root")) {}

  backstop::Samples load(backstop::Context&, backstop::Split split) override {
    return read_split(root_, split, kRecordsInBatch);
  }

  std::int64_t classes() const override { return kClasses; }
  std::string_view class_name(std::int64_t label) const override {
    return kNames.at(static_cast<std::size_t>(label));
  }

  /// Computed from the 50,000 training images.
  backstop::ChannelStatistics statistics() const override {
    return {{0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}};
  }

 private:
  std::filesystem::path root_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Cifar10)
