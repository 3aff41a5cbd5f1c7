#include "host/engine/plugins/conformance.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <optional>
#include <system_error>
#include <thread>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/prctl.h>

#include "backstop/attack.hpp"
#include "backstop/dataset.hpp"
#include "backstop/defense.hpp"
#include "backstop/input_detector.hpp"
#include "backstop/model_detector.hpp"
#include "host/base/files.hpp"
#include "host/engine/data/load_data.hpp"
#include "host/engine/plugins/process_state.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/run/input_detection.hpp"

namespace backstop::engine {

namespace {

constexpr std::int64_t kClasses = 4;

/// Keeps the warnings about global state that the plugin left changed, and counts what is reported.
class WarningCollector final : public RunObserver {
 public:
  void event(const nlohmann::json& event) override {
    if (event["event"] == "checkpoint") {
      ++checkpoints;
      resumable = resumable && event["resumable"];
    }
    if (event["event"] == "log" && event["level"] == "warning") {
      const auto message = event["message"].get<std::string>();
      if (message.find(" left changed: ") != std::string::npos) warnings.push_back(message);
    }
  }
  void progress(std::int64_t, std::int64_t, const std::string&) override {
    if (++reports == last_report) *interrupted = SIGINT;
  }

  std::vector<std::string> warnings;
  int checkpoints = 0;
  bool resumable = true;  ///< all of them
  int reports = 0;        ///< of progress
  int last_report = 0;    ///< sets `interrupted`; 0: none does
  std::atomic<int>* interrupted = nullptr;
};

/// A model that fails whenever it is used.
class BrokenModel final : public Model {
 public:
  static constexpr const char* kMessage =
      "this model fails on purpose, to see how the plugin handles it";

  explicit BrokenModel(Classifier& model) : model_(model) {}
  at::Tensor forward(const at::Tensor&) override { always_fail(); }
  at::Tensor observe(const at::Tensor&, ActivationSink&) override { always_fail(); }
  at::Tensor features(const at::Tensor&) override { always_fail(); }
  at::Tensor classify(const at::Tensor&) override { always_fail(); }
  std::span<const std::string_view> stages() const override { return model_.stages(); }
  std::int64_t layer_count() override { return model_.layer_count(); }
  void read_layer(std::int64_t index, Layer& layer) override { model_.read_layer(index, layer); }
  std::int64_t classes() const noexcept override { return model_.classes(); }
  std::int64_t feature_size() const noexcept override { return model_.feature_size(); }
  void set_training(bool training) override { model_.set_training(training); }
  bool training() const noexcept override { return model_.training(); }
  void set_trainable(Part) override { always_fail(); }
  void set_batch_norm(BatchNormMode) override { always_fail(); }
  void reset(Part, at::Generator&) override { always_fail(); }
  void replace_head(std::int64_t, at::Generator&) override { always_fail(); }
  void mask_channels(std::string_view, const at::Tensor&) override { always_fail(); }
  void copy_from(const Model&) override { always_fail(); }
  void set_precision(Precision) override { always_fail(); }
  Precision precision() const noexcept override { return model_.precision(); }
  void* query(std::string_view) noexcept override { return nullptr; }

 private:
  [[noreturn]] static void always_fail() { throw std::runtime_error(kMessage); }
  Classifier& model_;
};

/// For trainings in which the scheduler does not matter.
class SmallRate final : public Scheduler {
 public:
  double rate(const TrainingPosition&) const override { return 0.01; }
};

/// Keeps what a detector says.
class WrittenVerdict final : public ModelVerdict {
 public:
  void score(double value, double threshold) override {
    if (scored_) throw Error("a detector gave two scores");
    scored_ = true;
    add("score", value);
    add("threshold", threshold);
  }
  void class_number(std::int64_t label, std::string_view column, double value) override {
    require_class(label);
    add(fmt::format("{} of class {}", column, label), value);
  }
  void suspect(std::int64_t label, std::string_view) override {
    require_class(label);
    add(fmt::format("suspicion of class {}", label), 1);
  }
  void inconclusive(std::string_view) override { add("no verdict", 1); }

  [[nodiscard]] const std::vector<std::pair<std::string, double>>& said() const { return said_; }

 private:
  static void require_class(std::int64_t label) {
    if (label < 0 || label >= kClasses)
      throw Error(fmt::format("a detector named class {}, but the classes are 0 to {}", label,
                              kClasses - 1));
  }
  void add(std::string name, double value) { said_.emplace_back(std::move(name), value); }

