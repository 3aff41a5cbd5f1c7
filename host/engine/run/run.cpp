#include "host/engine/run/run.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <string_view>
#include <system_error>
#include <utility>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/base/hash.hpp"
#include "host/base/text.hpp"
#include "host/engine/model/recognize.hpp"
#include "host/engine/plugins/process_state.hpp"
#include "host/engine/run/attack_stage.hpp"
#include "host/engine/run/audit_stage.hpp"
#include "host/engine/run/defense_stage.hpp"
#include "host/engine/run/inputs.hpp"
#include "host/engine/run/normalization_choice.hpp"
#include "host/engine/run/suspect_stage.hpp"
#include "host/engine/store/opened_model.hpp"
#include "host/engine/store/run_directory.hpp"
#include "host/engine/store/stage_store.hpp"
#include "host/report/detectors.hpp"
#include "host/report/expectations.hpp"
#include "host/report/metrics.hpp"
#include "host/report/table.hpp"
#include "host/report/verdict.hpp"
#include "host/schema/toml_text.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;
using recipe::kUndefended;
using recipe::Scenario;

/// Those that a plugin has recorded as artifacts NAME.x and NAME.y: [{name, x, y}], without points
/// that are not finite.
json curves_of(const NamedTensors& artifacts) {
  constexpr std::int64_t kMostPoints = 1000;
  json curves = json::array();
  for (const auto& [name, x] : artifacts) {
    if (!name.ends_with(".x") || x.dim() != 1 || x.numel() > kMostPoints) continue;
    const std::string title = name.substr(0, name.size() - 2);
    for (const auto& [other, y] : artifacts) {
      if (other != title + ".y" || y.sizes() != x.sizes()) continue;
      json curve = {{"name", title}, {"x", json::array()}, {"y", json::array()}};
      for (std::int64_t i = 0; i < x.numel(); ++i) {
        const double at = x[i].item<double>(), value = y[i].item<double>();
        if (!std::isfinite(at) || !std::isfinite(value)) continue;
        curve["x"].push_back(at);
        curve["y"].push_back(value);
      }
      curves.push_back(std::move(curve));
    }
  }
  return curves;
}

/// Whether the recipe changes none of the plugin's parameters: calibrations hold only then. How a
/// model is trained does not matter to a judgment, which leaves the model as it is.
bool has_defaults(const recipe::PluginUse& use) {
  const auto& parameters = use.plugin->manifest.parameters;
  return std::all_of(parameters.begin(), parameters.end(), [&](const auto& parameter) {
    if (parameter.type == schema::ParameterType::optimizer ||
        parameter.type == schema::ParameterType::scheduler)
      return true;
    const toml::node* given = use.parameters.get(parameter.key);
    const toml::node* own = parameter.default_value.get(0);
    return given == nullptr || own == nullptr ||
           schema::value_text(*given) == schema::value_text(*own);
  });
}

/// Seconds of training between two checkpoints.
double checkpoint_interval() {
  constexpr double kDefault = 120, kMost = 1e9;
  const char* const given = std::getenv("BACKSTOP_CHECKPOINT_SECONDS");
  if (given == nullptr) return kDefault;
  const std::string_view text = given;
  double seconds = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error == std::errc() && end == text.data() + text.size() && seconds >= 0 && seconds <= kMost)
    return seconds;
  throw base::HostError(base::ExitCode::usage,
                        fmt::format("BACKSTOP_CHECKPOINT_SECONDS is `{}`, which is not a number of "
                                    "seconds in 0 .. {}",
                                    base::printable(text), kMost),
                        "leave it out for a checkpoint every two minutes");
}

RunDirectory directory_of(const RunRequest& request) {
  if (request.earlier) return RunDirectory(request.out / request.earlier->run, request.observer);
  return RunDirectory(request.out, request.recipe->name, to_toml(*request.recipe),
                      request.observer);
}

/// Everything that one run of one recipe holds.
class Run {
 public:
  Run(const RunRequest& request, RunOutcome& outcome);
  /// Returns the results. Throws the first failure, after everything else that can be done is.
  json execute();

