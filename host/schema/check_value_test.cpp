#include "host/schema/check_value.hpp"

#include <gtest/gtest.h>

#include "host/schema/optimizer.hpp"
#include "host/schema/sections.hpp"

namespace backstop::schema {
namespace {

using enum ParameterType;

/// The problem of `text` as a value of `parameter`, and its hint after a bar; empty if there is
/// none.
std::string problem_of(const std::string& text, const Parameter& parameter) {
  const toml::table table = toml::parse("value = " + text);
  std::string problems;
  const auto checked =
      check_value(*table.get("value"), parameter, "key", [&](const toml::node&, Problem problem) {
        problems += problem.message + (problem.hint.empty() ? "" : " | " + problem.hint);
      });
  EXPECT_EQ(checked.empty(), !problems.empty());
  return problems;
}

TEST(CheckValue, SaysWhatIsExpectedAndWhatItGot) {
  EXPECT_EQ(problem_of("\"a\"", {.type = integer}), "`key` must be an integer, got \"a\"");
  EXPECT_EQ(problem_of("1", {.type = boolean}), "`key` must be true or false, got 1");
  EXPECT_EQ(problem_of("{}", {}), "`key` must be a string, got a table");
  EXPECT_EQ(problem_of("\"sgd\"", {.key = "key", .type = optimizer}),
            "`key` must be a table { name = \"...\", ... }, got \"sgd\" | write key = { name = "
            "\"sgd\" }");
  EXPECT_EQ(problem_of("\"bleu\"", {.type = choice, .choices = {"red", "blue"}}),
            "`key` must be one of \"red\", \"blue\", got \"bleu\" | did you mean \"blue\"?");
}

TEST(CheckValue, SaysTheRange) {
  EXPECT_EQ(problem_of("3", {.type = floating, .minimum = 0, .maximum = 1}),
            "`key` must be between 0 and 1, got 3");
  EXPECT_EQ(problem_of("0", {.type = integer, .minimum = 1}), "`key` must be at least 1, got 0");
  EXPECT_EQ(problem_of("0", {.type = floating, .minimum = 0, .minimum_exclusive = true}),
            "`key` must be greater than 0, got 0");
  EXPECT_EQ(problem_of("100001", {.type = integer, .maximum = 100000}),
            "`key` must be at most 100000, got 100001");
  EXPECT_EQ(problem_of("inf", {.type = floating}), "`key` must be finite, got inf");
}

TEST(CheckValue, ComparesIntegersExactly) {
  const Parameter seed = {.type = integer, .minimum = 0, .maximum = 9007199254740992};
  EXPECT_EQ(problem_of("9007199254740992", seed), "");
  EXPECT_EQ(problem_of("9007199254740993", seed),
            "`key` must be between 0 and 9007199254740992, got 9007199254740993");
  for (const ParameterType type : {integer, floating}) {
    EXPECT_EQ(problem_of("-9007199254740992", {.type = type}), "");
    for (const std::string value : {"9007199254740993", "-9223372036854775808"})
      EXPECT_EQ(
          problem_of(value, {.type = type}),
          "`key` must be an integer between -9007199254740992 and 9007199254740992, got " + value);
  }
  EXPECT_EQ(problem_of("1e300", {.type = floating}), "");
}

TEST(CheckValue, NamesElementsByTheirIndex) {
  const Parameter list = {.type = integer, .list = true, .minimum = 1};
  EXPECT_EQ(problem_of("[1, 2]", list), "");
  EXPECT_EQ(problem_of("[]", list), "");
  EXPECT_EQ(problem_of("[1, 0]", list), "`key.1` must be at least 1, got 0");
  EXPECT_EQ(problem_of("1", list), "`key` must be an array of integers, got 1");
}

TEST(Sections, HaveValidDefaults) {
  const Sections& host = sections();
  Parameters all{host.clean_fraction, host.clean_images};
  for (const auto& keys :
       {host.recipe, host.dataset, host.augmentation, host.model, host.attack, host.training,
        host.defense, host.compute, host.scheduler, host.share, host.difference,
        optimizer_parameters("sgd"), optimizer_parameters("adam"), optimizer_parameters("adamw")})
    all.insert(all.end(), keys.begin(), keys.end());
  for (const Parameter& parameter : all) {
    if (parameter.default_value.empty()) continue;
    const auto checked = check_value(
        parameter.default_value[0], parameter, parameter.key,
        [](const toml::node&, const Problem& problem) { ADD_FAILURE() << problem.message; });
    EXPECT_EQ(checked, parameter.default_value) << parameter.key;
  }
}

TEST(Optimizers, AllHaveKeysOfTheirOwn) {
  for (const std::string& name : optimizer_name().choices)
    EXPECT_GT(optimizer_parameters(name).size(), 1u) << name;
  EXPECT_EQ(optimizer_parameters("lion").size(), 1u);
}

}  // namespace
}  // namespace backstop::schema