  std::vector<std::pair<std::string, double>> said_;
  bool scored_ = false;
};

/// What a plugin is run on.
struct Workload {
  std::int64_t images = 64;
  std::int64_t channels = 3;
  std::int64_t side = 32;  ///< pixels
  bool broken_model = false;
  const std::atomic<int>* interrupted = nullptr;
  Checkpoints* checkpoints = nullptr;
};

/// Runs a plugin once, and keeps what it computed.
class Exercise {
 public:
  Exercise(const ConformanceRequest& request, const Workload& workload, WarningCollector& collector)
      : request_(request), workload_(workload), collector_(collector), context_(new_context()) {
    context_.set_model(architecture(), kNormalization);
    context_.keep(workload.checkpoints);
  }

  /// Returns everything that the plugin computed.
  NamedTensors run() {
    PluginObject plugin = make(request_.recipes->front());
    switch (request_.plugin->manifest.kind) {
      case catalog::Kind::attack:
        attack(plugin);
        break;
      case catalog::Kind::defense:
        defend(plugin);
        break;
      case catalog::Kind::scheduler:
        schedule({std::move(plugin), context_.warnings()});
        break;
      case catalog::Kind::dataset:
        load(plugin);
        break;
    }
    for (const auto& [key, value] : context_.metrics().items())
      keep("metric " + key, at::scalar_tensor(value.get<double>(), at::kDouble));
    for (const auto& [name, tensor] : context_.artifacts()) keep("artifact " + name, tensor);
    if (context_.flagged().defined()) keep("flagged images", context_.flagged());
    if (const auto& scored = context_.poison_scores(); scored.scores.defined()) {
      keep("scored images", scored.indices);
      keep("scores", scored.scores);
    }
    return std::move(result_);
  }

  PluginObject make(const recipe::Recipe& recipe) { return {use_of(recipe), context_.warnings()}; }

 private:
  static constexpr std::uint64_t kSeed = 1;
  static constexpr Normalization kNormalization{{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}};

  [[nodiscard]] StageContext new_context() const {
    return {{"check", request_.plugin->manifest.name},
            kSeed,
            Compute{c10::kCPU, false, at::get_num_threads()},
            Augmentation{2, true},
            &collector_,
            workload_.interrupted};
  }

  [[nodiscard]] Architecture architecture() const {
    return {"small-cnn", 8, workload_.channels, kClasses};
  }

  [[nodiscard]] const recipe::PluginUse& use_of(const recipe::Recipe& recipe) const {
    switch (request_.plugin->manifest.kind) {
      case catalog::Kind::attack:
        return recipe.attack->use;
      case catalog::Kind::defense:
        return request_.plugin->manifest.repairs ? recipe.defenses.front().use
                                                 : recipe.detectors.front().use;
      case catalog::Kind::scheduler:
        return recipe.attack->training.scheduler;
      case catalog::Kind::dataset:
        return recipe.dataset.use;
    }
    throw base::HostError(base::ExitCode::bug, "no such kind of plugin");
  }

  void keep(const std::string& name, const at::Tensor& tensor) {
    result_.emplace_back(name, tensor.detach().to(at::kCPU).clone());
  }

  void keep_model(const Classifier& model) {
    for (const auto& [name, tensor] : model.state()) {
      if (!at::isfinite(tensor).all().item<bool>())
        fail(fmt::format("it leaves weights that are not finite numbers in `{}`", name));
      keep("weights " + name, tensor);
    }
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw base::HostError(base::ExitCode::plugin, what);
  }

  ImageStore make_images(std::int64_t count) {
    at::Generator generator = make_generator(kSeed + 1);
    const at::Tensor labels = at::arange(count, at::kLong).remainder(kClasses);
    at::Tensor images = at::rand({count, workload_.channels, workload_.side, workload_.side},
                                 generator, at::TensorOptions(at::kFloat));
    images = images * 0.5 + labels.to(at::kFloat).div(kClasses).view({-1, 1, 1, 1}) * 0.5;
    return {to_8_bits(images), labels, kClasses, c10::kCPU};
  }

  Classifier make_model() {
    at::Generator generator = make_generator(kSeed + 2);
    return {architecture(), kNormalization, Compute{c10::kCPU, false, at::get_num_threads()},
            generator};
  }

