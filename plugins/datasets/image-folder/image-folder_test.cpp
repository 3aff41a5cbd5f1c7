#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "backstop/dataset.hpp"
#include "backstop/resize.hpp"
#include "backstop/testing/fakes.hpp"
#include "shared/files/testing.hpp"
#include "shared/images/testing.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::Dataset;
using backstop::EnvironmentError;
using backstop::Split;
using backstop::files::TemporaryFolder;
using backstop::images::jpeg;
using backstop::images::pixels;
using backstop::images::png;
using backstop::images::ppm;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;
using backstop::testing::Samples;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

/// A folder of images, and another one for the cache.
class ImageFolder : public ::testing::Test {
 protected:
  void write(const std::string& path, const std::string& bytes) const {
    fs::create_directories((root / path).parent_path());
    backstop::files::write(root / path, bytes);
  }

  /// Two classes of 8 x 8 images: four training and two test images.
  void write_small() const {
    write("train/cat/1.ppm", ppm(8, 8, 1));
    write("train/cat/2.png", png(8, 8, 2));
    write("train/dog/1.ppm", ppm(8, 8, 3));
    write("train/dog/2.ppm", ppm(8, 8, 4));
    write("test/cat/1.ppm", ppm(8, 8, 5));
    write("test/dog/1.ppm", ppm(8, 8, 6));
  }

  FakeParams params(const std::string& more = "image_size = 8") const {
    return FakeParams("root = '" + root.string() + "'\ncache = '" + cache.string() + "'\n" + more);
  }

  Samples load(Split split, const std::string& more = "image_size = 8") {
    const FakeParams given = params(more);
    const auto dataset = make<Dataset>(given);
    return backstop::testing::load(*dataset, context, split);
  }

  void expect_refused(const std::string& path, const std::string& problem,
                      const std::string& more = "image_size = 8") {
    try {
      load(Split::train, more);
      ADD_FAILURE() << "accepted " << path;
    } catch (const EnvironmentError& error) {
      EXPECT_EQ(error.what(), (path.empty() ? root : root / path).string() + ": " + problem);
      EXPECT_FALSE(error.hint().empty());
    }
  }

  std::vector<fs::path> cache_files() const {
    std::vector<fs::path> files;
    if (fs::exists(cache)) {
      for (const auto& entry : fs::directory_iterator(cache)) files.push_back(entry.path());
    }
    return files;
  }

  const TemporaryFolder folder;
  const fs::path root = folder / "data";
  const fs::path cache = folder / "cache";
  FakeContext context;
};

/// [3, height, width] of pixels [height, width, 3].
at::Tensor planar(const std::vector<std::uint8_t>& rgb, std::int64_t height, std::int64_t width) {
  return at::from_blob(const_cast<std::uint8_t*>(rgb.data()), {height, width, 3}, at::kByte)
      .permute({2, 0, 1})
      .contiguous();
}

TEST_F(ImageFolder, ReadsTrainAndTest) {
  write_small();
  const FakeParams given = params();
  const auto dataset = make<Dataset>(given);
  ASSERT_EQ(dataset->classes(), 2);
  EXPECT_EQ(dataset->class_name(0), "cat");
  EXPECT_EQ(dataset->class_name(1), "dog");
  const Samples train = backstop::testing::load(*dataset, context, Split::train);
  EXPECT_EQ(train.images.sizes(), at::IntArrayRef({4, 3, 8, 8}));
  EXPECT_EQ(train.images.scalar_type(), at::kByte);
  EXPECT_TRUE(train.images.is_contiguous());
  EXPECT_TRUE(train.labels.equal(at::tensor({0, 0, 1, 1}, at::kLong)));
  for (unsigned i = 0; i < 4; ++i)
    EXPECT_TRUE(train.images[i].equal(planar(pixels(8, 8, i + 1), 8, 8))) << i;
  const Samples test = backstop::testing::load(*dataset, context, Split::test);
  EXPECT_TRUE(test.labels.equal(at::tensor({0, 1}, at::kLong)));
  EXPECT_TRUE(test.images[1].equal(planar(pixels(8, 8, 6), 8, 8)));
  EXPECT_THROW(backstop::testing::load(*dataset, context, Split::extra), backstop::ParameterError);
}

