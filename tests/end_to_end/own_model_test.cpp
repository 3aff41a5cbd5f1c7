// scan, clean and inspect: a model's file and a folder of images, without a recipe.
#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// A model of three classes, and the images that it was trained on: red, green and blue ones.
class OwnModel : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    for (const char* split : {"train", "test"})
      for (int label = 0; label < 3; ++label)
        for (int i = 0; i < 24; ++i) write_image(split, label, i);
    write_recipe(R"(schema = 1
name = "small"
seed = 3
[dataset]
plugin = "image-folder"
root = "images"
image_size = 0
[model]
architecture = "small-cnn"
width = 8
[attack]
plugin = "none"
[attack.training]
epochs = 6
batch_size = 12
scheduler = { plugin = "constant", rate = 0.05 }
[compute]
precision = "float32"
threads = 1
)");
    const Outcome trained = run({});
    ASSERT_EQ(trained.code, 0) << trained.err;
    fs::copy_file(runs().at(0) / "models/no-defense.safetensors", folder_ / "model.safetensors");
  }

  void write_image(const std::string& split, int label, int number) const {
    const fs::path folder = folder_ / "images" / split / kNames[label];
    fs::create_directories(folder);
    std::ofstream file(folder / (std::to_string(100 + number) + ".ppm"), std::ios::binary);
    file << "P6 16 16 255\n";
    for (int pixel = 0; pixel < 256; ++pixel)
      for (int channel = 0; channel < 3; ++channel) {
        const int noise = (pixel * 37 + number * 101 + channel * 11) % 90;
        file.put(static_cast<char>(channel == label ? 150 + noise : noise));
      }
  }

  /// Of the program in the test's folder, with one thread.
  [[nodiscard]] Outcome backstop(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"--plugin-path", BACKSTOP_TEST_PLUGINS});
    Start start{BACKSTOP_PROGRAM,
                std::move(arguments),
                {{"HOME", folder_.string()}, {"BACKSTOP_PLUGIN_PATH", ""}}};
    start.folder = folder_;
    return Process(start).wait();
  }
  [[nodiscard]] Outcome run(std::vector<std::string> more) const {
    std::vector<std::string> arguments = {"run", recipe().string(), "--out", out().string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return backstop(arguments);
  }
  [[nodiscard]] Outcome scan(std::vector<std::string> more) const {
    std::vector<std::string> arguments = {"scan",       "model.safetensors", "--images",  "images",
                                          "--detector", "suspicion",         "--threads", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return backstop(arguments);
  }

  static constexpr const char* kNames[] = {"a red", "green", "zblue"};
};

TEST_F(OwnModel, ScanSaysWhichClassIsSuspicious) {
  const Outcome suspicious = scan({"--set", "detector.0.suspect=1"});
  EXPECT_EQ(suspicious.code, 1) << suspicious.err;
  EXPECT_THAT(
      suspicious.out,
      AllOf(HasSubstr("small-cnn, width 8, 3 classes"), HasSubstr("as the file says"),
            HasSubstr("suspicion: suspicious: class 1 (green) is suspected by a parameter\n"),
            HasSubstr("0 a red"), HasSubstr("float32"), Not(HasSubstr("attack success")),
            HasSubstr("does not mean clean")));
  const Outcome clean = scan({"--set", "detector.0.score=1.2"});
  EXPECT_EQ(clean.code, 0) << clean.err;
  EXPECT_THAT(clean.out, HasSubstr("suspicion: nothing found (score 1.20, threshold 2.00)"));
  // Its calibration holds for its own defaults.
  EXPECT_THAT(scan({}).out, HasSubstr("suspicion: suspicious (score 3.00, threshold 2.00; 1 of 3 "
                                      "clean models scores as high)"));
}

TEST_F(OwnModel, NoVerdictIsNoAllClear) {
  const Outcome outcome = scan({"--set", "detector.0.reason=\"it took too long\""});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, HasSubstr("suspicion: no verdict: it took too long"));
}

