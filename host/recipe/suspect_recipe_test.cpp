// Recipes of a model from elsewhere: without an attack, with detectors.
#include <gmock/gmock.h>

#include "host/recipe/recipe_fixture.hpp"

namespace backstop::recipe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class SuspectRecipe : public RecipeTest {
 protected:
  SuspectRecipe() {
    std::vector<catalog::PluginEntry> entries(catalog_.entries().begin(), catalog_.entries().end());
    entries.push_back(usable(header("judge", "defense") + R"(
needs = ["clean-data"]
detects = ["model"]
repairs = false
[parameters.epochs]
type = "integer"
default = 8
)"));
    entries.push_back(usable(header("sieve", "defense") + R"(
detects = ["inputs"]
repairs = false
)"));
    catalog_ = catalog::Catalog(entries);
    std::ofstream(folder_ / "model.pt") << "anything";
    suspect_ = R"(schema = 1
name = "suspect"
[dataset]
plugin = "shapes"
[model]
file = ")" + (folder_ / "model.pt").string() +
               "\"\n";
  }

  std::string suspect_;
};

TEST_F(SuspectRecipe, NeedsNoAttackAndNoArchitecture) {
  const CheckedRecipe checked = check(suspect_ + R"(
[[detector]]
plugin = "judge"
clean_images = 50
[[defense]]
plugin = "fine-tuning"
epochs = 1
[expect]
judge.suspects = ["circle"]
judge.score = { maximum = 2 }
judge.extra.anomaly_index = { maximum = 4 }
fine-tuning.clean_accuracy = { minimum = 0.5 }
)");
  EXPECT_EQ(problems(checked), "");
  ASSERT_EQ(checked.recipes.size(), 1U);
  const Recipe& recipe = checked.recipes[0];
  EXPECT_FALSE(recipe.attack.has_value());
  EXPECT_FALSE(recipe.model.architecture.has_value());
  EXPECT_FALSE(recipe.model.width.has_value());
  ASSERT_EQ(recipe.detectors.size(), 1U);
  EXPECT_EQ(recipe.detectors[0].name, "judge");
  EXPECT_EQ(recipe.detectors[0].clean_images, 50);
  EXPECT_EQ(recipe.expectations[3].classes, std::vector<std::string>{"circle"});
  // What is written gives the same recipe.
  const CheckedRecipe again = check(to_toml(recipe));
  EXPECT_EQ(problems(again), "");
  EXPECT_EQ(to_toml(again.recipes.at(0)), to_toml(recipe));
}

TEST_F(SuspectRecipe, WithoutAFileAnAttackIsNeeded) {
  EXPECT_EQ(
      problems_of("schema = 1\nname = \"x\"\n[dataset]\nplugin = \"shapes\"\n"),
      "[attack] is missing | write [attack] with a `plugin` (`none` trains a clean model), or "
      "name a model with [model] `file`\n");
}

TEST_F(SuspectRecipe, NothingIsExpectedOfAnUnknownTrigger) {
  EXPECT_THAT(problems_of(suspect_ + "[expect]\n\"no defense\".attack_success_rate = { maximum = "
                                     "0.1 }\n"),
              HasSubstr("there is no [attack], and nobody knows the trigger"));
}

TEST_F(SuspectRecipe, DetectorsAndDefensesAreToldApart) {
  EXPECT_THAT(problems_of(suspect_ + "[[defense]]\nplugin = \"judge\"\n"),
              HasSubstr("`judge` only detects backdoors | name it in [[detector]]"));
  EXPECT_THAT(problems_of(suspect_ + "[[detector]]\nplugin = \"fine-tuning\"\nepochs = 1\n"),
              HasSubstr("defense `fine-tuning` detects nothing"));
  EXPECT_THAT(problems_of(suspect_ + "[[detector]]\nplugin = \"sieve\"\n"),
              HasSubstr("`sieve` scores images, but without an [attack] nobody knows the trigger"));
  EXPECT_THAT(problems_of(suspect_ + "[[detector]]\nplugin = \"judge\"\n[expect]\njudge.auroc = "
                                     "{ minimum = 1 }\n"),
              HasSubstr("there is no metric `auroc` of a detector"));
  EXPECT_THAT(problems_of(suspect_ + "[[detector]]\nplugin = \"judge\"\n[[defense]]\nname = "
                                     "\"judge\"\nplugin = \"fine-tuning\"\nepochs = 1\n"),
              HasSubstr("are called \"judge\""));
  EXPECT_THAT(problems_of(suspect_ + "[[detector]]\nplugin = \"judge\"\n[expect]\njudge.accuracy = "
                                     "{ minimum = 1 }\n"),
              HasSubstr("there is no metric `accuracy` of a detector"));
  EXPECT_THAT(problems_of(suspect_ + "[[defense]]\nplugin = \"filter\"\n"),
              HasSubstr("which nobody has for a model from elsewhere"));
}

TEST_F(SuspectRecipe, NormalizationByNameOrInNumbers) {
  const CheckedRecipe named = check(suspect_, {"model.normalization=imagenet"});
  ASSERT_EQ(problems(named), "");
  EXPECT_EQ(named.recipes[0].model.normalization->mean[0], 0.485);
  EXPECT_THAT(problems_of(suspect_, {"model.normalization=imagenet", "model.mean=[0.5]",
                                     "model.deviation=[0.5]"}),
              HasSubstr("`mean` and `normalization` are both given"));
  EXPECT_THAT(problems_of(suspect_, {"model.normalization=imagnet"}),
              HasSubstr("did you mean \"imagenet\"?"));
  EXPECT_THAT(problems_of(kValidRecipe, {"model.normalization=half"}),
              HasSubstr("`normalization` is given, but `file` is not"));
}

TEST_F(SuspectRecipe, AModelFromAFileCanBeAdaptedWithoutThePretrainingData) {
  const CheckedRecipe checked = check("scenario = \"transfer\"\n" + suspect_);
  EXPECT_EQ(problems(checked), "");
  EXPECT_FALSE(checked.recipes.at(0).pretraining.has_value());
  EXPECT_THAT(problems_of("scenario = \"encoder\"\n" + suspect_), Not(::testing::IsEmpty()));
}

}  // namespace
}  // namespace backstop::recipe