TEST_F(ImageFolder, ResizesImagesOfAnyFormatAndSize) {
  write("train/a/1", png(40, 20, 1));  // the name does not tell the format
  write("train/a/2.JPEG", jpeg(10, 11, 2));
  write("train/b/3.ppm", ppm(1, 2, 4));
  write("train/b/4.pgm", "P5 1 1 255\nx");
  write("val/b/5.ppm", ppm(300, 2, 3));
  const Samples train = load(Split::train, "image_size = 16");
  ASSERT_EQ(train.images.sizes(), at::IntArrayRef({4, 3, 16, 16}));
  const at::Tensor image = planar(pixels(40, 20, 1), 20, 40);
  at::Tensor expected = at::empty({3, 16, 16}, at::kByte);
  backstop::Resizer(20, 40, 16, 16)
      .planes(image.data_ptr<std::uint8_t>(), 3, expected.data_ptr<std::uint8_t>());
  EXPECT_TRUE(train.images[0].equal(expected));
  EXPECT_TRUE(train.images[3].eq('x').all().item<bool>());
  EXPECT_THAT(context.messages, Contains(HasSubstr("val/ has 1 of 2 classes")));
}

TEST_F(ImageFolder, DecodesNothingTheSecondTime) {
  write_small();
  const Samples first = load(Split::train);
  EXPECT_THAT(context.messages,
              ElementsAre(AllOf(HasSubstr("decoding 6 images of " + root.string()),
                                HasSubstr(cache.string()))));
  context.messages.clear();
  const Samples second = load(Split::train);
  EXPECT_THAT(context.messages, IsEmpty());
  EXPECT_TRUE(first.images.equal(second.images));
  EXPECT_TRUE(first.labels.equal(second.labels));
  EXPECT_EQ(cache_files().size(), 1U);
}

TEST_F(ImageFolder, ReturnsTheSameFromMemoryAndFromTheCache) {
  write_small();
  const FakeParams cached = params();
  const FakeParams in_memory =
      FakeParams("root = '" + root.string() + "'\ncache = ''\nimage_size = 8");
  const auto a = make<Dataset>(cached), b = make<Dataset>(in_memory);
  for (const Split split : {Split::train, Split::test}) {
    EXPECT_TRUE(backstop::testing::load(*a, context, split)
                    .images.equal(backstop::testing::load(*b, context, split).images));
    EXPECT_EQ(a->fingerprint(split), b->fingerprint(split));
    EXPECT_EQ(a->fingerprint(split).size(), 64U);
  }
  EXPECT_NE(a->fingerprint(Split::train), a->fingerprint(Split::test));
  EXPECT_EQ(a->means()[1], b->means()[1]);
  EXPECT_EQ(a->deviations()[2], b->deviations()[2]);
}

TEST_F(ImageFolder, StatisticsAreThoseOfTheTrainingImages) {
  write_small();
  const FakeParams given = params();
  const auto dataset = make<Dataset>(given);
  // Both decode, as load() does.
  const std::span<const double> means = dataset->means(), deviations = dataset->deviations();
  const at::Tensor images =
      backstop::testing::load(*dataset, context, Split::train).images.to(at::kDouble) / 255;
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    const at::Tensor values = images.select(1, channel);
    EXPECT_NEAR(means[static_cast<std::size_t>(channel)], values.mean().item<double>(), 1e-9);
    EXPECT_NEAR(deviations[static_cast<std::size_t>(channel)], values.std(false).item<double>(),
                1e-9);
  }
}

