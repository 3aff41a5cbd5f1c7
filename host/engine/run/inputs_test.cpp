#include "host/engine/run/inputs.hpp"

#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;

/// A value of every kind of input, and the files that they name.
class Inputs : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("inputs-" + std::to_string(::getpid()));
    fs::create_directories(folder_ / "images");
    attack_.path = folder_ / "plugin.so";
    scheduler_.path = folder_ / "scheduler.so";
    write("plugin.so", "plugin");
    write("scheduler.so", "scheduler");
    write("trigger.png", "trigger");
    write("images/1.png", "one");
    write("images/2.png", "two");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::trunc) << text;
  }

  static Data data(const std::string& fingerprint) {
    const auto images = [] {
      return ImageStore(at::zeros({4, 3, 8, 8}, at::kByte), at::zeros({4}, at::kLong), 10,
                        c10::kCPU);
    };
    return {images(), images(), {}, {}, fingerprint, {{"limit", 0}}};
  }

  static catalog::PluginEntry entry(catalog::Kind kind, const std::string& name) {
    catalog::PluginEntry entry;
    entry.manifest.kind = kind;
    entry.manifest.name = name;
    entry.manifest.version = "1.0.0";
    return entry;
  }

  AttackInputs attack() {
    AttackInputs inputs;
    inputs.source = &source_;
    inputs.architecture = {"small-cnn", 8, 3, 10, 64};
    inputs.attack = {{&attack_, {}, {}, {}}, {{"name", "plugin"}}};
    inputs.scheduler = {{&scheduler_, {}, {}, {}}, {{"name", "scheduler"}}};
    inputs.training = {1, 32, {}, {}};
    return inputs;
  }
  DefenseInputs defense() {
    DefenseInputs inputs;
    inputs.model_key = {{"stage", "attack"}};
    inputs.task = &source_;
    inputs.architecture = {"small-cnn", 8, 3, 10, 64};
    inputs.defense = {{&attack_, {}, {}, {}}, {{"name", "plugin"}}};
    inputs.clean_images = 100;
    return inputs;
  }

  fs::path folder_;
  DatasetInput source_{"set", data("content"), {4, true}};
  catalog::PluginEntry attack_ = entry(catalog::Kind::attack, "plugin"),
                       scheduler_ = entry(catalog::Kind::scheduler, "scheduler");
};

std::string text_of_key(const AttackInputs& inputs) {
  return key_of(inputs).dump();
}
std::string text_of_key(const SuspectInputs& inputs) {
  return key_of(inputs).dump();
}
std::string text_of_key(const CleanModelInputs& inputs) {
  return key_of(inputs).dump();
}
std::string text_of_key(const AuditInputs& inputs) {
  return key_of(inputs).dump();
}
std::string text_of_key(const DefenseInputs& inputs) {
  return key_of(inputs, "defense").dump();
}

/// Every change gives a key of its own, and none of them the key without a change.
template <typename Inputs>
void expect_other_keys(const std::function<Inputs()>& make,
                       const std::vector<std::function<void(Inputs&)>>& changes) {
  std::vector<std::string> keys{text_of_key(make())};
  EXPECT_EQ(text_of_key(make()), keys[0]);
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Inputs inputs = make();
    changes[i](inputs);
    const std::string key = text_of_key(inputs);
    for (const auto& other : keys) EXPECT_NE(key, other) << "change " << i;
    keys.push_back(key);
  }
}

