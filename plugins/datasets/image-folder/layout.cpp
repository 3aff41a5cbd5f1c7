#include "layout.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "shared/images/formats.hpp"
#include "shared/images/sha256.hpp"

namespace backstop::image_folder {
namespace {

namespace fs = std::filesystem;
using images::Entry;
using images::Item;
using images::refuse;

constexpr const char* kLayout =
    "use train/ and test/ with one folder per class in each, or just one folder per class";

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return text;
}

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

/// Whether a name is printable UTF-8.
bool is_text(const std::string& name) {
  for (std::size_t i = 0; i < name.size(); ++i) {
    const auto byte = static_cast<unsigned char>(name[i]);
    if (byte < 0x20 || byte == 0x7f) return false;
    if (byte < 0x80) continue;
    // Lead bytes of sequences of two, three and four bytes, without overlong forms and surrogates.
    const std::size_t more = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : 1;
    if (byte < 0xc2 || byte > 0xf4 || i + more >= name.size()) return false;
    const auto second = static_cast<unsigned char>(name[i + 1]);
    if ((byte == 0xe0 && second < 0xa0) || (byte == 0xed && second > 0x9f) ||
        (byte == 0xf0 && second < 0x90) || (byte == 0xf4 && second > 0x8f))
      return false;
    for (std::size_t end = i + more; i < end;) {
      if ((static_cast<unsigned char>(name[++i]) & 0xc0) != 0x80) return false;
    }
  }
  return true;
}

class Finder {
 public:
  Finder(const fs::path& root, double test_fraction, std::int64_t split_seed)
      : root_(root), test_fraction_(test_fraction), split_seed_(split_seed) {}

  images::Listing find() {
    listing_.root = root_;
    std::string train, test, val;  // the folders that exist
    for (const Entry& entry : list(fs::path())) {
      if (!entry.is_folder) continue;
      const std::string name = lower(entry.name);
      if (name == "train" || name == "training") choose(train, entry.name);
      if (name == "test" || name == "testing") choose(test, entry.name);
      if (name == "val" || name == "valid" || name == "validation") choose(val, entry.name);
    }
    if (train.empty() && test.empty() && val.empty()) {
      find_classes(fs::path());
      split();
    } else {
      if (train.empty())
        refuse(root_.string(), "has " + (test.empty() ? val : test) + "/ but no train/", kLayout);
      find_classes(train);
      const fs::path annotations = root_ / val / "val_annotations.txt";
      if (!val.empty() && images::is_file(annotations)) {
        find_annotated(val, annotations);
        if (!test.empty())
          note(test + "/ has no labels and is not used; the test images come from " + val + "/");
      } else if (!test.empty() || !val.empty()) {
        find_test(test.empty() ? val : test);
        if (!test.empty() && !val.empty())
          note(val + "/ is not used; the test images come from " + test + "/");
      } else {
        refuse(root_.string(), "has " + train + "/ but neither test/ nor val/",
               "add test/, or set `root` to " + (root_ / train).string() +
                   " to have a test set drawn from it");
      }
    }
    listing_.class_names = classes_;
    if (images::is_file(root_ / "wnids.txt")) check_announced(root_ / "wnids.txt");
    if (images::is_file(root_ / "words.txt")) read_names(root_ / "words.txt");
    if (ignored_count_ > 0)
      note("ignored " + std::to_string(ignored_count_) +
           " hidden, .txt or .csv files among the images: " + ignored_ +
           (ignored_count_ > kShown ? ", ..." : ""));
    return std::move(listing_);
  }

 private:
  static constexpr std::int64_t kShown = 3;

  void choose(std::string& chosen, const std::string& name) {
    if (!chosen.empty())
      refuse(root_.string(), "has both " + chosen + "/ and " + name + "/, expected one of them",
             "rename or remove one");
    chosen = name;
  }

  void note(const std::string& text) { listing_.notes.push_back(root_.string() + ": " + text); }

  void ignore(const fs::path& file) {
    if (++ignored_count_ <= kShown) ignored_ += (ignored_.empty() ? "" : ", ") + file.string();
  }

  [[nodiscard]] fs::path in_root(const fs::path& path) const {
    return path.empty() ? root_ : root_ / path;
  }

