// Recipes come from other people and are edited by hand: whatever they hold, checking them ends
// with a verdict.
#include <random>

#include "host/base/error.hpp"
#include "host/recipe/recipe_fixture.hpp"

namespace backstop::recipe {
namespace {

constexpr std::string_view kPieces[] = {"\n",
                                        "=",
                                        ".",
                                        "\"",
                                        "'",
                                        "[",
                                        "]",
                                        "[[",
                                        "]]",
                                        "{",
                                        "}",
                                        ",",
                                        "#",
                                        "\t",
                                        "\r",
                                        "\x01",
                                        "\xff",
                                        "\xc3\xa9",
                                        "-",
                                        "0",
                                        "1e999",
                                        "nan",
                                        "true",
                                        "1979-05-27",
                                        "07:32:00",
                                        "[]",
                                        "{}",
                                        "{a={}}",
                                        "\"\"\"",
                                        "99999999999999999999",
                                        "plugin",
                                        "name",
                                        "scheduler = {}",
                                        "[matrix]\nseed = [1, 2]\n",
                                        "[matrix]\n\"defense.0\" = [{}, 3]\n",
                                        "[matrix]\n\"attack.plugin\" = [\"badnets\", 3]\n",
                                        "[expect]",
                                        "[model]\nfile = \"\"\n",
                                        "[attack.training.scheduler]\n",
                                        "\"no defense\""};

constexpr std::string_view kOverrides[] = {"defense.0.plugin=filter",
                                           "defense.1=3",
                                           "defense=[{}]",
                                           "attack.training.scheduler.plugin=x",
                                           "attack={}",
                                           "matrix.seed=[1,2]",
                                           "expect.super=1",
                                           "a.b.c={",
                                           "defense.0.scheduler.rate=nan"};

class Mutations : public RecipeTest {
 protected:
  std::size_t below(std::size_t limit) { return std::size_t{random_()} % limit; }

  std::string mutate(std::string text) {
    for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
      const std::size_t at = below(text.size() + 1);
      const std::size_t length = std::min(below(12), text.size() - at);
      switch (below(4)) {
        case 0:
          text.erase(at, length);
          break;
        case 1:
          text.insert(at, kPieces[below(std::size(kPieces))]);
          break;
        case 2:
          text.replace(at, length, kPieces[below(std::size(kPieces))]);
          break;
        default:
          text.insert(at, std::string(text, below(text.size() + 1), below(40)));
      }
    }
    return text;
  }

  /// Replaces only a value, so that the text is more often still TOML.
  std::string swap_value(std::string text) {
    const std::size_t equals = text.find("= ", below(text.size()));
    if (equals == std::string::npos) return text;
    const std::size_t end = text.find('\n', equals);
    return text.replace(equals + 2, end - equals - 2, kPieces[below(std::size(kPieces))]);
  }

  /// Replaces digits by digits, which mostly gives another valid recipe.
  std::string change_digits(std::string text) {
    for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
      const std::size_t at = text.find_first_of("0123456789", below(text.size()));
      if (at != std::string::npos) text[at] = static_cast<char>('0' + below(10));
    }
    return text;
  }

  std::mt19937 random_{20240229};
};

TEST_F(Mutations, EndWithAVerdict) {
  int accepted = 0;
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::string valid(kValidRecipe);
    const std::string text = i % 4 == 0   ? change_digits(valid)
                             : i % 4 == 1 ? swap_value(swap_value(valid))
                                          : mutate(valid);
    std::vector<std::string> overrides;
    if (i % 3 == 0) overrides.emplace_back(kOverrides[below(std::size(kOverrides))]);
    if (i % 9 == 0) overrides.push_back(mutate("defense.1.scheduler.maximum_1=0.5"));
    SCOPED_TRACE(text);
    try {
      const auto checked = check(text, overrides);
      ASSERT_NE(checked.has_errors(), !checked.recipes.empty());
      (checked.has_errors() ? refused : accepted) += 1;
      const std::string rendered = render(checked.diagnostics, checked.source, i % 2 == 0);
      ASSERT_EQ(rendered.empty(), checked.diagnostics.empty());
      for (const auto& recipe : checked.recipes) {
        const std::string resolved = to_toml(recipe);
        const auto again = check(resolved);
        ASSERT_EQ(problems(again), "") << resolved;
        ASSERT_EQ(to_toml(again.recipes.at(0)), resolved);
      }
    } catch (const base::HostError&) {
      ++refused;
    }
  }
  EXPECT_GT(accepted, 50);
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace backstop::recipe
