// Results that an earlier run left must not become those of another recipe: whatever ran before in
// the folder, a run shows the numbers, and leaves the models, of a run in a fresh folder.
#include <cstdlib>
#include <map>
#include <random>

#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Stale : public EndToEnd {
 protected:
  /// Runs the recipe into `name` below the test's folder.
  [[nodiscard]] Outcome run_into(const std::string& name,
                                 const std::vector<std::string>& settings = {}) const {
    std::vector<std::string> arguments = {"run", recipe().string(), "--out",
                                          (folder_ / name).string()};
    for (const auto& setting : settings) {
      arguments.emplace_back("--set");
      arguments.push_back(setting);
    }
    return Process({BACKSTOP_PROGRAM,
                    arguments,
                    {{"HOME", folder_.string()}, {"BACKSTOP_PLUGIN_PATH", ""}}})
        .wait();
  }
  /// The last run below it.
  [[nodiscard]] fs::path last_run(const std::string& name) const {
    std::vector<fs::path> runs;
    for (const auto& entry : fs::directory_iterator(folder_ / name / "small"))
      runs.push_back(entry.path());
    return *std::max_element(runs.begin(), runs.end());
  }
  [[nodiscard]] std::vector<std::string> files_of(const fs::path& run,
                                                  const std::string& trigger) const {
    return {"model.file=" + (run / "models/no-defense.safetensors").string(),
            "attack.file=" + (run / "models" / trigger).string()};
  }
};

std::map<std::string, std::string> models_of(const fs::path& run) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(run / "models"))
    files[entry.path().filename()] = read(entry.path());
  return files;
}

constexpr const char* kAdapted = R"(
[pretraining.dataset]
plugin = "synthetic"
train_images = 256
test_images = 128
classes = 4
)";

TEST_F(Stale, AnotherScenarioIsAnotherStage) {
  write_recipe(kRecipe + std::string(kAdapted));
  ASSERT_EQ(run_into("shared", {"scenario=transfer"}).code, 0);
  const Outcome outcome = run_into("shared", {"scenario=encoder"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("[attack] badnets: started"));
  ASSERT_EQ(run_into("fresh", {"scenario=encoder"}).code, 0);
  EXPECT_EQ(numbers(last_run("shared")), numbers(last_run("fresh")));
}

TEST_F(Stale, ADefenseWithANewHeadIsAnotherStageThanOneWithout) {
  ASSERT_EQ(run_into("shared").code, 0);
  write_recipe(kRecipe + std::string(kAdapted));
  const Outcome outcome = run_into("shared", {"scenario=transfer"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("[attack] badnets: cached"), HasSubstr("[defense] plain: started")));
}

TEST_F(Stale, TheClassesOfAnEncodersTaskDecideItsPoison) {
  write_recipe(kRecipe + std::string(kAdapted));
  const std::vector<std::string> settings = {"scenario=encoder", "attack.labels=all-to-all"};
  ASSERT_EQ(run_into("shared", settings).code, 0);
  auto three = settings;
  three.push_back("dataset.classes=3");
  const Outcome outcome = run_into("shared", three);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("[attack] badnets: started"));
}

TEST_F(Stale, AModelFileAloneIsRefusedWhereTheAttackPoisonsWhileItTrains) {
  for (const char* attack : {"wanet", "input-aware"}) {
    const std::string plugin = std::string("attack.plugin=") + attack;
    const std::string out = attack;
    ASSERT_EQ(run_into(out, {plugin, "defense=[]"}).code, 0);
    auto settings = files_of(last_run(out), "no-defense.attack.safetensors");
    settings.push_back(plugin);
    settings.emplace_back("defense=[{ plugin = \"activation-clustering\", epochs = 1 }]");
    const Outcome both = run_into(out, settings);
    EXPECT_EQ(both.code, 0) << both.err;
    EXPECT_GT(row(numbers(last_run(out)), "no defense")["extra"]["poisoned_images"], 0);
    settings.erase(settings.begin() + 1);
    const Outcome alone = run_into(out, settings);
    EXPECT_EQ(alone.code, 2);
    EXPECT_THAT(alone.err, AllOf(HasSubstr("poisons the training set while it trains"),
                                 HasSubstr("attack.file")));
  }
}

TEST_F(Stale, AnAttackFileOfAnotherAttackIsAnError) {
  ASSERT_EQ(run_into("a").code, 0);
  const auto files = files_of(last_run("a"), "no-defense.attack.safetensors");
  const std::pair<const char*, const char*> cases[] = {
      {"attack.target=2", "target 1 instead of 2"},
      {"attack.labels=all-to-all", "labels all-to-one instead of all-to-all"},
      {"attack.poison_ratio=0.1", "poison_ratio 0.2 instead of 0.1"},
      {"attack.patch_size=2", "patch_size 3 instead of 2"},
      {"attack.plugin=blended", "attack badnets instead of blended"}};
  for (const auto& [setting, difference] : cases) {
    auto settings = files;
    settings.emplace_back(setting);
    const Outcome outcome = run_into("b", settings);
    EXPECT_EQ(outcome.code, 2) << setting;
    EXPECT_THAT(outcome.err, HasSubstr(difference)) << setting;
  }
  EXPECT_EQ(run_into("b", files).code, 0);
}

