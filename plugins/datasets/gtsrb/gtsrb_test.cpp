#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "annotations.hpp"
#include "backstop/dataset.hpp"
#include "backstop/resize.hpp"
#include "backstop/testing/fakes.hpp"
#include "shared/files/testing.hpp"
#include "shared/images/decode.hpp"
#include "shared/images/folder.hpp"
#include "shared/images/testing.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::Dataset;
using backstop::EnvironmentError;
using backstop::Split;
using backstop::files::TemporaryFolder;
using backstop::gtsrb::parse_annotations;
using backstop::gtsrb::Sign;
using backstop::images::pixels;
using backstop::images::png;
using backstop::images::ppm;
using backstop::testing::FakeContext;
using backstop::testing::FakeParams;
using backstop::testing::make;
using backstop::testing::Samples;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const std::string kHeader = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\n";

std::string five_digits(int number) {
  const std::string text = std::to_string(number);
  return std::string(5 - text.size(), '0') + text;
}

void expect_text_refused(const std::string& text, const std::string& expected) {
  try {
    parse_annotations(text, "a.csv");
    ADD_FAILURE() << "accepted what should be refused as: " << expected;
  } catch (const EnvironmentError& error) {
    EXPECT_THAT(error.what(), StartsWith("a.csv" + expected));
    EXPECT_FALSE(error.hint().empty());
  }
}

TEST(GtsrbAnnotations, AreReadWithAnySeparator) {
  for (const char* text :
       {"Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\na.ppm;53;54;6;5;48;49;16\r\n",
        "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\na.ppm;53;54;6;5;48;49;16",
        "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n53,54,6,5,48,49,16,a.ppm\n\n",
        "ClassId;Other;Path;Width;Height;Roi.Y1;Roi.X1;Roi.Y2;Roi.X2\n"
        "16;x;a.ppm;53;54;5;6;49;48\n"}) {
    const std::vector<Sign> signs = parse_annotations(text, "a.csv");
    ASSERT_EQ(signs.size(), 1U);
    EXPECT_EQ(signs[0].line, 2);
    EXPECT_EQ(signs[0].file, "a.ppm");
    EXPECT_EQ(signs[0].width, 53);
    EXPECT_EQ(signs[0].height, 54);
    EXPECT_EQ(signs[0].box.left, 6);
    EXPECT_EQ(signs[0].box.top, 5);
    EXPECT_EQ(signs[0].box.right, 48);
    EXPECT_EQ(signs[0].box.bottom, 49);
    EXPECT_EQ(signs[0].label, 16);
  }
}

TEST(GtsrbAnnotations, AreRefusedNamingTheLine) {
  expect_text_refused("", ": is empty, expected a line of column names");
  expect_text_refused("Width;Height\n", ": has no column Filename or Path in its first line");
  expect_text_refused("Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2\n",
                      ": has no column ClassId in its first line");
  expect_text_refused(kHeader + "a;53;54;6;5;48;49\n",
                      " line 2: has 7 fields, expected 8 as in the first line");
  const std::string good = kHeader + "a;53;54;6;5;48;49;16\r\n";
  expect_text_refused(good + "\r\nb;53;54;6;5;48;49;16\r\n", " line 3: has 1 fields, expected 8");
  expect_text_refused(good + "a;53;54;6;5;48;49;43\n",
                      " line 3: has ClassId `43`, expected 0 to 42");
  expect_text_refused(good + "a;53;54;6;5;48;49;-1\n",
                      " line 3: has ClassId `-1`, expected 0 to 42");
  expect_text_refused(good + "a;53;54;6;5;54;49;1\n", " line 3: has Roi.X2 `54`, expected 7 to 53");
  expect_text_refused(good + "a;53;54;53;5;54;49;1\n",
                      " line 3: has Roi.X1 `53`, expected 0 to 52");
  expect_text_refused(good + "a;53;54;6;5;48;5;1\n", " line 3: has Roi.Y2 `5`, expected 6 to 54");
  expect_text_refused(good + "a;53;x;6;5;48;49;1\n",
                      " line 3: has Height `x`, expected 1 to 16384");
  expect_text_refused(good + "a;5 3;54;6;5;48;49;1\n", " line 3: has Width `5 3`");
  expect_text_refused(good + "a;99999999999999999999;54;6;5;48;49;1\n", " line 3: has Width `9999");
}

