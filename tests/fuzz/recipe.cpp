// Any text for a recipe, with overrides: lines after one that is `%` are `--set`s. Checking ends
// with recipes or with errors, and what it resolves is read again as it was written.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "host/base/error.hpp"
#include "host/recipe/recipe_fixture.hpp"

namespace {

using namespace backstop;

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

recipe::CheckedRecipe check(std::string_view text, const std::vector<std::string>& overrides) {
  static const catalog::Catalog catalog = recipe::test_catalog();
  return recipe::check_recipe_text(std::string(text), "recipe.toml", overrides, catalog);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const std::size_t end = std::min(all.find("\n%\n"), size);
  const auto overrides = lines_of(end == size ? std::string_view{} : all.substr(end + 3));
  try {
    const recipe::CheckedRecipe checked = check(all.substr(0, end), overrides);
    recipe::render(checked.diagnostics, checked.source, true);
    if (checked.has_errors() != checked.recipes.empty()) __builtin_trap();
    for (const recipe::Recipe& recipe : checked.recipes) {
      const std::string text = recipe::to_toml(recipe);
      const recipe::CheckedRecipe again = check(text, {});
      if (again.recipes.size() != 1 || recipe::to_toml(again.recipes[0]) != text) __builtin_trap();
    }
  } catch (const base::HostError& e) {
    if (e.code() != base::ExitCode::usage) __builtin_trap();
  }
  return 0;
}