TEST_F(Inputs, EveryInputOfAnAttackIsInItsKey) {
  DatasetInput content{"set", data("other content"), {4, true}},
      padding{"set", data("content"), {2, true}}, flip{"set", data("content"), {4, false}},
      choice{"set", data("content"), {4, true}};
  choice.data.choice["limit"] = 7;
  using Change = std::function<void(AttackInputs&)>;
  std::vector<Change> changes = {
      [](auto& i) { i.seed = 1; },
      [&](auto& i) { i.source = &content; },
      [&](auto& i) { i.source = &padding; },
      [&](auto& i) { i.source = &flip; },
      [&](auto& i) { i.source = &choice; },
      [](auto& i) { i.threat.all_to_all = 1; },
      [](auto& i) { i.threat.target = 1; },
      [](auto& i) { i.threat.classes = 11; },
      [](auto& i) { i.threat.poison_ratio = 0.2; },
      [](auto& i) { i.encoder = true; },
      [](auto& i) { i.architecture.name = "mlp"; },
      [](auto& i) { i.architecture.width = 9; },
      [](auto& i) { i.architecture.channels = 1; },
      [](auto& i) { i.architecture.classes = 11; },
      [](auto& i) { i.architecture.pixels = 65; },
      [](auto& i) { i.normalization.mean[1] = 0.5; },
      [](auto& i) { i.normalization.deviation[2] = 0.5; },
      [](auto& i) {
        i.model_file = FileInput{"model", "1"};
      },
      [](auto& i) {
        i.model_file = FileInput{"model", "2"};
      },
      [](auto& i) { i.attack.key["name"] = "another"; },
      [](auto& i) {
        i.attack_file = FileInput{"attack", "1"};
      },
      [](auto& i) { i.training.epochs = 2; },
      [](auto& i) { i.training.batch_size = 64; },
      [](auto& i) { i.training.optimizer.name = "adam"; },
      [](auto& i) { i.training.optimizer.momentum = 0.5; },
      [](auto& i) { i.training.optimizer.weight_decay = 0.5; },
      [](auto& i) { i.training.optimizer.nesterov = true; },
      [](auto& i) { i.training.optimizer.beta1 = 0.5; },
      [](auto& i) { i.training.optimizer.beta2 = 0.5; },
      [](auto& i) { i.training.optimizer.epsilon = 0.5; },
      [](auto& i) { i.scheduler.key["name"] = "another"; },
      [](auto& i) { i.compute.device = c10::kCUDA; },
      [](auto& i) { i.compute.bfloat16 = true; },
      [](auto& i) { i.compute.threads = 2; },
      [](auto& i) { i.compute.own_kernels = false; },
  };
  expect_other_keys<AttackInputs>([this] { return attack(); }, changes);
}

TEST_F(Inputs, EveryInputOfASuspectIsInItsKey) {
  DatasetInput task{"set", data("other content"), {4, true}};
  using Change = std::function<void(SuspectInputs&)>;
  const auto suspect = [this] {
    SuspectInputs inputs;
    inputs.task = &source_;
    inputs.architecture = {"small-cnn", 8, 3, 10, 64};
    inputs.model_file = {"model", "1"};
    return inputs;
  };
  std::vector<Change> changes = {
      [&](auto& i) { i.task = &task; },
      [](auto& i) { i.measured = false; },
      [](auto& i) { i.architecture.classes = 9; },
      [](auto& i) { i.normalization.deviation[0] = 0.5; },
      [](auto& i) { i.model_file.sha256 = "2"; },
      [](auto& i) { i.compute.bfloat16 = true; },
  };
  expect_other_keys<SuspectInputs>(suspect, changes);
  const DefenseInputs inputs = defense();
  EXPECT_NE(key_of(inputs, "defense"), key_of(inputs, "detector"));
}

TEST_F(Inputs, EveryInputOfADefenseIsInItsKey) {
  DatasetInput task{"set", data("other content"), {4, true}};
  using Change = std::function<void(DefenseInputs&)>;
  std::vector<Change> changes = {
      [](auto& i) { i.seed = 1; },
      [](auto& i) { i.scenario = recipe::Scenario::transfer; },
      [](auto& i) { i.scenario = recipe::Scenario::encoder; },
      [](auto& i) { i.model_key["seed"] = 1; },
      [&](auto& i) { i.task = &task; },
      [](auto& i) { i.architecture.width = 9; },
      [](auto& i) { i.normalization.mean[0] = 0.5; },
      [](auto& i) { i.defense.key["name"] = "another"; },
      [](auto& i) { i.clean_images = 99; },
      [](auto& i) { i.measure_every = 2; },
      [](auto& i) { i.test_images = 50; },
      [](auto& i) { i.compute.threads = 2; },
  };
  expect_other_keys<DefenseInputs>([this] { return defense(); }, changes);
}

TEST_F(Inputs, EveryInputOfACleanModelIsInItsKey) {
  DatasetInput source{"set", data("other content"), {4, true}};
  using Change = std::function<void(CleanModelInputs&)>;
  const auto clean = [this] {
    const AttackInputs of = attack();
    return CleanModelInputs{0, of.source, of.architecture, {}, of.training, of.scheduler, {}};
  };
  std::vector<Change> changes = {
      [](auto& i) { i.seed = 1; },
      [&](auto& i) { i.source = &source; },
      [](auto& i) { i.architecture.width = 9; },
      [](auto& i) { i.normalization.mean[0] = 0.5; },
      [](auto& i) { i.training.epochs = 2; },
      [](auto& i) { i.scheduler.key["name"] = "another"; },
      [](auto& i) { i.compute.threads = 2; },
  };
  expect_other_keys<CleanModelInputs>(clean, changes);
}

