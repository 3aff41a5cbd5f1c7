// What a recipe takes of a dataset, and what `backstop data` says of one.
#include <csignal>

#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Datasets : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    fs::create_directories(root());
    write("train.txt", kOfficial);
    write("test.txt", "0012");
  }

  [[nodiscard]] fs::path root() const { return folder_ / "swatches"; }
  void write(const char* name, const std::string& text) const {
    std::ofstream(root() / name, std::ios::binary) << text;
  }

  /// A run that trains nothing, with more keys for [dataset].
  [[nodiscard]] Outcome run_with(const std::string& keys,
                                 std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
                             "dataset={ plugin = \"swatches\", root = \"" + root().string() + "\"" +
                                 (keys.empty() ? "" : ", " + keys) + " }",
                             "--set", "defense=[]", "--set", "attack.training.epochs=0"});
    return run(std::move(more));
  }
  /// What run.json says of the data of the last run.
  [[nodiscard]] nlohmann::json dataset() const {
    return nlohmann::json::parse(read(runs().back() / "run.json"))["dataset"];
  }

  [[nodiscard]] Start data_command(std::vector<std::string> arguments) const {
    Start start = command();
    start.arguments = {"data", "--plugin-path", BACKSTOP_TEST_PLUGINS};
    start.arguments.insert(start.arguments.end(), arguments.begin(), arguments.end());
    return start;
  }
  [[nodiscard]] Outcome data(std::vector<std::string> arguments) const {
    return Process(data_command(std::move(arguments))).wait();
  }
  [[nodiscard]] Outcome swatches(std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"swatches", "--root", root().string()});
    return data(std::move(more));
  }

  /// The training labels whose MD5 the plugin takes for the published one.
  static constexpr const char* kOfficial = "012012012012012012012012012012";
};

// -- in a recipe --

TEST_F(Datasets, ChosenClassesGetTheirPlaceAsLabel) {
  const Outcome outcome = run_with("classes = [\"blue\", \"red\"], image_size = 16");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(dataset()["classes"], (nlohmann::json{"blue", "red"}));
  EXPECT_EQ(dataset()["training_images"], 20);
  EXPECT_EQ(dataset()["test_images"], 3);
  EXPECT_EQ(dataset()["image_size"], (nlohmann::json{3, 16, 16}));
  // Two red test images and one blue: the attack's target is class 1, red.
  const auto results = nlohmann::json::parse(read(runs().back() / "results.json"));
  EXPECT_EQ(row(results, "no defense")["counts"]["triggered"], 1);
}

TEST_F(Datasets, LabelsChooseLikeNames) {
  ASSERT_EQ(run_with("classes = [2, 0], image_size = 16").code, 0);
  EXPECT_EQ(dataset()["classes"], (nlohmann::json{"blue", "red"}));
  const Outcome outcome = run_with("classes = [\"blue\", \"red\"], image_size = 16");
  EXPECT_THAT(outcome.err, HasSubstr("[attack] badnets: cached"));
}

TEST_F(Datasets, PerClassThenLimit) {
  ASSERT_EQ(run_with("per_class = 4").code, 0);
  EXPECT_EQ(dataset()["training_images"], 12);
  EXPECT_EQ(dataset()["test_images"], 4);
  ASSERT_EQ(run_with("per_class = 4, limit = 5, test_limit = 2").code, 0);
  EXPECT_EQ(dataset()["training_images"], 5);
  EXPECT_EQ(dataset()["test_images"], 2);
}

TEST_F(Datasets, SameFilesGiveTheSameFingerprintAndOthersAnother) {
  ASSERT_EQ(run_with("").code, 0);
  const std::string before = dataset()["fingerprint"];
  const Outcome again = run_with("");
  EXPECT_EQ(dataset()["fingerprint"], before);
  EXPECT_THAT(again.err, HasSubstr("[attack] badnets: cached"));
  write("train.txt", "112012012012012012012012012012");
  const Outcome changed = run_with("");
  EXPECT_NE(dataset()["fingerprint"], before);
  EXPECT_THAT(changed.err, HasSubstr("[attack] badnets: started"));
}