 private:
  [[nodiscard]] DatasetInput load(const recipe::DatasetUse& use);
  void load_datasets();
  /// What the backdoored model is trained on: another dataset than the defenses', but standalone.
  [[nodiscard]] const DatasetInput& source() const { return pretraining_ ? *pretraining_ : *task_; }
  [[nodiscard]] Threat threat() const;
  /// Opens [model] `file`, and holds it against what the recipe says of it.
  void open_file();
  /// Whether the model knows the classes of the task's images.
  [[nodiscard]] bool knows_task() const;
  [[nodiscard]] Architecture architecture() const;
  /// The model's constants: those that its file records, else the recipe's, else those that fit the
  /// images best.
  [[nodiscard]] Normalization normalization(const Architecture& architecture);
  [[nodiscard]] AttackInputs attack_inputs();
  [[nodiscard]] std::int64_t clean_images(const recipe::PluginUse& use, const std::string& name,
                                          std::optional<std::int64_t> images,
                                          double fraction) const;
  [[nodiscard]] DefenseInputs inputs_of(const recipe::PluginUse& use,
                                        std::int64_t clean_images) const;

  /// The stage of that key from the store, or what `make` returns when it is given the stage's
  /// services, kept there first; its model and artifacts become files of `row`, unless that is empty.
  template <typename Make>
  Stage stage(const StageLabel& label, const std::string& row, const json& key, Make&& make);
  void attack();
  /// Instead of it, without an attack.
  void examine();
  /// What [audit] says, to the model of a row or of a control, and `stage` that left it.
  void audit(const std::string& name, bool control, const json& key, const Stage& stage);
  /// The models that the audits are compared with.
  void audit_controls();
  void detect(const recipe::DetectorUse& use);
  void defend(const recipe::DefenseUse& use);
  /// Writes the model of the row as a file like the one that it came from.
  void write_model(const std::string& row, const Stage& stage);
  /// A row that says why there is none of this name.
  void add_failed_row(const std::string& name, const json& plugin, const std::string& error);
  /// The same for every row that the run did not come to, the first of them because of `error`.
  void add_missing_rows(std::string error);
  void add_row(const std::string& name, const DatasetInput& measured_on, const Stage& stage);
  /// What the task's classes are called, for the results of a detector.
  void name_suspects(json& verdict) const;
  /// The row's predictions, beside those of "no defense".
  void add_predictions(const std::string& name, const Stage& stage);
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
  [[nodiscard]] StageServices services(const StageLabel& label,
                                       Checkpoints* checkpoints = nullptr) {
    return {label, &directory_, request_.interrupted, checkpoints};
  }
  /// Those that plugins have started and left.
  void end_processes_of_plugins(const StageLabel& label);
  /// Throws the error of a stage that failed in an earlier process.
  void refuse_failed(const StageLabel& label) const;
  void log(const StageLabel& label, const char* level, const std::string& message);
  void warn(const StageLabel& label, const std::string& message) { log(label, "warning", message); }

  const recipe::Recipe& recipe_;
  const RunRequest& request_;
  RunOutcome& outcome_;
  RunDirectory directory_;
  StageStore store_;
  Compute compute_;
  std::optional<DatasetInput> pretraining_, task_;
  std::optional<OpenedModel> opened_;
  Architecture architecture_;
  Normalization normalization_;
  std::optional<AttackInputs> attacked_;   ///< of the attack's stage
  bool audited_ = false;                   ///< there is a backdoor to audit the models for
  std::exception_ptr audit_failure_;       ///< the first one
  json model_key_;                         ///< of the stage that left
  std::optional<Stage> undefended_;        ///< the model
  std::optional<TriggeredSet> triggered_;  ///< on the task's test images; nothing: unknown
  NamedTensors predictions_;  ///< of the test images, by row, where triggers are unknown
  json results_;
  json stages_ = json::array();  ///< names of those that the run has used
  bool locks_missed_ = false;    ///< and the user was told
};

