#include "host/engine/run/run.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <utility>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "host/base/hash.hpp"
#include "host/engine/plugins/process_state.hpp"
#include "host/engine/run/attack_stage.hpp"
#include "host/engine/run/defense_stage.hpp"
#include "host/engine/run/inputs.hpp"
#include "host/engine/store/model_file.hpp"
#include "host/engine/store/run_directory.hpp"
#include "host/engine/store/stage_store.hpp"
#include "host/report/expectations.hpp"
#include "host/report/metrics.hpp"
#include "host/report/table.hpp"
#include "host/report/verdict.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;
using recipe::kUndefended;
using recipe::Scenario;

/// Everything that one run of one recipe holds.
class Run {
 public:
  Run(const recipe::Recipe& recipe, const RunRequest& request, RunOutcome& outcome);
  /// Returns the results. Throws the first failure, after everything else that can be done is.
  json execute();

 private:
  [[nodiscard]] DatasetInput load(const recipe::DatasetUse& use);
  void load_datasets();
  /// What the backdoored model is trained on: another dataset than the defenses', but standalone.
  [[nodiscard]] const DatasetInput& source() const { return pretraining_ ? *pretraining_ : *task_; }
  [[nodiscard]] Threat threat() const;
  [[nodiscard]] Architecture architecture() const;
  /// The model's constants: those that its file records, else the recipe's, else the dataset's.
  [[nodiscard]] Normalization normalization();
  [[nodiscard]] AttackInputs attack_inputs();
  [[nodiscard]] DefenseInputs defense_inputs(const recipe::DefenseUse& defense) const;
  [[nodiscard]] std::int64_t clean_images(const recipe::DefenseUse& defense) const;

  /// The stage of that key from the store, or what `make` returns, kept there first; its model and
  /// artifacts become files of `row`.
  template <typename Make>
  Stage stage(const StageLabel& label, const std::string& row, const json& key, Make&& make);
  void attack();
  void defend(const recipe::DefenseUse& use);
  /// A row that says why there is none of this name.
  void add_failed_row(const std::string& name, const json& plugin, const std::string& error);
  /// The same for every row that the run did not come to, the first of them because of `error`.
  void add_missing_rows(std::string error);
  void add_row(const std::string& name, const DatasetInput& measured_on, const Stage& stage);
  void show_trigger();
  /// A defense's pictures, below the true trigger.
  void show(const std::string& row, const NamedTensors& pictures);
  /// Every plugin that the run uses, schedulers of schedulers included.
  template <typename Function>
  void for_each_plugin(Function&& function) const;
  /// Sets `compute_`. Throws HostError(environment) if a plugin needs a GPU and the run has none.
  void choose_device();
  /// For run.json.
  [[nodiscard]] json plugins() const;
  [[nodiscard]] StageServices services(const StageLabel& label) {
    return {label, &directory_, request_.interrupted};
  }
  /// Those that plugins have started and left.
  void end_processes_of_plugins(const StageLabel& label);
  void log(const StageLabel& label, const char* level, const std::string& message);
  void warn(const StageLabel& label, const std::string& message) { log(label, "warning", message); }

  const recipe::Recipe& recipe_;
  const RunRequest& request_;
  RunOutcome& outcome_;
  RunDirectory directory_;
  StageStore store_;
  Compute compute_;
  std::optional<DatasetInput> pretraining_, task_;
  std::optional<AttackInputs> attack_inputs_;
  json attack_key_;
  std::optional<Stage> attacked_;
  std::optional<TriggeredSet> triggered_;  ///< on the task's test images
  json results_;
  bool locks_missed_ = false;  ///< and the user was told
};

template <typename Function>
void Run::for_each_plugin(Function&& function) const {
  const auto visit = [&](const auto& self, const recipe::PluginUse& use) -> void {
    function(use);
    for (const auto& scheduler : use.schedulers) self(self, scheduler);
  };
  visit(visit, recipe_.dataset.use);
  if (recipe_.pretraining) visit(visit, recipe_.pretraining->use);
  visit(visit, recipe_.attack.use);
  visit(visit, recipe_.attack.training.scheduler);
  for (const auto& defense : recipe_.defenses) visit(visit, defense.use);
}