  /// The entries of a folder below the root, without hidden ones.
  std::vector<Entry> list(const fs::path& folder) {
    std::vector<Entry> entries = images::list_folder(in_root(folder));
    std::erase_if(entries, [&](const Entry& entry) {
      const bool hidden = entry.name.front() == '.';
      if (hidden) ignore(folder / entry.name);
      return hidden;
    });
    return entries;
  }

  /// Adds the images in a folder, which may otherwise hold only text files.
  void add_images(const fs::path& folder, std::int64_t label, std::vector<Item>& to) {
    for (const Entry& entry : list(folder)) {
      const fs::path path = folder / entry.name;
      if (entry.is_folder)
        refuse((root_ / path).string(), "is a folder inside a class, expected images",
               std::string("move the images up or set `root` to another folder: ") + kLayout);
      if (ends_with_any(lower(entry.name), {".txt", ".csv"})) {
        ignore(path);
        continue;
      }
      to.push_back({path.string(), entry.stamp, label, {}});
    }
  }

  /// Adds the images of a class, which are in its folder or, as in Tiny ImageNet, in its `images`.
  void add_class(const fs::path& folder, std::int64_t label, std::vector<Item>& to) {
    const std::size_t before = to.size();
    add_images(images::is_folder(root_ / folder / "images") ? folder / "images" : folder, label,
               to);
    if (to.size() == before)
      refuse((root_ / folder).string(), "has no images, expected at least one",
             "remove the folder if it is not a class, or copy its images again");
  }

  /// The folders in `folder`, one per class. Loose files must be text.
  std::vector<std::string> class_folders(const fs::path& folder) {
    std::vector<std::string> names;
    for (const Entry& entry : list(folder)) {
      if (entry.is_folder) {
        names.push_back(entry.name);
      } else if (ends_with_any(lower(entry.name), {".txt", ".csv"})) {
        ignore(folder / entry.name);
      } else {
        refuse((root_ / folder / entry.name).string(),
               "lies beside the class folders, expected it inside one of them", kLayout);
      }
    }
    return names;
  }

  void find_classes(const fs::path& folder) {
    classes_ = class_folders(folder);
    if (classes_.size() < 2)
      refuse(in_root(folder).string(),
             "has " + std::to_string(classes_.size()) +
                 (classes_.size() == 1 ? " folder" : " folders") +
                 ", expected one per class and at least two classes",
             kLayout);
    for (std::size_t i = 0; i < classes_.size(); ++i) {
      if (!is_text(classes_[i]))
        refuse(in_root(folder).string(),
               "has a class folder, number " + std::to_string(i + 1) +
                   ", whose name is not printable UTF-8",
               "rename the folder");
      add_class(folder / classes_[i], static_cast<std::int64_t>(i), listing_.train);
    }
  }

  std::int64_t label_of(const std::string& name, const std::string& where) const {
    const auto found = std::lower_bound(classes_.begin(), classes_.end(), name);
    if (found == classes_.end() || *found != name)
      refuse(where, "is of class " + name + ", which has no training images",
             "copy the missing folder, or remove the class from the test images");
    return found - classes_.begin();
  }

  void find_test(const fs::path& folder) {
    const std::vector<std::string> names = class_folders(folder);
    for (const std::string& name : names)
      add_class(folder / name, label_of(name, (root_ / folder / name).string()), listing_.test);
    if (names.size() < classes_.size())
      note(folder.string() + "/ has " + std::to_string(names.size()) + " of " +
           std::to_string(classes_.size()) + " classes");
  }

  /// Reads Tiny ImageNet's val/: images in one folder, and a text file with their classes.
  void find_annotated(const std::string& folder, const fs::path& annotations) {
    const images::TextFile file(annotations);
    std::vector<Item>& test = listing_.test;
    add_images(fs::path(folder) / "images", -1, test);
    for (const images::Line& line : images::lines_of(file.text())) {
      const std::string where = annotations.string() + " line " + std::to_string(line.number);
      const std::vector<std::string_view> fields = images::fields_of(line.text, '\t');
      if (fields.size() < 2)
        refuse(where, "has no tab, expected an image's name and its class", images::kCopyAgain);
      const std::string path = (fs::path(folder) / "images" / fields[0]).string();
      const auto found = std::lower_bound(
          test.begin(), test.end(), path,
          [](const Item& item, const std::string& name) { return item.path < name; });
      if (found == test.end() || found->path != path)
        refuse((root_ / path).string(), "is missing but listed in " + where,
               "copy the folder again");
      if (found->label >= 0) refuse(where, "lists " + path + " a second time", images::kCopyAgain);
      found->label = label_of(std::string(fields[1]), where);
    }
    for (const Item& item : test) {
      if (item.label < 0)
        refuse((root_ / item.path).string(), "is not listed in " + annotations.string(),
               "copy both again");
    }
    listing_.test_files.push_back(annotations.string());
  }

