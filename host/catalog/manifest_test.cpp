#include "host/catalog/manifest.hpp"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/base/error.hpp"
#include "host/catalog/build_facts.hpp"

namespace backstop::catalog {
namespace {

using schema::Parameter;
using schema::ParameterType;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kHead =
    "name = \"example\"\n"
    "kind = \"scheduler\"\n"
    "version = \"1.0.0\"\n"
    "summary = \"An example\"\n"
    "license = \"Apache-2.0\"\n";

const std::string kDatasetHead =
    "name = \"example\"\nkind = \"dataset\"\nversion = \"1\"\nsummary = \"s\"\nlicense = \"MIT\"\n";

const std::string kTraining =
    "[training.epochs]\ndefault = 10\nmaximum = 99\nhelp = \"Epochs\"\n"
    "[training.batch_size]\ndefault = 32\nminimum = 2\n"
    "[training.optimizer]\ndefault = { name = \"adam\" }\n"
    "[training.scheduler]\ndefault = { plugin = \"constant\", rate = 0.01 }\n";

/// All problems that parse_manifest finds in `text`; empty if it accepts it.
std::string problems(const std::string& text) {
  try {
    parse_manifest(text, "m");
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.code(), base::ExitCode::plugin);
    return e.what();
  }
  return {};
}

/// The same for one parameter `p`, whose table begins on line 6 of the manifest.
std::string parameter_problems(const std::string& body) {
  return problems(kHead + "[parameters.p]\n" + body);
}

Parameter parameter(const std::string& body) {
  return parse_manifest(kHead + "[parameters.p]\n" + body, "m").parameters.at(0);
}

TEST(Manifest, HoldsWhatTheAuthorWrote) {
  const Manifest manifest = parse_manifest(
      "name = \"fine-tuning\"\nkind = \"defense\"\nversion = \"1.2.3\"\nsummary = \"S\"\n"
      "license = \"MIT\"\nreference = \"R\"\nneeds = [\"clean-data\", \"cuda\"]\n"
      "[parameters.second]\ntype = \"integer\"\ndefault = 3\nminimum = 1\nmaximum = 9\n"
      "unit = \"pixels\"\nhelp = \"\"\"\nTwo\nlines\"\"\"\n"
      "[parameters.first]\ntype = \"path\"\noptional = true\nmust_exist = true\n",
      "m");
  EXPECT_EQ(manifest.name, "fine-tuning");
  EXPECT_EQ(manifest.kind, Kind::defense);
  EXPECT_EQ(manifest.version, "1.2.3");
  EXPECT_EQ(manifest.summary, "S");
  EXPECT_EQ(manifest.license, "MIT");
  EXPECT_EQ(manifest.reference, "R");
  EXPECT_THAT(manifest.needs, ElementsAre("clean-data", "cuda"));
  ASSERT_EQ(manifest.parameters.size(), 2u);
  const Parameter& second = manifest.parameters[0];  // the author's order
  EXPECT_EQ(second.key, "second");
  EXPECT_EQ(second.type, ParameterType::integer);
  EXPECT_EQ(second.default_value.at(0).value<int>(), 3);
  EXPECT_EQ(second.minimum, 1.0);
  EXPECT_EQ(second.maximum, 9.0);
  EXPECT_FALSE(second.minimum_exclusive);
  EXPECT_EQ(second.unit, "pixels");
  EXPECT_EQ(second.help, "Two\nlines");
  const Parameter& first = manifest.parameters[1];
  EXPECT_EQ(first.key, "first");
  EXPECT_TRUE(first.optional);
  EXPECT_TRUE(first.must_exist);
  EXPECT_TRUE(first.default_value.empty());
}

TEST(Manifest, KnowsEveryTypeOfParameter) {
  EXPECT_EQ(parameter("type = \"boolean\"\ndefault = true").default_value.at(0).value<bool>(),
            true);
  EXPECT_EQ(
      parameter("type = \"string\"\ndefault = \"x\"").default_value.at(0).value<std::string>(),
      "x");
  EXPECT_EQ(parameter("type = \"path\"\ndefault = \"/x\"").type, ParameterType::path);
  EXPECT_THAT(parameter("type = \"choice\"\nchoices = [\"a\", \"b\"]\ndefault = \"b\"").choices,
              ElementsAre("a", "b"));
  const Parameter open = parameter("type = \"float\"\nexclusive_minimum = 0.0\nmaximum = 1");
  EXPECT_TRUE(open.minimum_exclusive);
  EXPECT_FALSE(open.maximum_exclusive);
  EXPECT_EQ(open.maximum, 1.0);
  const Parameter scheduler =
      parameter("type = \"scheduler\"\ndefault = { plugin = \"constant\", rate = 0.01 }");
  EXPECT_EQ(scheduler.default_value.at(0).at_path("rate").value<double>(), 0.01);
  const Parameter optimizer = parameter(
      "type = \"optimizer\"\ndefault = { name = \"sgd\", momentum = 0.9, weight_decay = 5e-4 }");
  EXPECT_EQ(optimizer.default_value.at(0).at_path("momentum").value<double>(), 0.9);
  for (const ParameterType type : {ParameterType::boolean, ParameterType::optimizer}) {
    EXPECT_EQ(parameter("type = \"" + std::string(to_string(type)) + "\"").type, type);
  }
}

TEST(Manifest, TheDefaultOfAFloatIsAFloat) {
  EXPECT_TRUE(parameter("type = \"float\"\ndefault = 1").default_value.at(0).is_floating_point());
  const Parameter list = parameter("type = \"float\"\nlist = true\ndefault = [1, 2.5]");
  ASSERT_EQ(list.default_value.size(), 1u);
  EXPECT_TRUE(list.default_value.at(0).as_array()->at(0).is_floating_point());
  EXPECT_EQ(list.default_value.at(0).as_array()->size(), 2u);
}

TEST(Manifest, AnEmptyListIsADefault) {
  const Parameter list = parameter("type = \"integer\"\nlist = true\ndefault = []");
  ASSERT_EQ(list.default_value.size(), 1u);
  EXPECT_TRUE(list.default_value.at(0).as_array()->empty());
}

TEST(Manifest, NamesItsAuthors) {
  const Manifest manifest = parse_manifest(
      kHead + "authors = [\"A. Uthor <a@example.org>\", \"B\"]\nhomepage = \"https://x.org\"\n",
      "m");
  EXPECT_THAT(manifest.authors, ElementsAre("A. Uthor <a@example.org>", "B"));
  EXPECT_EQ(manifest.homepage, "https://x.org");
}

TEST(Manifest, LeavesKeysOfOthersAlone) {
  const std::string text =
      kHead + "x-rating = 3\n[x-store]\nprice = 0\n[parameters.p]\ntype = \"float\"\nx-a = 1\n";
  EXPECT_EQ(problems(text), "");
  EXPECT_TRUE(parse_manifest(text, "m").unknown_keys.empty());
}

TEST(Manifest, ToleratesWhatOnlyANewerSdkKnows) {
  const std::string text = kHead + "colour = 3\n[parameters.p]\ntype = \"float\"\nstep = 1\n";
  EXPECT_NE(problems(text), "");
  const Manifest manifest = parse_manifest(text, "m", /*newer=*/true);
  EXPECT_THAT(manifest.unknown_keys, testing::UnorderedElementsAre("colour", "parameters.p.step"));
  EXPECT_EQ(manifest.parameters.at(0).key, "p");
}

TEST(Manifest, NamesEverythingThatIsMissing) {
  EXPECT_EQ(problems(""),
            "m:1: `name` is missing\nm:1: `kind` is missing\nm:1: `version` is missing\n"
            "m:1: `summary` is missing\nm:1: `license` is missing");
}

TEST(Manifest, NamesAllProblemsInOrderOfTheirLines) {
  EXPECT_EQ(problems("name = \"Example\"\nkind = \"atack\"\nversion = 1\nsummary = \"\"\n"
                     "licence = \"MIT\"\nlicense = \"MIT\"\n"),
            "m:1: `name` must be a name that matches [a-z][a-z0-9-]*, got \"Example\"\n"
            "m:2: `kind` must be one of \"attack\", \"defense\", \"scheduler\", \"dataset\", got "
            "\"atack\"; did you mean \"attack\"?\n"
            "m:3: `version` must be a string, got 1\n"
            "m:4: `summary` must not be empty\n"
            "m:5: unknown key `licence`; did you mean `license`?");
}

TEST(Manifest, RefusesBadNames) {
  for (const char* bad : {"", "-a", "1a", "a_b", "a b", "A", "\\u00e4", "a/../b"}) {
    EXPECT_NE(
        problems("name = \"" + std::string(bad) + "\"\n" + kHead.substr(kHead.find('\n') + 1)), "")
        << bad;
  }
}

TEST(Manifest, RefusesTextThatIsNotToml) {
  EXPECT_THAT(problems("name = \"a\"\nkind = \n"), testing::StartsWith("m:2: "));
  EXPECT_NE(problems("name = \"a\xff\""), "");
  EXPECT_NE(problems(kHead + std::string("x = \"\0\"", 7)), "");
}

TEST(Manifest, RefusesControlCharacters) {
  std::string text = kHead;
  text.replace(text.find("An example"), 10, "\\u001b[31mred");
  EXPECT_EQ(problems(text), "m:4: `summary` must not contain control characters");
  EXPECT_THAT(problems(kHead + "\"k\\u001b\\u009b\" = 1\n"),
              HasSubstr("m:6: unknown key `k??`; known keys: "));
}

TEST(Manifest, RefusesUnknownNeeds) {
  EXPECT_EQ(problems(kHead + "needs = [\"clean_data\"]\n"),
            "m:6: `needs.0` must be one of \"clean-data\", \"training-data\", \"feature-maps\", "
            "\"batch-norm\", \"cuda\", got \"clean_data\"; did you mean \"clean-data\"?");
  EXPECT_EQ(problems(kHead + "needs = [1]\n"), "m:6: `needs.0` must be a string, got 1");
  EXPECT_EQ(problems(kHead + "needs = \"cuda\"\n"),
            "m:6: `needs` must be an array of strings, got \"cuda\"");
}

TEST(Manifest, DetectorsAreDefenses) {
  const std::string head =
      "name = \"example\"\nkind = \"defense\"\nversion = \"1\"\nsummary = \"s\"\nlicense = "
      "\"MIT\"\n";
  EXPECT_TRUE(parse_manifest(head, "m").detects.empty());
  EXPECT_TRUE(parse_manifest(head, "m").repairs);
  const Manifest manifest = parse_manifest(head + "detects = [\"model\"]\nrepairs = false\n", "m");
  EXPECT_THAT(manifest.detects, ElementsAre("model"));
  EXPECT_FALSE(manifest.repairs);
  EXPECT_EQ(problems(head + "detects = [\"images\"]\n"),
            "m:6: `detects.0` must be one of \"model\", \"inputs\", got \"images\"");
  EXPECT_EQ(problems(head + "repairs = false\n"),
            "m:6: `repairs` can be false only where `detects` names something");
  EXPECT_EQ(problems(kHead + "detects = [\"model\"]\nrepairs = true\n"),
            "m:6: `detects` is only for kind `defense`\n"
            "m:7: `repairs` is only for kind `defense`");
}

TEST(Manifest, DetectorsSayWhatTheyScored) {
  const std::string head =
      "name = \"example\"\nkind = \"defense\"\nversion = \"1\"\nsummary = \"s\"\nlicense = "
      "\"MIT\"\n";
  const std::string detector = head + "detects = [\"model\"]\n";
  EXPECT_FALSE(parse_manifest(detector, "m").calibration);
  const Manifest manifest = parse_manifest(
      detector +
          "[calibration]\nsource = \"docs\"\nclean_scores = [1, 0.5]\nbackdoored_scores = [3]\n",
      "m");
  ASSERT_TRUE(manifest.calibration);
  EXPECT_EQ(manifest.calibration->source, "docs");
  EXPECT_THAT(manifest.calibration->clean_scores, ElementsAre(0.5, 1));  // sorted
  EXPECT_THAT(manifest.calibration->backdoored_scores, ElementsAre(3));
  EXPECT_EQ(problems(detector + "[calibration]\nclean_scores = [nan]\nscores = [1]\n"),
            "m:7: `calibration.source` is missing\n"
            "m:7: `calibration.backdoored_scores` is missing\n"
            "m:8: `calibration.clean_scores.0` must be finite, got nan\n"
            "m:9: unknown key `scores` in [calibration]; known keys: `source`, `clean_scores`, "
            "`backdoored_scores`");
  EXPECT_EQ(problems(detector + "calibration = 1\n"), "m:7: `calibration` must be a table, got 1");
  EXPECT_EQ(
      problems(head +
               "[calibration]\nsource = \"docs\"\nclean_scores = []\nbackdoored_scores = []\n"),
      "m:6: `calibration` needs `detects`");
}

TEST(Manifest, AugmentationIsForDatasets) {
  EXPECT_EQ(problems(kHead + "[augmentation]\ncrop_padding = 4\n"),
            "m:6: `augmentation` is only for kind `dataset`");
  const Manifest manifest = parse_manifest(
      kDatasetHead + "[augmentation]\ncrop_padding = 4\nhorizontal_flip = true\n", "m");
  EXPECT_EQ(manifest.crop_padding, 4);
  EXPECT_TRUE(manifest.horizontal_flip);
  EXPECT_EQ(manifest.crop_image_size, 0);
  EXPECT_EQ(manifest.crop_padding_for(300), 4) << "of any size";
  const Manifest scaled =
      parse_manifest(kDatasetHead + "[augmentation]\ncrop_padding = 12\nimage_size = 96\n", "m");
  EXPECT_EQ(scaled.crop_image_size, 96);
  EXPECT_EQ(scaled.crop_padding_for(32), 4);
  EXPECT_EQ(scaled.crop_padding_for(224), 28);
  EXPECT_EQ(problems(kDatasetHead +
                     "[augmentation]\ncrop_padding = -1\nhorizontal_flip = 1\nflip = true\n"),
            "m:7: `augmentation.crop_padding` must be between 0 and 256, got -1\n"
            "m:8: `augmentation.horizontal_flip` must be true or false, got 1\n"
            "m:9: unknown key `flip` in [augmentation]; known keys: `crop_padding`, "
            "`horizontal_flip`, `image_size`");
}

TEST(Manifest, RefusesBadParameterKeys) {
  for (const char* bad : {"\"\"", "A", "1", "a-b", "_a", "\"a b\""}) {
    EXPECT_THAT(problems(kHead + "[parameters." + bad + "]\ntype = \"float\"\n"),
                HasSubstr("must match [a-z][a-z0-9_]*"))
        << bad;
  }
}

TEST(Manifest, RefusesTheHostsOwnKeys) {
  for (const char* key :
       {"name", "plugin", "file", "limit", "test_limit", "augmentation", "poison_ratio", "target",
        "labels", "training", "clean_fraction", "clean_images", "measure_every"}) {
    EXPECT_THAT(problems(kHead + "[parameters." + key + "]\ntype = \"float\"\n"),
                HasSubstr("the host uses that key itself"))
        << key;
  }
}

TEST(Manifest, RefusesParametersThatAreNotTables) {
  EXPECT_EQ(problems(kHead + "parameters = 3\n"), "m:6: `parameters` must be a table, got 3");
  EXPECT_EQ(problems(kHead + "[parameters]\np = 3\n"),
            "m:7: `parameters.p` must be a table, got 3");
}

TEST(Manifest, TrainingIsFourParameters) {
  const schema::Parameters parameters =
      parse_manifest(kHead + kTraining + "[parameters.p]\ntype = \"float\"\n", "m").parameters;
  ASSERT_EQ(parameters.size(), 5u);
  EXPECT_EQ(parameters[0].key, "p");
  const Parameter& epochs = parameters[1];
  EXPECT_EQ(epochs.key, "epochs");
  EXPECT_EQ(epochs.type, ParameterType::integer);
  EXPECT_EQ(epochs.default_value.at(0).value<int>(), 10);
  EXPECT_EQ(epochs.minimum, 1.0);
  EXPECT_EQ(epochs.maximum, 99.0);
  EXPECT_EQ(epochs.unit, "epochs");
  EXPECT_EQ(epochs.help, "Epochs");
  const Parameter& batch_size = parameters[2];
  EXPECT_EQ(batch_size.key, "batch_size");
  EXPECT_EQ(batch_size.type, ParameterType::integer);
  EXPECT_EQ(batch_size.minimum, 2.0);
  EXPECT_EQ(batch_size.help, "Images per step");
  const Parameter& optimizer = parameters[3];
  EXPECT_EQ(optimizer.key, "optimizer");
  EXPECT_EQ(optimizer.type, ParameterType::optimizer);
  EXPECT_EQ(optimizer.default_value.at(0).at_path("name").value<std::string>(), "adam");
  const Parameter& scheduler = parameters[4];
  EXPECT_EQ(scheduler.key, "scheduler");
  EXPECT_EQ(scheduler.type, ParameterType::scheduler);
}

TEST(Manifest, RefusesBadTraining) {
  EXPECT_EQ(problems(kHead + "training = 3\n"), "m:6: `training` must be a table, got 3");
  EXPECT_EQ(problems(kHead + "[training]\nbatch_size = 8\nrate = 1\n[training.epochs]\n"
                             "default = 0\ntype = \"integer\"\n"),
            "m:6: `training.optimizer` is missing\n"
            "m:6: `training.scheduler` is missing\n"
            "m:7: `training.batch_size` must be a table, got 8\n"
            "m:8: unknown key `rate` in [training]; known keys: `epochs`, `batch_size`, "
            "`optimizer`, `scheduler`\n"
            "m:10: `training.epochs.default` must be at least 1, got 0\n"
            "m:11: unknown key `type` in [training.epochs]; known keys: `default`, `minimum`, "
            "`exclusive_minimum`, `maximum`, `exclusive_maximum`, `help`");
  EXPECT_EQ(problems(kHead + "[parameters.epochs]\ntype = \"integer\"\n" + kTraining),
            "m:8: `epochs` is in `parameters` and in `training`");
}

TEST(Manifest, RefusesBadTypes) {
  EXPECT_EQ(parameter_problems(""), "m:6: `parameters.p.type` is missing");
  EXPECT_THAT(parameter_problems("type = \"int\"\n"),
              HasSubstr("m:7: `parameters.p.type` must be one of \"boolean\", "));
  EXPECT_EQ(parameter_problems("type = 3\n"), "m:7: `parameters.p.type` must be a string, got 3");
  EXPECT_EQ(parameter_problems("type = \"float\"\ndefalt = 1\nlist = 1\nhelp = 2\n"),
            "m:8: unknown key `defalt` in [parameters.p]; did you mean `default`?\n"
            "m:9: `parameters.p.list` must be true or false, got 1\n"
            "m:10: `parameters.p.help` must be a string, got 2");
}

TEST(Manifest, RefusesKeysThatAreNotForTheType) {
  EXPECT_EQ(parameter_problems("type = \"boolean\"\nminimum = 0\n"),
            "m:8: `parameters.p.minimum` is only for types `integer` and `float`");
  EXPECT_EQ(parameter_problems("type = \"string\"\nmust_exist = true\n"),
            "m:8: `parameters.p.must_exist` is only for type `path`");
  EXPECT_EQ(parameter_problems("type = \"string\"\nchoices = [\"a\"]\n"),
            "m:8: `parameters.p.choices` is only for type `choice`");
  for (const char* type : {"boolean", "scheduler", "optimizer"}) {
    EXPECT_THAT(parameter_problems("type = \"" + std::string(type) + "\"\nlist = true\n"),
                HasSubstr("m:8: `parameters.p.list` cannot be used with type "));
  }
}

TEST(Manifest, RefusesBadChoices) {
  EXPECT_THAT(parameter_problems("type = \"choice\"\n"), HasSubstr("which needs `choices = "));
  EXPECT_EQ(parameter_problems("type = \"choice\"\nchoices = []\n"),
            "m:8: `parameters.p.choices` must hold at least one string, and no empty ones");
  EXPECT_EQ(parameter_problems("type = \"choice\"\nchoices = [\"a\", \"a\"]\n"),
            "m:8: `parameters.p.choices` lists \"a\" twice");
  EXPECT_EQ(parameter_problems("type = \"choice\"\nchoices = [\"a\", \"b\"]\ndefault = \"c\"\n"),
            "m:9: `parameters.p.default` must be one of \"a\", \"b\", got \"c\"");
}

TEST(Manifest, RefusesEmptyRanges) {
  EXPECT_EQ(parameter_problems("type = \"float\"\nminimum = 2\nmaximum = 1.5\n"),
            "m:6: `parameters.p` has an empty range: its minimum is 2 and its maximum is 1.5");
  EXPECT_NE(parameter_problems("type = \"float\"\nminimum = 1\nexclusive_maximum = 1\n"), "");
  EXPECT_EQ(parameter_problems("type = \"float\"\nminimum = 1\nmaximum = 1\n"), "");
  EXPECT_EQ(parameter_problems("type = \"float\"\nminimum = 1\nexclusive_minimum = 0\n"),
            "m:9: `parameters.p.exclusive_minimum` cannot be used together with `minimum`");
  EXPECT_EQ(parameter_problems("type = \"float\"\nminimum = nan\n"),
            "m:8: `parameters.p.minimum` must be finite, got nan");
}

TEST(Manifest, RefusesDefaultOutOfRange) {
  const auto problem = [](const std::string& bound, const std::string& value) {
    return parameter_problems("type = \"float\"\n" + bound + "\ndefault = " + value + "\n");
  };
  EXPECT_EQ(problem("minimum = 0.5", "0.25"),
            "m:9: `parameters.p.default` must be at least 0.5, got 0.25");
  EXPECT_EQ(problem("maximum = 1", "2"), "m:9: `parameters.p.default` must be at most 1, got 2");
  EXPECT_EQ(problem("exclusive_minimum = 0", "0"),
            "m:9: `parameters.p.default` must be greater than 0, got 0");
  EXPECT_EQ(problem("exclusive_maximum = 1", "1"),
            "m:9: `parameters.p.default` must be less than 1, got 1");
  EXPECT_EQ(problem("", "nan"), "m:9: `parameters.p.default` must be finite, got nan");
  EXPECT_EQ(problem("minimum = 0", "0"), "");
  EXPECT_EQ(parameter_problems("type = \"integer\"\nlist = true\nminimum = 1\ndefault = [1, 0]\n"),
            "m:10: `parameters.p.default.1` must be at least 1, got 0");
}

TEST(Manifest, RefusesDefaultOfAnotherType) {
  const auto problem = [](const std::string& type, const std::string& value) {
    return parameter_problems("type = \"" + type + "\"\ndefault = " + value + "\n");
  };
  EXPECT_EQ(problem("integer", "1.0"), "m:8: `parameters.p.default` must be an integer, got 1.0");
  EXPECT_EQ(problem("float", "\"1\""), "m:8: `parameters.p.default` must be a number, got \"1\"");
  EXPECT_EQ(problem("boolean", "1"), "m:8: `parameters.p.default` must be true or false, got 1");
  EXPECT_EQ(problem("path", "1979-05-27"),
            "m:8: `parameters.p.default` must be a path in quotes, got 1979-05-27");
  EXPECT_EQ(
      problem("scheduler", "\"constant\""),
      "m:8: `parameters.p.default` must be a table { plugin = \"...\", ... }, got \"constant\"; "
      "write default = { plugin = \"constant\" }");
  EXPECT_EQ(problem("integer\"\nlist = true #", "1"),
            "m:9: `parameters.p.default` must be an array of integers, got 1");
}

TEST(Manifest, RefusesBadSchedulerAndOptimizerDefaults) {
  const auto problem = [](const std::string& type, const std::string& value) {
    return parameter_problems("type = \"" + type + "\"\ndefault = " + value + "\n");
  };
  EXPECT_EQ(problem("scheduler", "{ rate = 0.1 }"),
            "m:8: `parameters.p.default.plugin` is missing");
  EXPECT_EQ(problem("scheduler", "{ plugin = \"No Name\" }"),
            "m:8: `parameters.p.default.plugin` must be a name that matches [a-z][a-z0-9-]*, "
            "got \"No Name\"");
  EXPECT_EQ(problem("optimizer", "{ name = \"lion\" }"),
            "m:8: `parameters.p.default.name` must be one of \"sgd\", \"adam\", \"adamw\", got "
            "\"lion\"");
  EXPECT_EQ(problem("optimizer", "{ name = \"adam\", momentum = 0.9 }"),
            "m:8: unknown key `momentum` in [parameters.p.default]; known keys: `name`, `beta1`, "
            "`beta2`, `epsilon`, `weight_decay`");
  EXPECT_EQ(problem("optimizer", "{ name = \"sgd\", momentum = true, nesterov = 1 }"),
            "m:8: `parameters.p.default.momentum` must be a number, got true\n"
            "m:8: `parameters.p.default.nesterov` must be true or false, got 1");
  EXPECT_EQ(problem("optimizer", "{ name = \"sgd\", momentum = 1 }"),
            "m:8: `parameters.p.default.momentum` must be at least 0 and less than 1, got 1");
  EXPECT_EQ(problem("optimizer", "{ momentum = 0.5 }"),
            "m:8: `parameters.p.default.name` is missing");
}

TEST(Manifest, OptionalParametersHaveNoDefault) {
  EXPECT_THAT(parameter_problems("type = \"float\"\noptional = true\ndefault = 1\n"),
              HasSubstr("m:9: `parameters.p.default` cannot be used with `optional`"));
}

TEST(Manifest, DeepNestingDoesNotExhaustTheStack) {
  std::string keys = "a";
  for (int i = 0; i < 30'000; ++i) keys += ".a";
  EXPECT_EQ(problems(keys + " = 1\n"), "m: more than 2000 dots");
  // The deepest nesting that is possible: as many dots, and between them brackets, as are accepted.
  std::string deep = "a", closing;
  for (int i = 0; i < 1990; ++i) deep += ".a";
  EXPECT_NE(problems(deep + " = 1\n"), "");
  std::string nested = "a = ";
  for (int i = 0; i < 120; ++i) {
    nested += "[{ a.a.a.a.a.a.a.a.a.a.a.a.a.a.a = ";
    closing += "}]";
  }
  EXPECT_NE(problems(nested + "1" + closing + "\n"), "");
  EXPECT_NE(problems(std::string(60'000, '[')), "");
}

/// Whatever the text is, the result is a manifest or a HostError.
TEST(Manifest, SurvivesMutations) {
  const std::string whole =
      kDatasetHead +
      "reference = \"R\"\nneeds = [\"clean-data\", \"cuda\"]\n[augmentation]\ncrop_padding = 2\n"
      "[parameters.a]\ntype = \"integer\"\nlist = true\ndefault = [1, 2]\nminimum = 1\n"
      "[parameters.b]\ntype = \"choice\"\nchoices = [\"x\", \"y\"]\ndefault = \"x\"\nhelp = \"h\"\n"
      "[parameters.c]\ntype = \"scheduler\"\ndefault = { plugin = \"constant\", rate = 0.01 }\n"
      "[parameters.d]\ntype = \"optimizer\"\ndefault = { name = \"sgd\", momentum = 0.9 }\n" +
      kTraining;
  ASSERT_EQ(problems(whole), "");
  const std::string words[] = {"[",
                               "]",
                               "{",
                               "}",
                               "\"",
                               "\"\"\"",
                               ".",
                               "= ",
                               "\n",
                               "#",
                               "\\u",
                               "1e999",
                               "nan",
                               "-inf",
                               "[[",
                               "a.b = 1",
                               "true",
                               "0x1f",
                               "\xf0\x9f",
                               "'''",
                               ",",
                               "type",
                               "1979-05-27T07:32:00Z",
                               "[parameters]",
                               "99999999999999999999"};
  std::mt19937 random(20240229);
  const auto below = [&](std::size_t limit) { return random() % limit; };
  int refused = 0, accepted = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = whole;
    for (std::size_t k = 0, count = 1 + below(3); k < count; ++k) {
      const std::size_t at = below(text.size());
      switch (below(4)) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, below(12));
          break;
        case 2:
          text.insert(at, words[below(std::size(words))]);
          break;
        default:
          text.insert(at, text.substr(below(text.size()), below(40)));
      }
    }
    (problems(text).empty() ? accepted : refused) += 1;
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(accepted, 10);
}

TEST(BuildFacts, KnowThisProgram) {
  const BuildFacts& own = own_build_facts();
  EXPECT_TRUE(major_minor(own.abi));
  EXPECT_TRUE(major_minor(own.torch));
  EXPECT_TRUE(own.cxx11_abi);
  EXPECT_NE(own.compiler, "");
}

TEST(BuildFacts, UnknownFactsAreIgnoredButMissingOnesAreNot) {
  const std::string good =
      "abi = \"0.1\"\ntorch = \"2.1.0a0+git\"\ncxx11_abi = 0\nglibcxx_debug = true\n"
      "sanitizer = \"none\"\ncompiler = \"c\"\nlater = 3\n";
  const BuildFacts facts = parse_build_facts(good, "f");
  EXPECT_EQ(facts.torch, "2.1.0a0+git");
  EXPECT_FALSE(facts.cxx11_abi);
  EXPECT_TRUE(facts.glibcxx_debug);
  const auto failure = [](const std::string& text) -> std::string {
    try {
      parse_build_facts(text, "f");
    } catch (const base::HostError& e) {
      return e.what();
    }
    return {};
  };
  EXPECT_THAT(failure(""), HasSubstr("`glibcxx_debug` is missing"));
  EXPECT_EQ(failure("abi = \"1\"" + good.substr(good.find('\n'))),
            "f:1: `abi` must be MAJOR.MINOR, got \"1\"");
}

TEST(MajorMinor, ReadsTheFirstTwoNumbers) {
  EXPECT_EQ(major_minor("1.13.0"), std::pair(1u, 13u));
  EXPECT_EQ(major_minor("0.1"), std::pair(0u, 1u));
  for (const char* bad : {"", "1", "1.", ".1", "a.b", "1.x", "-1.2", "99999999999.1"}) {
    EXPECT_EQ(major_minor(bad), std::nullopt) << bad;
  }
}

TEST(Kind, IsReadFromItsName) {
  for (const Kind kind : kKinds) EXPECT_EQ(kind_from(to_string(kind)), kind);
  EXPECT_EQ(kind_from("other"), std::nullopt);
}

}  // namespace
}  // namespace backstop::catalog