TEST_F(ImageFolder, DeviationOfConstantImagesIsOneGrayLevel) {
  for (const char* path : {"train/a/1", "train/b/1", "test/a/1"}) write(path, "P5 1 1 255\nx");
  const FakeParams given = params();
  EXPECT_EQ(make<Dataset>(given)->deviations()[0], 1 / 255.0);
}

TEST_F(ImageFolder, FingerprintDependsOnTheContentAndNotOnTheFolder) {
  write_small();
  const auto fingerprint = [&](const fs::path& where) {
    const FakeParams given("image_size = 8\nroot = '" + where.string() + "'\ncache = '" +
                           cache.string() + "'");
    const auto dataset = make<Dataset>(given);
    backstop::testing::load(*dataset, context, Split::train);
    return std::string(dataset->fingerprint(Split::train));
  };
  const std::string original = fingerprint(root);
  fs::copy(root, folder / "copy", fs::copy_options::recursive);
  EXPECT_EQ(fingerprint(folder / "copy"), original);
  fs::rename(folder / "copy/train/cat/2.png", folder / "copy/train/dog/0.png");
  EXPECT_NE(fingerprint(folder / "copy"), original);
}

TEST_F(ImageFolder, NoticesAChangedFileOfTheSameSizeAndTime) {
  write_small();
  load(Split::train);
  const fs::path file = root / "train/dog/2.ppm";
  const auto time = fs::last_write_time(file);
  backstop::files::write(file, ppm(8, 8, 40));
  fs::last_write_time(file, time);
  EXPECT_TRUE(load(Split::train).images[3].equal(planar(pixels(8, 8, 40), 8, 8)));
}

TEST_F(ImageFolder, RebuildsADamagedCache) {
  write_small();
  const at::Tensor images = load(Split::train).images.clone();
  const fs::path file = cache_files().at(0);
  const std::string bytes = backstop::files::read(file);
  std::string other_version = bytes;
  other_version[16] = 77;
  for (const std::string& broken :
       {bytes.substr(0, bytes.size() - 1), std::string("short"), std::string(), other_version}) {
    backstop::files::write(file, broken);
    context.messages.clear();
    EXPECT_TRUE(load(Split::train).images.equal(images));
    EXPECT_THAT(context.messages, Contains(AllOf(HasSubstr(file.string()), HasSubstr("expected"),
                                                 HasSubstr(": it will be rebuilt"))));
    EXPECT_EQ(backstop::files::read(file), bytes);
  }
}

TEST_F(ImageFolder, NoticesChangedPixelsInTheCache) {
  write_small();
  const at::Tensor images = load(Split::train).images.clone();
  const fs::path file = cache_files().at(0);
  const std::string bytes = backstop::files::read(file);
  for (const std::size_t at : {bytes.size() - 1, std::size_t{4096}}) {
    std::string changed = bytes;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    backstop::files::write(file, changed);
    context.messages.clear();
    EXPECT_TRUE(load(Split::train).images.equal(images));
    EXPECT_THAT(context.messages,
                Contains(HasSubstr("does not hold the pixels that were decoded, it is damaged: it "
                                   "will be rebuilt")));
    EXPECT_EQ(backstop::files::read(file), bytes);
  }
}

TEST_F(ImageFolder, EverySizeHasItsOwnCache) {
  write_small();
  EXPECT_EQ(load(Split::train, "image_size = 8").images.size(2), 8);
  EXPECT_EQ(load(Split::train, "image_size = 9").images.size(2), 9);
  EXPECT_EQ(cache_files().size(), 2U);
}

/// What RLIMIT_DATA counts: the process's own memory, without mapped files.
rlim_t data_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmData:")) return std::stoull(line.substr(7)) * 1024;
  }
  throw std::runtime_error("no VmData");
}

