// CIFAR-100: small color photographs of a hundred things, five for each of twenty superclasses.
#include <array>
#include <span>
#include <string_view>

#include "backstop/dataset.hpp"
#include "backstop/plugin.hpp"
#include "shared/cifar/cifar.hpp"

namespace {

using namespace backstop::cifar;
using backstop::Split;

constexpr std::array<std::string_view, 100> kFineNames = {
    "apple",       "aquarium_fish", "baby",      "bear",       "beaver",       "bed",
    "bee",         "beetle",        "bicycle",   "bottle",     "bowl",         "boy",
    "bridge",      "bus",           "butterfly", "camel",      "can",          "castle",
    "caterpillar", "cattle",        "chair",     "chimpanzee", "clock",        "cloud",
    "cockroach",   "couch",         "crab",      "crocodile",  "cup",          "dinosaur",
    "dolphin",     "elephant",      "flatfish",  "forest",     "fox",          "girl",
    "hamster",     "house",         "kangaroo",  "keyboard",   "lamp",         "lawn_mower",
    "leopard",     "lion",          "lizard",    "lobster",    "man",          "maple_tree",
    "motorcycle",  "mountain",      "mouse",     "mushroom",   "oak_tree",     "orange",
    "orchid",      "otter",         "palm_tree", "pear",       "pickup_truck", "pine_tree",
    "plain",       "plate",         "poppy",     "porcupine",  "possum",       "rabbit",
    "raccoon",     "ray",           "road",      "rocket",     "rose",         "sea",
    "seal",        "shark",         "shrew",     "skunk",      "skyscraper",   "snail",
    "snake",       "spider",        "squirrel",  "streetcar",  "sunflower",    "sweet_pepper",
    "table",       "tank",          "telephone", "television", "tiger",        "tractor",
    "train",       "trout",         "tulip",     "turtle",     "wardrobe",     "whale",
    "willow_tree", "wolf",          "woman",     "worm"};

constexpr std::array<std::string_view, 20> kCoarseNames = {"aquatic_mammals",
                                                           "fish",
                                                           "flowers",
                                                           "food_containers",
                                                           "fruit_and_vegetables",
                                                           "household_electrical_devices",
                                                           "household_furniture",
                                                           "insects",
                                                           "large_carnivores",
                                                           "large_man-made_outdoor_things",
                                                           "large_natural_outdoor_scenes",
                                                           "large_omnivores_and_herbivores",
                                                           "medium_mammals",
                                                           "non-insect_invertebrates",
                                                           "people",
                                                           "reptiles",
                                                           "small_mammals",
                                                           "trees",
                                                           "vehicles_1",
                                                           "vehicles_2"};

/// `train_labels` and `test_labels` are the first ten of each file. The MD5s are torchvision's;
/// nobody has published those of the binary version's files.
constexpr std::array<OfficialFile, 2> files_with(std::array<std::int64_t, 10> train_labels,
                                                 std::array<std::int64_t, 10> test_labels) {
  return {{{"train.bin", "", "train", "16019d7e3df5f24257cddd939b257f8d", Split::train, 50000,
            train_labels},
           {"test.bin", "", "test", "f0ef6b0ae62326f3e7ffdfab6717acfc", Split::test, 10000,
            test_labels}}};
}
constexpr auto kFineFiles =
    files_with({19, 29, 0, 11, 1, 86, 90, 28, 23, 31}, {49, 33, 72, 51, 71, 92, 15, 14, 23, 0});
constexpr auto kCoarseFiles =
    files_with({11, 15, 4, 14, 1, 5, 18, 3, 10, 11}, {10, 10, 0, 4, 10, 2, 11, 7, 10, 4});

/// In the binary version, each image is preceded by its superclass and its class.
constexpr Description describe(std::span<const OfficialFile> files, LabelFormat label) {
  return {"cifar-100-binary.tar.gz",
          "cifar-100-python.tar.gz",
          "cifar-100-binary",
          "cifar-100-python",
          "meta",
          "7973b15100ade9c7d40fb424638fde48",
          files,
          label};
}
constexpr Description kFine = describe(kFineFiles, {2, 1, "fine_labels", kFineNames.size()});
constexpr Description kCoarse =
    describe(kCoarseFiles, {2, 0, "coarse_labels", kCoarseNames.size()});

/// BackdoorBench's values, computed from the 50,000 training images.
constexpr double kMeans[] = {0.5071, 0.4865, 0.4409};
constexpr double kDeviations[] = {0.2673, 0.2564, 0.2762};

class Cifar100 final : public backstop::Dataset {
 public:
  explicit Cifar100(const backstop::Params& params)
      : fine_(params.string("label_level") == "fine"),
        reader_(params.string("root"), fine_ ? kFine : kCoarse) {}

  void load(backstop::Services& services, Split split, backstop::SampleSink& sink) override {
    backstop::files::check_split(*this, "cifar100", split);
    const auto samples = reader_.load(services, split);
    sink.add(samples.images, samples.labels);
  }

  std::int64_t classes() const override {
    return fine_ ? std::ssize(kFineNames) : std::ssize(kCoarseNames);
  }
  std::string_view class_name(std::int64_t label) const override {
    const auto index = static_cast<std::size_t>(label);
    return fine_ ? kFineNames.at(index) : kCoarseNames.at(index);
  }

  std::span<const double> means() const override { return kMeans; }
  std::span<const double> deviations() const override { return kDeviations; }
  void files(Split split, backstop::FileSink& sink) const override {
    reader_.name_files(split, sink);
  }

 private:
  bool fine_;
  Reader reader_;
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Cifar100)