TEST_F(Stale, BadEncoderIsLoadedFromItsFile) {
  write_recipe(kRecipe + std::string(kAdapted));
  const std::vector<std::string> settings = {
      "scenario=encoder",           "attack.plugin=badencoder",  "attack.encoder=supervised",
      "attack.patch_size=5",        "attack.injection_epochs=1", "attack.poison_ratio=0.1",
      "attack.position=\"unused\"",
  };
  auto made = settings;
  made.pop_back();
  ASSERT_EQ(run_into("a", made).code, 0);
  auto loaded = made;
  for (const auto& file : files_of(last_run("a"), "no-defense.attack.safetensors"))
    loaded.push_back(file);
  const Outcome outcome = run_into("b", loaded);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(row(numbers(last_run("a")), "plain")["metrics"],
            row(numbers(last_run("b")), "plain")["metrics"]);
}

TEST_F(Stale, WhoeverRewritesAModelInARunsFolderChangesNoLaterRun) {
  ASSERT_EQ(run_into("a").code, 0);
  const auto before = models_of(last_run("a"));
  for (const auto& entry : fs::directory_iterator(last_run("a") / "models"))
    std::fstream(entry.path(), std::ios::in | std::ios::out) << "rewritten in place";
  const Outcome outcome = run_into("a");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("[attack] badnets: cached"));
  EXPECT_EQ(models_of(last_run("a")), before);
}

TEST_F(Stale, AModelKeepsTheConstantsThatItWasTrainedWith) {
  ASSERT_EQ(run_into("a").code, 0);
  const std::string model = "model.file=" + files_of(last_run("a"), "")[0].substr(11);
  // Fewer images have other statistics; the model's constants are its own.
  const std::vector<std::string> fewer = {model, "dataset.noise=0.5", "defense=[]"};
  ASSERT_EQ(run_into("b", fewer).code, 0);
  EXPECT_EQ(models_of(last_run("b"))["no-defense.safetensors"],
            models_of(last_run("a"))["no-defense.safetensors"]);
  auto other = fewer;
  other.emplace_back("model.mean=[0.1]");
  other.emplace_back("model.deviation=[0.2]");
  const Outcome outcome = run_into("b", other);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("[model] gives mean [0.1, 0.1, 0.1]"));
  auto classes = fewer;
  classes.emplace_back("dataset.classes=5");
  const Outcome refused = run_into("b", classes);
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("has 4 classes, but the images of synthetic have 5"));
}

// --- any recipe after any other ---

using Draw = std::mt19937_64;

/// The settings of a small recipe, by what they decide.
using Settings = std::map<std::string, std::string>;

const std::map<std::string, std::vector<std::string>>& choices() {
  static const std::map<std::string, std::vector<std::string>> kChoices = {
      {"scenario", {"standalone", "transfer", "encoder"}},
      {"seed", {"0", "1"}},
      {"dataset.classes", {"3", "4"}},
      {"dataset.seed", {"0", "5"}},
      {"dataset.limit", {"0", "40"}},
      {"dataset.augmentation.crop_padding", {"0", "2"}},
      {"pretraining.dataset.classes", {"3", "4"}},
      {"model.width", {"4", "8"}},
      {"attack.plugin", {"badnets", "blended", "wanet", "none", "badencoder"}},
      {"attack.target", {"0", "1"}},
      {"attack.labels", {"all-to-one", "all-to-all"}},
      {"attack.poison_ratio", {"0.2", "0.3"}},
      {"attack.training.epochs", {"1", "2"}},
      {"files", {"none", "none", "none", "none", "model", "both"}},
      {"defense.0.plugin", {"fine-tuning", "clp", "activation-clustering"}},
      {"defense.0.name", {"plain", "SFT 0.1", "SFT-0.1"}},
      {"defense.0.measure_every", {"1", "0"}},
      {"defense.1.clean_images", {"20", "30"}},
      {"defense.1.name", {"second", "plain"}},
      {"attack.image", {"none", "one", "two"}},
  };
  return kChoices;
}

Settings drawn(Draw& draw) {
  Settings settings;
  for (const auto& [key, values] : choices())
    settings[key] = values[std::uniform_int_distribution<std::size_t>(0, values.size() - 1)(draw)];
  return settings;
}

/// One or two of the settings drawn again: recipes that have nothing in common prove little.
Settings near_to(Settings settings, Draw& draw) {
  const int changes = std::uniform_int_distribution<int>(1, 2)(draw);
  for (int i = 0; i < changes; ++i) {
    auto entry = std::next(choices().begin(), std::uniform_int_distribution<std::ptrdiff_t>(
                                                  0, std::ssize(choices()) - 1)(draw));
    const auto& values = entry->second;
    settings[entry->first] =
        values[std::uniform_int_distribution<std::size_t>(0, values.size() - 1)(draw)];
  }
  return settings;
}

constexpr const char* kTiny = R"(schema = 1
name = "small"

[dataset]
plugin = "synthetic"
train_images = 64
test_images = 32

