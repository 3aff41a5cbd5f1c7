#include "layout.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "annotations.hpp"
#include "shared/images/formats.hpp"

namespace backstop::gtsrb {
namespace {

namespace fs = std::filesystem;
using images::Entry;
using images::Item;
using images::Listing;
using images::refuse;

constexpr std::array<const char*, kClasses> kClassNames = {
    "Speed limit (20km/h)",
    "Speed limit (30km/h)",
    "Speed limit (50km/h)",
    "Speed limit (60km/h)",
    "Speed limit (70km/h)",
    "Speed limit (80km/h)",
    "End of speed limit (80km/h)",
    "Speed limit (100km/h)",
    "Speed limit (120km/h)",
    "No passing",
    "No passing for vehicles over 3.5 metric tons",
    "Right-of-way at the next intersection",
    "Priority road",
    "Yield",
    "Stop",
    "No vehicles",
    "Vehicles over 3.5 metric tons prohibited",
    "No entry",
    "General caution",
    "Dangerous curve to the left",
    "Dangerous curve to the right",
    "Double curve",
    "Bumpy road",
    "Slippery road",
    "Road narrows on the right",
    "Road work",
    "Traffic signals",
    "Pedestrians",
    "Children crossing",
    "Bicycles crossing",
    "Beware of ice/snow",
    "Wild animals crossing",
    "End of all speed and passing limits",
    "Turn right ahead",
    "Turn left ahead",
    "Ahead only",
    "Go straight or right",
    "Go straight or left",
    "Keep right",
    "Keep left",
    "Roundabout mandatory",
    "End of no passing",
    "End of no passing by vehicles over 3.5 metric tons"};

constexpr const char* kWhereFrom =
    "unpack GTSRB_Final_Training_Images.zip, GTSRB_Final_Test_Images.zip and "
    "GTSRB_Final_Test_GT.zip (benchmark.ini.rub.de) into one folder and set `root` to it";

/// The official number of images.
constexpr std::int64_t kTrain = 39209, kTest = 12630;

std::string two_digits(std::int64_t label) {
  return std::string(label < 10 ? "0" : "") + std::to_string(label);
}

class Finder {
 public:
  Finder(const fs::path& root, bool crop) : root_(root), crop_(crop) {}

  Listing find() {
    listing_.class_names.assign(kClassNames.begin(), kClassNames.end());
    listing_.root = root_;
    if (!images::is_folder(root_))
      refuse(root_.string(), "is not a readable folder, expected the one with GTSRB", kWhereFrom);
    for (const fs::path& base : {root_, root_ / "GTSRB"}) {
      if (images::is_file(base / "Train.csv")) {
        find_kaggle(base);
        return finish();
      }
      for (const char* training : {"Final_Training/Images", "Final_Training", "Training"}) {
        if (!images::is_folder(base / training)) continue;
        find_training(base / training);
        find_test(base);
        return finish();
      }
    }
    refuse(root_.string(), "has neither Final_Training/ nor Train.csv", kWhereFrom);
  }

 private:
  /// The images in a folder, by name; CSV files and hidden files are skipped.
  using Images = std::map<std::string, Entry>;
  Images images_in(const fs::path& folder) {
    Images images;
    for (Entry& entry : images::list_folder(folder)) {
      if (entry.name.front() == '.' || entry.name.ends_with(".csv")) {
        if (entry.name.front() == '.') ++hidden_;
        continue;
      }
      if (entry.is_folder)
        refuse((folder / entry.name).string(), "is a folder, expected only images", kWhereFrom);
      std::string name = entry.name;
      images.emplace(std::move(name), std::move(entry));
    }
    return images;
  }