TEST_F(Datasets, AnotherChoiceIsTrainedAnew) {
  ASSERT_EQ(run_with("image_size = 16").code, 0);
  for (const char* keys :
       {"image_size = 20", "image_size = 16, per_class = 9", "image_size = 16, limit = 29",
        "image_size = 16, test_limit = 3", "image_size = 16, classes = [0, 2, 1]"}) {
    const Outcome outcome = run_with(keys);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("[attack] badnets: started")) << keys;
  }
}

TEST_F(Datasets, ThePluginsOwnFingerprintIsTaken) {
  ASSERT_EQ(run_with("fingerprint = \"one\"").code, 0);
  const std::string before = dataset()["fingerprint"];
  write("train.txt", "120");
  ASSERT_EQ(run_with("fingerprint = \"one\"").code, 0);
  EXPECT_EQ(dataset()["fingerprint"], before);
  ASSERT_EQ(run_with("fingerprint = \"two\"").code, 0);
  EXPECT_NE(dataset()["fingerprint"], before);
}

TEST_F(Datasets, APluginsOwnImageSizeIsItsOwn) {
  const Outcome outcome = run({"--set", "dataset.image_size=24", "--set", "dataset.per_class=3",
                               "--set", "attack.training.epochs=0", "--set", "defense=[]"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(dataset()["image_size"], (nlohmann::json{3, 24, 24}));
  EXPECT_EQ(dataset()["training_images"], 12);
}

TEST_F(Datasets, WhatTheDataLacksIsSaidBeforeTraining) {
  struct Case {
    const char* keys;
    const char* message;
    const char* hint;
  };
  for (const auto& [keys, message, hint] :
       {Case{"classes = [\"red\", \"bleu\"]",
             "dataset.classes contains \"bleu\", but dataset `swatches` has no class of that name",
             "did you mean \"blue\"?"},
        Case{"classes = [\"red\", \"black and white\"]", "contains \"black and white\"",
             "`backstop data swatches` lists its classes"},
        Case{"classes = [0, 3]",
             "dataset.classes contains 3, but dataset `swatches` has only 3 classes",
             "labels are numbered 0 to 2"},
        Case{"per_class = 11",
             "dataset.per_class is 11, but class \"red\" of dataset `swatches` has only 10 "
             "training images",
             "`backstop data swatches` counts the images of every class"}}) {
    const Outcome outcome = run_with(keys);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_THAT(outcome.err,
                AllOf(HasSubstr(message), HasSubstr(hint), Not(HasSubstr("[attack]"))));
  }
  write("test.txt", "222");
  const Outcome outcome = run_with("classes = [0, 1]");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("dataset.classes selects no image of split `test`"));
}

TEST_F(Datasets, MappedImagesLargerThanMemoryAreNotCopied) {
  const Start start =
      command({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
               "dataset={ plugin = \"swatches\", root = \"" + root().string() +
                   "\", mapped = 8192, height = 128, width = 128, fingerprint = \"x\" }",
               "--set", "defense=[]", "--set", "attack.training.epochs=0", "--set",
               "attack.poison_ratio=0.001"});
  // 4 GiB for everything but mapped files: half of what the training images would take.
  const Outcome outcome = Process(limited("-d 4194304", start)).wait();
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(dataset()["training_images"], 174762);
}

// -- backstop data --

TEST_F(Datasets, DataShowsWhatIsThere) {
  const Outcome outcome = swatches();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("swatches  0.1.0  Images of one color"));
  EXPECT_THAT(outcome.out, HasSubstr("  root         " + root().string() + "\n"));
  EXPECT_THAT(outcome.out, HasSubstr(R"(
SPLITS
  split   images  size             channel means         channel deviations
  train       30  3 x 6 x 8        0.3314 0.3327 0.3340  0.3582 0.3601 0.3619
  test         4  3 x 6 x 8        0.4324 0.2569 0.2578  0.3539 0.3091 0.3108
  extra           missing
  plugin          normalizes with  0.2500 0.2500 0.2500  0.5000 0.5000 0.5000
)"));
  EXPECT_THAT(outcome.out, HasSubstr(R"(
IMAGES PER CLASS
  label  class  train  test
      0  red       10     2
      1  green     10     1
      2  blue      10     1
)"));
  EXPECT_THAT(outcome.out, HasSubstr("  train  matches  5eaf2bdf0f3644db02c975b82703f2af  " +
                                     (root() / "train.txt").string() + "\n"));
  EXPECT_THAT(outcome.out, HasSubstr("  test   unknown  "));
}

TEST_F(Datasets, DataAsJson) {
  const Outcome outcome = swatches({"--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto report = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(report["ok"], true);
  EXPECT_EQ(report["parameters"]["root"], root().string());
  EXPECT_EQ(report["classes"], (nlohmann::json{"red", "green", "blue"}));
  EXPECT_EQ(report["stated"]["mean"], (nlohmann::json{0.25, 0.25, 0.25}));
  ASSERT_EQ(report["splits"].size(), 3u);
  const auto& train = report["splits"][0];
  EXPECT_EQ(train["images"], 30);
  EXPECT_EQ(train["per_class"], (nlohmann::json{10, 10, 10}));
  // Ten images have 200, 203, ... 227, twenty have 20.
  EXPECT_DOUBLE_EQ(train["mean"][0], (10 * 213.5 + 20 * 20) / 30 / 255);
  EXPECT_EQ(train["files"][0]["status"], "matches");
  EXPECT_EQ(train["files"][0]["published"], train["files"][0]["md5"]);
  EXPECT_EQ(report["splits"][1]["files"][0]["status"], "unknown");
  EXPECT_EQ(report["splits"][2]["status"], "absent");
  ASSERT_EQ(run_with("").code, 0);
  EXPECT_EQ(report["fingerprint"], dataset()["fingerprint"]);
}

TEST_F(Datasets, AFileThatIsNotThePublishedOneIsAnError) {
  write("train.txt", "012");
  const Outcome outcome = swatches({"--json"});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err,
              HasSubstr("error: dataset `swatches`: " + (root() / "train.txt").string() +
                        " has MD5 d2490f048dc3b77a457e3e450ab4eb38, but "
                        "5eaf2bdf0f3644db02c975b82703f2af was published\nhint: the file is "
                        "incomplete, damaged or changed; download it again\n"));
  const auto report = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(report["ok"], false);
  EXPECT_EQ(report["splits"][0]["files"][0]["status"], "differs");
  EXPECT_THAT(swatches().out, HasSubstr("  train  differs  d2490f048dc3b77a457e3e450ab4eb38  "));
}

TEST_F(Datasets, WhatIsMissingOrBrokenIsAnErrorAndTheRestIsStillSaid) {
  fs::remove(root() / "test.txt");
  const Outcome missing = swatches();
  EXPECT_EQ(missing.code, 4);
  EXPECT_THAT(missing.err,
              HasSubstr("error: dataset `swatches`: " + (root() / "test.txt").string() +
                        " is missing\nhint: write it\n"));
  EXPECT_THAT(missing.out,
              AllOf(HasSubstr("\n  train       30  "),
                    HasSubstr("\n  test            cannot be read\n"), HasSubstr("matches")));
  write("test.txt", "0012");
  write("extra.txt", "00z");
  const Outcome broken = swatches();
  EXPECT_EQ(broken.code, 4);
  EXPECT_THAT(broken.err, HasSubstr("extra.txt holds something else than 0, 1 and 2\n"));
  EXPECT_THAT(broken.out, HasSubstr("\n  extra           cannot be read\n"));
  write("extra.txt", "0000");
  const Outcome whole = swatches();
  EXPECT_EQ(whole.code, 0) << whole.err;
  EXPECT_THAT(whole.out, AllOf(HasSubstr("\n  label  class  train  test  extra\n"),
                               HasSubstr("\n      0  red       10     2      4\n")));
}

TEST_F(Datasets, DataChecksItsParametersLikeARecipe) {
  const Outcome nowhere = data({"swatches", "--root", (folder_ / "nowhere").string()});
  EXPECT_EQ(nowhere.code, 4);
  EXPECT_THAT(nowhere.err, HasSubstr("nowhere\", which does not exist"));
  const Outcome forgotten = data({"swatches"});
  EXPECT_EQ(forgotten.code, 2);
  EXPECT_THAT(forgotten.err, HasSubstr("error: `root` is missing in dataset `swatches`\nhint: give "
                                       "the folder with its files: --root DIR\n"));
  const Outcome rootless = data({"synthetic", "--root", root().string()});
  EXPECT_EQ(rootless.code, 2);
  EXPECT_EQ(rootless.err,
            "error: `--root` was given, but dataset `synthetic` has no parameter `root`\n"
            "hint: run `backstop inspect synthetic` to see its parameters\n");
  const Outcome misspelt = swatches({"--set", "heigth=5"});
  EXPECT_EQ(misspelt.code, 2);
  EXPECT_THAT(misspelt.err, HasSubstr("did you mean `height`?"));
  const Outcome unknown = data({"swatchse"});
  EXPECT_EQ(unknown.code, 3);
  EXPECT_THAT(unknown.err, HasSubstr("did you mean `swatches`?"));
  EXPECT_EQ(swatches({"--set", "height=12"}).code, 0);
}

TEST_F(Datasets, DataNeedsNoFilesForSynthetic) {
  const Outcome outcome = data({"synthetic", "--set", "classes=25", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto report = nlohmann::json::parse(outcome.out);
  ASSERT_EQ(report["splits"].size(), 2u);
  const auto& train = report["splits"][0];
  EXPECT_TRUE(train["files"].empty());
  for (std::size_t channel = 0; channel < 3; ++channel) {
    EXPECT_NEAR(train["mean"][channel], report["stated"]["mean"][channel], 1e-9);
    EXPECT_NEAR(train["deviation"][channel], report["stated"]["deviation"][channel], 1e-9);
  }
  // 512 images of 25 classes: 21 of the first twelve, 20 of the rest.
  EXPECT_THAT(data({"synthetic", "--set", "classes=25"}).out,
              HasSubstr("  25 classes  fewest           median  most\n"
                        "  train       20 (pattern 12)  20      21 (pattern 0)\n"));
}

TEST_F(Datasets, DataReadsIdxFiles) {
  const fs::path folder = folder_ / "mnist";
  fs::create_directories(folder);
  const auto number = [](int value) {
    return std::string{0, 0, static_cast<char>(value >> 8), static_cast<char>(value & 255)};
  };
  for (const auto& [name, count] : {std::pair{"train", 60000}, std::pair{"t10k", 10000}}) {
    const std::string base = (folder / name).string();
    std::ofstream(base + "-images-idx3-ubyte", std::ios::binary)
        << std::string("\0\0\x08\x03", 4) << number(count) << number(28) << number(28)
        << std::string(static_cast<std::size_t>(count) * 28 * 28, '\x33');
    std::ofstream labels(base + "-labels-idx1-ubyte", std::ios::binary);
    labels << std::string("\0\0\x08\x01", 4) << number(count);
    for (int i = 0; i < count; ++i) labels.put(static_cast<char>(i % 10));
  }
  const Outcome outcome = data({"mnist", "--root", folder.string(), "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto report = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(report["splits"][0]["images"], 60000);
  EXPECT_EQ(report["splits"][0]["height"], 28);
  EXPECT_DOUBLE_EQ(report["splits"][0]["mean"][0], 0.2);
  EXPECT_DOUBLE_EQ(report["splits"][0]["deviation"][0], 0.0);
  EXPECT_EQ(report["splits"][1]["per_class"], nlohmann::json(std::vector<int>(10, 1000)));
}

TEST_F(Datasets, ContactSheetIsAPictureWithARowForEachClass) {
  const fs::path sheet = folder_ / "sheet.png";
  const Outcome outcome = swatches({"--sheet", sheet.string()});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("wrote " + sheet.string() + "\n"));
  const std::string bytes = read(sheet);
  ASSERT_EQ(bytes.substr(0, 16), std::string("\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16));
  const auto number = [&](std::size_t at) {
    int value = 0;
    for (std::size_t i = 0; i < 4; ++i)
      value = value * 256 + static_cast<unsigned char>(bytes[at + i]);
    return value;
  };
  // Ten images of 6 x 8 pixels, eight times enlarged, in a row; three rows; "green" before them.
  EXPECT_EQ(number(16), 16 + 5 * 12 + 16 + 10 * (64 + 4) - 4 + 16);
  EXPECT_EQ(number(20), 16 + 18 + 16 + 3 * (48 + 4) - 4 + 16);
  EXPECT_EQ(swatches({"--sheet", (folder_ / "again.png").string()}).code, 0);
  EXPECT_EQ(read(folder_ / "again.png"), bytes);
  const Outcome nowhere = swatches({"--sheet", (folder_ / "nowhere/sheet.png").string()});
  EXPECT_EQ(nowhere.code, 4);
  EXPECT_THAT(nowhere.err, HasSubstr("nowhere is not a folder"));
}

TEST_F(Datasets, AnImageIsWrittenAsItIs) {
  const fs::path file = folder_ / "one=image.png";
  const Outcome outcome = swatches({"--image", "1/2=" + file.string()});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("wrote " + file.string() + "\n"));
  // A folder of images reads it again: the third green one, and only that, in each of two classes.
  for (const char* place : {"train/a", "train/b", "test/a", "test/b"}) {
    fs::create_directories(folder_ / "set" / place);
    fs::copy_file(file, folder_ / "set" / place / "0.png");
  }
  const Outcome again = data(
      {"image-folder", "--root", (folder_ / "set").string(), "--set", "image_size=8", "--json"});
  ASSERT_EQ(again.code, 0) << again.err;
  const auto split = nlohmann::json::parse(again.out)["splits"][0];
  EXPECT_EQ(split["images"], 2);
  EXPECT_DOUBLE_EQ(split["mean"][0], 20 / 255.0);
  EXPECT_DOUBLE_EQ(split["mean"][1], 207 / 255.0);
  EXPECT_DOUBLE_EQ(split["mean"][2], 20 / 255.0);
  EXPECT_DOUBLE_EQ(split["deviation"][1], 0.0);
}

TEST_F(Datasets, AnImageThatIsNotThereIsSaidSo) {
  const std::string file = (folder_ / "x.png").string();
  for (const char* bad : {"1", "1/", "1/2", "1/2=", "a/2=x", "-1/2=x", "1/-2=x"}) {
    const Outcome outcome = swatches({"--image", bad});
    EXPECT_EQ(outcome.code, 2) << bad;
    EXPECT_THAT(outcome.err, HasSubstr("LABEL/N=FILE.png")) << bad;
  }
  const Outcome none = swatches({"--image", "1/99999=" + file});
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.err, HasSubstr("has no image 99999 of class 1"));
  EXPECT_EQ(swatches({"--image", "77/0=" + file}).code, 2);
  EXPECT_EQ(swatches({"--image", "1/0=" + (folder_ / "nowhere/x.png").string()}).code, 4);
  EXPECT_FALSE(fs::exists(file));
}

TEST_F(Datasets, DataCanBeInterrupted) {
  Process process(data_command({"swatches", "--root", root().string(), "--set", "mapped=65536",
                                "--set", "height=512", "--set", "width=512"}));
  process.wait_for_error_text("started");
  process.send(SIGINT);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 130) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("error: interrupted\n"));
  EXPECT_EQ(outcome.out, "");
}

}  // namespace
}  // namespace backstop::testing
