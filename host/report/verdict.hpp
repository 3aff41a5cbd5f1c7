// When the numbers of a row mean nothing: its stage failed, the model has collapsed, or the attack
// never took.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

namespace backstop::report {

/// What is wrong with a model that was measured (host/engine/run/measure.hpp) on a dataset of
/// `classes` classes: the row's "warning". `attacked`: the model is the backdoored one, before any
/// defense, and its training set was poisoned.
///
///   "collapsed: ..."             some weights or logits are not finite; or at least 90 % of the
///                                clean test images are classified as one class, which fewer than
///                                half of them belong to; or clean accuracy is no more than three
///                                standard errors (of a binomial proportion) above 1 / classes
///   "attack did not take: ..."   `attacked`, and the attack success rate exceeds the share of the
///                                same images that the model sends to the same labels without the
///                                trigger by less than 0.05, or by no more than three standard
///                                errors (of two proportions that are equal)
///
/// Nothing for a row without metrics, as that of an encoder.
std::optional<std::string> verdict(const nlohmann::json& row, std::int64_t classes, bool attacked);

/// The row of a stage that failed: {name, plugin, error, warning}, without metrics. `plugin` is
/// null for "no defense"; the warning is "failed: " and `message`, on one line.
nlohmann::json failed_row(const std::string& name, const nlohmann::json& plugin,
                          const std::string& message);

/// The row's warning; empty when there is none.
std::string warning_of(const nlohmann::json& row);
/// Whether it is the row of a stage that failed.
bool has_failed(const nlohmann::json& row);
/// Whether the warning is that of a collapse: attack success of 0 or 1 is then no result.
bool has_collapsed(const nlohmann::json& row);
/// Whether the row is no result, for either reason.
bool is_void(const nlohmann::json& row);

/// Why no defense can be judged by what the trigger does: "no defense", the first of `rows`, has a
/// warning. Empty when it has none.
std::string objection_to_attack(const nlohmann::json& rows);

}  // namespace backstop::report