TEST_F(OwnModel, ADetectorMustNotChangeTheModel) {
  const Outcome outcome = scan({"--set", "detector.0.damage=true"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("the detector changed the model"));
}

TEST_F(OwnModel, CleanWritesTheFileBack) {
  const Outcome outcome =
      backstop({"clean", "model.safetensors", "--images", "images", "--output", "out.safetensors",
                "--method", "fine-tuning", "--set", "defense.0.epochs=2", "--threads", "1"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("accuracy after"), HasSubstr("points (95 %: "),
                                 HasSubstr("cannot be measured: its trigger is unknown"),
                                 Not(HasSubstr("attack success"))));
  EXPECT_EQ(fs::file_size(folder_ / "out.safetensors"),
            fs::file_size(folder_ / "model.safetensors"));
  EXPECT_NE(read(folder_ / "out.safetensors"), read(folder_ / "model.safetensors"));
  // What was printed is what the file gives.
  const auto after = backstop({"scan", "out.safetensors", "--images", "images", "--detector",
                               "suspicion", "--threads", "1"});
  const auto line = [](const std::string& text, const std::string& start) {
    const auto begin = text.find(start) + start.size();
    const auto number = text.find_first_not_of(' ', begin);
    return text.substr(number, text.find('\n', number) - number);
  };
  EXPECT_EQ(line(outcome.out, "accuracy after"), line(after.out, "\naccuracy"));
}

TEST_F(OwnModel, CleanTrainsOnMirroredImagesIfTheyKeepTheirClass) {
  for (const bool flip : {false, true}) {
    std::vector<std::string> command = {
        "clean",    "model.safetensors",      "--images",  "images",
        "--output", "out.safetensors",        "--method",  "fine-tuning",
        "--set",    "defense.0.epochs=1",     "--threads", "1",
        "--out",    flip ? "with" : "without"};
    if (flip) command.push_back("--flip");
    EXPECT_NE(backstop(command).code, 2);
    const fs::path runs = folder_ / (flip ? "with" : "without") / "clean-model";
    const std::string recipe = read(fs::directory_iterator(runs)->path() / "recipe.toml");
    EXPECT_THAT(recipe, HasSubstr(flip ? "horizontal_flip = true" : "horizontal_flip = false"));
    EXPECT_THAT(recipe, Not(HasSubstr("crop_padding"))) << "that of the images' own size";
  }
}

TEST_F(OwnModel, CleanSaysWhenAccuracyFellTooFar) {
  const Outcome outcome = backstop(
      {"clean", "model.safetensors", "--images", "images", "--output", "out.safetensors",
       "--method", "fine-tuning", "--threads", "1", "--set", "defense.0.epochs=1", "--set",
       "defense.0.scheduler={plugin=\"constant\",rate=30.0}", "--set", "defense.0.batch_size=8"});
  EXPECT_EQ(outcome.code, 1) << outcome.err << outcome.out;
}

TEST_F(OwnModel, CleanDoesNotOverwriteByAccident) {
  const std::string before = read(folder_ / "model.safetensors");
  fs::create_symlink("model.safetensors", folder_ / "link.safetensors");
  const Outcome outcome = backstop(
      {"clean", "model.safetensors", "--images", "images", "--output", "link.safetensors"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("are the same file"));
  EXPECT_EQ(read(folder_ / "model.safetensors"), before);
}

TEST_F(OwnModel, TheOrderOfClassesIsHeldAgainstThePredictions) {
  const Outcome outcome = scan({"--classes", "green,a red,zblue"});
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("another order"), HasSubstr("a red, green, zblue")));
}