template <typename Function>
void Run::for_each_plugin(Function&& function) const {
  const auto visit = [&](const auto& self, const recipe::PluginUse& use) -> void {
    function(use);
    for (const auto& scheduler : use.schedulers) self(self, scheduler);
  };
  visit(visit, recipe_.dataset.use);
  if (recipe_.pretraining) visit(visit, recipe_.pretraining->use);
  if (recipe_.attack) {
    visit(visit, recipe_.attack->use);
    visit(visit, recipe_.attack->training.scheduler);
  }
  for (const auto& detector : recipe_.detectors) visit(visit, detector.use);
  for (const auto& defense : recipe_.defenses) visit(visit, defense.use);
}

Run::Run(const RunRequest& request, RunOutcome& outcome)
    : recipe_(*request.recipe),
      request_(request),
      outcome_(outcome),
      directory_(directory_of(request)),
      store_(request.out / kStoreFolder) {
  outcome.run = directory_.path();
  results_ = {{"schema", 1},
              {"name", recipe_.name},
              {"seed", recipe_.seed},
              {"recipe_sha256", base::sha256_of_text(to_toml(recipe_))},
              {"rows", json::array()},
              {"detectors", json::array()},
              {"expectations", json::array()}};
  if (recipe_.attack) results_["backdoored"] = recipe_.attack->use.plugin->manifest.poisons;
  directory_.describe(
      {{"backstop", {{"version", BACKSTOP_VERSION}, {"abi", catalog::own_build_facts().abi}}},
       {"status", "unfinished"},
       {"stages", stages_},
       {"seed", recipe_.seed},
       {"recipe_sha256", results_["recipe_sha256"]}});
  directory_.event(
      {{"event", "run_started"}, {"run", directory_.path().string()}, {"seed", recipe_.seed}});
}

void Run::refuse_failed(const StageLabel& label) const {
  if (!request_.earlier) return;
  for (const FailedStage& failed : request_.earlier->failed)
    if (failed.stage == label.stage && failed.name == label.name)
      throw base::HostError(failed.code, failed.error, failed.hint);
}

void Run::choose_device() {
  recipe::ComputeUse wanted = recipe_.compute;
  // Whoever checks the numbers of his own model in Python expects them to the image.
  if (opened_ && !opened_->ours() && wanted.precision == "auto") wanted.precision = "float32";
  compute_ = resolve_compute(wanted, opened_ ? opened_->architecture.width : *recipe_.model.width);
  results_["precision"] = compute_.bfloat16 ? "bfloat16" : "float32";
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
  refuse_failed(label);
  json event = {
      {"event", "stage_started"}, {"stage", label.stage}, {"name", label.name}, {"reused", false}};
  directory_.event(event);
  StageContext ctx(label, seed_for(recipe_.seed, "data"), compute_, {}, &directory_,
                   request_.interrupted);
  const PluginObject plugin(use.use, ctx.warnings());
  DatasetInput dataset{label.name,
                       load_data(plugin, use, recipe_.seed, ctx, compute_.device,
                                 opened_ ? opened_->architecture.channels : 0),
                       {}};
  dataset.augmentation = {use.crop_padding.value_or(use.use.plugin->manifest.crop_padding_for(
                              dataset.data.train.width())),
                          use.horizontal_flip};
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

Threat Run::threat() const {
  Threat threat;
  threat.all_to_all = recipe_.attack->all_to_all ? 1 : 0;
  threat.target = recipe_.attack->target;
  // The attacker of an encoder aims at the task that it will be adapted to.
  threat.classes = (recipe_.scenario == Scenario::encoder ? *task_ : source()).data.train.classes();
  threat.poison_ratio = recipe_.attack->poison_ratio;
  if (threat.all_to_all == 0 && threat.target >= threat.classes)
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("attack.target is {}, but the dataset has {} classes",
                                      threat.target, threat.classes),
                          fmt::format("choose a target in 0 .. {}", threat.classes - 1));
  // Poison is labeled with classes of the task; the encoder's own training set must have them.
  const std::int64_t known = source().data.train.classes();
  const std::int64_t needed = threat.all_to_all != 0 ? threat.classes : threat.target + 1;
  if (recipe_.attack->use.plugin->manifest.poisons && needed > known)
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("attack `{}` labels poisoned images with classes of [dataset], up to {}, but "
                    "[pretraining.dataset] has only {} classes",
                    recipe_.attack->use.name(), needed - 1, known),
        "choose a lower target, or `labels = \"all-to-one\"`");
  return threat;
}