class Gtsrb : public ::testing::Test {
 protected:
  void write(const fs::path& path, const std::string& bytes) const {
    fs::create_directories((root / path).parent_path());
    backstop::files::write(root / path, bytes);
  }

  /// One image of 10 x 9 pixels per class, and two test images of 8 x 12.
  void write_official() const {
    for (int i = 0; i < 43; ++i) {
      const fs::path inner = "Final_Training/Images/" + five_digits(i);
      write(inner / "00000_00000.ppm", ppm(10, 9, static_cast<unsigned>(i)));
      write(inner / ("GT-" + five_digits(i) + ".csv"),
            kHeader + "00000_00000.ppm;10;9;1;2;8;9;" + std::to_string(i) + "\r\n");
    }
    write("Final_Test/Images/00000.ppm", ppm(8, 12, 100));
    write("Final_Test/Images/00001.ppm", ppm(8, 12, 101));
    write("Final_Test/Images/GT-final_test.test.csv",
          "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2\r\n");
    write("GT-final_test.csv",
          kHeader + "00001.ppm;8;12;0;0;8;12;7\r\n00000.ppm;8;12;0;0;8;12;41\r\n");
  }

  void write_kaggle() const {
    std::string train = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n";
    for (int i = 42; i >= 0; --i) {
      const std::string path = "Train/" + std::to_string(i) + "/00000_00000.png";
      write(path, png(10, 9, static_cast<unsigned>(i)));
      train += "10,9,1,2,8,9," + std::to_string(i) + "," + path + "\n";
    }
    write("Train.csv", train);
    write("Test/00000.png", png(8, 12, 100));
    write("Test/00001.png", png(8, 12, 101));
    write("Test/GT-final_test.csv", "");
    write("Test.csv",
          "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n"
          "8,12,0,0,8,12,7,Test/00001.png\n8,12,0,0,8,12,41,Test/00000.png\n");
  }

  std::unique_ptr<FakeParams> params(const std::string& more = "") const {
    return std::make_unique<FakeParams>("root = '" + root.string() + "'\ncache = '" +
                                        (folder / "cache").string() + "'\n" + more);
  }

  Samples load(Split split, const std::string& more = "") {
    const auto given = params(more);
    return backstop::testing::load(*make<Dataset>(*given), context, split);
  }

  void expect_refused(const fs::path& path, const std::string& problem) {
    try {
      load(Split::train);
      ADD_FAILURE() << "accepted " << path;
    } catch (const EnvironmentError& error) {
      EXPECT_EQ(error.what(), (path.empty() ? root : root / path).string() + ": " + problem);
      EXPECT_FALSE(error.hint().empty());
    }
  }

  /// Part of the image that `seed` gives, as the dataset should return it.
  static at::Tensor expected(unsigned seed, std::int64_t width, std::int64_t height,
                             std::int64_t left, std::int64_t top, std::int64_t right,
                             std::int64_t bottom) {
    auto rgb = pixels(width, height, seed);
    const at::Tensor part = at::from_blob(rgb.data(), {height, width, 3}, at::kByte)
                                .permute({2, 0, 1})
                                .slice(1, top, bottom)
                                .slice(2, left, right)
                                .contiguous();
    at::Tensor result = at::empty({3, 32, 32}, at::kByte);
    backstop::Resizer(bottom - top, right - left, 32, 32)
        .planes(part.data_ptr<std::uint8_t>(), 3, result.data_ptr<std::uint8_t>());
    return result;
  }

  const TemporaryFolder folder;
  fs::path root = folder / "GTSRB";
  FakeContext context;
};

TEST_F(Gtsrb, ReadsTheLayoutOfTheBenchmark) {
  write_official();
  const auto given = params();
  const auto dataset = make<Dataset>(*given);
  ASSERT_EQ(dataset->classes(), 43);
  EXPECT_EQ(dataset->class_name(14), "Stop");
  EXPECT_EQ(dataset->class_name(42), "End of no passing by vehicles over 3.5 metric tons");
  const Samples train = backstop::testing::load(*dataset, context, Split::train);
  EXPECT_EQ(train.images.sizes(), at::IntArrayRef({43, 3, 32, 32}));
  EXPECT_TRUE(train.labels.equal(at::arange(43, at::kLong)));
  EXPECT_TRUE(train.images[5].equal(expected(5, 10, 9, 0, 0, 10, 9)));
  const Samples test = backstop::testing::load(*dataset, context, Split::test);
  EXPECT_TRUE(test.labels.equal(at::tensor({7, 41}, at::kLong)));  // in the order of the list
  EXPECT_TRUE(test.images[0].equal(expected(101, 8, 12, 0, 0, 8, 12)));
  EXPECT_THAT(
      context.messages,
      Contains(HasSubstr("has 43 training and 2 test images; the whole of GTSRB has 39209 and "
                         "12630")));
  EXPECT_EQ(backstop::testing::files(*dataset, Split::train).size(), 43U);
  EXPECT_EQ(backstop::testing::files(*dataset, Split::test)[0].path,
            (root / "GT-final_test.csv").string());
}

