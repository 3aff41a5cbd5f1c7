#include "host/recipe/recipe.hpp"

#include <gmock/gmock.h>

#include "host/base/error.hpp"
#include "host/recipe/recipe_fixture.hpp"

namespace backstop::recipe {
namespace {

using Recipes = RecipeTest;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::string_view kFirstDefense = "[[defense]]\nplugin = \"fine-tuning\"\nepochs = 3\n";

constexpr std::string_view kResolved = R"(schema = 1
name = "example"
scenario = "standalone"
seed = 7

[dataset]
plugin = "shapes"
per_class = 0
limit = 0
test_limit = 0
root = "/"

[dataset.augmentation]
crop_padding = 4
horizontal_flip = true

[model]
architecture = "preact-resnet18"
width = 64

[attack]
plugin = "blended"
poison_ratio = 1.0
target = 0
labels = "all-to-one"
alpha = 0.25

[attack.training]
epochs = 2
batch_size = 128
optimizer = { name = "adam", beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.0 }
scheduler = { plugin = "cosine", rate = 0.01, final_rate = 0.0 }

[[defense]]
name = "fine-tuning"
plugin = "fine-tuning"
measure_every = 1
clean_fraction = 0.05
epochs = 3
scheduler = { plugin = "constant", rate = 0.02 }
optimizer = { name = "sgd", momentum = 0.9, weight_decay = 0.0005, nesterov = false }
milestones = [0.5, 1.0]
freeze = false

[[defense]]
name = "super"
plugin = "fine-tuning"
measure_every = 1
clean_images = 500
epochs = 3
scheduler = { plugin = "super-fine-tuning", base = 0.001, maximum_1 = 0.2 }
optimizer = { name = "sgd", momentum = 0.9, weight_decay = 0.0005, nesterov = false }
milestones = [0.5, 1.0]
freeze = false

[compute]
device = "auto"
precision = "auto"
threads = 0
kernels = "own"

[expect]
"no defense".attack_success_rate = { minimum = 0.9 }
super.clean_accuracy_drop = { minimum = -0.1, maximum = 0.05 }
)";

TEST_F(Recipes, ResolvesEveryDefault) {
  const auto checked = check(kValidRecipe);
  ASSERT_EQ(problems(checked), "");
  ASSERT_EQ(checked.recipes.size(), 1U);
  EXPECT_EQ(to_toml(checked.recipes[0]), kResolved);
  EXPECT_EQ(checked.source, kValidRecipe);
}

TEST_F(Recipes, ResolvedRecipeResolvesToItself) {
  const auto checked = check(kResolved);
  ASSERT_EQ(problems(checked), "");
  EXPECT_EQ(to_toml(checked.recipes.at(0)), kResolved);
}

TEST_F(Recipes, EqualMeaningGivesEqualText) {
  const auto checked = check(
      R"(expect = { super = { clean_accuracy_drop = { maximum = 5e-2, minimum = -0.1 } }, "no defense".attack_success_rate.minimum = 0.90 }
seed = 0x7
name = 'example'
schema = 1
defense = [
  { epochs = 3, plugin = "fine-tuning", clean_fraction = 0.05 },
  { clean_images = 5_00, plugin = "fine-tuning", name = "super", epochs = 3, scheduler = { maximum_1 = 0.20, plugin = "super-fine-tuning" } }]
[attack]
alpha = 0.250
poison_ratio = 1.0
plugin = "blended"
training.optimizer = { weight_decay = -0.0, name = "adam" }
training.epochs = 2
[dataset]
plugin = "shapes"
limit = 0
)");
  ASSERT_EQ(problems(checked), "");
  EXPECT_EQ(to_toml(checked.recipes.at(0)), kResolved);
}

TEST_F(Recipes, FloatsAndStringsSurviveTheRoundTrip) {
  for (const char* ratio : {"0.1", "0.30000000000000004", "1e-8", "5e-324", "0.0001", "0.00012"}) {
    const auto checked = check(edited("poison_ratio = 1", std::string("poison_ratio = ") + ratio));
    ASSERT_EQ(problems(checked), "");
    const std::string text = to_toml(checked.recipes.at(0));
    EXPECT_THAT(text, HasSubstr(std::string("poison_ratio = ") + ratio + "\n"));
    EXPECT_EQ(to_toml(check(text).recipes.at(0)), text);
  }
  auto checked = check(edited("name = \"super\"", R"(name = 'a "b" \ é')"), {"expect={}"});
  ASSERT_EQ(problems(checked), "");
  const std::string text = to_toml(checked.recipes.at(0));
  EXPECT_THAT(text, HasSubstr(R"(name = "a \"b\" \\ é")"));
  EXPECT_EQ(to_toml(check(text).recipes.at(0)), text);
}

TEST_F(Recipes, DefensesAndExpectationsMayBeLeftOut) {
  const auto checked = check(kValidRecipe, {"defense=[]", "expect={}"});
  ASSERT_EQ(problems(checked), "");
  const auto& table = checked.recipes.at(0).table;
  ASSERT_TRUE(table["defense"].is_array());
  EXPECT_TRUE(table["defense"].as_array()->empty());
  EXPECT_FALSE(table.contains("expect"));
  const std::string text = to_toml(checked.recipes.at(0));
  EXPECT_EQ(to_toml(check(text).recipes.at(0)), text);
}

TEST_F(Recipes, SchedulerOrOptimizerWithoutANameChangesTheDefault) {
  const auto checked =
      check(kValidRecipe, {"attack.training.scheduler.rate=0.5", "defense.0.optimizer.momentum=0"});
  ASSERT_EQ(problems(checked), "");
  const std::string text = to_toml(checked.recipes.at(0));
  EXPECT_THAT(text, HasSubstr("scheduler = { plugin = \"cosine\", rate = 0.5, final_rate = 0.0 }"));
  EXPECT_THAT(text, HasSubstr("optimizer = { name = \"sgd\", momentum = 0.0, "));
}

TEST_F(Recipes, DeviceMayHaveANumber) {
  EXPECT_EQ(problems_of(kValidRecipe, {"compute.device=cuda:1"}), "");
}

TEST_F(Recipes, SelectsPartOfADataset) {
  const auto resolved = [&](const char* keys) {
    const auto checked = check(edited("plugin = \"shapes\"", keys));
    EXPECT_EQ(problems(checked), "");
    const std::string text = to_toml(checked.recipes.at(0));
    EXPECT_EQ(to_toml(check(text).recipes.at(0)), text);
    const auto begin = text.find("[dataset]\n") + 10;
    return text.substr(begin, text.find("\n\n", begin) - begin);
  };
  EXPECT_EQ(resolved("plugin = \"shapes\"\nper_class = 5\nimage_size = 32\nclasses = [3, 0]"),
            "plugin = \"shapes\"\nimage_size = 32\nclasses = [3, 0]\nper_class = 5\nlimit = 0\n"
            "test_limit = 0\nroot = \"/\"");
  EXPECT_EQ(resolved("plugin = \"shapes\"\nclasses = [\"stop sign\", \"star\"]"),
            "plugin = \"shapes\"\nclasses = [\"stop sign\", \"star\"]\nper_class = 0\nlimit = 0\n"
            "test_limit = 0\nroot = \"/\"");
}

TEST_F(Recipes, ReportsInvalidSelections) {
  const auto problems_of_keys = [&](const std::string& keys) {
    return problems_with("plugin = \"shapes\"", "plugin = \"shapes\"\n" + keys);
  };
  EXPECT_EQ(problems_of_keys("image_size = 7"),
            "7:14+1 `image_size` must be between 8 and 512, got 7\n");
  EXPECT_EQ(problems_of_keys("image_size = [32, 32]"),
            "7:14+8 `image_size` must be an integer, got [32, 32]\n");
  EXPECT_EQ(problems_of_keys("per_class = -1"), "7:13+2 `per_class` must be at least 0, got -1\n");
  EXPECT_EQ(problems_of_keys("clases = [0, 1]"),
            "7:1+6 unknown key `clases` in [dataset] | did you mean `classes`?\n");
  EXPECT_EQ(problems_of_keys("classes = 3"),
            "7:11+1 `classes` must be an array of integers, got 3\n");
  EXPECT_EQ(problems_of_keys("classes = [-1, 1]"),
            "7:12+2 `classes.0` must be at least 0, got -1\n");
  EXPECT_EQ(problems_of_keys("classes = [0, \"star\"]"),
            "7:15+6 `classes.1` must be an integer, got \"star\"\n");
  EXPECT_EQ(
      problems_of_keys("classes = [\"star\"]"),
      "7:11+8 `classes` must list at least 2 classes, got 1 | leave it out to use all classes\n");
  EXPECT_EQ(problems_of_keys("classes = [4, 1, 4]"), "7:11+9 `classes` lists 4 twice\n");
}

TEST_F(Recipes, ADatasetsOwnParameterTakesThePlaceOfTheHostsKey) {
  const auto checked =
      check(edited("plugin = \"shapes\"", "plugin = \"drawings\"\nclasses = 4\nimage_size = 4"));
  ASSERT_EQ(problems(checked), "");
  EXPECT_THAT(to_toml(checked.recipes.at(0)),
              HasSubstr("[dataset]\nplugin = \"drawings\"\nper_class = 0\nlimit = 0\n"
                        "test_limit = 0\nclasses = 4\nimage_size = 4\n"));
  EXPECT_EQ(problems_with("plugin = \"shapes\"", "plugin = \"drawings\"\nclasses = [1, 2]"),
            "7:11+6 `classes` must be an integer, got [1, 2]\n");
}

TEST_F(Recipes, AnotherDatasetDropsTheNumberOfClasses) {
  EXPECT_EQ(problems_of(edited("plugin = \"shapes\"", "plugin = \"drawings\"\nclasses = 4"),
                        {"dataset.plugin=shapes"}),
            "7:1+7 warning dropped `classes`: dataset `shapes` has no such parameter\n");
}

TEST_F(Recipes, ChecksADatasetWithoutARecipe) {
  const catalog::PluginEntry& shapes = catalog_.require(catalog::Kind::dataset, "shapes");
  const auto good = check_dataset(shapes, {}, {"root=/usr"}, catalog_);
  ASSERT_EQ(problems(good), "");
  const PluginUse& dataset = good.recipes.at(0).dataset.use;
  EXPECT_EQ(dataset.name(), "shapes");
  EXPECT_EQ(dataset.parameters["root"].value_or(std::string()), "/usr");
  EXPECT_EQ(
      problems(check_dataset(shapes, toml::table{{"root", "nowhere at all"}},
                             {"limit=3", "rooot=/", "x"}, catalog_)),
      "--set x `x` has no `=` | write --set KEY=VALUE, as in --set attack.target=1\n"
      "--set limit=3 unknown key `limit` in dataset `shapes` | known keys: `root`\n"
      "--set rooot=/ unknown key `rooot` in dataset `shapes` | did you mean `root`?\n"
      " environment `root` is \"nowhere at all\", which does not exist | relative paths start "
      "from the folder that the command is run in, " +
          std::filesystem::current_path().string() + "\n");
}

TEST_F(Recipes, ReportsWhatIsMissing) {
  EXPECT_EQ(problems_of(""), R"(`schema` is missing
`name` is missing
[dataset] is missing | write [dataset] with a `plugin`
[attack] is missing | write [attack] with a `plugin` (`none` trains a clean model), or name a model with [model] `file`
)");
  EXPECT_EQ(problems_with(kFirstDefense, "[[defense]]\nmilestones = []\n"),
            "17:1+11 `plugin` is missing in [[defense]]\n");
  EXPECT_EQ(problems_with(kFirstDefense, "[[defense]]\nplugin = \"fine-tuning\"\n"),
            "17:1+11 `epochs` is missing in [[defense]]\n");
  EXPECT_EQ(problems_with("epochs = 2", "scheduler = { plugin = \"cosine\" }"),
            "14:13+21 `rate` is missing in scheduler `cosine`\n");
}

TEST_F(Recipes, ReportsEverythingAtOnceInTheOrderOfTheFile) {
  EXPECT_EQ(problems_of(R"(schema = 2
name = ".."
attack = 3
seed = 1.5
[[dataset]]
[model]
width = 0
[compute]
device = "gpu"
threads = 99999
)"),
            R"(1:10+1 `schema` must be 1, got 2
2:8+4 `name` must be a folder name of at most 200 letters, digits, `.`, `_` and `-` that begins with neither `.` nor `-`, got ".." | the run's folder is named after it
3:10+1 `attack` must be a table, got 3 | write [attack] with a `plugin` (`none` trains a clean model), or name a model with [model] `file`
4:8+3 `seed` must be an integer, got 1.5
5:1+11 `dataset` must be a table, got an array of tables | write [dataset] with a `plugin`
7:9+1 `width` must be between 1 and 1024, got 0
9:10+5 `device` must be "auto", "cpu", "cuda" or "cuda:N", got "gpu"
10:11+5 `threads` must be between 0 and 4096, got 99999
)");
}

TEST_F(Recipes, ReportsUnknownKeys) {
  EXPECT_EQ(problems_with("seed = 7", "sede = 7"),
            "3:1+4 unknown key `sede` | did you mean `seed`?\n");
  EXPECT_EQ(problems_with("alpha = 0.25", "alhpa = 0.1"),
            "11:1+5 unknown key `alhpa` in [attack] | did you mean `alpha`?\n");
  EXPECT_EQ(problems_with("name = \"adam\"", "name = \"adam\", momentum = 1"),
            "15:30+8 unknown key `momentum` in optimizer `adam` | known keys: `name`, `beta1`, "
            "`beta2`, `epsilon`, `weight_decay`\n");
  EXPECT_EQ(problems_with("maximum_1 = 0.2", "heat = 1"),
            "26:45+4 unknown key `heat` in scheduler `super-fine-tuning` | known keys: `plugin`, "
            "`base`, `maximum_1`\n");
  EXPECT_EQ(problems_with("epochs = 2", "epoch = 2"),
            "14:1+5 unknown key `epoch` in [attack.training] | did you mean `epochs`?\n");
}

TEST_F(Recipes, ReportsWrongTypes) {
  EXPECT_EQ(problems_with("seed = 7", "seed = \"x\""),
            "3:8+3 `seed` must be an integer, got \"x\"\n");
  EXPECT_EQ(problems_with("epochs = 2", "epochs = 2.0"),
            "14:10+3 `epochs` must be an integer, got 2.0\n");
  EXPECT_EQ(problems_with("epochs = 2", "scheduler = \"cosine\""),
            "14:13+8 `scheduler` must be a table { plugin = \"...\", ... }, got \"cosine\" | "
            "write scheduler = { plugin = \"cosine\" }\n");
  EXPECT_EQ(problems_with(kFirstDefense,
                          "[[defense]]\nplugin = \"fine-tuning\"\nepochs = 1\nfreeze = 1\n"
                          "milestones = [1, \"a\", -1]\n"),
            "20:10+1 `freeze` must be true or false, got 1\n"
            "21:18+3 `milestones.1` must be a number, got \"a\"\n"
            "21:23+2 `milestones.2` must be at least 0, got -1\n");
  EXPECT_EQ(problems_of(kValidRecipe, {"defense.0.milestones=1"}),
            "--set defense.0.milestones=1 `milestones` must be an array of numbers, got 1\n");
  EXPECT_EQ(problems_with("\"blended\"", "1979-05-27"),
            "9:10+10 `plugin` must be a string, got 1979-05-27\n");
  EXPECT_EQ(problems_of("schema = 1\nname = \"a\"\ndefense = 3\n"
                        "dataset.plugin = \"shapes\"\nattack.plugin = \"badnets\"\n"),
            "3:11+1 `defense` must be an array of tables, got 3 | write [[defense]] once for "
            "each defense\n");
  EXPECT_EQ(
      problems_with("[[defense]]\nname = \"super\"", "[model.width]\n[defence]\n"),
      "21:1+13 `width` must be an integer, got a table\n"
      "22:2+7 unknown key `defence` | did you mean `defense`?\n"
      "31:1+5 no defense is called \"super\" | known rows: \"no defense\", \"fine-tuning\"\n");
}

TEST_F(Recipes, ReportsValuesOutOfRange) {
  EXPECT_EQ(problems_with("seed = 7", "seed = -1"),
            "3:8+2 `seed` must be between 0 and 9007199254740992, got -1\n");
  EXPECT_EQ(problems_with("alpha = 0.25", "alpha = 0"),
            "11:9+1 `alpha` must be greater than 0 and at most 1, got 0\n");
  EXPECT_EQ(problems_with("alpha = 0.25", "alpha = nan"),
            "11:9+3 `alpha` must be finite, got nan\n");
  EXPECT_EQ(problems_with("name = \"adam\"", "momentum = 1"),
            "15:26+1 `momentum` must be at least 0 and less than 1, got 1\n");
  EXPECT_EQ(problems_with("alpha = 0.25", "labels = \"all-to-al\""),
            "11:10+11 `labels` must be one of \"all-to-one\", \"all-to-all\", got \"all-to-al\" "
            "| did you mean \"all-to-all\"?\n");
  EXPECT_EQ(problems_with("seed = 7", "scenario = \"solo\""),
            "3:12+6 `scenario` must be one of \"standalone\", \"transfer\", \"encoder\", got "
            "\"solo\"\n");
}

TEST_F(Recipes, TransferHasADatasetOfThePretraining) {
  const std::vector<std::string> transfer{"scenario=transfer", "expect={}"};
  EXPECT_THAT(problems_of(kValidRecipe, transfer),
              HasSubstr("[pretraining.dataset] is missing | write [pretraining.dataset] with a "
                        "`plugin`\n"));
  auto with = transfer;
  with.push_back("pretraining.dataset.plugin=shapes");
  const CheckedRecipe checked = check(kValidRecipe, with);
  ASSERT_EQ(checked.recipes.size(), 1u);
  EXPECT_THAT(to_toml(checked.recipes[0]),
              HasSubstr("[pretraining.dataset]\nplugin = \"shapes\"\nper_class = 0\nlimit = 0\n"
                        "test_limit = 0\nroot = \"/\"\n\n[pretraining.dataset.augmentation]\n"
                        "crop_padding = 4\nhorizontal_flip = true\n\n[dataset]\n"));
  with.push_back("pretraining.epochs=3");
  EXPECT_THAT(problems_of(kValidRecipe, with), HasSubstr("epochs"));
  EXPECT_THAT(problems_of(kValidRecipe, {"pretraining.dataset.plugin=shapes"}),
              HasSubstr("`pretraining`"))
      << "standalone has no pretraining";
}

TEST_F(Recipes, DefaultCropPaddingFollowsTheImageSize) {
  const auto padding = [&](const std::vector<std::string>& overrides) {
    const CheckedRecipe checked = check(kValidRecipe, overrides);
    return checked.recipes.at(0)
        .table["dataset"]["augmentation"]["crop_padding"]
        .value<std::int64_t>();
  };
  EXPECT_EQ(padding({}), 4);
  EXPECT_EQ(padding({"dataset.image_size=96"}), 12);
  EXPECT_EQ(padding({"dataset.image_size=20"}), 3) << "2.5 pixels are rounded away from zero";
  EXPECT_EQ(padding({"dataset.image_size=96", "dataset.augmentation.crop_padding=5"}), 5);
  EXPECT_EQ(padding({"dataset.plugin=drawings", "dataset.image_size=0"}), std::nullopt)
      << "the size is known when the images are read";
}

TEST_F(Recipes, DefaultWidthIsThatOfThePublication) {
  const auto width = [&](const std::string& network) {
    const CheckedRecipe checked = check(kValidRecipe, {"model.architecture=" + network});
    return checked.recipes.at(0).table["model"]["width"].value<std::int64_t>();
  };
  EXPECT_EQ(width("resnet56"), 16) << "He et al., section 4.2";
  EXPECT_EQ(width("resnet18"), 64);
}

TEST_F(Recipes, AdaptingAModelGivesNoPoisonedTrainingSetAndNoDrop) {
  for (const std::string scenario : {"transfer", "encoder"})
    EXPECT_THAT(
        problems_of(edited(kFirstDefense, "[[defense]]\nplugin = \"filter\"\n"),
                    {"scenario=" + scenario, "pretraining.dataset.plugin=shapes"}),
        AllOf(HasSubstr("defense `filter` needs the poisoned training set, which is not "
                        "available to whoever adapts a model"),
              HasSubstr("`clean_accuracy_drop` does not exist in the scenario \"" + scenario +
                        "\": \"no defense\" is not measured on the same dataset")));
}

TEST_F(Recipes, AnEncoderHasNoMetricsToExpect) {
  EXPECT_THAT(problems_of(kValidRecipe, {"scenario=encoder", "pretraining.dataset.plugin=shapes"}),
              HasSubstr("\"no defense\" is an encoder, which has no classes to measure"));
}

TEST_F(Recipes, ReportsPluginsThatCannotBeUsed) {
  EXPECT_EQ(problems_with("\"blended\"", "\"blend\""),
            "9:10+7 there is no attack `blend` | did you mean `blended`?\n");
  EXPECT_EQ(problems_with("\"blended\"", "\"zzzzzz\""),
            "9:10+8 there is no attack `zzzzzz` | known attacks: `badnets`, `blended`\n");
  EXPECT_EQ(
      problems_with("\"blended\"", "\"cosine\""),
      "9:10+8 `cosine` is a scheduler, not an attack | known attacks: `badnets`, `blended`\n");
  EXPECT_EQ(
      problems_with("\"blended\"", "\"wanet\""),
      "9:10+7 attack `wanet` cannot be used: /plugins/wanet.so: built for ABI 0.0, this host is "
      "0.1 | build it again\n");
}

TEST_F(Recipes, ReportsAMissingDefaultPluginAtTheTableThatNeedsIt) {
  catalog_ =
      catalog::Catalog({usable(header("shapes", "dataset")), usable(header("badnets", "attack"))});
  EXPECT_EQ(problems_of("schema = 1\nname = \"a\"\ndataset.plugin = \"shapes\"\n[attack]\n"
                        "plugin = \"badnets\"\n"),
            "4:1+8 there is no scheduler `cosine` | no schedulers were found; --plugin-path names "
            "more folders to search\n");
}

TEST_F(Recipes, MissingFilesAreEnvironmentErrors) {
  const auto relative = check(edited("alpha = 0.25", "pattern = \"no/such.png\""));
  EXPECT_EQ(problems(relative),
            "11:11+13 environment `pattern` is \"no/such.png\", which does not exist | relative "
            "paths start from the folder that the command is run in, " +
                std::filesystem::current_path().string() + '\n');
  EXPECT_TRUE(relative.has_errors());
  EXPECT_TRUE(relative.recipes.empty());
}

TEST_F(Recipes, ModelFileMustBeThere) {
  const std::string missing = (folder_ / "none.safetensors").string();
  EXPECT_THAT(problems_of(kValidRecipe, {"model.file=" + missing}),
              HasSubstr("environment `file` is \"" + missing + "\", which does not exist"));
  EXPECT_EQ(problems_of(kValidRecipe, {"model.file=" + file_}), "");
}

TEST_F(Recipes, AnAttackFileGoesWithItsModel) {
  EXPECT_THAT(problems_of(kValidRecipe, {"attack.file=" + file_}),
              HasSubstr("`attack.file` is given, but `model.file` is not"));
  EXPECT_EQ(problems_of(kValidRecipe, {"attack.file=" + file_, "model.file=" + file_}), "");
}

TEST_F(Recipes, PoisonRatioMustBePositive) {
  EXPECT_THAT(problems_of(kValidRecipe, {"attack.poison_ratio=0"}),
              HasSubstr("`poison_ratio` must be greater than 0"));
}

TEST_F(Recipes, ReportsImpossibleDefenseData) {
  EXPECT_EQ(problems_with("clean_images = 500", "clean_images = 0\nclean_fraction = 0"),
            "25:16+1 `clean_images` and `clean_fraction` are both given | leave out one of them\n"
            "25:16+1 `clean_images` must be at least 1, got 0\n"
            "26:18+1 `clean_fraction` must be greater than 0 and at most 1, got 0\n");
  EXPECT_EQ(
      problems_with(kFirstDefense, "[[defense]]\nplugin = \"filter\"\nclean_fraction = 0.1\n"),
      "19:1+14 `clean_fraction` is given, but defense `filter` takes no clean data | leave "
      "it out\n");
}

TEST_F(Recipes, ReportsAModelThatLacksWhatADefenseNeeds) {
  const std::string distil = "[[defense]]\nplugin = \"distil\"\n";
  EXPECT_EQ(problems_with(kFirstDefense, distil), "");
  EXPECT_THAT(problems_of(edited(kFirstDefense, distil), {"model.architecture=mlp"}),
              HasSubstr("defense `distil` needs the feature maps of stages, which a model of "
                        "architecture \"mlp\" does not offer | choose another defense, or another "
                        "[model] architecture\n"));
}

TEST_F(Recipes, RefusesAPluginThatNeedsAGpuOnTheCpu) {
  const std::string fast = edited(kFirstDefense, "[[defense]]\nplugin = \"fast\"\n");
  EXPECT_EQ(problems_of(fast, {"expect={}"}), "");
  EXPECT_EQ(problems_of(fast, {"expect={}", "compute.device=cuda"}), "");
  EXPECT_EQ(
      problems_of(fast, {"expect={}", "compute.device=cpu"}),
      "18:10+6 defense `fast` needs a GPU, but `device` is \"cpu\" | choose another `device` in "
      "[compute], or another plugin\n");
}

TEST_F(Recipes, ReportsImpossibleDefenseNames) {
  const std::vector<std::string> no_rows{"expect={}"};
  EXPECT_EQ(problems_of(edited("\"super\"", "\"fine-tuning\""), no_rows),
            "22:8+13 two defenses are called \"fine-tuning\" | give one of them another `name`\n");
  EXPECT_EQ(problems_of(edited("name = \"super\"", ""), no_rows),
            "23:10+13 two defenses are called \"fine-tuning\" | give one of them another `name`\n");
  EXPECT_EQ(problems_of(edited("\"super\"", "\"no defense\""), no_rows),
            "22:8+12 a defense cannot be called \"no defense\" | that is the row of the backdoored "
            "model itself; choose another `name`\n");
  EXPECT_EQ(
      problems_of(edited("\"super\"", "\"a\\tb\""), no_rows),
      "22:8+6 `name` must not contain a control character: character 2 is U+0009 | it names a "
      "row of the tables, and files\n");
}

TEST_F(Recipes, ReportsImpossibleExpectations) {
  EXPECT_EQ(problems_with("[expect]\n", R"([expect]
supper = 3
super.x = 3
super.attack_success_rate = { minimum = 0.5, maximum = 0.1 }
super.robust_accuracy = {}
super.clean_accuracy = { minimum = -0.5, most = 1 }
fine-tuning = {}
)"),
            R"(29:1+6 no defense is called "supper" | did you mean "super"?
29:10+1 `supper` must be a table, got 3 | write "supper".METRIC = { minimum = ..., maximum = ... }
30:7+1 there is no metric `x` | metrics: `clean_accuracy`, `attack_success_rate`, `attack_success_rate_all`, `robust_accuracy`, `clean_accuracy_drop`, `true_positive_rate`, `false_positive_rate`, `auroc`, `tpr_at_1_fpr`, `tpr_at_5_fpr`; what its plugin records is `extra.METRIC`
31:41+3 `minimum` must not be greater than `maximum` (0.1), got 0.5
32:25+2 `robust_accuracy` has neither `minimum` nor `maximum` | give one of them, or both
33:36+4 `minimum` must be between 0 and 1, got -0.5
33:42+4 unknown key `most` in `clean_accuracy` | known keys: `minimum`, `maximum`
34:15+2 "fine-tuning" has no metric | metrics: `clean_accuracy`, `attack_success_rate`, `attack_success_rate_all`, `robust_accuracy`, `clean_accuracy_drop`, `true_positive_rate`, `false_positive_rate`, `auroc`, `tpr_at_1_fpr`, `tpr_at_5_fpr`; what its plugin records is `extra.METRIC`
)");
}

TEST_F(Recipes, RefusesNesterovWithoutMomentum) {
  EXPECT_EQ(problems_with("name = \"adam\"", "nesterov = true, momentum = 0"),
            "15:13+51 `nesterov` needs momentum, but `momentum` is 0.0 | set `momentum`, or leave "
            "out `nesterov`\n");
}

TEST_F(Recipes, ReportsSyntaxErrorsWithTheirPlace) {
  EXPECT_THAT(problems_with("seed = 7", "seed = = 2"), StartsWith("3:8+1 not valid TOML: "));
  EXPECT_THAT(problems_with("seed = 7", "seed = 1\nseed = 2"), StartsWith("4:8+1 not valid TOML"));
}

TEST_F(Recipes, ThrowsOnlyIfThereIsNothingToCheck) {
  for (const auto& unreadable : {folder_ / "none.toml", folder_}) {
    try {
      (void)check_recipe(unreadable.string(), {}, catalog_);
      ADD_FAILURE() << "no error";
    } catch (const base::HostError& error) {
      EXPECT_EQ(error.code(), base::ExitCode::usage);
      EXPECT_THAT(error.what(), StartsWith("cannot read recipe " + unreadable.string() + ": "));
    }
  }
}

TEST_F(Recipes, RefusesNestingThatCouldExhaustTheStack) {
  std::string key = "a";
  for (int i = 0; i < 100000; ++i) key += ".a";
  EXPECT_THROW((void)check(key + " = 1"), base::HostError);
  EXPECT_THROW((void)check(kValidRecipe, {key + "=1"}), base::HostError);
  EXPECT_THAT(problems_of(key.substr(0, 3999) + " = 1"), HasSubstr("unknown key `a`"));
  EXPECT_NE(problems_of("matrix." + key.substr(0, 3999 - 7) + " = 1"), "");
}

// --set

TEST_F(Recipes, OverridesReplaceAndAddValues) {
  const auto checked = check(
      kValidRecipe, {"defense.0.epochs=1", "model.architecture=small-cnn", "attack.target=3",
                     "expect.\"no defense\".attack_success_rate.maximum=1", "name=v1.2", "seed=1",
                     "seed=2", "defense.1.milestones=[1, 2]", "defense.1.milestones.0=0.125"});
  ASSERT_EQ(problems(checked), "");
  const std::string text = to_toml(checked.recipes.at(0));
  for (const char* line :
       {"name = \"v1.2\"", "seed = 2", "architecture = \"small-cnn\"", "target = 3", "epochs = 1",
        "\"no defense\".attack_success_rate = { minimum = 0.9, maximum = 1.0 }",
        "milestones = [0.125, 2.0]"})
    EXPECT_THAT(text, HasSubstr(std::string("\n") + line + '\n'));
}

TEST_F(Recipes, OverridesThatLeadNowhereAreReported) {
  const auto problem = [&](const std::string& text) { return problems_of(kValidRecipe, {text}); };
  EXPECT_EQ(problem("defense.2.epochs=1"),
            "--set defense.2.epochs=1 `defense` has no element 2; it has 2 (0 and 1)\n");
  EXPECT_THAT(problem("defense.x=1"),
              HasSubstr(" `defense` has no element x; it has 2 (0 and 1)\n"));
  EXPECT_THAT(problem("defense.-1=1"), HasSubstr(" `defense` has no element -1"));
  EXPECT_EQ(problem("seed.x=1"), "--set seed.x=1 `seed` has no key `x`: it is 7, not a table\n");
  EXPECT_EQ(problem("seed"),
            "--set seed `seed` has no `=` | write --set KEY=VALUE, as in --set attack.target=1\n");
  for (const char* text : {"=3", "a b=3", "a..b=1", "a\nb=1", "[a]\nb=1", "#=1"})
    EXPECT_THAT(problem(text), HasSubstr("` is not a valid key | keys are dotted")) << text;
  EXPECT_EQ(problem("name=\xff"), "--set name=\xff the value of `name` is not valid UTF-8\n");
  EXPECT_EQ(problem("model.widht=2"),
            "--set model.widht=2 unknown key `widht` in [model] | did you mean `width`?\n");
  EXPECT_EQ(problem("attack.poison_ratio=2"),
            "--set attack.poison_ratio=2 `poison_ratio` must be greater than 0 and at most 1, got "
            "2\n");
  EXPECT_EQ(problem("attack.target.x=1"),
            "--set attack.target.x=1 `target` must be an integer, got a table\n");
  EXPECT_THAT(problems_of("", {"defense.0.epochs=1"}),
              StartsWith("--set defense.0.epochs=1 `defense` has no element 0; it is empty\n"));
}

TEST_F(Recipes, ANewPluginDropsKeysThatItDoesNotKnow) {
  auto checked = check(kValidRecipe, {"defense.1.scheduler.plugin=constant"});
  EXPECT_EQ(problems(checked),
            "26:45+9 warning dropped `maximum_1`: scheduler `constant` has no such parameter\n");
  EXPECT_FALSE(checked.has_errors());
  EXPECT_THAT(to_toml(checked.recipes.at(0)),
              HasSubstr("scheduler = { plugin = \"constant\", rate = 0.01 }"));

  checked = check(kValidRecipe, {"defense.1.plugin=filter"});
  EXPECT_EQ(problems(checked),
            "24:1+6 warning dropped `epochs`: defense `filter` has no such parameter\n"
            "25:1+12 warning dropped `clean_images`: defense `filter` has no such parameter\n"
            "26:1+9 warning dropped `scheduler`: defense `filter` has no such parameter\n");
  EXPECT_EQ(checked.recipes.size(), 1U);
}

TEST_F(Recipes, ANewPluginKeepsKeysThatItKnowsAndThoseThatWereSet) {
  const auto kept = check(kValidRecipe, {"attack.training.scheduler={plugin='cosine', rate=0.5}",
                                         "attack.training.scheduler.plugin=constant"});
  ASSERT_EQ(problems(kept), "");
  EXPECT_THAT(to_toml(kept.recipes.at(0)),
              HasSubstr("scheduler = { plugin = \"constant\", rate = 0.5 }"));
  EXPECT_THAT(problems_of(kValidRecipe, {"attack.plugin=badnets", "attack.alpha=0.5"}),
              HasSubstr("unknown key `alpha` in [attack]"));
  EXPECT_THAT(problems_of(edited("alpha = 0.25", "beta = 1"), {"attack.plugin=blended"}),
              HasSubstr("unknown key `beta` in [attack]"))
      << "the plugin is the same, so nothing was swapped";
}

// [matrix]

TEST_F(Recipes, MatrixExpandsToTheProductInTheOrderOfTheFile) {
  const auto checked = check(std::string(kValidRecipe) + R"([matrix]
seed = [5, 6]
"attack.plugin" = ["badnets", "blended"]
defense.0.epochs = [1]
)");
  EXPECT_EQ(problems(checked),
            "11:1+5 warning dropped `alpha`: attack `badnets` has no such parameter\n");
  std::string runs;
  for (const auto& recipe : checked.recipes) {
    const auto& table = recipe.table;
    EXPECT_FALSE(table.contains("matrix"));
    EXPECT_EQ(table["defense"][0]["epochs"].value_or(0), 1);
    runs +=
        std::to_string(table["seed"].value_or(0)) + table["attack"]["plugin"].value_or("") + ' ';
    const std::string text = to_toml(recipe);
    EXPECT_EQ(to_toml(check(text).recipes.at(0)), text);
  }
  EXPECT_EQ(runs, "5badnets 5blended 6badnets 6blended ");
}

TEST_F(Recipes, MatrixProblemsAreReportedOnce) {
  EXPECT_EQ(problems_of(edited("alpha = 0.25", "alhpa = 1") + R"([matrix]
seed = [1, 2, -3]
target = 3
"a b" = [1]
name = []
matrix = [1]
defense.7.epochs = [1]
)"),
            R"(11:1+5 unknown key `alhpa` in [attack] | did you mean `alpha`?
32:15+2 `seed` must be between 0 and 9007199254740992, got -3
33:10+1 `target` in [matrix] must be an array of the values to run, got 3
34:1+5 `a b` in [matrix] is not a recipe's key | keys are dotted, as in "attack.target" or "defense.0.epochs"
35:8+2 `name` in [matrix] must be an array of the values to run, got []
36:1+6 `matrix` in [matrix] is not a recipe's key | keys are dotted, as in "attack.target" or "defense.0.epochs"
37:11+6 `defense` has no element 7; it has 2 (0 and 1)
)");
  EXPECT_EQ(problems_with("seed = 7", "matrix = 7"),
            "3:10+1 `matrix` must be a table, got 7 | write [matrix]\n");
}

TEST_F(Recipes, MatrixHasALimit) {
  std::string hundred = "[0";
  for (int i = 1; i < 101; ++i) hundred += ", " + std::to_string(i);
  hundred += ']';
  EXPECT_EQ(
      problems_of(std::string(kValidRecipe) + "[matrix]\nseed = " + hundred +
                  "\nattack.target = " + hundred + '\n'),
      "33:8+6 [matrix] expands to more than 10,000 recipes | split it into several recipes\n");
}

// Diagnostics and fragments

TEST(Render, ShowsExcerptsWithCarets) {
  Diagnostic key;
  key.message = "unknown key `widht` in [model]";
  key.hint = "did you mean `width`?";
  key.file = "recipes/mine.toml";
  key.line = 2;
  key.column = 1;
  key.length = 5;
  Diagnostic value = key;
  value.severity = Diagnostic::Severity::warning;
  value.message = "second";
  value.hint.clear();
  value.line = 10;
  value.column = 7;
  value.length = 99;
  Diagnostic override;
  override.message = "third";
  override.file = "--set a=1";
  EXPECT_EQ(render({key, value, override}, "[model]\nwidht = 16\r\n\n\n\n\n\n\n\n\tä = \"x\x1b\"\n",
                   false),
            R"(error: unknown key `widht` in [model]
  --> recipes/mine.toml:2:1
   |
 2 | widht = 16
   | ^^^^^
hint: did you mean `width`?

warning: second
  --> recipes/mine.toml:10:7
   |
10 | )"
            "\tä = \"x?\"\n   | \t     ^^^\n"
            R"(
error: third
  --> --set a=1
)");
}

TEST(Render, PointsPastTheLastLine) {
  Diagnostic end;
  end.message = "m";
  end.file = "f";
  end.line = 3;
  end.column = 4;
  EXPECT_EQ(render({end}, "a", false), "error: m\n  --> f:3:4\n   |\n 3 | \n   | ^\n");
}

TEST(Render, UsesColorsOnlyWhenAsked) {
  Diagnostic diagnostic;
  diagnostic.message = "m";
  diagnostic.hint = "h";
  diagnostic.file = "f";
  diagnostic.line = 1;
  diagnostic.column = 1;
  EXPECT_EQ(render({diagnostic}, "a", true),
            "\033[1;31merror\033[0m: m\n  \033[34m-->\033[0m f:1:1\n  \033[34m |\033[0m\n"
            " \033[34m1 |\033[0m a\n  \033[34m |\033[0m \033[1;31m^\033[0m\n"
            "\033[36mhint\033[0m: h\n");
}

TEST(Fragment, ShowsDefaultsWithTheirHelp) {
  EXPECT_EQ(recipe_fragment(test_catalog().find(catalog::Kind::attack, "badnets")->manifest),
            R"([attack]
plugin = "badnets"
patch_size = 3            # pixels: Side of the square patch
corner = "bottom-right"   # bottom-right | top-left
)");
  EXPECT_EQ(recipe_fragment(test_catalog().find(catalog::Kind::defense, "fine-tuning")->manifest),
            R"([[defense]]
plugin = "fine-tuning"
clean_fraction = 0.05     # Share of the training set that the defense is given
# epochs = <integer>      # required
scheduler = { plugin = "constant", rate = 0.02 }
optimizer = { name = "sgd" }
milestones = [0.5, 1.0]   # Where it changes
freeze = false
)");
  EXPECT_EQ(recipe_fragment(test_catalog().find(catalog::Kind::dataset, "shapes")->manifest),
            "[dataset]\nplugin = \"shapes\"\nroot = \"/\"\n");
  EXPECT_EQ(recipe_fragment(test_catalog().find(catalog::Kind::attack, "blended")->manifest),
            R"([attack]
plugin = "blended"
alpha = 0.2
# pattern = <path>   # optional
)");
}

TEST(Fragment, PutsASchedulerOnOneLine) {
  EXPECT_EQ(recipe_fragment(test_catalog().find(catalog::Kind::scheduler, "cosine")->manifest),
            "scheduler = { plugin = \"cosine\", rate = <float>, final_rate = 0.0 }\n");
}

}  // namespace
}  // namespace backstop::recipe