// --- the model's file ---

void Run::open_file() {
  if (!recipe_.model.file) return;
  opened_ = open_model(*recipe_.model.file);
  const auto& [file, architecture, width, normalization] = recipe_.model;
  const Architecture& found = opened_->architecture;
  if ((architecture && *architecture != found.name) || (width && *width != found.width))
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("[model] says {} of width {}, but {} holds {}",
                                      architecture.value_or(found.name),
                                      width.value_or(found.width), *file, text_of(found)),
                          "leave out `architecture` and `width`: they are recognized");
}

bool Run::knows_task() const {
  return architecture_.classes == task_->data.train.classes();
}

Architecture Run::architecture() const {
  const ImageStore& images = source().data.train;
  Architecture architecture{recipe_.model.architecture.value_or(""),
                            recipe_.model.width.value_or(0), images.channels(), images.classes(),
                            images.height() * images.width()};
  if (!opened_) return architecture;
  const Architecture& found = opened_->architecture;
  const std::string file = opened_->path.string();
  // An mlp's first layer has a weight for every pixel.
  if (found.name == "mlp" && found.pixels != architecture.pixels)
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("{} takes images of {} pixels, but those of {} have {}", file,
                                      found.pixels, source().name, architecture.pixels),
                          "resize the images with `image_size`");
  const bool adapted = !recipe_.attack && recipe_.scenario == Scenario::transfer;
  if (found.classes != images.classes() && !adapted)
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("{} has {} classes, but the images of {} have {}", file, found.classes,
                    source().name, images.classes()),
        "the images must be of the model's own classes, all of them, in the model's order; to "
        "adapt the model to other classes, use scenario = \"transfer\"");
  architecture.name = found.name;
  architecture.width = found.width;
  architecture.script = found.script;
  architecture.classes = found.classes;
  return architecture;
}

Normalization Run::normalization(const Architecture& architecture) {
  if (!opened_) return source().data.normalization;
  std::optional<Normalization> given;
  if (const auto& stated = recipe_.model.normalization) {
    given.emplace();
    for (std::size_t c = 0; c < 3; ++c) {
      given->mean[c] = stated->mean[stated->mean.size() == 1 ? 0 : c];
      given->deviation[c] = stated->deviation[stated->deviation.size() == 1 ? 0 : c];
    }
  }
  const std::int64_t channels = architecture.channels;
  const std::string file = opened_->path.string();
  const ModelFacts& facts = opened_->file.facts;
  require_same_model(facts, architecture, file);
  if (given && facts.normalization && !same_normalization(*given, *facts.normalization, channels))
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("[model] gives {}, but {} records {}", text_of(*given, channels), file,
                    text_of(*facts.normalization, channels)),
        "leave out `mean` and `deviation`: the model was trained with those of "
        "the file");
  const StageLabel label{"model", opened_->path.filename().string()};
  NormalizationChoice choice;
  if (facts.normalization || given) {
    choice.normalization = facts.normalization ? *facts.normalization : *given;
    choice.record =
        record_of(choice.normalization, channels, facts.normalization ? "file" : "recipe");
  } else if (architecture.classes == source().data.train.classes() &&
             recipe_.scenario != Scenario::encoder) {
    choice = choose_normalization(*opened_, architecture, source(), compute_, services(label));
    log(label, "info",
        fmt::format("{} does not record how its model normalizes images; of {} normalizations, "
                    "\"{}\" fits {} of the training images best",
                    file, choice.record["accuracies"].size(),
                    choice.record["name"].get<std::string>(), choice.record["images"].dump()));
  } else {
    choice.normalization = source().data.normalization;
    choice.record = record_of(choice.normalization, channels, "dataset");
    warn(label, fmt::format("{} does not record how its model normalizes images; the dataset's "
                            "constants are used: {}; give [model] `mean` and `deviation` if it was "
                            "trained with others",
                            file, text_of(choice.normalization, channels)));
  }
  results_["normalization"] = choice.record;
  return choice.normalization;
}