TEST_F(Gtsrb, CropsToTheSign) {
  write_official();
  const Samples cropped = load(Split::train, "crop = true");
  EXPECT_TRUE(cropped.images[5].equal(expected(5, 10, 9, 1, 2, 8, 9)));
  EXPECT_FALSE(cropped.images.equal(load(Split::train).images));
}

TEST_F(Gtsrb, ReadsTheLayoutOfKaggle) {
  write_kaggle();
  const Samples train = load(Split::train), test = load(Split::test);
  EXPECT_TRUE(train.labels.equal(at::arange(42, -1, -1, at::kLong)));
  EXPECT_TRUE(train.images[0].equal(expected(42, 10, 9, 0, 0, 10, 9)));
  EXPECT_TRUE(test.labels.equal(at::tensor({7, 41}, at::kLong)));
  EXPECT_TRUE(load(Split::train, "crop = true").images[0].equal(expected(42, 10, 9, 1, 2, 8, 9)));
}

TEST_F(Gtsrb, AcceptsTheFolderAboveAndOtherNames) {
  write_official();
  fs::rename(root / "GT-final_test.csv", folder / "GT-final_test.csv");
  fs::rename(root / "Final_Training/Images", root / "Training");
  fs::remove(root / "Final_Training");
  fs::rename(root / "Training/00003/GT-00003.csv", root / "Training/00003/signs.csv");
  root = folder.path();
  EXPECT_EQ(load(Split::train).images.size(0), 43);
}

TEST_F(Gtsrb, RefusesTheListWithoutLabels) {
  write_official();
  fs::remove(root / "GT-final_test.csv");
  expect_refused("Final_Test/Images/GT-final_test.test.csv",
                 "has no column ClassId in its first line");
  fs::remove(root / "Final_Test/Images/GT-final_test.test.csv");
  expect_refused("Final_Test/Images/GT-final_test.csv", "is missing here and in the folders above");
}

TEST_F(Gtsrb, RefusesAnnotationsAndImagesThatDisagree) {
  write_official();
  const fs::path inner = "Final_Training/Images/00007";
  const std::string line = "00000_00000.ppm;10;9;1;2;8;9;7\r\n";
  const fs::path list = inner / "GT-00007.csv";
  write(inner / "00000_00001.ppm", ppm(10, 9, 1));
  expect_refused(inner / "00000_00001.ppm",
                 "is not listed in " + (root / list).string() + " (one of 1 such images)");
  fs::remove(root / inner / "00000_00001.ppm");
  for (const char* name : {"00000_00001.ppm", "../00006/00000_00000.ppm"}) {
    write(list, kHeader + line + name + ";10;9;1;2;8;9;7\r\n");
    expect_refused(inner / name,
                   "is missing or listed twice, see " + (root / list).string() + " line 3");
  }
  write(list, kHeader + line + line);
  expect_refused(inner / "00000_00000.ppm",
                 "is missing or listed twice, see " + (root / list).string() + " line 3");
  write(list, kHeader + "00000_00000.ppm;10;9;1;2;8;9;8\r\n");
  expect_refused(list.string() + " line 2", "has ClassId 8, expected 7, the folder's class");
  write(list, kHeader + "00000_00000.ppm;11;9;1;2;8;9;7\r\n");
  expect_refused(inner / "00000_00000.ppm",
                 "is 10 x 9 pixels, expected 11 x 9 as in " + (root / list).string() + " line 2");
}