Run::Run(const recipe::Recipe& recipe, const RunRequest& request, RunOutcome& outcome)
    : recipe_(recipe),
      request_(request),
      outcome_(outcome),
      directory_(request.out, recipe.name, to_toml(recipe), request.observer),
      store_(request.out / kStoreFolder) {
  outcome.runs.push_back(directory_.path());
  results_ = {{"schema", 1},           {"name", recipe.name},
              {"seed", recipe.seed},   {"recipe_sha256", base::sha256_of_text(to_toml(recipe))},
              {"rows", json::array()}, {"expectations", json::array()}};
  directory_.describe(
      {{"backstop", {{"version", BACKSTOP_VERSION}, {"abi", catalog::own_build_facts().abi}}},
       {"status", "unfinished"},
       {"started", utc_now()},
       {"seed", recipe.seed},
       {"recipe_sha256", results_["recipe_sha256"]}});
  directory_.event(
      {{"event", "run_started"}, {"run", directory_.path().string()}, {"seed", recipe.seed}});
}

void Run::choose_device() {
  compute_ = resolve_compute(recipe_.compute, recipe_.model.width);
  directory_.describe(
      {{"hardware", describe_hardware(compute_)},
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
  for_each_plugin([this](const recipe::PluginUse& use) {
    if (use.needs("cuda") && !compute_.device.is_cuda())
      throw base::HostError(
          base::ExitCode::environment,
          fmt::format("{} `{}` needs a GPU, but this run computes on the {}",
                      to_string(use.plugin->manifest.kind), use.name(), compute_.device.str()),
          "run on a machine with a GPU, with `device = \"cuda\"`");
  });
}

void Run::log(const StageLabel& label, const char* level, const std::string& message) {
  directory_.event({{"event", "log"},
                    {"level", level},
                    {"stage", label.stage},
                    {"name", label.name},
                    {"message", message}});
}

void Run::end_processes_of_plugins(const StageLabel& label) {
  if (const std::size_t ended = end_children(); ended > 0)
    warn(label, fmt::format("a plugin left {} running after it had returned; ended",
                            ended == 1 ? "a process" : fmt::format("{} processes", ended)));
}

// --- data ---

DatasetInput Run::load(const recipe::DatasetUse& use) {
  const StageLabel label{"data", use.use.name()};
  json event = {
      {"event", "stage_started"}, {"stage", label.stage}, {"name", label.name}, {"reused", false}};
  directory_.event(event);
  StageContext ctx(label, seed_for(recipe_.seed, "data"), compute_, {}, &directory_,
                   request_.interrupted);
  const PluginObject plugin(use.use, ctx.warnings());
  DatasetInput dataset{label.name,
                       load_data(plugin, use, recipe_.seed, ctx, compute_.device),
                       {use.crop_padding, use.horizontal_flip}};
  end_processes_of_plugins(label);
  event["event"] = "stage_finished";
  event["wall_seconds"] = ctx.cost().stop()["wall_seconds"];
  directory_.event(event);
  return dataset;
}

void Run::load_datasets() {
  const auto record = [this](const char* key, const DatasetInput& dataset) {
    const ImageStore &train = dataset.data.train, &test = dataset.data.test;
    directory_.describe({{key,
                          {{"name", dataset.name},
                           {"fingerprint", dataset.data.fingerprint},
                           {"training_images", train.size()},
                           {"test_images", test.size()},
                           {"image_size", {train.channels(), train.height(), train.width()}},
                           {"classes", dataset.data.class_names}}}});
  };
  task_.emplace(load(recipe_.dataset));
  record("dataset", *task_);
  if (!recipe_.pretraining) return;
  pretraining_.emplace(load(*recipe_.pretraining));
  record("pretraining_dataset", *pretraining_);
  const auto size = [](const DatasetInput& dataset) {
    const ImageStore& images = dataset.data.train;
    return fmt::format("{}x{}x{}", images.channels(), images.height(), images.width());
  };
  if (size(*pretraining_) != size(*task_))
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("the images of [pretraining.dataset] `{}` are {}, those of [dataset] `{}` are "
                    "{} (channels, height, width)",
                    pretraining_->name, size(*pretraining_), task_->name, size(*task_)),
        "`image_size` resizes a dataset; the channels must be the same");
}

// --- attack ---

Threat Run::threat() const {
  Threat threat;
  threat.all_to_all = recipe_.attack.all_to_all ? 1 : 0;
  threat.target = recipe_.attack.target;
  // The attacker of an encoder aims at the task that it will be adapted to.
  threat.classes = (recipe_.scenario == Scenario::encoder ? *task_ : source()).data.train.classes();
  threat.poison_ratio = recipe_.attack.poison_ratio;
  if (threat.all_to_all == 0 && threat.target >= threat.classes)
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("attack.target is {}, but the dataset has {} classes",
                                      threat.target, threat.classes),
                          fmt::format("choose a target in 0 .. {}", threat.classes - 1));
  // Poison is labeled with classes of the task; the encoder's own training set must have them.
  const std::int64_t known = source().data.train.classes();
  const std::int64_t needed = threat.all_to_all != 0 ? threat.classes : threat.target + 1;
  if (recipe_.attack.use.plugin->manifest.poisons && needed > known)
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("attack `{}` labels poisoned images with classes of [dataset], up to {}, but "
                    "[pretraining.dataset] has only {} classes",
                    recipe_.attack.use.name(), needed - 1, known),
        "choose a lower target, or `labels = \"all-to-one\"`");
  return threat;
}