// --- attack ---

AttackInputs Run::attack_inputs() {
  const auto file = [](const std::optional<std::string>& path) {
    return path ? std::optional(file_input(*path)) : std::nullopt;
  };
  return {recipe_.seed,
          &source(),
          threat(),
          recipe_.scenario == Scenario::encoder,
          architecture_,
          normalization_,
          file(recipe_.model.file),
          plugin_input(recipe_.attack->use),
          file(recipe_.attack->file),
          recipe_.attack->training,
          plugin_input(recipe_.attack->training.scheduler),
          compute_};
}

template <typename Make>
Stage Run::stage(const StageLabel& label, const std::string& row, const json& key, Make&& make) {
  refuse_failed(label);
  const auto& earlier =
      request_.earlier ? request_.earlier->finished : decltype(EarlierProcess::finished)();
  const bool fresh =
      request_.fresh && std::find(earlier.begin(), earlier.end(),
                                  std::pair(label.stage, label.name)) == earlier.end();
  const auto folder = store_.folder_of(label.stage, key);
  stages_.push_back(folder.filename().string());
  directory_.describe({{"stages", stages_}});  // before it is used: see `backstop clean-up`
  const auto before = store_.kept_at(folder);
  std::optional<Stage> kept;
  std::string damage;
  if (!fresh) kept = store_.load(folder, key, damage);
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
      Checkpoints checkpoints = StageStore::checkpoints(folder, key, checkpoint_interval());
      if (fresh) checkpoints.remove_all();
      Stage made;
      try {
        made = make(services(label, &checkpoints));
      } catch (const base::HostError& e) {
        // Unless memory or a disk was full, the next run would come to the same end.
        if (e.code() != base::ExitCode::environment) checkpoints.remove_all();
        throw;
      }
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
  if (!row.empty()) directory_.keep_stage(row, *kept);
  directory_.event({{"event", "stage_finished"},
                    {"stage", label.stage},
                    {"name", label.name},
                    {"wall_seconds", kept->row["cost"]["wall_seconds"]},
                    {"reused", reused}});
  return std::move(*kept);
}

void Run::attack() {
  const StageLabel label{"attack", recipe_.attack->use.name()};
  const AttackInputs& inputs = attacked_.emplace(attack_inputs());
  model_key_ = key_of(inputs);
  undefended_ = stage(label, kUndefended, model_key_, [&](const StageServices& provided) {
    return train_attack(inputs, provided);
  });
  directory_.keep_attack(kUndefended, *undefended_);
  // Also in the run that trained it: what comes after the attack depends on its files alone.
  const bool own_classes = recipe_.scenario != Scenario::transfer;
  triggered_.emplace(trigger_of(*undefended_, inputs, *task_, own_classes, services(label)));
  show_trigger();
  add_row(kUndefended, source(), *undefended_);
  // The table says so at the end; the defenses may take hours until then.
  const std::string warning = report::warning_of(results_["rows"].back());
  if (!warning.empty() && !recipe_.defenses.empty()) warn(label, warning);
  if (!recipe_.audit) return;
  results_["audits"] = json::array();
  if (const std::string reason = report::objection_to_attack(results_["rows"]); !reason.empty())
    results_["audit_reason"] = reason;
  else
    audited_ = true;
  audit(kUndefended, false, model_key_, *undefended_);
}

void Run::examine() {
  const StageLabel label{"model", opened_->path.filename().string()};
  const SuspectInputs inputs{
      &*task_, knows_task(), architecture_, normalization_, file_input(opened_->path), compute_};
  model_key_ = key_of(inputs);
  undefended_ = stage(label, kUndefended, model_key_, [&](const StageServices& provided) {
    return measure_suspect(inputs, provided);
  });
  add_row(kUndefended, *task_, *undefended_);
  const std::string warning = report::warning_of(results_["rows"].back());
  if (!warning.empty()) warn(label, warning);
  if (const auto found = undefended_->row.find("label_order"); found != undefended_->row.end()) {
    json order = json::array();
    for (const auto& of : (*found)["order"])
      order.push_back(task_->data.class_names.at(of.get<std::size_t>()));
    results_["label_order"] = *found;
    results_["label_order"]["classes"] = order;
    warn(label,
         fmt::format("the classes may be in another order than the model's labels: accuracy "
                     "is {:.3f}, and {:.3f} in the order {}",
                     (*found)["accuracy"].get<double>(), (*found)["best_accuracy"].get<double>(),
                     fmt::join(order.get<std::vector<std::string>>(), ", ")));
  }
}