TEST_F(ImageFolder, NeedsLessMemoryThanItsImages) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer needs memory of its own";
#endif
  for (unsigned i = 0; i < 1000; ++i)
    write((i % 2 == 0 ? "a/" : "b/") + std::to_string(i) + ".ppm", ppm(4, 4, i));
  const int threads = at::get_num_threads();
  at::set_num_threads(2);  // each has a stack
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_DATA, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = data_bytes() + (100 << 20);
  ASSERT_EQ(setrlimit(RLIMIT_DATA, &limit), 0);
  std::int64_t bytes = 0, sum = 0;
  bool in_memory = true;
  try {
    // 1,000 images of 3 x 256 x 256 are 197 MB, created and read to the last byte.
    for (int start = 0; start < 2; ++start) {
      const at::Tensor images = load(Split::train, "image_size = 256").images;
      const std::span pixels(images.data_ptr<std::uint8_t>(),
                             static_cast<std::size_t>(images.numel()));
      bytes += std::ssize(pixels);
      sum = std::accumulate(pixels.begin(), pixels.end(), sum);
    }
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
  try {
    const FakeParams given("root = '" + root.string() + "'\ncache = ''\nimage_size = 256");
    backstop::testing::load(*make<Dataset>(given), context, Split::train);
  } catch (const std::exception&) {
    in_memory = false;
  }
  setrlimit(RLIMIT_DATA, &before);
  at::set_num_threads(threads);
  EXPECT_EQ(bytes, 2 * 900 * 3 * 256 * 256);
  EXPECT_NEAR(static_cast<double>(sum) / static_cast<double>(bytes), 127.5, 3);
  EXPECT_FALSE(in_memory) << "the limit does not limit";
}

TEST_F(ImageFolder, NamesTheDamagedImageAmongMany) {
  const std::string good = jpeg(16, 16, 1);
  for (int i = 0; i < 2000; ++i) write("train/a/" + std::to_string(10000 + i) + ".jpg", good);
  write("train/b/1.jpg", good);
  write("test/a/1.jpg", good);
  write("train/a/11000.jpg", good.substr(0, good.size() - 100));
  write("train/a/11500.jpg", "");
  // It is always the first one, whatever the number of threads.
  expect_refused("train/a/11000.jpg", "is a damaged JPEG (Premature end of JPEG file)");
  EXPECT_THAT(cache_files(), IsEmpty());
}

TEST_F(ImageFolder, StopsWhenCanceledAndLeavesNothingBehind) {
  write_small();
  for (int i = 0; i < 3000; ++i) write("train/cat/" + std::to_string(i) + ".ppm", ppm(100, 100, 1));
  context.cancel = true;
  EXPECT_THROW(load(Split::train), backstop::Cancelled);
  EXPECT_THAT(cache_files(), IsEmpty());
}

TEST_F(ImageFolder, DrawsTestImagesFromEachClass) {
  for (unsigned i = 0; i < 20; ++i) {
    write("a/" + std::to_string(i) + ".ppm", ppm(8, 8, i));
    if (i < 3) write("b/" + std::to_string(i) + ".ppm", ppm(8, 8, 100 + i));
  }
  const auto images = [&](Split split, const std::string& more) {
    std::multiset<std::string> found;
    const at::Tensor all = load(split, "image_size = 8\n" + more).images;
    for (std::int64_t i = 0; i < all.size(0); ++i)
      found.insert({static_cast<const char*>(all[i].data_ptr()), 3 * 8 * 8});
    return found;
  };
  const auto train = images(Split::train, ""), test = images(Split::test, "");
  EXPECT_EQ(train.size(), 20U);
  EXPECT_EQ(test.size(), 3U);  // 2 of 20, and 1 of 3 although a tenth of 3 is less than one
  EXPECT_TRUE(load(Split::test).labels.equal(at::tensor({0, 0, 1}, at::kLong)));
  std::multiset<std::string> both = train;
  both.insert(test.begin(), test.end());
  EXPECT_EQ(std::set(both.begin(), both.end()).size(), 23U);  // each image is in one of them

  EXPECT_EQ(images(Split::test, "split_seed = 0"), test);
  EXPECT_NE(images(Split::test, "split_seed = 1"), test);
  EXPECT_EQ(images(Split::test, "test_fraction = 0.5").size(), 12U);
  // Adding an image, even one that sorts first, moves no others into the training set, except one
  // whose place it takes.
  write("a/+.ppm", ppm(8, 8, 1000));
  const auto grown = images(Split::test, "");
  std::vector<std::string> kept;
  std::set_intersection(grown.begin(), grown.end(), test.begin(), test.end(),
                        std::back_inserter(kept));
  EXPECT_GE(kept.size(), 2U);
}