  at::Tensor apply(const PluginObject& plugin, const at::Tensor& images) {
    const at::Tensor triggered = call(plugin, "apply", context_, [&] {
      return plugin.as<Attack>().apply(context_, images, Phase::test);
    });
    if (!triggered.defined() || triggered.sizes() != images.sizes() ||
        triggered.scalar_type() != at::kFloat)
      fail("apply() must return float images of the shape that it was given");
    const at::Tensor values = triggered.detach();
    if (!at::isfinite(values).all().item<bool>() || values.min().item<double>() < -1e-6 ||
        values.max().item<double>() > 1 + 1e-6)
      fail("apply() returned pixels outside 0 .. 1");
    return values;
  }

  void attack(const PluginObject& plugin) {
    auto& attack = plugin.as<Attack>();
    const ImageStore images = make_images(workload_.images);
    Threat threat;
    threat.classes = kClasses;
    // As much as a clean-label attack can poison of four classes, even if it adds cover samples.
    threat.poison_ratio = images.size() == 1 ? 1 : 0.25;
    call(plugin, "prepare", context_, [&] { attack.prepare(context_, threat, images); });
    TrainingSetCopy editor(images);
    call(plugin, "poison", context_, [&] { attack.poison(context_, threat, editor); });
    Classifier model = make_model();
    BrokenModel broken(model);
    const ImageStore poisoned = with_poison(images, editor.record());
    const SmallRate rate;
    TrainingOptions options;
    options.epochs = 1;
    options.batch_size = 16;
    options.scheduler = &rate;
    call(plugin, "train", context_, [&] {
      attack.train(context_, threat, workload_.broken_model ? static_cast<Model&>(broken) : model,
                   poisoned, editor, options);
    });
    for (const auto& [name, tensor] : editor.record()) keep("poison's " + name, tensor);
    keep_model(model);
    const at::Tensor clean = images.images(at::arange(images.size(), at::kLong));
    const at::Tensor triggered = apply(plugin, clean);
    keep("triggered images", triggered);
    one_by_one(plugin, clean, triggered);
    TensorState state;
    call(plugin, "save", context_, [&] { attack.save(state); });
    from_state(state, threat, clean, triggered);
  }

  /// apply() must treat every image independently of the others in its batch.
  void one_by_one(const PluginObject& plugin, const at::Tensor& clean,
                  const at::Tensor& triggered) {
    const auto last = clean.size(0) - 1;
    const at::Tensor alone = apply(plugin, clean.narrow(0, last, 1));
    constexpr double kOneLevel = 1.5 / 255;
    if ((alone - triggered.narrow(0, last, 1)).abs().max().item<double>() > kOneLevel)
      fail("apply() gives an image another trigger if it comes alone");
  }

  /// Another process has only what save() wrote.
  void from_state(const TensorState& state, const Threat& threat, const at::Tensor& clean,
                  const at::Tensor& triggered) {
    const PluginObject other = make(request_.recipes->front());
    call(other, "load", context_, [&] { other.as<Attack>().load(context_, threat, state); });
    if (!apply(other, clean).equal(triggered))
      fail("after save() and load(), apply() returns other images");
    // The host saves what it loaded when a run starts from an attack's file.
    TensorState again;
    call(other, "save", context_, [&] { other.as<Attack>().save(again); });
    const NamedTensors &first = state.tensors(), &second = again.tensors();
    if (!std::equal(first.begin(), first.end(), second.begin(), second.end(),
                    [](const auto& a, const auto& b) {
                      return a.first == b.first && a.second.equal(b.second);
                    }))
      fail("after load(), save() writes another state than the one that was loaded");
  }

  void defend(const PluginObject& plugin) {
    const ImageStore clean = make_images(workload_.images);
    ImageStore training = make_images(workload_.images);
    const auto& needs = request_.plugin->manifest.needs;
    const auto given = [&](const char* what, const ImageStore& set) {
      return std::find(needs.begin(), needs.end(), what) != needs.end() ? &set : nullptr;
    };
    const HostDefenderData data(given("clean-data", clean), given("training-data", training));
    Classifier model = make_model();
    BrokenModel broken(model);
    Model& given_model = workload_.broken_model ? static_cast<Model&>(broken) : model;
    if (request_.plugin->manifest.judges_models()) judge(plugin, given_model, data);
    if (request_.plugin->manifest.scores_inputs()) score(plugin, given_model, data);
    if (request_.plugin->manifest.repairs)
      call(plugin, "run", context_, [&] { plugin.as<Defense>().run(context_, given_model, data); });
    keep_model(model);
  }