// --- detectors and defenses ---

std::int64_t Run::clean_images(const recipe::PluginUse& use, const std::string& name,
                               std::optional<std::int64_t> images, double fraction) const {
  if (!use.needs("clean-data")) return 0;
  const std::int64_t all = task_->data.train.size();
  if (!images) return std::max<std::int64_t>(1, std::llround(fraction * static_cast<double>(all)));
  if (*images <= all) return *images;
  throw base::HostError(base::ExitCode::usage,
                        fmt::format("`{}` asks for {} clean images, but the training set has {}",
                                    name, *images, all));
}

DefenseInputs Run::inputs_of(const recipe::PluginUse& use, std::int64_t clean_images) const {
  return {recipe_.seed,
          recipe_.scenario,
          model_key_,
          &*undefended_,
          triggered_ ? &*triggered_ : nullptr,
          &*task_,
          architecture_,
          normalization_,
          plugin_input(use),
          clean_images,
          1,
          0,
          compute_};
}

void Run::audit(const std::string& name, bool control, const json& key, const Stage& subject) {
  if (!audited_) return;
  json entry = {{"name", name}, {"control", control}};
  const StageLabel label{"audit", name};
  const std::string warning = control ? "" : report::warning_of(results_["rows"].back());
  if (!warning.empty()) {
    entry["reason"] = warning;
  } else {
    try {
      const AuditInputs inputs{*recipe_.audit, &*attacked_, &*undefended_,
                               &*triggered_,   key,         &subject.model.tensors};
      entry.update(stage(label, "", key_of(inputs), [&](const StageServices& provided) {
                     return engine::audit(inputs, provided);
                   }).row);
    } catch (const Cancelled&) {
      throw;
    } catch (const std::exception& e) {
      warn(label, fmt::format("failed: {}", e.what()));
      entry["reason"] = fmt::format("failed: {}", e.what());
      if (!audit_failure_) audit_failure_ = std::current_exception();
    }
  }
  results_["audits"].push_back(std::move(entry));
  directory_.write_results(results_);
}

void Run::audit_controls() {
  if (!audited_ || !recipe_.audit->controls) return;
  const StageLabel clean{"control", "clean model"}, purified{"control", "exact purification"};
  const AttackInputs& with = *attacked_;
  const CleanModelInputs clean_inputs{with.seed,          with.source,   with.architecture,
                                      with.normalization, with.training, with.scheduler,
                                      with.compute};
  const json clean_key = key_of(clean_inputs);
  audit(clean.name, true, clean_key,
        stage(clean, "", clean_key, [&](const StageServices& provided) {
          return train_clean_model(clean_inputs, provided);
        }));
  const PurificationInputs inputs{&*attacked_, &*undefended_, &*triggered_};
  const json key = key_of(inputs);
  audit(purified.name, true, key, stage(purified, "", key, [&](const StageServices& provided) {
          return purify_exactly(inputs, provided);
        }));
}

void Run::detect(const recipe::DetectorUse& use) {
  const StageLabel label{"detector", use.name};
  DefenseInputs inputs =
      inputs_of(use.use, clean_images(use.use, use.name, use.clean_images, use.clean_fraction));
  inputs.test_images = use.test_images;
  const Stage judged =
      stage(label, use.name, key_of(inputs, label.stage),
            [&](const StageServices& provided) { return engine::detect(inputs, provided); });
  if (!judged.pictures.empty()) show(use.name, judged.pictures);
  json row = judged.row;
  row["name"] = use.name;
  if (row.contains("verdict")) name_suspects(row["verdict"]);
  if (const auto& calibration = use.use.plugin->manifest.calibration;
      calibration && row.contains("verdict") && has_defaults(use.use))
    row["calibration"] = report::calibrated(row["verdict"], calibration->clean_scores,
                                            calibration->backdoored_scores, calibration->source);
  results_["detectors"].push_back(std::move(row));
  directory_.write_results(results_);
}