TEST_F(ImageFolder, ReadsTinyImageNet) {
  write("wnids.txt", "n02\nn01\n");
  write("words.txt", "n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\n");
  write("train/n01/images/n01_0.JPEG", jpeg(64, 64, 1));
  write("train/n01/n01_boxes.txt", "n01_0.JPEG\t0\t10\t63\t58\n");
  write("train/n02/images/n02_0.JPEG", jpeg(64, 64, 2));
  write("val/val_annotations.txt",
        "val_1.JPEG\tn01\t0\t0\t9\t9\r\nval_0.JPEG\tn02\t0\t0\t9\t9\r\n");
  write("val/images/val_0.JPEG", jpeg(64, 64, 3));
  write("val/images/val_1.JPEG", jpeg(64, 64, 4));
  write("test/images/test_0.JPEG", jpeg(64, 64, 5));
  const FakeParams given = params("image_size = 64");
  const auto dataset = make<Dataset>(given);
  EXPECT_EQ(dataset->class_name(0), "goldfish");
  EXPECT_EQ(dataset->class_name(1), "crane");
  EXPECT_TRUE(backstop::testing::load(*dataset, context, Split::train)
                  .labels.equal(at::tensor({0, 1}, at::kLong)));
  EXPECT_TRUE(backstop::testing::load(*dataset, context, Split::test)
                  .labels.equal(at::tensor({1, 0}, at::kLong)));
  EXPECT_EQ(backstop::testing::files(*dataset, Split::train).size(), 2U);
  EXPECT_EQ(backstop::testing::files(*dataset, Split::test)[0].path,
            (root / "val/val_annotations.txt").string());
  EXPECT_THAT(context.messages, Contains(HasSubstr("test/ has no labels and is not used")));

  write("val/images/val_2.JPEG", jpeg(64, 64, 3));
  expect_refused("val/images/val_2.JPEG",
                 "is not listed in " + (root / "val/val_annotations.txt").string());
  write("val/val_annotations.txt", "val_0.JPEG\tn02\nval_3.JPEG\tn02\n");
  expect_refused("val/images/val_3.JPEG",
                 "is missing but listed in " + (root / "val/val_annotations.txt line 2").string());
  write("val/val_annotations.txt", "val_0.JPEG\tn02\nval_0.JPEG\tn02\n");
  expect_refused("val/val_annotations.txt line 2", "lists val/images/val_0.JPEG a second time");
  write("val/val_annotations.txt", "val_0.JPEG\tn09\n");
  expect_refused("val/val_annotations.txt line 1", "is of class n09, which has no training images");
  write("val/val_annotations.txt", "val_0.JPEG n02\n");
  expect_refused("val/val_annotations.txt line 1",
                 "has no tab, expected an image's name and its class");
  write("wnids.txt", "n01\nn02\nn03\n");
  write("val/val_annotations.txt", "val_0.JPEG\tn02\nval_1.JPEG\tn02\nval_2.JPEG\tn02\n");
  expect_refused("", "has no training images of class n03, which is listed in " +
                         (root / "wnids.txt").string());
  write("wnids.txt", "n01\n");
  expect_refused("wnids.txt", "does not list class n02, which has a folder");
}