TEST_F(OwnModel, NormalizationIsChosenWhereTheFileDoesNotRecordIt) {
  const std::string model = read(folder_ / "model.safetensors");
  std::string anonymous = model;  // the same length, other keys
  for (const char* key : {"\"mean\"", "\"deviation\"", "\"architecture\""})
    anonymous.replace(anonymous.find(key), 3, "\"x_");
  std::ofstream(folder_ / "model.safetensors", std::ios::binary) << anonymous;
  const Outcome outcome = scan({});
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("chosen by accuracy on 72 images"),
                                 HasSubstr("imagenet "), HasSubstr("none ")))
      << outcome.err;
  EXPECT_THAT(scan({"--normalization", "half"}).out, HasSubstr("mean 0.5, 0.5, 0.5"));
  EXPECT_THAT(scan({"--normalization", "halv"}).err, HasSubstr("there is no normalization `halv`"));
}

TEST_F(OwnModel, ClassCountsMustAgree) {
  fs::remove_all(folder_ / "images/train/green");
  fs::remove_all(folder_ / "images/test/green");
  const Outcome outcome = scan({});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("model.safetensors has 3 classes, but the images of "
                                     "image-folder have 2"));
}

TEST_F(OwnModel, InspectShowsTheFileAndCheckReadsIt) {
  const Outcome outcome = backstop({"inspect", "model.safetensors"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("safetensors"), HasSubstr("small-cnn, width 8"),
                                 HasSubstr("trained with    attack none")));
  std::ofstream(folder_ / "broken.pt") << "this is no model";
  EXPECT_EQ(backstop({"inspect", "broken.pt"}).code, 4);
  write_recipe(R"(schema = 1
name = "other"
[dataset]
plugin = "synthetic"
[model]
file = "broken.pt"
)");
  const Outcome checked = backstop({"check", recipe().string()});
  EXPECT_EQ(checked.code, 4) << checked.out;
  EXPECT_THAT(checked.err, HasSubstr("broken.pt"));
}

TEST_F(OwnModel, WithoutAnAttackNothingIsSaidOfTriggers) {
  write_recipe(R"(schema = 1
name = "suspect"
[dataset]
plugin = "image-folder"
root = "images"
image_size = 0
[model]
file = "model.safetensors"
[[detector]]
plugin = "suspicion"
suspect = 2
[[defense]]
plugin = "clp"
[expect]
"suspicion".suspects = ["zblue"]
"suspicion".score = { minimum = 2 }
clp.clean_accuracy = { minimum = 0 }
[compute]
threads = 1
)");
  const Outcome outcome = run({});
  EXPECT_EQ(outcome.code, 0) << outcome.err << outcome.out;
  EXPECT_THAT(outcome.out, AllOf(Not(HasSubstr("attack")), HasSubstr("met"),
                                 HasSubstr("suspects zblue, expected zblue")));
  const fs::path folder = runs("suspect").at(0);
  const auto results = nlohmann::json::parse(read(folder / "results.json"));
  EXPECT_FALSE(results["rows"][0]["metrics"].contains("attack_success_rate"));
  EXPECT_FALSE(fs::exists(folder / "triggers"));
  EXPECT_THAT(read(folder / "predictions.csv"), HasSubstr("image,label,no defense,clp\n0,0,"));
  const Outcome missed = run({"--set", "expect.suspicion.suspects=[\"green\"]"});
  EXPECT_EQ(missed.code, 1) << missed.out;
  EXPECT_EQ(run({"--set", "expect.clp.attack_success_rate={maximum=0.1}"}).code, 2);
}

TEST_F(OwnModel, AModelIsAdaptedToOtherClasses) {
  write_recipe(R"(schema = 1
name = "adapted"
scenario = "transfer"
[dataset]
plugin = "synthetic"
train_images = 64
test_images = 32
classes = 4
[model]
file = "model.safetensors"
[[defense]]
plugin = "fine-tuning"
clean_fraction = 1.0
epochs = 1
batch_size = 16
[compute]
threads = 1
)");
  const Outcome outcome = run({});
  EXPECT_EQ(outcome.code, 0) << outcome.err << outcome.out;
  const auto results = nlohmann::json::parse(read(runs("adapted").at(0) / "results.json"));
  EXPECT_EQ(row(results, "fine-tuning")["counts"]["clean"], 32);
}

}  // namespace
}  // namespace backstop::testing
