#include "host/engine/run/run.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

#include <dlfcn.h>

#include <ATen/ATen.h>

#include "backstop/attack.hpp"
#include "backstop/defense.hpp"
#include "host/base/hash.hpp"
#include "host/engine/compute.hpp"
#include "host/engine/data/image_quality.hpp"
#include "host/engine/data/load_data.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/store/run_directory.hpp"
#include "host/engine/store/stage_store.hpp"
#include "host/engine/train/measure.hpp"
#include "host/report/table.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;

constexpr const char* kUndefended = "no defense";

json to_json(const toml::table& table) {
  std::ostringstream text;
  text << toml::json_formatter(table);
  return json::parse(text.str());
}

/// SHA-256 of the file that this code runs from: another build may compute other bits.
const std::string& build_hash() {
  static const std::string hash = [] {
    Dl_info info{};
    dladdr(reinterpret_cast<void*>(&run_recipe), &info);
    return base::sha256_of_file(std::filesystem::canonical(info.dli_fname));
  }();
  return hash;
}

/// A dataset of the recipe.
struct Task {
  std::string name;  ///< its plugin's
  Data data;
  Augmentation augmentation;
};

/// Everything that one run of one recipe holds.
class Run {
 public:
  Run(const recipe::Recipe& recipe, const RunRequest& request, RunOutcome& outcome);
  json execute();

 private:
  [[nodiscard]] const toml::table& section(std::string_view name) const;
  [[nodiscard]] StageContext context(const StageLabel& label, const std::string& purpose,
                                     const Augmentation& augmentation = {});
  [[nodiscard]] PluginObject object(catalog::Kind kind, const toml::table& table);
  /// Says what plugins leave changed outside of a stage.
  [[nodiscard]] Complaints complaints();

  void start_from_data();
  /// A dataset, as a stage of the run.
  [[nodiscard]] Task task(const toml::table& table);
  /// What the backdoored model is trained on: with transfer another dataset than the defenses'.
  [[nodiscard]] const Task& source() const { return pretraining_ ? *pretraining_ : *task_; }
  [[nodiscard]] Threat threat() const;
  [[nodiscard]] TriggeredSet trigger_test_set(const PluginObject& attack, const Task& task,
                                              StageContext& ctx);
  [[nodiscard]] Architecture architecture(const Task& task) const;
  [[nodiscard]] Classifier new_model();
  /// Poisons the training set; the trigger is learnt, drawn, or comes from `attack.file`.
  void make_trigger(const PluginObject& attack, StageContext& ctx, TrainingSetCopy& editor);
  void load_attack(const PluginObject& attack);
  Stage train_attack(const PluginObject& attack);
  void start_from_attack();
  /// Of the model that a defense starts from.
  json start_metrics(StageContext& ctx, Classifier& model);
  Stage defend(const PluginObject& plugin, const StageLabel& label, const toml::table& table);
  [[nodiscard]] std::int64_t clean_images(const PluginObject& plugin,
                                          const toml::table& table) const;

  /// Lets the trainer measure `model` after each `every` epochs (0: never); appends the events to
  /// `epochs`. `before` is called before each measurement.
  void measure_epochs(StageContext& ctx, const Classifier& model, const Task& task,
                      std::int64_t every, json& epochs, std::function<void()> before);
  void report_epoch(json event, json& epochs);
  /// Metrics and counts; neither for an encoder before it is adapted, which has no classes.
  json measure_now(StageContext& ctx, Classifier& model, const Task& task);
  json final_measurement(StageContext& ctx, Classifier& model, const Task& task,
                         const json& epochs);
  [[nodiscard]] TensorFile model_file(const Classifier& model) const;

  /// The stage of that key from the store, or `make`'s result, kept there first.
  template <typename Make>
  Stage stage(const StageLabel& label, const json& key, Make&& make);
  [[nodiscard]] json key_of(const Task& task) const;
  [[nodiscard]] json common_key() const;
  [[nodiscard]] json plugins_in(const toml::table& table, catalog::Kind kind) const;
  [[nodiscard]] json files_in(const toml::table& table, catalog::Kind kind) const;
  void add_row(const StageLabel& label, const Stage& stage);
  /// A defense's pictures, below the true trigger.
  void show(const StageLabel& label, const NamedTensors& pictures);
  [[nodiscard]] json expectations() const;
  void say(json event) { directory_.event(event); }

