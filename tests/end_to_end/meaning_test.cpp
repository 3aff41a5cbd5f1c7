// Numbers that mean nothing: they are refused, marked, or not there, and meet no expectation.
#include <cstring>

#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Meaning : public EndToEnd {
 protected:
  [[nodiscard]] Outcome run_with(const std::vector<std::string>& settings,
                                 std::vector<std::string> options = {}) const {
    for (const auto& setting : settings) {
      options.emplace_back("--set");
      options.push_back(setting);
    }
    return run(options);
  }
  [[nodiscard]] nlohmann::json last_results() const {
    return nlohmann::json::parse(read(runs().back() / "results.json"));
  }
  /// The files that the first run left.
  [[nodiscard]] fs::path first(const std::string& file) const {
    return runs().at(0) / "models" / file;
  }
};

/// A safetensors file in parts: the JSON header and the tensors' bytes.
struct Tensors {
  nlohmann::ordered_json header;
  std::string bytes;

  explicit Tensors(const fs::path& file) {
    const std::string text = read(file);
    std::uint64_t length = 0;
    std::memcpy(&length, text.data(), sizeof length);
    header = nlohmann::ordered_json::parse(text.substr(sizeof length, length));
    bytes = text.substr(sizeof length + length);
  }
  void write(const fs::path& file) const {
    const std::string text = header.dump();
    const std::uint64_t length = text.size();
    std::ofstream stream(file, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(&length), sizeof length);
    stream << text << bytes;
  }
  void set_to_nan(const std::string& tensor, std::size_t numbers) {
    const auto first = header.at(tensor).at("data_offsets").at(0).get<std::size_t>();
    const std::uint32_t nan = 0x7fc00000;
    for (std::size_t i = 0; i < numbers; ++i)
      std::memcpy(bytes.data() + first + 4 * i, &nan, sizeof nan);
  }
};

TEST_F(Meaning, AModelFileThatIsNotFiniteIsRefusedBeforeAnythingIsTrained) {
  ASSERT_EQ(run_with({"defense=[]"}).code, 0);
  Tensors model(first("no-defense.safetensors"));
  const fs::path file = folder_ / "suspect.safetensors";
  model.set_to_nan("conv2.weight", 5);
  model.write(file);
  Outcome outcome = run_with({"model.file=" + file.string()});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("suspect.safetensors: 5 of the 1152 numbers in "
                                           "`conv2.weight` are not finite"),
                                 Not(HasSubstr("[attack]"))));
  // The same bytes, taken for integers.
  Tensors integers(first("no-defense.safetensors"));
  integers.header["conv2.weight"]["dtype"] = "I32";
  integers.write(file);
  outcome = run_with({"model.file=" + file.string()});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("conv2.weight has type Int"), Not(HasSubstr("epoch"))));
}

TEST_F(Meaning, AnAttackFileThatIsNotFiniteIsRefused) {
  ASSERT_EQ(run_with({"attack.plugin=wanet", "defense=[]"}).code, 0);
  Tensors attack(first("no-defense.attack.safetensors"));
  std::string name;
  for (const auto& item : attack.header.items())
    if (item.key().starts_with("state.") && item.value().at("dtype") == "F32") name = item.key();
  ASSERT_NE(name, "");
  attack.set_to_nan(name, 1);
  const fs::path file = folder_ / "suspect.safetensors";
  attack.write(file);
  const Outcome outcome =
      run_with({"attack.plugin=wanet", "model.file=" + first("no-defense.safetensors").string(),
                "attack.file=" + file.string(), "defense=[]"});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("suspect.safetensors: 1 of the "),
                                 HasSubstr("are not finite"), Not(HasSubstr("before training"))));
}

TEST_F(Meaning, ADefenseThatDivergesInItsLastStepMeetsNoExpectation) {
  write_recipe(std::string(kRecipe) +
               "\n[expect]\n\"plain\".attack_success_rate = { maximum = 1.0 }\n"
               "\"plain\".clean_accuracy = { maximum = 1.0 }\n");
  const Outcome outcome =
      run_with({"defense.0.epochs=1", "defense.0.batch_size=128", "defense.0.clean_fraction=0.4",
                "defense.0.scheduler.rate=1e30"});
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  const auto results = last_results();
  EXPECT_THAT(row(results, "plain")["warning"].get<std::string>(),
              AllOf(HasSubstr("collapsed: "), HasSubstr(" not finite")));
  for (const auto& value : row(results, "plain")["metrics"]) EXPECT_TRUE(value.is_null());
  for (const auto& expectation : results["expectations"]) {
    EXPECT_FALSE(expectation["met"]);
    EXPECT_THAT(expectation["reason"].get<std::string>(), HasSubstr("not finite"));
  }
  EXPECT_THAT(read(runs().at(0) / "results.csv"), HasSubstr("collapsed: "));
  EXPECT_THAT(read(runs().at(0) / "report.html"), HasSubstr("warning: plain: collapsed: "));
}

TEST_F(Meaning, APluginThatLeavesNaNIsMarkedOnceAndWithoutAWordOfLearningRates) {
  const Outcome outcome = run_with({"defense=[{ plugin = \"probe\", action = \"leave-nan\" }]"},
                                   {"--plugin-path", BACKSTOP_TEST_PLUGINS});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const auto probe = row(last_results(), "probe");
  EXPECT_EQ(probe["warning"], "collapsed: 216 of its weights are not finite");
  EXPECT_THAT(outcome.err, AllOf(Not(HasSubstr("collapsed")), Not(HasSubstr("learning rate"))));
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("probe (!) "), HasSubstr("warning: probe: collapsed: ")));
}