  void judge(const PluginObject& plugin, Model& model, const DefenderData& data) {
    StageContext context = new_context();  // what a plugin records as a defense has the same names
    context.set_model(architecture(), kNormalization);
    WrittenVerdict verdict;
    call(plugin, "detect", context, [&] {
      auto* detector = static_cast<ModelDetector*>(plugin.as<Defense>().query(ModelDetector::kId));
      if (!detector)
        fail("its manifest says that it judges models, but it offers no ModelDetector");
      detector->detect(context, model, data, verdict);
    });
    for (const auto& [name, value] : verdict.said())
      keep("verdict's " + name, at::scalar_tensor(value, at::kDouble));
  }

  void score(const PluginObject& plugin, Model& model, const DefenderData& data) {
    StageContext context = new_context();
    context.set_model(architecture(), kNormalization);
    if (!workload_.broken_model) model.set_training(false);
    const ImageStore set = make_images(workload_.images);
    const at::Tensor images = set.images(at::arange(set.size(), at::kLong));
    auto* detector = static_cast<InputDetector*>(plugin.as<Defense>().query(InputDetector::kId));
    if (!detector) fail("its manifest says that it scores images, but it offers no InputDetector");
    const double threshold =
        call(plugin, "prepare", context, [&] { return detector->prepare(context, model, data); });
    keep("threshold", at::scalar_tensor(threshold, at::kDouble));
    keep("scores", call(plugin, "scores", context, [&] {
           const at::NoGradGuard no_gradients;
           const at::Tensor scores = checked_scores(*detector, context, model, images);
           require_independent_scores(*detector, context, model, images, scores);
           return scores;
         }));
  }

  void schedule(const GuardedScheduler& scheduler) {
    std::vector<double> rates, backwards;
    for (const std::int64_t iterations : {1, 7, 64}) {
      constexpr std::int64_t kEpochs = 3;
      const auto at = [&](std::int64_t iteration) {
        TrainingPosition position;
        position.epochs = kEpochs;
        position.iterations_per_epoch = iterations;
        position.iteration = iteration;
        return scheduler.rate(position);
      };
      const auto first = rates.size();
      for (std::int64_t i = 0; i < kEpochs * iterations; ++i) rates.push_back(at(i));
      backwards.resize(rates.size());
      for (std::int64_t i = kEpochs * iterations - 1; i >= 0; --i)
        backwards[first + static_cast<std::size_t>(i)] = at(i);
    }
    if (rates != backwards)
      fail(
          "rate() returns other rates if it is asked in another order; it must depend only on the "
          "position, because one object serves several trainings");
    keep("rates", at::tensor(rates, at::kDouble));
  }

  void load(const PluginObject& plugin) {
    auto& dataset = plugin.as<Dataset>();
    std::int64_t channels = 0;
    for (const Split split : {Split::train, Split::test}) {
      const Samples samples = load_split(plugin, split, context_);
      channels = samples.images.size(1);
      const std::string name = split == Split::train ? "training" : "test";
      keep(name + " images", samples.images);
      keep(name + " labels", samples.labels);
    }
    call(plugin, "describe", context_, [&] {
      for (std::int64_t label = 0; label < dataset.classes(); ++label)
        if (dataset.class_name(label).empty()) fail(fmt::format("class {} has no name", label));
    });
    statistics_of(plugin, channels, context_);
  }