void Run::name_suspects(json& verdict) const {
  for (json& suspect : verdict["suspects"])
    suspect["class"] = task_->data.class_names.at(suspect["label"].get<std::size_t>());
  verdict["class_names"] = task_->data.class_names;
}

void Run::defend(const recipe::DefenseUse& use) {
  const StageLabel label{"defense", use.name};
  DefenseInputs inputs =
      inputs_of(use.use, clean_images(use.use, use.name, use.clean_images, use.clean_fraction));
  inputs.measure_every = use.measure_every;
  const json key = key_of(inputs, label.stage);
  const Stage defended = stage(label, use.name, key, [&](const StageServices& provided) {
    return engine::defend(inputs, provided);
  });
  if (!defended.pictures.empty()) show(use.name, defended.pictures);
  add_row(use.name, *task_, defended);
  if (request_.output && request_.output->row == use.name) write_model(use.name, defended);
  audit(use.name, false, key, defended);
}

void Run::write_model(const std::string& row, const Stage& stage) {
  const auto& file = request_.output->file;
  write_like(opened_->path, file, opened_->as_in_file(stage.model.tensors));
  log({"defense", row}, "info", "wrote " + file.string());
}

// --- results ---

void Run::add_row(const std::string& name, const DatasetInput& measured_on, const Stage& stage) {
  json row = stage.row;
  row["name"] = name;  // a kept stage may have been made under another name
  row["by_epoch"] = report::points_by_epoch(stage.epochs);
  if (json curves = curves_of(stage.artifacts); !curves.empty()) row["curves"] = curves;
  const bool attacked =
      name == kUndefended && recipe_.attack && recipe_.attack->use.plugin->manifest.poisons;
  if (const auto warning = report::verdict(row, measured_on.data.train.classes(), attacked))
    row["warning"] = *warning;
  if (recipe_.scenario == Scenario::standalone)
    row["metrics"]["clean_accuracy_drop"] =
        report::clean_accuracy_drop(results_["rows"].empty() ? row : results_["rows"][0], row);
  row["measured_on"] = measured_on.name;
  if (const auto favorite = row["metrics"].find("attack_class"); favorite != row["metrics"].end())
    row["attack_class_name"] = task_->data.class_names.at(favorite->get<std::size_t>());
  results_["rows"].push_back(std::move(row));
  if (!triggered_) add_predictions(name, stage);
  directory_.write_results(results_);
}

void Run::add_predictions(const std::string& name, const Stage& stage) {
  const auto predicted = std::find_if(stage.artifacts.begin(), stage.artifacts.end(),
                                      [](const auto& item) { return item.first == kPredictions; });
  if (predicted == stage.artifacts.end()) return;
  predictions_.emplace_back(name, predicted->second);
  const at::Tensor labels = task_->data.test.labels().to(at::kCPU);
  directory_.write_predictions(labels, predictions_);
  json& by_class = results_["rows"].back()["by_class"] = json::array();
  const at::Tensor correct = predicted->second.eq(labels);
  for (std::size_t label = 0; label < task_->data.class_names.size(); ++label) {
    const at::Tensor of_class = labels.eq(static_cast<std::int64_t>(label));
    by_class.push_back({{"class", task_->data.class_names[label]},
                        {"images", of_class.sum().item<std::int64_t>()},
                        {"correct", (of_class & correct).sum().item<std::int64_t>()}});
  }
  if (predictions_.size() < 2 || predictions_.front().first != kUndefended) return;
  const at::Tensor before = predictions_.front().second.eq(labels);
  const at::Tensor after = predicted->second.eq(labels);
  results_["rows"].back()["change"] =
      report::change_of(labels.numel(), (before & ~after).sum().item<std::int64_t>(),
                        (after & ~before).sum().item<std::int64_t>());
}