  /// Moves `test_fraction` of each class into the test set. A hash of the seed and the name decides
  /// which images: the same on every machine, and nearly the same after an image was added.
  void split() {
    std::vector<Item> all = std::move(listing_.train);
    listing_.train.clear();
    for (auto first = all.begin(); first != all.end();) {
      const auto last = std::find_if(first, all.end(),
                                     [&](const Item& item) { return item.label != first->label; });
      const std::int64_t count = last - first;
      if (count < 2)
        refuse((root_ / classes_[static_cast<std::size_t>(first->label)]).string(),
               "has 1 image, expected at least 2, one of them for the test set",
               "add images, or create train/ and test/ yourself");
      const std::int64_t test = std::clamp<std::int64_t>(
          std::llround(test_fraction_ * static_cast<double>(count)), 1, count - 1);
      std::vector<std::pair<images::Digest, std::int64_t>> draw;
      for (std::int64_t i = 0; i < count; ++i) {
        images::Sha256 sha;
        sha.add(split_seed_);
        sha.add(first[i].path);
        draw.emplace_back(sha.digest(), i);
      }
      std::nth_element(draw.begin(), draw.begin() + test, draw.end());
      std::set<std::int64_t> chosen;
      for (std::int64_t i = 0; i < test; ++i)
        chosen.insert(draw[static_cast<std::size_t>(i)].second);
      for (std::int64_t i = 0; i < count; ++i)
        (chosen.count(i) > 0 ? listing_.test : listing_.train).push_back(std::move(first[i]));
      first = last;
    }
  }

  /// If wnids.txt exists, it must list exactly the class folders.
  void check_announced(const fs::path& path) {
    const images::TextFile file(path);
    std::set<std::string, std::less<>> announced;
    for (const images::Line& line : images::lines_of(file.text())) announced.emplace(line.text);
    for (const std::string& name : announced) {
      if (!std::binary_search(classes_.begin(), classes_.end(), name))
        refuse(root_.string(),
               "has no training images of class " + name + ", which is listed in " + path.string(),
               "the folder is incomplete: copy it again");
    }
    for (const std::string& name : classes_) {
      if (!announced.contains(name))
        refuse(path.string(), "does not list class " + name + ", which has a folder",
               "remove the folder or the file");
    }
    listing_.train_files.push_back(path.string());
  }

  /// words.txt has a line `folder<tab>name, other name ...` for each class and for many others.
  /// Uses the first name, followed by the folder's name where two classes share one.
  void read_names(const fs::path& path) {
    const images::TextFile file(path);
    std::vector<std::string>& names = listing_.class_names;
    for (const images::Line& line : images::lines_of(file.text())) {
      const std::vector<std::string_view> fields = images::fields_of(line.text, '\t');
      const auto found = std::lower_bound(classes_.begin(), classes_.end(), fields[0]);
      if (fields.size() < 2 || found == classes_.end() || *found != fields[0]) continue;
      const std::string name(images::fields_of(fields[1], ',')[0]);
      if (!name.empty() && is_text(name))
        names[static_cast<std::size_t>(found - classes_.begin())] = name;
    }
    std::map<std::string, int> uses;
    for (const std::string& name : names) ++uses[name];
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (uses[names[i]] > 1) names[i] += " (" + classes_[i] + ")";
    }
    listing_.train_files.push_back(path.string());
  }

  const fs::path& root_;
  double test_fraction_;
  std::int64_t split_seed_;
  std::vector<std::string> classes_;  ///< the folders, sorted
  images::Listing listing_;
  std::int64_t ignored_count_ = 0;
  std::string ignored_;  ///< the first few
};

}  // namespace

images::Listing find_images(const fs::path& root, double test_fraction, std::int64_t split_seed) {
  return Finder(root, test_fraction, split_seed).find();
}

}  // namespace backstop::image_folder