  /// Adds the image that `sign` names to `items`, and removes it from `images`, those in `folder`.
  void add(const Sign& sign, const fs::path& annotations, const fs::path& folder,
           const std::string& name, Images& images, std::vector<Item>& items) {
    const std::string place = annotations.string() + " line " + std::to_string(sign.line);
    const auto found = images.find(name);
    if (found == images.end())
      refuse((folder / name).string(), "is missing or listed twice, see " + place,
             "copy the folder again");
    items.push_back({fs::path(folder / name).lexically_relative(root_).string(),
                     found->second.stamp, sign.label,
                     images::Annotation{place, sign.width, sign.height,
                                        crop_ ? std::optional(sign.box) : std::nullopt}});
    images.erase(found);
  }

  static void expect_none_left(const Images& images, const fs::path& folder,
                               const fs::path& annotations) {
    if (!images.empty())
      refuse((folder / images.begin()->first).string(),
             "is not listed in " + annotations.string() + " (one of " +
                 std::to_string(images.size()) + " such images)",
             "the folder and the annotations are from different versions: copy both again");
  }

  void find_training(const fs::path& training) {
    std::vector<bool> seen(kClasses, false);
    for (const Entry& entry : images::list_folder(training)) {
      if (!entry.is_folder) continue;
      std::int64_t label = 0;
      while (label < kClasses && entry.name != "000" + two_digits(label)) ++label;
      if (label == kClasses)
        refuse((training / entry.name).string(),
               "is not a class of GTSRB, expected folders 00000 to 00042", kWhereFrom);
      seen[static_cast<std::size_t>(label)] = true;
      find_class(training / entry.name, label);
    }
    for (std::int64_t label = 0; label < kClasses; ++label) {
      if (!seen[static_cast<std::size_t>(label)])
        refuse((training / ("000" + two_digits(label))).string(),
               "is missing, expected it to hold the images of \"" +
                   std::string(kClassNames[static_cast<std::size_t>(label)]) + "\"",
               kWhereFrom);
    }
  }

  void find_class(const fs::path& folder, std::int64_t label) {
    fs::path annotations = folder / ("GT-" + folder.filename().string() + ".csv");
    if (!images::is_file(annotations)) annotations = only_csv(folder, annotations);
    Images images = images_in(folder);
    for (const Sign& sign : parse(annotations)) {
      if (sign.label != label)
        refuse(annotations.string() + " line " + std::to_string(sign.line),
               "has ClassId " + std::to_string(sign.label) + ", expected " + std::to_string(label) +
                   ", the folder's class",
               "the file belongs to another class: copy the folder again");
      add(sign, annotations, folder, sign.file, images, listing_.train);
    }
    expect_none_left(images, folder, annotations);
    listing_.train_files.push_back(annotations.string());
  }

  /// The only CSV file of a folder, whatever its name; refuses `missing` unless there is exactly
  /// one.
  static fs::path only_csv(const fs::path& folder, const fs::path& missing) {
    std::vector<std::string> names;
    for (const Entry& entry : images::list_folder(folder)) {
      if (!entry.is_folder && entry.name.ends_with(".csv")) names.push_back(entry.name);
    }
    if (names.size() != 1)
      refuse(missing.string(),
             "is missing, and the folder has " + std::to_string(names.size()) +
                 " other CSV files, expected exactly one",
             kWhereFrom);
    return folder / names[0];
  }

  void find_test(const fs::path& base) {
    fs::path folder;
    for (const char* name :
         {"Final_Test/Images", "Final_Test", "Online-Test/Images", "Online-Test"}) {
      if (images::is_folder(base / name)) {
        folder = base / name;
        break;
      }
    }
    if (folder.empty())
      refuse((base / "Final_Test").string(), "is missing, expected it to hold the test images",
             kWhereFrom);
    const fs::path annotations = test_annotations(folder, base);
    Images images = images_in(folder);
    for (const Sign& sign : parse(annotations))
      add(sign, annotations, folder, sign.file, images, listing_.test);
    expect_none_left(images, folder, annotations);
    listing_.test_files.push_back(annotations.string());
  }