  const recipe::Recipe& recipe_;
  const RunRequest& request_;
  std::int64_t seed_;
  RunDirectory directory_;
  StageStore store_;
  Compute compute_;
  bool encoder_ = false;                    ///< the scenario
  std::optional<Task> pretraining_, task_;  ///< [pretraining.dataset], with transfer, and [dataset]
  json attack_key_;
  std::optional<TriggeredSet> triggered_;
  std::optional<Stage> backdoored_;
  std::vector<at::Tensor> measured_;  ///< weights at the last measurement of the stage's model
  json last_measurement_;
  json results_;
};

const toml::table& Run::section(std::string_view name) const {
  return *recipe_.table.get(name)->as_table();
}

Run::Run(const recipe::Recipe& recipe, const RunRequest& request, RunOutcome& outcome)
    : recipe_(recipe),
      request_(request),
      seed_(recipe.table["seed"].ref<std::int64_t>()),
      directory_(request.out, recipe.table["name"].ref<std::string>(), recipe::to_toml(recipe),
                 request.observer),
      store_(request.out / ".stages") {
  outcome.runs.push_back(directory_.path());
  encoder_ = recipe.table["scenario"].ref<std::string>() == "encoder";
  compute_ = resolve_compute(section("compute"), section("model")["width"].ref<std::int64_t>());
  const std::string name = recipe.table["name"].ref<std::string>();
  results_ = {
      {"schema", 1},           {"name", name},
      {"seed", seed_},         {"recipe_sha256", base::sha256_of_text(recipe::to_toml(recipe))},
      {"rows", json::array()}, {"expectations", json::array()}};
  directory_.describe(
      {{"backstop", {{"version", BACKSTOP_VERSION}, {"abi", catalog::own_build_facts().abi}}},
       {"status", "running"},
       {"started", utc_now()},
       {"seed", seed_},
       {"recipe_sha256", results_["recipe_sha256"]},
       {"hardware", describe_hardware(compute_)},
       {"compute",
        {{"device", compute_.device.str()},
         {"precision", compute_.bfloat16 ? "bfloat16" : "float32"},
         {"threads", compute_.threads},
         {"kernels", compute_.own_kernels ? "own" : "libtorch"}}},
       {"determinism",
        compute_.device.is_cuda()
            ? "some CUDA kernels (index and atomic additions) may differ in the last "
              "bits from run to run"
            : "the same recipe, build and number of threads give the same bits"}});
  say({{"event", "run_started"}, {"run", directory_.path().string()}, {"seed", seed_}});
}

StageContext Run::context(const StageLabel& label, const std::string& purpose,
                          const Augmentation& augmentation) {
  return StageContext(label, seed_for(seed_, purpose), compute_, augmentation, &directory_,
                      request_.interrupted);
}

Complaints Run::complaints() {
  const auto report = [](void* user, const std::string& message) {
    static_cast<Run*>(user)->say({{"event", "log"},
                                  {"level", "warning"},
                                  {"stage", "plugins"},
                                  {"name", "plugins"},
                                  {"message", message}});
  };
  return {report, this};
}

PluginObject Run::object(catalog::Kind kind, const toml::table& table) {
  return {*request_.catalog, kind, table, complaints()};
}

json Run::plugins_in(const toml::table& table, catalog::Kind kind) const {
  const catalog::PluginEntry& entry =
      request_.catalog->require(kind, table["plugin"].ref<std::string>());
  json list = json::array({{{"kind", to_string(kind)},
                            {"name", entry.manifest.name},
                            {"version", entry.manifest.version},
                            {"path", entry.path.string()},
                            {"sha256", base::sha256_of_file(entry.path)}}});
  for (const auto& [key, node] : table) {
    if (const auto* inner = node.as_table(); inner != nullptr && inner->contains("plugin"))
      for (const auto& plugin : plugins_in(*inner, catalog::Kind::scheduler))
        list.push_back(plugin);
    if (const auto* inner = node.as_table(); inner != nullptr && key == "training")
      for (const auto& plugin :
           plugins_in(*(*inner)["scheduler"].as_table(), catalog::Kind::scheduler))
        list.push_back(plugin);
  }
  return list;
}

