// MNIST: handwritten digits.
#include <array>
#include <iterator>
#include <span>
#include <string_view>

#include "shared/idx/idx.hpp"
#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"

namespace {

using namespace std::string_view_literals;

constexpr std::array kNames = {"0"sv, "1"sv, "2"sv, "3"sv, "4"sv,
                               "5"sv, "6"sv, "7"sv, "8"sv, "9"sv};

class Mnist final : public backstop::Dataset {
 public:
  explicit Mnist(const backstop::Params& params)
      : reader_(params.string("root"), "MNIST/raw",
                {"f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"},
                {"9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"},
                "set `root` to the folder with MNIST's four IDX files "
                "(train-images-idx3-ubyte.gz ...)") {}

  backstop::Samples load(backstop::Context&, backstop::Split split) override {
    backstop::files::check_split(*this, "mnist", split);
    return reader_.load(split);
  }
  std::span<const backstop::DataFile> files(backstop::Split split) const override {
    return reader_.files(split);
  }

  std::int64_t classes() const override { return std::ssize(kNames); }
  std::string_view class_name(std::int64_t label) const override {
    return kNames.at(static_cast<std::size_t>(label));
  }

  /// Mean and deviation of the 60,000 training images.
  backstop::ChannelStatistics statistics() const override { return {{0.1307}, {0.3081}}; }

 private:
  backstop::idx::Reader reader_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Mnist)