TEST_F(Meaning, ATestSetOfTheTargetClassAloneHasNoAttackSuccess) {
  write_recipe(std::string(kRecipe) +
               "\n[expect]\n\"no defense\".attack_success_rate = { maximum = 1.0 }\n");
  for (const char* target : {"0", "1", "2", "3"}) {  // one of them is the class of the only image
    const Outcome outcome =
        run_with({"dataset.test_limit=1", std::string("attack.target=") + target, "defense=[]"});
    const auto results = last_results();
    if (row(results, "no defense")["counts"]["triggered"] == 1) continue;
    EXPECT_EQ(outcome.code, 1) << outcome.err;
    EXPECT_TRUE(row(results, "no defense")["metrics"]["attack_success_rate"].is_null());
    EXPECT_THAT(outcome.out, HasSubstr("attack_success_rate is unknown, expected at most 1 (no "
                                       "test image counts for `attack_success_rate` (n = 0))"));
    return;
  }
  FAIL() << "no target is the class of the image";
}

TEST_F(Meaning, AnAttackFileBelongsToItsTrainingSet) {
  ASSERT_EQ(run_with({"defense=[]"}).code, 0);
  const std::vector<std::string> files = {
      "model.file=" + first("no-defense.safetensors").string(),
      "attack.file=" + first("no-defense.attack.safetensors").string(), "defense=[]"};
  const auto with = [&](const std::string& setting) {
    auto settings = files;
    settings.push_back(setting);
    return run_with(settings);
  };
  const Outcome other = with("dataset.noise=0.5");
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err, ::testing::ContainsRegex("holds poisoned images for another training set: "
                                                  "`synthetic` [0-9a-f]{12} instead of "
                                                  "`synthetic` [0-9a-f]{12}"));
  const Outcome fewer = with("dataset.limit=200");
  EXPECT_EQ(fewer.code, 2);
  EXPECT_THAT(fewer.err,
              AllOf(HasSubstr("limit 0 instead of 200"), HasSubstr("seed not set instead of 3")));
  EXPECT_EQ(with("dataset.test_limit=100").code, 0) << "the test images are another matter";
  EXPECT_EQ(with("seed=4").code, 0) << "nothing was drawn";
}

TEST_F(Meaning, AnAttackFileWithoutItsRecordIsSaidAloud) {
  ASSERT_EQ(run_with({"defense=[]"}).code, 0);
  Tensors attack(first("no-defense.attack.safetensors"));
  const fs::path file = folder_ / "attack.safetensors";
  const auto warnings = [&] {
    attack.write(file);
    return run_with({"model.file=" + first("no-defense.safetensors").string(),
                     "attack.file=" + file.string(), "defense=[]"})
        .err;
  };
  EXPECT_THAT(warnings(), Not(HasSubstr("cannot be verified")));
  attack.header["__metadata__"].erase("training_set");
  EXPECT_THAT(warnings(),
              HasSubstr("attack.safetensors does not record its training set: whether its poisoned "
                        "images belong at their positions cannot be verified"));
  attack.header.erase("__metadata__");
  EXPECT_THAT(warnings(), HasSubstr("attack.safetensors does not record how it was made"));
}

TEST_F(Meaning, AnEncoderFromAFileMustKnowTheTrigger) {
  ASSERT_EQ(run_with({"defense=[]"}).code, 0);
  Tensors model(first("no-defense.safetensors"));
  write_recipe(std::string(kRecipe) +
               "\n[pretraining.dataset]\nplugin = \"synthetic\"\ntrain_images = 256\n"
               "test_images = 128\nclasses = 4\n");
  const fs::path file = folder_ / "encoder.safetensors";
  model.write(file);
  const std::vector<std::string> settings = {
      "scenario=encoder",           "attack.plugin=badencoder",  "attack.encoder=supervised",
      "attack.patch_size=5",        "attack.injection_epochs=1", "attack.poison_ratio=0.1",
      "model.file=" + file.string()};
  const Outcome refused = run_with(settings);
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("encoder.safetensors was trained with attack `badnets`, but "
                                     "the recipe's attack is `badencoder`"));
  model.header["__metadata__"].erase("attack");
  model.write(file);
  const Outcome unknown = run_with(settings);
  EXPECT_EQ(unknown.code, 0) << unknown.err;
  EXPECT_THAT(unknown.err, HasSubstr("encoder.safetensors does not record an attack"));
}

TEST_F(Meaning, ARunThatCannotFitIntoMemoryEndsBeforeItTrains) {
  const Start start =
      command({"--set", "model.architecture=preact-resnet18", "--set", "model.width=512"});
  const Outcome outcome = Process(limited("-v 4000000", start)).wait();
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("not enough memory: preact-resnet18 of width 512 needs at least 11."),
                    HasSubstr("are left below the limit of `ulimit -v`"),
                    HasSubstr("lower `width` in [model]"), Not(HasSubstr("epoch"))));
}

}  // namespace
}  // namespace backstop::testing
