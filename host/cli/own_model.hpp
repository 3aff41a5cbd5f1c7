// What `scan` and `clean` have in common: a model's file, the user's images, and the recipe that
// follows from them.
#pragma once

#include <string>

#include <toml++/toml.h>

#include "host/cli/command.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::cli {

/// --images, --classes, --normalization and so on.
void add_model_options(boost::program_options::options_description& options);

/// The recipe without detectors and defenses: `verb` ("scan") and the file's name name the run.
/// Throws HostError for options that contradict each other or are no numbers, and for images that
/// are not there.
toml::table recipe_for(const std::string& verb, const Invocation& invocation);

/// Checks `recipe`, writes it to --recipe if that is given, and prints what is wrong with it.
recipe::CheckedRecipe checked_recipe_for(const toml::table& recipe, const Invocation& invocation,
                                         const catalog::Catalog& catalog);

/// What describe_model() of the engine says of a file.
nlohmann::json model_facts(const std::string& file);
/// Throws HostError(environment) when they say that the model cannot be used.
void require_usable(const nlohmann::json& facts);
/// Prints what they say of the command's model, unless --json is given. Throws
/// HostError(environment) when it cannot be used.
void show_model(const Invocation& invocation);

}  // namespace backstop::cli