[model]
architecture = "small-cnn"

[attack]
plugin = "badnets"

[attack.training]
batch_size = 32
scheduler = { plugin = "constant", rate = 0.05 }

[[defense]]
plugin = "fine-tuning"
epochs = 1
batch_size = 32

[[defense]]
plugin = "fine-tuning"
epochs = 1
batch_size = 32
trainable = "head"

[compute]
precision = "float32"
threads = 1
)";

class AnyRecipe : public Stale, public ::testing::WithParamInterface<int> {
 protected:
  /// What `backstop run --set` gets.
  [[nodiscard]] std::vector<std::string> as_arguments(Settings settings) const {
    const auto take = [&](const char* key) {
      std::string value = settings.at(key);
      settings.erase(key);
      return value;
    };
    const std::string files = take("files"), image = take("attack.image");
    std::vector<std::string> arguments;
    if (settings["scenario"] == "standalone") {
      settings.erase("pretraining.dataset.classes");
    } else {
      // Whoever adapts a model has no poison to look for.
      if (settings["defense.0.plugin"] == "activation-clustering")
        settings["defense.0.plugin"] = "fine-tuning";
      for (const char* setting :
           {"plugin=synthetic", "train_images=64", "test_images=32", "seed=2"})
        arguments.push_back(std::string("pretraining.dataset.") + setting);
    }
    if (settings["attack.plugin"] == "badencoder") {
      arguments.insert(arguments.end(),
                       {"attack.encoder=supervised", "attack.patch_size=4",
                        "attack.injection_epochs=1", "attack.injection_batch_size=32"});
      settings["attack.labels"] = "all-to-one";
    }
    if (settings["attack.plugin"] == "blended" && image != "none")
      arguments.push_back("attack.image=" + (folder_ / (image + ".png")).string());
    if (files != "none")
      arguments.push_back("model.file=" + (folder_ / "model.safetensors").string());
    if (files == "both")
      arguments.push_back("attack.file=" + (folder_ / "attack.safetensors").string());
    for (const auto& [key, value] : settings) arguments.push_back(key + "=" + value);
    return arguments;
  }

  /// What models and attacks from files are: those of a run with settings like these.
  void make_files(Draw& draw) {
    Settings settings = drawn(draw);
    settings["files"] = "none";
    settings["defense.1.name"] = "second";
    const Outcome outcome = run_into("origin", as_arguments(settings));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const fs::path models = last_run("origin") / "models";
    fs::copy_file(models / "no-defense.safetensors", folder_ / "model.safetensors");
    fs::copy_file(models / "no-defense.attack.safetensors", folder_ / "attack.safetensors");
  }
};

/// Every number, and every file of a model.
TEST_P(AnyRecipe, GivesTheSameAfterAnyOther) {
  const char* wanted = std::getenv("BACKSTOP_RECIPE_PAIRS");
  const int pairs = wanted != nullptr ? std::atoi(wanted) : 50;
  constexpr int kBlocks = 5;
  write_recipe(kTiny);
  Draw draw(static_cast<std::uint64_t>(GetParam()));
  const Start picture{BACKSTOP_PROGRAM,
                      {"data", "synthetic", "--image", "0/0=" + (folder_ / "one.png").string(),
                       "--image", "1/0=" + (folder_ / "two.png").string()},
                      {{"HOME", folder_.string()}, {"BACKSTOP_PLUGIN_PATH", ""}}};
  ASSERT_EQ(Process(picture).wait().code, 0);
  ASSERT_NO_FATAL_FAILURE(make_files(draw));
  int compared = 0;
  // Some recipes are refused; then both runs refuse them, and another pair is drawn.
  for (int tries = 0; compared < pairs / kBlocks && tries < 10 * pairs; ++tries) {
    const Settings first = drawn(draw), second = near_to(first, draw);
    for (const char* name : {"shared", "fresh"}) fs::remove_all(folder_ / name);
    const Outcome before = run_into("shared", as_arguments(first));
    const Outcome after = run_into("shared", as_arguments(second));
    const Outcome fresh = run_into("fresh", as_arguments(second));
    std::string what;
    for (const auto& setting : as_arguments(first)) what += " --set '" + setting + "'";
    what += "\nthen";
    for (const auto& setting : as_arguments(second)) what += " --set '" + setting + "'";
    ASSERT_EQ(after.code, fresh.code) << what << "\n" << after.err << fresh.err;
    ASSERT_TRUE(fresh.code == 0 || fresh.code == 2 || fresh.code == 4) << what << "\n" << fresh.err;
    if (fresh.code != 0) continue;
    compared += before.code == 0 ? 1 : 0;
    ASSERT_EQ(numbers(last_run("shared")), numbers(last_run("fresh"))) << what;
    ASSERT_EQ(models_of(last_run("shared")), models_of(last_run("fresh"))) << what;
  }
  EXPECT_EQ(compared, pairs / kBlocks) << "nearly all recipes were refused";
}

INSTANTIATE_TEST_SUITE_P(Blocks, AnyRecipe, ::testing::Range(0, 5));

}  // namespace
}  // namespace backstop::testing