  /// The list with labels, which may lie beside the images or anywhere above them. The list without
  /// labels lies beside them.
  fs::path test_annotations(const fs::path& folder, const fs::path& base) const {
    fs::path unlabeled;
    std::vector<fs::path> places = {folder, folder.parent_path(), base, root_};
    for (const fs::path& place : places) {
      for (const char* name : {"GT-final_test.csv", "GT-online_test.csv", "GT-final_test.test.csv",
                               "GT-online_test.test.csv"}) {
        const fs::path file = place / name;
        if (!images::is_file(file)) continue;
        if (has_labels(images::TextFile(file).text())) return file;
        unlabeled = file;
      }
    }
    if (!unlabeled.empty())
      refuse(unlabeled.string(), "has no column ClassId in its first line",
             "this is the list without labels: get GTSRB_Final_Test_GT.zip and put its "
             "GT-final_test.csv beside it");
    refuse((folder / "GT-final_test.csv").string(), "is missing here and in the folders above",
           "get GTSRB_Final_Test_GT.zip and put its GT-final_test.csv there");
  }

  /// Kaggle's form: one list per split, with paths.
  void find_kaggle(const fs::path& base) {
    std::map<std::string, Images> folders;  // by the path below `base`
    for (const Entry& entry : images::list_folder(base / "Train")) {
      if (entry.is_folder) folders["Train/" + entry.name] = images_in(base / "Train" / entry.name);
    }
    folders["Test"] = images_in(base / "Test");
    for (const auto& [split, items, files] :
         {std::tuple{"Train", &listing_.train, &listing_.train_files},
          {"Test", &listing_.test, &listing_.test_files}}) {
      const fs::path annotations = base / (std::string(split) + ".csv");
      for (const Sign& sign : parse(annotations)) {
        const std::size_t slash = sign.file.rfind('/');
        const std::string folder = sign.file.substr(0, slash == std::string::npos ? 0 : slash);
        const std::string place = annotations.string() + " line " + std::to_string(sign.line);
        if (!sign.file.starts_with(std::string(split) + "/") || !folders.contains(folder))
          refuse(place,
                 "lists " + sign.file + ", expected an image in a folder of " +
                     (base / split).string(),
                 "the file was damaged or a folder is missing: copy both again");
        if (split == std::string("Train") && folder != "Train/" + std::to_string(sign.label) &&
            folder != "Train/" + two_digits(sign.label))
          refuse(place,
                 "has ClassId " + std::to_string(sign.label) + " for " + sign.file +
                     ", expected the number of its folder",
                 "the file was damaged or edited: copy it again");
        add(sign, annotations, base / folder, sign.file.substr(slash + 1), folders[folder], *items);
      }
      for (const auto& [folder, images] : folders) {
        if (folder.starts_with(split)) expect_none_left(images, base / folder, annotations);
      }
      files->push_back(annotations.string());
    }
  }

  static std::vector<Sign> parse(const fs::path& annotations) {
    return parse_annotations(images::TextFile(annotations).text(), annotations.string());
  }

  Listing finish() {
    if (std::ssize(listing_.train) != kTrain || std::ssize(listing_.test) != kTest)
      listing_.notes.push_back(root_.string() + ": has " + std::to_string(listing_.train.size()) +
                               " training and " + std::to_string(listing_.test.size()) +
                               " test images; the whole of GTSRB has " + std::to_string(kTrain) +
                               " and " + std::to_string(kTest));
    if (hidden_ > 0)
      listing_.notes.push_back(root_.string() + ": ignored " + std::to_string(hidden_) +
                               " hidden files among the images");
    return std::move(listing_);
  }

  const fs::path& root_;
  bool crop_;
  Listing listing_;
  std::int64_t hidden_ = 0;
};

}  // namespace

Listing find_signs(const fs::path& root, bool crop) {
  return Finder(root, crop).find();
}

}  // namespace backstop::gtsrb