void Run::show_trigger() {
  const ImageStore& test = task_->data.test;
  const at::Tensor first = at::arange(std::min<std::int64_t>(8, test.size()), at::kLong);
  const std::string& name = recipe_.attack->use.name();
  directory_.write_trigger(name, name + ": " + report::trigger_text(undefended_->row),
                           test.pixels(first).to(at::kCPU),
                           triggered_->images.pixels(first).to(at::kCPU));
}

void Run::show(const std::string& row, const NamedTensors& pictures) {
  const ImageStore& test = task_->data.test;
  const at::Tensor first = at::arange(std::min<std::int64_t>(3, test.size()), at::kLong);
  std::vector<SheetRow> rows = {{"clean", test.pixels(first).to(at::kCPU)}};
  if (triggered_ && recipe_.attack->use.plugin->manifest.poisons)
    rows.push_back({"with the true trigger", triggered_->images.pixels(first).to(at::kCPU)});
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
  for (const auto& detector : recipe_.detectors) {
    json& all = results_["detectors"];
    if (std::none_of(all.begin(), all.end(),
                     [&](const json& known) { return known["name"] == detector.name; }))
      all.push_back({{"name", detector.name}, {"plugin", detector.use.name()}, {"error", error}});
  }
  for (const auto& defense : recipe_.defenses) add(defense.name, defense.use.name());
}

json Run::execute() {
  std::exception_ptr failure;
  std::string error;
  try {
    refuse_failed({"run", recipe_.name});
    open_file();
    choose_device();
    load_datasets();
    directory_.describe({{"plugins", plugins()}});
    architecture_ = architecture();
    normalization_ = normalization(architecture_);
    if (recipe_.attack)
      attack();
    else
      examine();
    const auto each = [&](const char* stage, const auto& uses, auto&& run, auto&& add_failed) {
      for (const auto& use : uses) try {
          run(use);
        } catch (const base::HostError& e) {
          directory_.event({{"event", "stage_failed"},
                            {"stage", stage},
                            {"name", use.name},
                            {"code", static_cast<int>(e.code())},
                            {"error", e.what()},
                            {"hint", e.hint()}});
          add_failed(use, e.what());
          if (!failure) {
            failure = std::current_exception();
            error = e.what();
          }
          directory_.write_results(results_);  // a full disk ends the run here
        }
    };
    each(
        "detector", recipe_.detectors, [&](const auto& use) { detect(use); },
        [&](const auto& use, const std::string& what) {
          results_["detectors"].push_back(
              {{"name", use.name}, {"plugin", use.use.name()}, {"error", what}});
        });
    each(
        "defense", recipe_.defenses, [&](const auto& use) { defend(use); },
        [&](const auto& use, const std::string& what) {
          add_failed_row(use.name, use.use.name(), what);
        });
    audit_controls();
    if (audit_failure_ && !failure) std::rethrow_exception(audit_failure_);
  } catch (const Cancelled&) {
    outcome_.hint = directory_.after_interrupt();
    directory_.describe({{"status", "interrupted"}, {"finished", utc_now()}});
    throw;
  } catch (const std::exception& e) {
    if (!failure) {
      failure = std::current_exception();
      error = e.what();
    }
    directory_.event(
        {{"event", "run_failed"}, {"run", directory_.path().string()}, {"error", e.what()}});
    add_missing_rows(e.what());
  }
  results_["expectations"] =
      report::check_expectations(results_["rows"], recipe_.expectations, results_["detectors"],
                                 results_.value("audits", json::array()));
  json facts = {{"status", failure ? "failed" : "finished"}, {"finished", utc_now()}};
  if (failure) facts["error"] = error;
  try {
    directory_.finish(facts, results_);
  } catch (const base::HostError&) {  // the disk is full: the first error is the one to report
    if (!failure) throw;
  }
  // Without data, a table of rows that all failed says less than the error; but a summary counts
  // them.
  if (task_ || request_.one_of_several)
    directory_.event(
        {{"event", "run_finished"}, {"run", directory_.path().string()}, {"results", results_}});
  if (failure) std::rethrow_exception(failure);
  return results_;
}

}  // namespace

json run_recipe(const RunRequest& request, RunOutcome& outcome) {
  return Run(request, outcome).execute();
}

}  // namespace backstop::engine