Architecture Run::architecture() const {
  const ImageStore& images = source().data.train;
  return {recipe_.model.architecture, recipe_.model.width, images.channels(), images.classes(),
          images.height() * images.width()};
}

Normalization Run::normalization() {
  const std::int64_t channels = source().data.train.channels();
  std::optional<Normalization> given;
  if (const auto& stated = recipe_.model.normalization) {
    given.emplace();
    for (std::size_t c = 0; c < 3; ++c) {
      given->mean[c] = stated->mean[stated->mean.size() == 1 ? 0 : c];
      given->deviation[c] = stated->deviation[stated->deviation.size() == 1 ? 0 : c];
    }
  }
  const auto& file = recipe_.model.file;
  if (!file) return source().data.normalization;
  const ModelFacts facts = read_model_file(*file).facts;
  require_same_model(facts, architecture(), *file);
  if (given && facts.normalization && !same_normalization(*given, *facts.normalization, channels))
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("[model] gives {}, but {} records {}", text_of(*given, channels), *file,
                    text_of(*facts.normalization, channels)),
        "leave out `mean` and `deviation`: the model was trained with those of "
        "the file");
  if (facts.normalization) return *facts.normalization;
  if (given) return *given;
  warn({"attack", recipe_.attack.use.name()},
       fmt::format("{} does not record how its model normalizes images; the dataset's constants "
                   "are used: {}; give [model] `mean` and `deviation` if it was trained with "
                   "others",
                   *file, text_of(source().data.normalization, channels)));
  return source().data.normalization;
}

AttackInputs Run::attack_inputs() {
  const auto file = [](const std::optional<std::string>& path) {
    return path ? std::optional(file_input(*path)) : std::nullopt;
  };
  return {recipe_.seed,
          &source(),
          threat(),
          recipe_.scenario == Scenario::encoder,
          architecture(),
          normalization(),
          file(recipe_.model.file),
          plugin_input(recipe_.attack.use),
          file(recipe_.attack.file),
          recipe_.attack.training,
          plugin_input(recipe_.attack.training.scheduler),
          compute_};
}