/// The content, not the name, of every file that a plugin's parameters name.
json Run::files_in(const toml::table& table, catalog::Kind kind) const {
  json hashes = json::object();
  const auto& plugin = request_.catalog->require(kind, table["plugin"].ref<std::string>());
  for (const catalog::Parameter& parameter : plugin.manifest.parameters) {
    const auto path = table[parameter.key].value<std::string>();
    if (parameter.type == catalog::ParameterType::path && path &&
        std::filesystem::is_regular_file(*path))
      hashes[parameter.key] = base::sha256_of_file(*path);
  }
  return hashes;
}

// --- data ---

Task Run::task(const toml::table& table) {
  const StageLabel label{"data", table["plugin"].ref<std::string>()};
  json event = {
      {"event", "stage_started"}, {"stage", label.stage}, {"name", label.name}, {"reused", false}};
  say(event);
  StageContext ctx = context(label, "data");
  const PluginObject plugin = object(catalog::Kind::dataset, table);
  const auto& augmentation = *table["augmentation"].as_table();
  Task made{label.name,
            load_data(plugin, table, seed_, ctx, compute_.device),
            {augmentation["crop_padding"].ref<std::int64_t>(),
             augmentation["horizontal_flip"].ref<bool>()}};
  event["event"] = "stage_finished";
  event["wall_seconds"] = ctx.cost().stop()["wall_seconds"];
  say(event);
  return made;
}

void Run::start_from_data() {
  const auto record = [this](const char* key, const Task& task) {
    const ImageStore &train = task.data.train, &test = task.data.test;
    directory_.describe({{key,
                          {{"name", task.name},
                           {"fingerprint", task.data.fingerprint},
                           {"training_images", train.size()},
                           {"test_images", test.size()},
                           {"image_size", {train.channels(), train.height(), train.width()}},
                           {"classes", task.data.class_names}}}});
  };
  task_.emplace(task(section("dataset")));
  record("dataset", *task_);
  if (!recipe_.table.contains("pretraining")) return;
  pretraining_.emplace(task(*section("pretraining")["dataset"].as_table()));
  record("pretraining_dataset", *pretraining_);
  const auto size = [](const Task& task) {
    const ImageStore& images = task.data.train;
    return std::to_string(images.channels()) + "x" + std::to_string(images.height()) + "x" +
           std::to_string(images.width());
  };
  if (size(*pretraining_) != size(*task_))
    throw base::HostError(base::ExitCode::usage,
                          "the images of [pretraining.dataset] `" + pretraining_->name + "` are " +
                              size(*pretraining_) + ", those of [dataset] `" + task_->name + "` " +
                              size(*task_) + " (channels, height, width)",
                          "`image_size` resizes a dataset; the channels must be the same");
}

// --- stages ---

json Run::key_of(const Task& task) const {
  return {{"dataset", task.data.fingerprint},
          {"choice", task.data.choice},
          {"augmentation", {task.augmentation.crop_padding, task.augmentation.horizontal_flip}},
          {"normalisation", {task.data.normalization.mean, task.data.normalization.deviation}}};
}

json Run::common_key() const {
  return {{"backstop", BACKSTOP_VERSION},
          {"engine", build_hash()},
          {"seed", seed_},
          {"source", key_of(source())},
          {"model", to_json(section("model"))},
          {"compute",
           {c10::DeviceTypeName(compute_.device.type()), compute_.bfloat16, compute_.threads,
            compute_.own_kernels}}};
}

template <typename Make>
Stage Run::stage(const StageLabel& label, const json& key, Make&& make) {
  const auto folder = store_.folder_of(label.stage, key);
  std::optional<Stage> kept;
  if (!request_.fresh) kept = store_.load(folder);
  const bool reused = kept.has_value();
  say({{"event", "stage_started"},
       {"stage", label.stage},
       {"name", label.name},
       {"reused", reused}});
  if (reused) {
    for (json event : kept->epochs) {  // under this recipe's name for the row
      event["name"] = label.name;
      say(event);
    }
  } else {
    store_.save(folder, key, make());
    kept = store_.load(folder);  // a reused stage and a new one take the same way
    if (!kept)
      throw base::HostError(base::ExitCode::environment,
                            "the stage " + folder.string() + " disappeared");
  }
  directory_.keep_stage(label.name, folder);
  say({{"event", "stage_finished"},
       {"stage", label.stage},
       {"name", label.name},
       {"wall_seconds", kept->row["cost"]["wall_seconds"]},
       {"reused", reused}});
  return *kept;
}