TEST_F(ImageFolder, DistinguishesClassesOfTheSameName) {
  write_small();
  write("words.txt", "cat\tpet\ndog\tpet\n");
  const FakeParams given = params();
  EXPECT_EQ(make<Dataset>(given)->class_name(1), "pet (dog)");
}

TEST_F(ImageFolder, ReportsWhatItIgnores) {
  write_small();
  write("train/cat/notes.TXT", "x");
  write("train/dog/.DS_Store", "x");
  write("train/list.csv", "x");
  load(Split::train);
  EXPECT_THAT(context.messages,
              Contains(AllOf(HasSubstr("ignored 3 hidden, .txt or .csv files"),
                             HasSubstr("train/cat/notes.TXT"), HasSubstr("train/dog/.DS_Store"))));
}

TEST_F(ImageFolder, RefusesFilesThatAreNotImages) {
  write_small();
  write("train/cat/model.bin", "abcd");
  expect_refused("train/cat/model.bin",
                 "is not an image: it starts with 61 62 63 64, expected JPEG, PNG, PPM or PGM");
  fs::remove(root / "train/cat/model.bin");
  write("train/model.bin", "abcd");
  expect_refused("train/model.bin",
                 "lies beside the class folders, expected it inside one of them");
}

TEST_F(ImageFolder, RefusesUnknownLayouts) {
  fs::create_directories(root);
  expect_refused("", "has 0 folders, expected one per class and at least two classes");
  write("a/1.ppm", ppm(8, 8, 1));
  expect_refused("", "has 1 folder, expected one per class and at least two classes");
  write("b/1.ppm", ppm(8, 8, 1));
  expect_refused("a", "has 1 image, expected at least 2, one of them for the test set");
  write("test/1.ppm", ppm(8, 8, 1));
  expect_refused("", "has test/ but no train/");
  write("Train/a/1.ppm", ppm(8, 8, 1));
  write("Train/b/1.ppm", ppm(8, 8, 1));
  fs::remove_all(root / "test");
  expect_refused("", "has Train/ but neither test/ nor val/");
  fs::create_directories(root / "train");
  expect_refused("", "has both Train/ and train/, expected one of them");
}

TEST_F(ImageFolder, RefusesInvalidClasses) {
  write_small();
  fs::create_directory(root / "train/bird");
  expect_refused("train/bird", "has no images, expected at least one");
  fs::remove(root / "train/bird");
  write("test/bird/1.ppm", ppm(8, 8, 1));
  expect_refused("test/bird", "is of class bird, which has no training images");
  fs::remove_all(root / "test");
  fs::create_directory(root / "test");
  expect_refused("", "has no test images, expected at least one");
  write("train/cat/more/1.ppm", ppm(8, 8, 1));
  expect_refused("train/cat/more", "is a folder inside a class, expected images");
  fs::remove_all(root / "train/cat/more");
  write("train/\xff/1.ppm", ppm(8, 8, 1));
  expect_refused("train", "has a class folder, number 3, whose name is not printable UTF-8");
}

TEST_F(ImageFolder, RefusesLoopsAndMissingPermissions) {
  write_small();
  fs::create_symlink("loop", root / "train/loop");
  expect_refused("train/loop", "cannot be read: Too many levels of symbolic links");
  fs::remove(root / "train/loop");
  fs::create_directory_symlink("..", root / "train/cat/up");
  expect_refused("train/cat/up", "is a folder inside a class, expected images");
  fs::remove(root / "train/cat/up");
  for (const fs::path& open : {folder.path(), root, root / "train", root / "train/cat"})
    fs::permissions(open, fs::perms::all);
  const bool is_root = geteuid() == 0;
  const backstop::files::Unreadable file(root / "train/dog/2.ppm");  // nobody may list its folder
  expect_refused(is_root ? "train/dog" : "train/dog/2.ppm", "cannot be read: Permission denied");
}

TEST_F(ImageFolder, RefusesMissingFolder) {
  expect_refused("", "cannot be read: No such file or directory");
}

}  // namespace
