// [audit]: what it says of a defense that only hides the backdoor, and of one that leaves nothing
// of it.
#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Audit : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    // "hidden" changes next to nothing, "fresh" trains from random weights.
    std::string text = kRecipe;
    const auto replace = [&](const std::string& before, const std::string& after) {
      const auto place = text.find(before);
      ASSERT_NE(place, std::string::npos) << before;
      text.replace(place, before.size(), after);
    };
    replace("train_images = 256", "train_images = 1000");
    replace("epochs = 2\nbatch_size = 32\nscheduler = { plugin = \"constant\", rate = 0.05 }",
            "epochs = 6\nbatch_size = 32\nscheduler = { plugin = \"constant\", rate = 0.05 }");
    write_recipe(text + R"(
[audit.retuning]
clean_fraction = 0.1

[audit.path]
points = 5

[audit.reactivation]
norm = 1.0
steps = 20
images = 200

[audit.sequela]
images = 50
)");
  }
  [[nodiscard]] nlohmann::json audits() const {
    return nlohmann::json::parse(read(runs().back() / "results.json"))["audits"];
  }
  static nlohmann::json audit_of(const nlohmann::json& audits, const std::string& name) {
    for (const auto& entry : audits)
      if (entry["name"] == name) return entry["metrics"];
    ADD_FAILURE() << "no audit of " << name << " in " << audits.dump(2);
    return {};
  }
  static constexpr const char* kDefenses =
      R"(defense=[{ name = "hidden", plugin = "fine-tuning", epochs = 1, scheduler = { plugin = "constant", rate = 1e-6 } }, { name = "fresh", plugin = "retrain", clean_fraction = 0.5, epochs = 6, batch_size = 32, scheduler = { plugin = "constant", rate = 0.05 } }])";
};

TEST_F(Audit, TellsAHiddenBackdoorFromNone) {
  const Outcome outcome = run({"--set", kDefenses});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto found = audits();
  ASSERT_EQ(found.size(), 5U);
  EXPECT_EQ(found[3]["name"], "clean model");
  EXPECT_EQ(found[4]["name"], "exact purification");
  const auto hidden = audit_of(found, "hidden"), before = audit_of(found, "no defense"),
             clean = audit_of(found, "clean model"), fresh = audit_of(found, "fresh");
  EXPECT_GT(before["attack_success_rate"], 0.9);
  EXPECT_EQ(before["path_reach"], 1.0);
  EXPECT_EQ(hidden["path_reach"], 1.0);
  EXPECT_GT(hidden["retuned_attack_success_rate"], 0.9);
  EXPECT_LT(clean["attack_success_rate"], 0.2);
  EXPECT_LT(clean["path_reach"], 1.0);
  EXPECT_LT(clean["retuned_attack_success_rate"],
            hidden["retuned_attack_success_rate"].get<double>() - 0.3);
  EXPECT_LT(fresh["path_reach"], 1.0);
  EXPECT_LT(fresh["retuned_attack_success_rate"],
            hidden["retuned_attack_success_rate"].get<double>() - 0.3);
  for (const auto& entry : found) {
    EXPECT_EQ(entry["path"].size(), 5U);
    EXPECT_EQ(entry["path"][0]["attack_success_rate"], before["attack_success_rate"]);
    EXPECT_EQ(entry["path"][4]["attack_success_rate"], entry["metrics"]["attack_success_rate"]);
  }
  EXPECT_THAT(outcome.out, HasSubstr("clean model (control)"));
  EXPECT_THAT(read(runs()[0] / "audit.csv"), HasSubstr(",hidden,false,"));
  EXPECT_THAT(read(runs()[0] / "audit-path.csv"), HasSubstr("clean model,true,0.25,"));
  EXPECT_THAT(read(runs()[0] / "report.html"), HasSubstr("<h2>Audit</h2>"));
}

TEST_F(Audit, ComesFromTheStoreAndEveryPartIsTheSameWithoutTheOthers) {
  ASSERT_EQ(run({"--set", "defense=[]"}).code, 0);
  const Outcome again = run({"--set", "defense=[]"});
  EXPECT_THAT(again.err, AllOf(HasSubstr("[audit] no defense: cached"),
                               HasSubstr("[control] clean model: cached"),
                               Not(HasSubstr("[audit] no defense: started")),
                               Not(HasSubstr("[control] clean model: started"))));
  const auto all = audits();
  const Outcome part = run({"--set", "defense=[]", "--set", "audit.retuning.enabled=false", "--set",
                            "audit.path.enabled=false"});
  ASSERT_EQ(part.code, 0) << part.err;
  const auto some = audits();
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_FALSE(some[i]["metrics"].contains("retuned_attack_success_rate"));
    for (const auto& [key, value] : some[i]["metrics"].items())
      EXPECT_EQ(value, all[i]["metrics"][key]) << key;
  }
}

TEST_F(Audit, SaysSoWhereTheAttackDidNotTake) {
  const Outcome outcome = run({"--set", "defense=[]", "--set", "attack.training.epochs=0"});
  EXPECT_THAT(outcome.out, HasSubstr("warning: no audit: "));
  EXPECT_EQ(audits().size(), 0U);
}

TEST_F(Audit, IsRefusedWhereThereIsNoBackdoor) {
  const Outcome outcome = run({"--set", "attack.plugin=none"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("[audit] is given, but attack `none` poisons nothing"));
}

TEST_F(Audit, CanBeExpected) {
  std::ofstream(recipe(), std::ios::app)
      << "\n[expect]\n\"no defense\".path_reach = { minimum = 1.0 }\n";
  const Outcome outcome = run({"--set", "defense=[]"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("no defense: path_reach is 1.0000, expected at least 1"));
  const Outcome without = run({"--set", "audit.path.points=1"});
  EXPECT_EQ(without.code, 2);
}

}  // namespace
}  // namespace backstop::testing
