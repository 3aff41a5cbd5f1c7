// [audit] in a recipe.
#include <gmock/gmock.h>

#include "host/recipe/recipe_fixture.hpp"

namespace backstop::recipe {
namespace {

using ::testing::HasSubstr;

class AuditRecipe : public RecipeTest {
 protected:
  static std::string with(const std::string& tables) {
    return std::string(kValidRecipe) + '\n' + tables;
  }
};

TEST_F(AuditRecipe, HasThePublishedSettings) {
  EXPECT_FALSE(check(kValidRecipe).recipes.at(0).audit.has_value());
  const CheckedRecipe checked = check(with("[audit]\n"));
  EXPECT_EQ(problems(checked), "");
  const AuditUse& audit = *checked.recipes.at(0).audit;
  EXPECT_TRUE(audit.controls);
  EXPECT_EQ(audit.retuning->clean_fraction, 0.02);
  EXPECT_EQ(audit.retuning->poisoned_images, 5);
  EXPECT_EQ(audit.retuning->epochs, 5);
  EXPECT_EQ(audit.retuning->batch_size, 128);
  EXPECT_EQ(audit.retuning->rate, 0.01);
  EXPECT_EQ(audit.path->points, 11);
  EXPECT_EQ(audit.reactivation->norm, 3);
  EXPECT_EQ(audit.reactivation->images, 1000);
  EXPECT_EQ(audit.sequela->iterations, 7);
}

TEST_F(AuditRecipe, IsWrittenSoThatItReadsTheSame) {
  const CheckedRecipe checked = check(with(R"([audit]
controls = false
[audit.path]
points = 3
[audit.sequela]
enabled = false
)"));
  ASSERT_EQ(problems(checked), "");
  const std::string text = to_toml(checked.recipes[0]);
  EXPECT_THAT(text, HasSubstr("\n[audit]\ncontrols = false\n\n[audit.retuning]\nenabled = true\n"));
  const CheckedRecipe again = check(text);
  ASSERT_EQ(problems(again), "");
  EXPECT_EQ(to_toml(again.recipes[0]), text);
  EXPECT_EQ(again.recipes[0].audit->path->points, 3);
  EXPECT_FALSE(again.recipes[0].audit->sequela.has_value());
  EXPECT_FALSE(again.recipes[0].audit->controls);
}

TEST_F(AuditRecipe, RefusesWhatCannotBeAudited) {
  EXPECT_THAT(problems_of(with("[audit]\n"), {"scenario=encoder"}),
              HasSubstr("[audit] is given, but the scenario is \"encoder\""));
  EXPECT_THAT(problems_of(with("[audit]\nretuning.enabled = false\npath.enabled = false\n"
                               "reactivation.enabled = false\nsequela.enabled = false\n")),
              HasSubstr("all of its parts are switched off"));
  EXPECT_THAT(problems_of(with("[audit]\npth = 3\n")), HasSubstr("did you mean `path`?"));
  EXPECT_THAT(problems_of(with("[audit]\npath = 3\n")), HasSubstr("`path` must be a table"));
  EXPECT_THAT(problems_of("audit = 3\n" + std::string(kValidRecipe)),
              HasSubstr("`audit` must be a table, got 3"));
}

TEST_F(AuditRecipe, IsNeededToExpectWhatItMeasures) {
  const std::string line = "super.path_reach = { maximum = 0.5 }\n";
  EXPECT_THAT(problems_of(with(line)), HasSubstr("`path_reach` is given, but there is no [audit]"));
  EXPECT_EQ(problems_of(with(line + "[audit]\n")), "");
}

}  // namespace
}  // namespace backstop::recipe