void Run::report_epoch(json event, json& epochs) {
  epochs.push_back(event);
  say(std::move(event));
}

void Run::measure_epochs(StageContext& ctx, const Classifier& model, const Task& task,
                         std::int64_t every, json& epochs, std::function<void()> before) {
  if (every == 0) return;
  ctx.trainer().measure(model,
                        [this, &ctx, &task, every, &epochs, before = std::move(before)](
                            Classifier& trained, std::int64_t epoch, std::int64_t of, double loss) {
                          if (epoch % every != 0 && epoch != of) return;
                          const CostMeter::Evaluation pause(ctx.cost());
                          before();
                          last_measurement_ = measure_now(ctx, trained, task);
                          measured_.clear();
                          for (const auto& item : trained.state()) measured_.push_back(item.second);
                          json event = {{"event", "epoch"},
                                        {"stage", ctx.label().stage},
                                        {"name", ctx.label().name},
                                        {"epoch", epoch},
                                        {"epochs", of},
                                        {"loss", loss}};
                          event.update(last_measurement_["metrics"]);
                          report_epoch(std::move(event), epochs);
                        });
}

json Run::measure_now(StageContext& ctx, Classifier& model, const Task& task) {
  if (!triggered_) return {{"metrics", json::object()}, {"counts", json::object()}};
  return measure(ctx.trainer(), model, task.data.test, *triggered_);
}

json Run::final_measurement(StageContext& ctx, Classifier& model, const Task& task,
                            const json& epochs) {
  const CostMeter::Evaluation pause(ctx.cost());
  const auto state = model.state();
  const bool unchanged =
      epochs.size() > 1 && state.size() == measured_.size() &&
      std::equal(state.begin(), state.end(), measured_.begin(),
                 [](const auto& now, const at::Tensor& then) { return now.second.equal(then); });
  return unchanged ? last_measurement_ : measure_now(ctx, model, task);
}

TensorFile Run::model_file(const Classifier& model) const {
  const Architecture& a = model.architecture();
  const auto list = [&](const std::array<double, 3>& values) {
    return json(std::vector<double>(values.begin(), values.begin() + a.channels)).dump();
  };
  return {model.state(),
          {{"format", "pt"},
           {"architecture", a.name},
           {"width", std::to_string(a.width)},
           {"channels", std::to_string(a.channels)},
           {"classes", std::to_string(a.classes)},
           {"mean", list(model.normalization().mean)},
           {"deviation", list(model.normalization().deviation)}}};
}

// --- attack ---

Threat Run::threat() const {
  const toml::table& table = section("attack");
  Threat threat;
  threat.all_to_all = table["labels"].value_or<std::string_view>("") == "all-to-all" ? 1 : 0;
  threat.target = table["target"].ref<std::int64_t>();
  // The attacker of an encoder aims at the task that it will be adapted to.
  threat.classes = (encoder_ ? *task_ : source()).data.train.classes();
  threat.poison_ratio = table["poison_ratio"].ref<double>();
  if (threat.all_to_all == 0 && threat.target >= threat.classes)
    throw base::HostError(base::ExitCode::usage,
                          "attack.target is " + std::to_string(threat.target) +
                              ", the dataset has " + std::to_string(threat.classes) + " classes",
                          "choose a target in 0 .. " + std::to_string(threat.classes - 1));
  return threat;
}

