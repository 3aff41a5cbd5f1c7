#include <algorithm>
#include <memory>
#include <set>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/recipe/override.hpp"
#include "host/recipe/recipe.hpp"
#include "host/recipe/recipe_file.hpp"
#include "host/recipe/resolve.hpp"
#include "host/recipe/typed.hpp"
#include "host/schema/toml_text.hpp"

namespace backstop::recipe {
namespace {

constexpr std::size_t kMostRecipes = 10'000;
/// In all recipes of a [matrix]; they are all kept in memory.
constexpr std::size_t kMostDefenses = 20'000;
/// Each recipe of a [matrix] is parsed again.
constexpr std::size_t kMostBytes = std::size_t{64} << 20;
constexpr std::size_t kMostOverrides = 1'000;
/// Each dot may be a level of nesting, and destroying a deep toml++ table exhausts the stack.
constexpr std::ptrdiff_t kMostDots = 2000;

/// One line of [matrix].
struct Axis {
  Path path;
  toml::source_region place;
  toml::array* values;
};

toml::source_region in_override(const std::string& label) {
  return {{}, {}, std::make_shared<const std::string>(label)};
}

/// Turns the text of a recipe into one checked recipe for every combination of its [matrix].
class Expansion {
 public:
  Expansion(const std::string& file, const catalog::Catalog& catalog, CheckedRecipe& out)
      : file_(file), catalog_(catalog), out_(out) {}

  void run(const std::vector<std::string>& overrides) {
    for (const auto& text : overrides) {
      schema::Problem problem;
      if (auto parsed = Override::parse(text, problem))
        overrides_.push_back(std::move(*parsed));
      else
        report(in_override(Override::label_of(text)), std::move(problem));
    }
    try {
      // Parsed again for each combination, because a copied node no longer knows its place.
      for (std::size_t i = 0; i < combinations_ && out_.diagnostics.size() < kMostProblems; ++i)
        check(toml::parse(out_.source, file_), i);
    } catch (const toml::parse_error& error) {
      std::string why(error.description());
      constexpr std::string_view kPrefix = "Error while ";
      if (why.starts_with(kPrefix)) why.erase(0, kPrefix.size());
      report(error.source(), {fmt::format("not valid TOML: {}", why), ""});
    }
    std::stable_sort(out_.diagnostics.begin(), out_.diagnostics.end(),
                     [](const Diagnostic& a, const Diagnostic& b) {
                       return std::tie(a.line, a.column) < std::tie(b.line, b.column);
                     });
    if (out_.has_errors()) out_.recipes.clear();
  }

 private:
  void report(const toml::source_region& place, schema::Problem problem) {
    add(diagnostic_at(place, file_, std::move(problem)));
  }

  /// The recipes of a [matrix] share most of their problems.
  void add(Diagnostic diagnostic) {
    if (known_.emplace(diagnostic.line, diagnostic.column, diagnostic.file, diagnostic.message)
            .second)
      out_.diagnostics.push_back(std::move(diagnostic));
  }

  /// Checks combination number `index` of the product, and finds out how many there are.
  void check(toml::table recipe, std::size_t index) {
    Changes changes;
    for (const auto& setting : overrides_) {
      if (auto problem = setting.apply(recipe, changes))
        report(in_override(setting.label), std::move(*problem));
    }
    toml::table matrix = take_matrix(recipe);
    std::vector<Axis> axes;
    find_axes(matrix, {}, axes);
    // The first line changes slowest.
    std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) {
      return std::tie(a.place.begin.line, a.place.begin.column) <
             std::tie(b.place.begin.line, b.place.begin.column);
    });
    combinations_ = 1;
    for (const auto& axis : axes) {
      std::set<std::string> values;
      for (const toml::node& value : *axis.values)
        if (!values.insert(schema::value_text(value)).second)
          report(axis.place, {fmt::format("`{}` has {} twice: the summary would count the same run "
                                          "again",
                                          path_text(axis.path), schema::short_text(value)),
                              "leave one of them out"});
      combinations_ *= axis.values->size();
      if (combinations_ > kMostRecipes)
        return too_many(axis.place, fmt::format("{} recipes", grouped(kMostRecipes)));
      if (combinations_ * out_.source.size() > kMostBytes)
        return too_many(axis.place, fmt::format("{} bytes of recipes", grouped(kMostBytes)));
    }
    std::reverse(axes.begin(), axes.end());
    std::string group;
    for (const Axis& axis : axes) {
      auto& values = *axis.values;
      toml::node& value = *values.get(index % values.size());
      index /= values.size();
      if (values.size() > 1 && axis.path != Path{"seed"} && axis.path != Path{"name"})
        group = fmt::format("{} = {}{}{}", path_text(axis.path), schema::value_text(value),
                            group.empty() ? "" : ", ", group);
      if (auto problem = set_value(recipe, axis.path, std::move(value), changes))
        report(axis.place, std::move(*problem));
    }
    std::vector<Diagnostic> found;
    toml::table resolved = resolve(recipe, changes, file_, catalog_, found);
    for (auto& diagnostic : found) add(std::move(diagnostic));
    if (out_.has_errors()) return;
    out_.recipes.push_back(typed(std::move(resolved), catalog_));
    out_.groups.push_back(std::move(group));
    defenses_ += out_.recipes.back().defenses.size();
    if (defenses_ > kMostDefenses)
      too_many(axes.front().place, fmt::format("{} defenses", grouped(kMostDefenses)));
  }