template <typename Make>
Stage Run::stage(const StageLabel& label, const std::string& row, const json& key, Make&& make) {
  const auto folder = store_.folder_of(label.stage, key);
  const auto before = store_.kept_at(folder);
  std::optional<Stage> kept;
  std::string damage;
  if (!request_.fresh) kept = store_.load(folder, key, damage);
  if (!damage.empty()) warn(label, fmt::format("{}; the stage is made again", damage));
  bool reused = kept.has_value();
  const auto start = [&] {
    directory_.event({{"event", "stage_started"},
                      {"stage", label.stage},
                      {"name", label.name},
                      {"reused", reused}});
  };
  if (!reused) {
    const base::FileLock claim = store_.claim(folder, [&](const std::string& maker) {
      log(label, "info", fmt::format("waiting for {}, which is making the same stage", maker));
    });
    if (!claim.supported() && !std::exchange(locks_missed_, true))
      warn(label, fmt::format("the file system of {} has no locks: processes that share it may "
                              "train the same model twice",
                              request_.out.string()));
    // Another process may have made it since, for `--fresh` too.
    reused = store_.kept_at(folder) != before && (kept = store_.load(folder, key, damage));
    start();
    if (!reused) {
      const Stage made = make();
      end_processes_of_plugins(label);
      store_.save(folder, key, made);
      kept = store_.load(folder, key, damage);  // a reused stage and a new one take the same way
      if (!kept)
        throw base::HostError(
            base::ExitCode::environment,
            damage.empty() ? fmt::format("the stage {} disappeared", folder.string()) : damage);
    }
  } else {
    start();
  }
  if (reused)
    for (json event : kept->epochs) {  // under this recipe's name for the row
      event["name"] = label.name;
      directory_.event(event);
    }
  directory_.keep_stage(row, *kept);
  directory_.event({{"event", "stage_finished"},
                    {"stage", label.stage},
                    {"name", label.name},
                    {"wall_seconds", kept->row["cost"]["wall_seconds"]},
                    {"reused", reused}});
  return std::move(*kept);
}

void Run::attack() {
  const StageLabel label{"attack", recipe_.attack.use.name()};
  attack_inputs_.emplace(attack_inputs());
  attack_key_ = key_of(*attack_inputs_);
  attacked_ = stage(label, kUndefended, attack_key_,
                    [&] { return train_attack(*attack_inputs_, services(label)); });
  directory_.keep_attack(kUndefended, *attacked_);
  // Also in the run that trained it: what comes after the attack depends on its files alone.
  const bool own_classes = recipe_.scenario != Scenario::transfer;
  triggered_.emplace(trigger_of(*attacked_, *attack_inputs_, *task_, own_classes, services(label)));
  show_trigger();
  add_row(kUndefended, source(), *attacked_);
  // The table says so at the end; the defenses may take hours until then.
  const std::string warning = report::warning_of(results_["rows"].back());
  if (!warning.empty() && !recipe_.defenses.empty()) warn(label, warning);
}

// --- defenses ---

std::int64_t Run::clean_images(const recipe::DefenseUse& defense) const {
  if (!defense.use.needs("clean-data")) return 0;
  const std::int64_t all = task_->data.train.size();
  if (!defense.clean_images)
    return std::max<std::int64_t>(1,
                                  std::llround(defense.clean_fraction * static_cast<double>(all)));
  if (*defense.clean_images <= all) return *defense.clean_images;
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("defense `{}` asks for {} clean images, but the training set has {}",
                  defense.name, *defense.clean_images, all));
}

DefenseInputs Run::defense_inputs(const recipe::DefenseUse& defense) const {
  return {recipe_.seed,
          recipe_.scenario,
          attack_key_,
          &*attacked_,
          &*triggered_,
          &*task_,
          attack_inputs_->architecture,
          attack_inputs_->normalization,
          plugin_input(defense.use),
          clean_images(defense),
          defense.measure_every,
          compute_};
}

void Run::defend(const recipe::DefenseUse& use) {
  const StageLabel label{"defense", use.name};
  const DefenseInputs inputs = defense_inputs(use);
  const Stage defended = stage(label, use.name, key_of(inputs),
                               [&] { return engine::defend(inputs, services(label)); });
  if (!defended.pictures.empty()) show(use.name, defended.pictures);
  add_row(use.name, *task_, defended);
}

// --- results ---

void Run::add_row(const std::string& name, const DatasetInput& measured_on, const Stage& stage) {
  json row = stage.row;
  row["name"] = name;  // a kept stage may have been made under another name
  row["by_epoch"] = report::points_by_epoch(stage.epochs);
  const bool attacked = name == kUndefended && recipe_.attack.use.plugin->manifest.poisons;
  if (const auto warning = report::verdict(row, measured_on.data.train.classes(), attacked))
    row["warning"] = *warning;
  if (recipe_.scenario == Scenario::standalone)
    row["metrics"]["clean_accuracy_drop"] =
        report::clean_accuracy_drop(results_["rows"].empty() ? row : results_["rows"][0], row);
  row["measured_on"] = measured_on.name;
  if (const auto favorite = row["metrics"].find("attack_class"); favorite != row["metrics"].end())
    row["attack_class_name"] = task_->data.class_names.at(favorite->get<std::size_t>());
  results_["rows"].push_back(std::move(row));
  directory_.write_results(results_);
}