TriggeredSet Run::trigger_test_set(const PluginObject& attack, const Task& task,
                                   StageContext& ctx) {
  const CostMeter::Evaluation pause(ctx.cost());
  std::vector<at::Tensor> parts;
  const ImageStore& test = task.data.test;
  constexpr std::int64_t kChunk = 1000;
  for (std::int64_t first = 0; first < test.size(); first += kChunk) {
    ctx.stop_if_cancelled();
    const at::Tensor positions =
        at::arange(first, std::min(first + kChunk, test.size()), at::kLong);
    const at::Tensor clean = test.images(positions);
    const at::Tensor images = call(attack, "apply", ctx, [&] {
      return attack.as<Attack>().apply(ctx, clean, Phase::test).detach();
    });
    if (images.sizes() != clean.sizes() || !at::isfinite(images).all().item<bool>())
      throw base::HostError(
          base::ExitCode::plugin,
          "attack `" + attack.entry().manifest.name +
              "` returned triggered images of another shape or with values that are not "
              "finite",
          "the plugin is " + attack.entry().path.string());
    parts.push_back(to_8_bits(images));
  }
  const at::Tensor labels = test.labels();
  const bool own_classes = encoder_ || &task == &source();
  return {ImageStore(at::cat(parts), labels, test.classes(), compute_.device),
          own_classes ? threat().targets(labels) : at::Tensor()};
}

Architecture Run::architecture(const Task& task) const {
  const toml::table& table = section("model");
  const ImageStore& images = task.data.train;
  return {table["architecture"].ref<std::string>(), table["width"].ref<std::int64_t>(),
          images.channels(), images.classes(), images.height() * images.width()};
}

Classifier Run::new_model() {
  at::Generator generator = engine::make_generator(seed_for(seed_, "model"));
  return {architecture(source()), source().data.normalization, compute_, generator};
}

void Run::make_trigger(const PluginObject& attack, StageContext& ctx, TrainingSetCopy& editor) {
  auto& plugin = attack.as<Attack>();
  if (const auto file = section("attack")["file"].value<std::string>()) {
    const AttackFile learnt = read_attack_file(*file);
    const TensorState state(learnt.state);
    call(attack, "load", ctx, [&] { plugin.load(ctx, threat(), state); });
    editor.restore(learnt.poison, *file);
    return;
  }
  call(attack, "prepare", ctx, [&] { plugin.prepare(ctx, threat(), source().data.train); });
  call(attack, "poison", ctx, [&] { plugin.poison(ctx, threat(), editor); });
  if (section("model")["file"])
    ctx.log(LogLevel::warning,
            "the model comes from a file, its trigger does not: it is made anew from the seed; "
            "`attack.file` names what an attack has learnt");
}

Stage Run::train_attack(const PluginObject& attack) {
  const Task& task = source();
  StageContext ctx = context({"attack", kUndefended}, "attack", task.augmentation);
  ctx.set_model(architecture(task), task.data.normalization);
  auto& plugin = attack.as<Attack>();
  const Threat threat = this->threat();
  Classifier model = new_model();
  TrainingSetCopy editor(source().data.train);
  make_trigger(attack, ctx, editor);
  const ImageStore poisoned = with_poison(source().data.train, editor.record());
  if (!encoder_) triggered_.emplace(trigger_test_set(attack, task, ctx));

  Stage stage;
  stage.epochs = json::array();
  const auto file = section("model")["file"].value<std::string>();
  if (file) model.load_state(read_safetensors(*file).tensors, *file);
  {
    const CostMeter::Evaluation pause(ctx.cost());
    last_measurement_ = measure_now(ctx, model, task);
    const toml::table& training = *section("attack")["training"].as_table();
    json event = {{"event", "epoch"},
                  {"stage", "attack"},
                  {"name", kUndefended},
                  {"epoch", 0},
                  {"epochs", file ? 0 : training["epochs"].ref<std::int64_t>()}};
    event.update(last_measurement_["metrics"]);
    report_epoch(std::move(event), stage.epochs);
  }
  if (!file) {
    const toml::table& training = *section("attack")["training"].as_table();
    const GuardedScheduler scheduler(
        object(catalog::Kind::scheduler, *training["scheduler"].as_table()), complaints());
    TrainingOptions options;
    options.epochs = training["epochs"].ref<std::int64_t>();
    options.batch_size = training["batch_size"].ref<std::int64_t>();
    options.scheduler = &scheduler;
    options.optimizer = optimizer_options(*training["optimizer"].as_table());
    // The trigger may be learnt on the way.
    const auto trigger_again = [&] {
      if (!encoder_) triggered_.emplace(trigger_test_set(attack, task, ctx));
    };
    measure_epochs(ctx, model, task, 1, stage.epochs, trigger_again);
    call(attack, "train", ctx,
         [&] { plugin.train(ctx, threat, model, poisoned, editor, options); });
    trigger_again();
  }
  stage.poison = editor.record();
  TensorState state;
  call(attack, "save", ctx, [&] { plugin.save(state); });
  stage.state = state.tensors();
  stage.row = {{"name", kUndefended},
               {"plugin", nullptr},
               {"given", {{"clean_images", 0}, {"training_images", 0}}}};
  stage.row.update(final_measurement(ctx, model, task, stage.epochs));
  {
    const CostMeter::Evaluation pause(ctx.cost());
    const TriggeredSet shown = triggered_ ? *triggered_ : trigger_test_set(attack, task, ctx);
    stage.row["trigger"] = image_quality(task.data.test, shown.images);
  }
  const at::Tensor& roles = tensor_named(stage.poison, "roles");
  stage.row["extra"] = ctx.metrics();
  stage.row["extra"]["poisoned_images"] =
      roles.eq(static_cast<std::int64_t>(Role::poison)).sum().item<std::int64_t>();
  stage.row["extra"]["cover_images"] =
      roles.eq(static_cast<std::int64_t>(Role::cover)).sum().item<std::int64_t>();
  stage.row["cost"] = ctx.cost().stop();
  stage.model = model_file(model);
  stage.artifacts = ctx.artifacts();
  stage.pictures = ctx.pictures();
  return stage;
}