  void too_many(const toml::source_region& place, const std::string& limit) {
    report(place, {fmt::format("[matrix] expands to more than {}", limit),
                   "split it into several recipes"});
    combinations_ = 1;
  }
  static std::string grouped(std::size_t number) {
    return base::grouped(static_cast<std::int64_t>(number));
  }

  toml::table take_matrix(toml::table& recipe) {
    toml::table matrix;
    if (auto* node = recipe.get("matrix")) {
      if (auto* table = node->as_table())
        matrix = std::move(*table);
      else
        report(node->source(), {schema::mismatch("matrix", "a table", *node), "write [matrix]"});
      recipe.erase("matrix");
    }
    return matrix;
  }

  /// `attack.target = [...]` makes tables in [matrix] and `"attack.target" = [...]` does not, but
  /// both mean the same.
  void find_axes(toml::table& table, const Path& prefix, std::vector<Axis>& axes) {
    for (auto&& [key, node] : table) {
      const auto tail = parse_path(key.str());
      if (!tail || (prefix.empty() && tail->front() == "matrix")) {
        report(key.source(), {fmt::format("`{}` in [matrix] is not a recipe's key", key.str()),
                              "keys are dotted, as in \"attack.target\" or \"defense.0.epochs\""});
        continue;
      }
      Path path = prefix;
      path.insert(path.end(), tail->begin(), tail->end());
      if (auto* inner = node.as_table()) {
        find_axes(*inner, path, axes);
        continue;
      }
      auto* values = node.as_array();
      if (!values || values->empty()) {
        report(node.source(),
               {fmt::format("`{}` in [matrix] must be an array of the values to run, got {}",
                            key.str(), schema::short_text(node)),
                ""});
        continue;
      }
      axes.push_back({std::move(path), key.source(), values});
    }
  }

  const std::string& file_;
  const catalog::Catalog& catalog_;
  CheckedRecipe& out_;
  std::vector<Override> overrides_;
  std::size_t combinations_ = 1;
  std::size_t defenses_ = 0;  ///< of the recipes so far
  /// Line, column, file and message of each diagnostic.
  std::set<std::tuple<std::uint32_t, std::uint32_t, std::string, std::string>> known_;
};

}  // namespace

bool CheckedRecipe::has_errors() const {
  return std::any_of(diagnostics.begin(), diagnostics.end(), [](const Diagnostic& diagnostic) {
    return diagnostic.severity == Diagnostic::Severity::error;
  });
}

CheckedRecipe check_recipe(const std::string& file, const std::vector<std::string>& overrides,
                           const catalog::Catalog& catalog) {
  return check_recipe_text(read_recipe(file), file, overrides, catalog);
}

CheckedRecipe check_recipe_text(std::string text, const std::string& file,
                                const std::vector<std::string>& overrides,
                                const catalog::Catalog& catalog) {
  CheckedRecipe checked;
  checked.source = std::move(text);
  if (checked.source.size() > kLongestRecipe)
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("recipe {} has more than {} bytes", file,
                                      base::grouped(static_cast<std::int64_t>(kLongestRecipe))),
                          "is this the right file?");
  if (overrides.size() > kMostOverrides)
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("--set is given {} times; at most {} are allowed", overrides.size(),
                    base::grouped(static_cast<std::int64_t>(kMostOverrides))),
        "write the values into the recipe");
  std::ptrdiff_t dots = std::count(checked.source.begin(), checked.source.end(), '.');
  for (const auto& setting : overrides) dots += std::count(setting.begin(), setting.end(), '.');
  if (dots > kMostDots)
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("recipe {} has {} dots; at most {} are allowed", file, dots, kMostDots));
  Expansion(file, catalog, checked).run(overrides);
  return checked;
}

CheckedRecipe check_dataset(const catalog::PluginEntry& plugin, toml::table given,
                            const std::vector<std::string>& overrides,
                            const catalog::Catalog& catalog) {
  CheckedRecipe checked;
  Changes changes;
  for (const auto& text : overrides) {
    schema::Problem problem;
    const auto parsed = Override::parse(text, problem);
    const auto failed = parsed ? parsed->apply(given, changes) : std::optional(problem);
    if (failed)
      checked.diagnostics.push_back(
          diagnostic_at(in_override(Override::label_of(text)), {}, *failed));
  }
  const toml::table table =
      resolve_dataset(plugin.manifest, given, changes, catalog, checked.diagnostics);
  if (!checked.has_errors())
    checked.recipes.emplace_back().dataset.use = plugin_use(plugin, table, catalog);
  return checked;
}

}  // namespace backstop::recipe