  const ConformanceRequest& request_;
  Workload workload_;
  WarningCollector& collector_;
  StageContext context_;
  NamedTensors result_;
};

NamedTensors exercise(const ConformanceRequest& request, const Workload& workload,
                      WarningCollector& collector) {
  return Exercise(request, workload, collector).run();
}

std::string joined(const std::vector<std::string>& lines) {
  return fmt::format("{}", fmt::join(lines, "\n"));
}

/// "max difference 0.031 in `weights linear.weight`"; empty if there is none.
std::string difference(const NamedTensors& a, const NamedTensors& b) {
  if (a.size() != b.size())
    return fmt::format("{} results the first time and {} the second", a.size(), b.size());
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto& [name, first] = a[i];
    const at::Tensor& second = b[i].second;
    if (name != b[i].first || first.sizes() != second.sizes())
      lines.push_back(fmt::format("`{}` is missing or of another shape the second time", name));
    else if (!first.equal(second) &&
             !(first.is_floating_point() && at::allclose(first, second, 0, 0, true)))
      lines.push_back(fmt::format(
          "max difference {:.6f} in `{}`",
          (first.to(at::kDouble) - second.to(at::kDouble)).abs().max().item<double>(), name));
  }
  constexpr std::size_t kShown = 3;
  if (lines.size() > kShown) {
    const auto more = lines.size() - kShown;
    lines.resize(kShown);
    lines.push_back(fmt::format("and {} more", more));
  }
  return joined(lines);
}

ConformanceOutcome passed() {
  return {true, "", ""};
}

/// Why the plugin refuses its parameters, if it does: it may need one of two paths, for example.
std::optional<ConformanceOutcome> refusal(const ConformanceRequest& request) {
  WarningCollector collector;
  try {
    Exercise(request, {}, collector).make(request.recipes->front());
    return std::nullopt;
  } catch (const base::HostError& e) {
    if (e.code() != base::ExitCode::usage && e.code() != base::ExitCode::environment) throw;
    return ConformanceOutcome{false, e.what(), "give other parameters with --set KEY=VALUE", false};
  }
}

ConformanceOutcome ranges(const ConformanceRequest& request) {
  WarningCollector collector;
  Exercise exercise(request, {}, collector);
  for (const recipe::Recipe& recipe : *request.recipes) {
    try {
      exercise.make(recipe);
    } catch (const base::HostError& e) {
      // A plugin may refuse a combination that its manifest cannot describe, or missing data.
      if (e.code() != base::ExitCode::usage && e.code() != base::ExitCode::environment) throw;
    }
  }
  return passed();
}

ConformanceOutcome deterministic(const ConformanceRequest& request) {
  WarningCollector collector;
  at::Generator global = at::globalContext().defaultGenerator(c10::kCPU);
  global.set_current_seed(1);
  const NamedTensors first = exercise(request, {}, collector);
  global.set_current_seed(2);
  const NamedTensors second = exercise(request, {}, collector);
  const std::string changes = difference(first, second);
  if (changes.empty()) return passed();
  return {false, changes, "draw random numbers from Context::generator() only"};
}

/// Waits a little for the threads that are about to end.
std::vector<std::string> added_since(const ProcessBelongings& before) {
  std::vector<std::string> added;
  for (int attempt = 0; attempt < 10; ++attempt) {
    added = before.additions(ProcessBelongings::now());
    if (added.empty()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return added;
}

ConformanceOutcome state(const ConformanceRequest& request) {
  // Children of children, too, become children of this process when their parent ends.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  WarningCollector collector;
  exercise(request, {}, collector);
  if (!collector.warnings.empty())
    return {false, joined(collector.warnings),
            "use guards that restore what they change (c10::AutoGradMode, ...)"};
  // Only now: what LibTorch starts once, such as its threads, stays.
  const auto before = ProcessBelongings::now();
  exercise(request, {}, collector);
  const auto added = added_since(before);
  if (added.empty()) return passed();
  return {false, fmt::format("it left behind: {}", fmt::join(added, ", ")),
          "join threads, close files and wait for child processes before the call returns"};
}

ConformanceOutcome cancellation(const ConformanceRequest& request) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kDelays[] = {std::chrono::milliseconds(0),
                                                   std::chrono::milliseconds(300)};
  for (const auto delay : kDelays) {
    std::atomic<int> interrupted{0};
    std::atomic<Clock::rep> when{0};
    std::thread interrupter([&] {
      std::this_thread::sleep_for(delay);
      when = Clock::now().time_since_epoch().count();
      interrupted = SIGINT;
    });
    if (delay.count() == 0) interrupter.join();
    Workload workload;
    workload.images = 2000;
    workload.interrupted = &interrupted;
    WarningCollector collector;
    std::string other_error;
    try {
      exercise(request, workload, collector);
    } catch (const Cancelled&) {
    } catch (const std::exception& e) {
      other_error = e.what();
    }
    const auto end = Clock::now();
    if (interrupter.joinable()) interrupter.join();
    const double seconds =
        std::chrono::duration<double>(end.time_since_epoch() - Clock::duration(when.load()))
            .count();
    constexpr double kLimit = 2;
    if (seconds > kLimit)
      return {false, fmt::format("it went on for {:.1f} s after it was cancelled", seconds),
              "call Context::stop_if_cancelled() at least once a batch"};
    if (!other_error.empty())
      return {false, "when cancelled, it ended with another error: " + other_error,
              "do not catch backstop::Cancelled"};
  }
  return passed();
}

ConformanceOutcome images(const ConformanceRequest& request) {
  std::vector<std::string> failures;
  const catalog::Kind kind = request.plugin->manifest.kind;
  if (kind == catalog::Kind::scheduler || kind == catalog::Kind::dataset) {
    WarningCollector collector;
    exercise(request, {}, collector);
    return passed();
  }
  for (const std::int64_t channels : {1, 3}) {
    for (const std::int64_t count : {1, 7, 64}) {
      Workload workload;
      workload.images = count;
      workload.channels = channels;
      workload.side = channels == 1 ? 28 : 32;
      WarningCollector collector;
      try {
        exercise(request, workload, collector);
      } catch (const base::HostError& e) {
        // A single image may be too few to poison, but the attack must say so.
        if (kind == catalog::Kind::attack && count == 1 && e.code() == base::ExitCode::usage)
          continue;
        failures.push_back(
            fmt::format("with {} images of {} channels: {}", count, channels, e.what()));
      }
    }
  }
  return {failures.empty(), joined(failures), ""};
}

ConformanceOutcome failures(const ConformanceRequest& request) {
  WarningCollector collector;
  const NamedTensors before = exercise(request, {}, collector);
  Workload broken;
  broken.broken_model = true;
  std::string warning;
  try {
    WarningCollector during;
    exercise(request, broken, during);
    warning = joined(during.warnings);
  } catch (const std::exception&) {  // as expected
  }
  if (!warning.empty()) return {false, warning, "restore global state with guards"};
  const std::string changes = difference(before, exercise(request, {}, collector));
  if (changes.empty()) return passed();
  return {false, "after a model failed, a new object gives other results: " + changes,
          "keep all state in the plugin's object"};
}

/// A folder for this process alone, which goes with the object.
class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("backstop-plugin-check-" + base::unique_name())) {}
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

ConformanceOutcome resume(const ConformanceRequest& request) {
  constexpr double kNever = 1e9, kOften = 0.2;  // seconds
  WarningCollector whole;
  NamedTensors expected;
  {
    const TemporaryFolder folder;
    Checkpoints checkpoints(folder.path(), {}, kNever);
    Workload workload;
    workload.checkpoints = &checkpoints;
    expected = exercise(request, workload, whole);
  }
  if (whole.checkpoints == 0) return passed();  // it does not train
  if (!whole.resumable)
    return {false,
            "its training step does not offer backstop.training-state/1, so a training that was "
            "killed is repeated from its first epoch",
            "offer it from TrainingStep::query; a step that keeps nothing returns "
            "backstop::stateless(id)",
            false};
  const TemporaryFolder folder;
  std::atomic<int> interrupted{0};
  WarningCollector collector;
  collector.interrupted = &interrupted;
  collector.last_report = (whole.reports + 1) / 2;
  Checkpoints first(folder.path(), {}, kOften);
  Workload workload;
  workload.interrupted = &interrupted;
  workload.checkpoints = &first;
  try {
    exercise(request, workload, collector);
  } catch (const std::exception&) {
    if (interrupted == 0) throw;
  }
  interrupted = 0;
  collector.last_report = 0;
  Checkpoints second(folder.path(), {}, kNever);
  workload.checkpoints = &second;
  const std::string changes = difference(expected, exercise(request, workload, collector));
  if (changes.empty()) return passed();
  return {false,
          fmt::format("when it is stopped after {} of {} reports of progress and started again, it "
                      "gives other results: {}",
                      (whole.reports + 1) / 2, whole.reports, changes),
          "save all that later calls depend on in TrainingState::save, and draw random numbers "
          "from Context::generator() only"};
}

}  // namespace

ConformanceOutcome check_conformance(const ConformanceRequest& request) {
  struct Test {
    std::string_view name;
    ConformanceOutcome (*run)(const ConformanceRequest&);
  };
  static constexpr Test kTests[] = {{"ranges", ranges}, {"deterministic", deterministic},
                                    {"state", state},   {"cancellation", cancellation},
                                    {"images", images}, {"failures", failures},
                                    {"resume", resume}};
  for (const Test& test : kTests) {
    if (test.name != request.test) continue;
    const auto refused = refusal(request);
    return refused ? *refused : test.run(request);
  }
  throw base::HostError(base::ExitCode::bug, "there is no conformance test `" + request.test + "`");
}

}  // namespace backstop::engine