/// In every run, also in the one that trained it: what comes after the attack depends on its files
/// alone.
void Run::load_attack(const PluginObject& attack) {
  StageContext ctx = context({"attack", kUndefended}, "attack/load");
  ctx.set_model(architecture(source()), source().data.normalization);
  const TensorState state(backdoored_->state);
  call(attack, "load", ctx, [&] { attack.as<Attack>().load(ctx, threat(), state); });
  triggered_.emplace(trigger_test_set(attack, *task_, ctx));
}

void Run::start_from_attack() {
  const toml::table& table = section("attack");
  const StageLabel label{"attack", kUndefended};
  attack_key_ = common_key();
  attack_key_["attack"] = to_json(table);
  attack_key_["plugins"] = plugins_in(table, catalog::Kind::attack);
  for (auto& plugin : attack_key_["plugins"]) plugin.erase("path");
  attack_key_["files"] = files_in(table, catalog::Kind::attack);
  if (const auto file = section("model")["file"].value<std::string>())
    attack_key_["model_file"] = base::sha256_of_file(*file);
  if (const auto file = table["file"].value<std::string>())
    attack_key_["attack_file"] = base::sha256_of_file(*file);
  static_cast<void>(threat());  // a wrong target is found before anything is trained
  backdoored_ =
      stage(label, attack_key_, [&] { return train_attack(object(catalog::Kind::attack, table)); });
  directory_.keep_attack(label.name, store_.folder_of(label.stage, attack_key_));
  const PluginObject attack = object(catalog::Kind::attack, table);
  load_attack(attack);
  const std::int64_t shown = std::min<std::int64_t>(8, task_->data.test.size());
  const at::Tensor first = at::arange(shown, at::kLong);
  const std::string& name = attack.entry().manifest.name;
  directory_.write_trigger(name, name + ": " + report::trigger_text(backdoored_->row),
                           task_->data.test.pixels(first).to(at::kCPU),
                           triggered_->images.pixels(first).to(at::kCPU));
  add_row(label, *backdoored_);
}

// --- defenses ---

std::int64_t Run::clean_images(const PluginObject& plugin, const toml::table& table) const {
  const auto& needs = plugin.entry().manifest.needs;
  if (std::find(needs.begin(), needs.end(), "clean-data") == needs.end()) return 0;
  const std::int64_t all = task_->data.train.size();
  if (const auto count = table["clean_images"].value<std::int64_t>()) {
    if (*count <= all) return *count;
    throw base::HostError(base::ExitCode::usage, "defense `" + table["name"].ref<std::string>() +
                                                     "` asks for " + std::to_string(*count) +
                                                     " clean images, the training set has " +
                                                     std::to_string(all));
  }
  const double share = table["clean_fraction"].ref<double>();
  return std::max<std::int64_t>(1, std::llround(share * static_cast<double>(all)));
}