TEST_F(Gtsrb, NoticesChangedAnnotationsWhenTheImagesAreCached) {
  write_official();
  load(Split::train);
  write("Final_Training/Images/00007/GT-00007.csv", kHeader + "00000_00000.ppm;11;9;1;2;8;9;7\r\n");
  EXPECT_THROW(load(Split::train), EnvironmentError);
}

TEST_F(Gtsrb, RefusesMissingClassesAndFolders) {
  expect_refused("", "is not a readable folder, expected the one with GTSRB");
  fs::create_directories(root);
  expect_refused("", "has neither Final_Training/ nor Train.csv");
  write_official();
  fs::remove_all(root / "Final_Training/Images/00014");
  expect_refused("Final_Training/Images/00014",
                 "is missing, expected it to hold the images of \"Stop\"");
  fs::create_directory(root / "Final_Training/Images/00043");
  expect_refused("Final_Training/Images/00043",
                 "is not a class of GTSRB, expected folders 00000 to 00042");
  fs::remove_all(root / "Final_Training/Images/00043");
  fs::create_directory(root / "Final_Training/Images/00014");
  expect_refused("Final_Training/Images/00014/GT-00014.csv",
                 "is missing, and the folder has 0 other CSV files, expected exactly one");
  write_official();
  fs::remove_all(root / "Final_Test");
  expect_refused("Final_Test", "is missing, expected it to hold the test images");
}

TEST_F(Gtsrb, RefusesIncompleteLayoutOfKaggle) {
  write_kaggle();
  const std::string good = backstop::files::read(root / "Train.csv");
  const std::string last = "10,9,1,2,8,9,0,Train/0/00000_00000.png\n";
  const std::string rest = good.substr(0, good.size() - last.size());
  write("Train.csv", rest);
  expect_refused("Train/0/00000_00000.png",
                 "is not listed in " + (root / "Train.csv").string() + " (one of 1 such images)");
  write("Train.csv", rest + "10,9,1,2,8,9,1,Train/0/00000_00000.png\n");
  expect_refused("Train.csv line 44",
                 "has ClassId 1 for Train/0/00000_00000.png, expected the number of its folder");
  for (const char* path :
       {"Test/00000.png", "Train/77/a.png", "a.png", "Train/../Test/00000.png"}) {
    write("Train.csv", rest + "10,9,1,2,8,9,0," + path + "\n");
    expect_refused("Train.csv line 44", "lists " + std::string(path) +
                                            ", expected an image in a folder of " +
                                            (root / "Train").string());
  }
  write("Train.csv", good);
  fs::remove_all(root / "Test");
  expect_refused("Test", "cannot be read: No such file or directory");
}

/// Reads the real images, or part of them, where the recipes look for them: in the project's data/.
class RealGtsrb : public Gtsrb {
 protected:
  void SetUp() override {
    const fs::path project = fs::path(BACKSTOP_MANIFEST) / "../../../..";
    root = (project / "data" / "GTSRB").lexically_normal();
    if (!fs::exists(root)) GTEST_SKIP() << "no " << root << ": unpack GTSRB there";
  }
};

TEST_F(RealGtsrb, HasSignsOfAllClasses) {
  const Samples train = load(Split::train), test = load(Split::test);
  EXPECT_EQ(train.images.sizes().slice(1), at::IntArrayRef({3, 32, 32}));
  for (const at::Tensor& labels : {train.labels, test.labels})
    EXPECT_GT(labels.bincount({}, 43).min().item<std::int64_t>(), 0);
  // Photographs: neither black nor noise.
  EXPECT_GT(train.images.to(at::kFloat).mean().item<double>(), 40);
  EXPECT_LT(train.images.to(at::kFloat).mean().item<double>(), 150);
}

TEST_F(RealGtsrb, BoxesLeaveTheMarginThatTheBenchmarkPromises) {
  // "At least five pixels" holds only if the right column of a box is not part of it.
  std::int64_t smallest = 1000, of_five = 0, all = 0;
  for (const char* name : {"Final_Training/Images/00015/GT-00015.csv", "GT-final_test.csv"}) {
    const backstop::images::TextFile file(root / name);
    for (const Sign& sign : parse_annotations(file.text(), name)) {
      smallest = std::min({smallest, sign.box.left, sign.box.top});
      of_five += sign.width - sign.box.right == 5 ? 1 : 0;
      ++all;
    }
  }
  EXPECT_EQ(smallest, 5);
  EXPECT_GT(of_five, all / 3);
}

}  // namespace
