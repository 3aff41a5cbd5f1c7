// CIFAR-10: small color photographs of animals and vehicles.
#include <array>
#include <string_view>

#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"
#include "shared/cifar/cifar.hpp"

namespace {

using namespace backstop::cifar;
using backstop::Split;

constexpr std::array<std::string_view, 10> kNames = {
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};

/// The MD5s of the files are those that public loaders of either version list (torchvision for the
/// Python version); CIFAR's page has only those of the archives.
constexpr std::array<OfficialFile, 6> kFiles = {{{"data_batch_1.bin",
                                                  "5dd7e06a14cb22eb9f671a540d1b7c25",
                                                  "data_batch_1",
                                                  "c99cafc152244af753f735de768cd75f",
                                                  Split::train,
                                                  10000,
                                                  {6, 9, 9, 4, 1, 1, 2, 7, 8, 3}},
                                                 {"data_batch_2.bin",
                                                  "5ea93a67294ea407fff1d09f752e9692",
                                                  "data_batch_2",
                                                  "d4bba439e000b95fd0a9bffe97cbabec",
                                                  Split::train,
                                                  10000,
                                                  {1, 6, 6, 8, 8, 3, 4, 6, 0, 6}},
                                                 {"data_batch_3.bin",
                                                  "942cd6a4bcdd0dd3c604fbe906cb4421",
                                                  "data_batch_3",
                                                  "54ebc095f3ab1f0389bbae665268c751",
                                                  Split::train,
                                                  10000,
                                                  {8, 5, 0, 6, 9, 2, 8, 3, 6, 2}},
                                                 {"data_batch_4.bin",
                                                  "ae636b3ba5c66a11e91e8cb52e771fcb",
                                                  "data_batch_4",
                                                  "634d18415352ddfa80567beed471001a",
                                                  Split::train,
                                                  10000,
                                                  {0, 6, 0, 2, 7, 2, 1, 2, 4, 1}},
                                                 {"data_batch_5.bin",
                                                  "53f37980c15c3d472c316c40844f3f0d",
                                                  "data_batch_5",
                                                  "482c414d41f54cd18b22e5b47cb7c3cb",
                                                  Split::train,
                                                  10000,
                                                  {1, 8, 5, 1, 5, 7, 4, 3, 8, 2}},
                                                 {"test_batch.bin",
                                                  "803d5f7f4d78ea53de84dbe85f74fb6d",
                                                  "test_batch",
                                                  "40351d587109b95175f43aff81a1287e",
                                                  Split::test,
                                                  10000,
                                                  {3, 8, 8, 0, 6, 6, 1, 6, 3, 1}}}};

constexpr Description kCifar10 = {"cifar-10-binary.tar.gz",
                                  "cifar-10-python.tar.gz",
                                  "cifar-10-batches-bin",
                                  "cifar-10-batches-py",
                                  "batches.meta",
                                  "5ff9c542aee3614f3951f8cda6e48888",
                                  kFiles,
                                  {1, 0, "labels", 10}};

/// BackdoorBench's values. The exact deviations of the 50,000 training images are 0.2470, 0.2435
/// and 0.2616.
constexpr double kMeans[] = {0.4914, 0.4822, 0.4465};
constexpr double kDeviations[] = {0.247, 0.243, 0.261};

class Cifar10 final : public backstop::Dataset {
 public:
  explicit Cifar10(const backstop::Params& params) : reader_(params.string("root"), kCifar10) {}

  void load(backstop::Services& services, Split split, backstop::SampleSink& sink) override {
    backstop::files::check_split(*this, "cifar10", split);
    const auto samples = reader_.load(services, split);
    sink.add(samples.images, samples.labels);
  }

  std::int64_t classes() const override { return std::ssize(kNames); }
  std::string_view class_name(std::int64_t label) const override {
    return kNames.at(static_cast<std::size_t>(label));
  }

  std::span<const double> means() const override { return kMeans; }
  std::span<const double> deviations() const override { return kDeviations; }
  void files(Split split, backstop::FileSink& sink) const override {
    reader_.name_files(split, sink);
  }

 private:
  Reader reader_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Cifar10)