json Run::start_metrics(StageContext& ctx, Classifier& model) {
  if (!pretraining_) return backdoored_->row["metrics"];  // the same weights: measured already
  const CostMeter::Evaluation pause(ctx.cost());
  return measure_now(ctx, model, *task_)["metrics"];
}

Stage Run::defend(const PluginObject& plugin, const StageLabel& label, const toml::table& table) {
  // One sequence of draws for all defenses: they are compared on the same clean images and batches.
  StageContext ctx = context(label, "defense", task_->augmentation);
  ctx.set_model(architecture(*task_), source().data.normalization);
  Classifier model = new_model();
  model.load_state(backdoored_->model.tensors, "the backdoored model");
  if (pretraining_) {
    at::Generator generator = engine::make_generator(seed_for(seed_, "head"));
    model.replace_head(task_->data.train.classes(), generator);
  }

  const ImageStore& train = task_->data.train;
  std::optional<ImageStore> clean, training;
  const std::int64_t clean_count = clean_images(plugin, table);
  if (clean_count > 0) {
    at::Generator generator = engine::make_generator(seed_for(seed_, "defender's clean images"));
    clean =
        train.subset(at::randperm(train.size(), generator, at::kLong).narrow(0, 0, clean_count));
  }
  const auto& needs = plugin.entry().manifest.needs;
  if (std::find(needs.begin(), needs.end(), "training-data") != needs.end())
    training = with_poison(train, backdoored_->poison);
  const GivenData given(clean ? &*clean : nullptr, training ? &*training : nullptr);

  Stage stage;
  stage.epochs = json::array();
  json start = {{"event", "epoch"},
                {"stage", label.stage},
                {"name", label.name},
                {"epoch", 0},
                {"epochs", table["epochs"].value_or(std::int64_t{0})}};
  start.update(start_metrics(ctx, model));
  report_epoch(std::move(start), stage.epochs);
  measure_epochs(ctx, model, *task_, table["measure_every"].ref<std::int64_t>(), stage.epochs,
                 [] {});
  call(plugin, "run", ctx, [&] { plugin.as<Defense>().run(ctx, model, given); });

  stage.row = {
      {"name", label.name},
      {"plugin", plugin.entry().manifest.name},
      {"given",
       {{"clean_images", clean_count}, {"training_images", training ? training->size() : 0}}}};
  stage.row.update(final_measurement(ctx, model, *task_, stage.epochs));
  stage.row["extra"] = ctx.metrics();
  if (training && ctx.flagged().defined())  // else it knows other images than the poisoned ones
    stage.row["detection"] = detection(ctx.flagged(), backdoored_->poison, train.size());
  stage.row["cost"] = ctx.cost().stop();
  stage.model = model_file(model);
  stage.artifacts = ctx.artifacts();
  stage.pictures = ctx.pictures();
  return stage;
}

// --- results ---

void Run::add_row(const StageLabel& label, const Stage& stage) {
  json row = stage.row;
  row["name"] = label.name;  // a kept stage may have been made under another name
  if (!pretraining_) {
    const double undefended = backdoored_->row["metrics"]["clean_accuracy"];
    row["metrics"]["clean_accuracy_drop"] =
        undefended - row["metrics"]["clean_accuracy"].get<double>();
  }
  row["by_epoch"] = json::array();
  for (const json& event : stage.epochs) {
    json point = {{"epoch", event["epoch"]}};
    for (const char* metric : {"clean_accuracy", "attack_success_rate"})
      if (event.contains(metric)) point[metric] = event[metric];
    if (point.size() > 1) row["by_epoch"].push_back(std::move(point));
  }
  row["measured_on"] = (label.stage == "attack" ? source() : *task_).name;
  if (const auto favourite = row["metrics"].find("attack_class"); favourite != row["metrics"].end())
    row["attack_class_name"] = task_->data.class_names.at(favourite->get<std::size_t>());
  results_["rows"].push_back(std::move(row));
  directory_.write_results(results_);
}