TEST_F(Inputs, EveryInputOfAnAuditIsInItsKey) {
  const AttackInputs first = attack();
  AttackInputs second = attack();
  second.seed = 1;
  using Change = std::function<void(AuditInputs&)>;
  const auto audit = [&] {
    AuditInputs inputs;
    inputs.attack = &first;
    inputs.subject_key = {{"stage", "defense"}};
    inputs.settings.retuning.emplace();
    inputs.settings.path.emplace();
    inputs.settings.reactivation.emplace();
    inputs.settings.sequela.emplace();
    return inputs;
  };
  std::vector<Change> changes = {
      [&](auto& i) { i.attack = &second; },
      [](auto& i) { i.subject_key["seed"] = 1; },
      [](auto& i) { i.settings.retuning.reset(); },
      [](auto& i) { i.settings.retuning->clean_fraction = 0.5; },
      [](auto& i) { i.settings.retuning->rate = 0.5; },
      [](auto& i) { i.settings.retuning->poisoned_images = 7; },
      [](auto& i) { i.settings.retuning->epochs = 7; },
      [](auto& i) { i.settings.retuning->batch_size = 7; },
      [](auto& i) { i.settings.path.reset(); },
      [](auto& i) { i.settings.path->points = 7; },
      [](auto& i) { i.settings.reactivation.reset(); },
      [](auto& i) { i.settings.reactivation->norm = 0.5; },
      [](auto& i) { i.settings.reactivation->images = 7; },
      [](auto& i) { i.settings.reactivation->steps = 7; },
      [](auto& i) { i.settings.reactivation->batch_size = 7; },
      [](auto& i) { i.settings.sequela.reset(); },
      [](auto& i) { i.settings.sequela->universal_radius = 0.5; },
      [](auto& i) { i.settings.sequela->radius = 0.5; },
      [](auto& i) { i.settings.sequela->iterations = 7; },
      [](auto& i) { i.settings.sequela->images = 7; },
  };
  expect_other_keys<AuditInputs>(audit, changes);
  // Which controls there are changes no model's audit.
  AuditInputs alone = audit();
  alone.settings.controls = false;
  EXPECT_EQ(key_of(alone), key_of(audit()));
  const PurificationInputs one{&first, nullptr, nullptr}, other{&second, nullptr, nullptr};
  EXPECT_NE(key_of(one), key_of(other));
}

TEST_F(Inputs, ContentOfEveryPathIsInAPluginsKey) {
  const auto parameter = [](const char* key, bool list) {
    schema::Parameter path;
    path.key = key;
    path.type = schema::ParameterType::path;
    path.list = list;
    return path;
  };
  attack_.manifest.parameters = {parameter("file", false), parameter("folder", false),
                                 parameter("files", true)};
  scheduler_.manifest.parameters = {parameter("file", false)};
  recipe::PluginUse use{&attack_,
                        toml::table{{"file", (folder_ / "trigger.png").string()},
                                    {"folder", (folder_ / "images").string()},
                                    {"files", toml::array{(folder_ / "images/1.png").string()}}},
                        {},
                        {}};
  use.schedulers.push_back(
      {&scheduler_, toml::table{{"file", (folder_ / "trigger.png").string()}}, "scheduler", {}});
  std::vector<std::string> keys{plugin_input(use).key.dump()};
  const auto expect_another = [&](const char* what) {
    const std::string key = plugin_input(use).key.dump();
    for (const auto& other : keys) EXPECT_NE(key, other) << what;
    keys.push_back(key);
  };
  EXPECT_EQ(plugin_input(use).key.dump(), keys[0]);
  write("trigger.png", "another");
  expect_another("a file, of the attack and of its scheduler");
  write("images/2.png", "another");
  expect_another("a file in a folder");
  write("images/3.png", "three");
  expect_another("one more file in a folder");
  write("images/1.png", "another");
  expect_another("an element of a list");
  use.schedulers[0].parameters.insert_or_assign("file", (folder_ / "images/1.png").string());
  expect_another("a path of the scheduler");
}

}  // namespace
}  // namespace backstop::engine