void Run::show_trigger() {
  const ImageStore& test = task_->data.test;
  const at::Tensor first = at::arange(std::min<std::int64_t>(8, test.size()), at::kLong);
  const std::string& name = recipe_.attack.use.name();
  directory_.write_trigger(name, name + ": " + report::trigger_text(attacked_->row),
                           test.pixels(first).to(at::kCPU),
                           triggered_->images.pixels(first).to(at::kCPU));
}

void Run::show(const std::string& row, const NamedTensors& pictures) {
  const ImageStore& test = task_->data.test;
  const at::Tensor first = at::arange(std::min<std::int64_t>(3, test.size()), at::kLong);
  std::vector<SheetRow> rows = {
      {"clean", test.pixels(first).to(at::kCPU)},
      {"with the true trigger", triggered_->images.pixels(first).to(at::kCPU)}};
  for (const auto& [name, images] : pictures) {
    if (images.sizes().slice(1) != rows[0].images.sizes().slice(1))
      throw base::HostError(base::ExitCode::plugin,
                            fmt::format("the picture `{}` of defense `{}` does not have the size "
                                        "of the dataset's images",
                                        name, row));
    rows.push_back({name, images});
  }
  directory_.write_picture(row, rows);
}

json Run::plugins() const {
  json list = json::array();
  for_each_plugin([&](const recipe::PluginUse& use) {
    const auto& manifest = use.plugin->manifest;
    list.push_back({{"kind", to_string(manifest.kind)},
                    {"name", manifest.name},
                    {"version", manifest.version},
                    {"path", use.plugin->path.string()},
                    {"sha256", hash_of_plugin(use.plugin->path)}});
  });
  return list;
}

void Run::add_failed_row(const std::string& name, const json& plugin, const std::string& error) {
  results_["rows"].push_back(report::failed_row(name, plugin, error));
}

void Run::add_missing_rows(std::string error) {
  const json& rows = results_["rows"];
  const auto add = [&](const std::string& name, const json& plugin) {
    if (std::any_of(rows.begin(), rows.end(), [&](const json& row) { return row["name"] == name; }))
      return;
    add_failed_row(name, plugin, error);
    error = "not run, because the run ended before";
  };
  add(kUndefended, nullptr);
  for (const auto& defense : recipe_.defenses) add(defense.name, defense.use.name());
}

json Run::execute() {
  std::exception_ptr failure;
  std::string error;
  try {
    choose_device();
    load_datasets();
    directory_.describe({{"plugins", plugins()}});
    attack();
    for (const auto& defense : recipe_.defenses) try {
        defend(defense);
      } catch (const base::HostError& e) {
        warn({"defense", defense.name}, fmt::format("failed: {}", e.what()));
        add_failed_row(defense.name, defense.use.name(), e.what());
        if (!failure) {
          failure = std::current_exception();
          error = e.what();
        }
        directory_.write_results(results_);  // a full disk ends the run here
      }
  } catch (const Cancelled&) {
    outcome_.hint = directory_.after_interrupt();
    directory_.describe({{"status", "interrupted"}, {"finished", utc_now()}});
    throw;
  } catch (const std::exception& e) {
    if (!failure) {
      failure = std::current_exception();
      error = e.what();
    }
    add_missing_rows(e.what());
  }
  results_["expectations"] = report::check_expectations(results_["rows"], recipe_.expectations);
  json facts = {{"status", failure ? "failed" : "finished"}, {"finished", utc_now()}};
  if (failure) facts["error"] = error;
  try {
    directory_.finish(facts, results_);
  } catch (const base::HostError&) {  // the disk is full: the first error is the one to report
    if (!failure) throw;
  }
  // Without data, a table of rows that all failed says less than the error; but a summary counts
  // them.
  if (task_ || request_.recipes->size() > 1)
    directory_.event(
        {{"event", "run_finished"}, {"run", directory_.path().string()}, {"results", results_}});
  if (failure) std::rethrow_exception(failure);
  return results_;
}

}  // namespace

json run_recipe(const recipe::Recipe& recipe, const RunRequest& request, RunOutcome& outcome) {
  return Run(recipe, request, outcome).execute();
}

}  // namespace backstop::engine