void Run::show(const StageLabel& label, const NamedTensors& pictures) {
  const at::Tensor first =
      at::arange(std::min<std::int64_t>(3, task_->data.test.size()), at::kLong);
  std::vector<SheetRow> rows = {
      {"clean", task_->data.test.pixels(first).to(at::kCPU)},
      {"with the true trigger", triggered_->images.pixels(first).to(at::kCPU)}};
  for (const auto& [name, images] : pictures) {
    if (images.sizes().slice(1) != rows[0].images.sizes().slice(1))
      throw base::HostError(base::ExitCode::plugin, "the picture `" + name + "` of defense `" +
                                                        label.name +
                                                        "` is not of the dataset's size");
    rows.push_back({name, images});
  }
  directory_.write_picture(label.name, rows);
}

json Run::expectations() const {
  json list = json::array();
  const auto* expect = recipe_.table["expect"].as_table();
  if (expect == nullptr) return list;
  for (const auto& [row_name, metrics] : *expect) {
    const auto row =
        std::find_if(results_["rows"].begin(), results_["rows"].end(),
                     [&](const json& r) { return r["name"] == std::string(row_name.str()); });
    for (const auto& [metric, bounds] : *metrics.as_table()) {
      const double value = (*row)["metrics"][std::string(metric.str())];
      const auto minimum = (*bounds.as_table())["minimum"].value<double>();
      const auto maximum = (*bounds.as_table())["maximum"].value<double>();
      list.push_back(
          {{"row", std::string(row_name.str())},
           {"metric", std::string(metric.str())},
           {"value", value},
           {"minimum", minimum ? json(*minimum) : json(nullptr)},
           {"maximum", maximum ? json(*maximum) : json(nullptr)},
           {"met", value >= minimum.value_or(-HUGE_VAL) && value <= maximum.value_or(HUGE_VAL)}});
    }
  }
  return list;
}

json Run::execute() try {
  start_from_data();
  json plugins = plugins_in(section("dataset"), catalog::Kind::dataset);
  if (pretraining_)
    for (const auto& plugin :
         plugins_in(*section("pretraining")["dataset"].as_table(), catalog::Kind::dataset))
      plugins.push_back(plugin);
  for (const auto& plugin : plugins_in(section("attack"), catalog::Kind::attack))
    plugins.push_back(plugin);
  const auto* defenses = recipe_.table["defense"].as_array();
  const toml::array none;
  for (const auto& node : defenses != nullptr ? *defenses : none)
    for (const auto& plugin : plugins_in(*node.as_table(), catalog::Kind::defense))
      plugins.push_back(plugin);
  directory_.describe({{"plugins", plugins}});

  start_from_attack();
  for (const auto& node : defenses != nullptr ? *defenses : none) {
    const toml::table& table = *node.as_table();
    const StageLabel label{"defense", table["name"].ref<std::string>()};
    json key = {{"attack", attack_key_},
                {"task", key_of(*task_)},
                {"defense", to_json(table)},
                {"plugins", plugins_in(table, catalog::Kind::defense)}};
    key["defense"].erase("name");
    for (auto& plugin : key["plugins"]) plugin.erase("path");
    key["files"] = files_in(table, catalog::Kind::defense);
    const Stage defended = stage(
        label, key, [&] { return defend(object(catalog::Kind::defense, table), label, table); });
    if (!defended.pictures.empty()) show(label, defended.pictures);
    add_row(label, defended);
  }
  results_["expectations"] = expectations();
  directory_.describe({{"status", "finished"}, {"finished", utc_now()}});
  directory_.write_results(results_);
  say({{"event", "run_finished"}, {"run", directory_.path().string()}, {"results", results_}});
  return results_;
} catch (const Cancelled&) {
  directory_.describe({{"status", "interrupted"}, {"finished", utc_now()}});
  throw;
} catch (const std::exception& e) {
  try {
    directory_.describe({{"status", "failed"}, {"error", e.what()}, {"finished", utc_now()}});
  } catch (const base::HostError&) {  // the disk is full: the first error is the one to report
  }
  throw;
}

}  // namespace

json run_recipe(const recipe::Recipe& recipe, const RunRequest& request, RunOutcome& outcome) {
  return Run(recipe, request, outcome).execute();
}

}  // namespace backstop::engine
