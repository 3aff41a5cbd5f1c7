#include "host/engine/train/trainer.hpp"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <thread>

#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backstop/error.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

struct Constant final : Scheduler {
  explicit Constant(double value) : value_(value) {}
  double rate(const TrainingPosition& position) const override {
    positions.push_back(position);
    return value_;
  }
  double value_;
  mutable std::vector<TrainingPosition> positions;
};

/// Two classes that differ in brightness.
ImageStore bright_and_dark(std::int64_t n) {
  at::Generator generator = make_generator(3);
  const at::Tensor labels = at::arange(n, at::kLong).remainder(2);
  const at::Tensor images =
      at::randint(0, 100, {n, 3, 8, 8}, generator, at::kLong) + labels.view({n, 1, 1, 1}) * 150;
  return {images.to(at::kByte), labels, 2, c10::kCPU};
}

struct Fixture {
  explicit Fixture(std::uint64_t seed = 0, const std::atomic<int>* interrupted = nullptr)
      : context({"attack", "test"}, seed, {}, {1, true}, nullptr, interrupted) {
    at::Generator generator = make_generator(11);
    const Architecture architecture{"small-cnn", 4, 3, 2};
    context.set_model(architecture, {});
    model.emplace(architecture, Normalization{}, Compute{}, generator);
  }
  StageContext context;
  std::optional<Classifier> model;
};

TrainingOptions options(const Scheduler& scheduler, std::int64_t epochs = 2) {
  TrainingOptions result;
  result.scheduler = &scheduler;
  result.epochs = epochs;
  result.batch_size = 24;
  return result;
}

bool same_weights(const Classifier& a, const Classifier& b) {
  const auto x = a.state(), y = b.state();
  for (std::size_t i = 0; i < x.size(); ++i)
    if (!x[i].second.equal(y[i].second)) return false;
  return true;
}

TEST(Trainer, LearnsWhatCanBeLearnt) {
  Fixture f;
  const ImageStore data = bright_and_dark(100);
  const Constant scheduler(0.05);
  f.context.trainer().fit(*f.model, data, options(scheduler, 4));
  EXPECT_GT(f.context.trainer().accuracy(*f.model, data), 0.98);
  EXPECT_FALSE(f.model->training());
}

TEST(Trainer, TellsTheSchedulerEveryStep) {
  Fixture f;
  const Constant scheduler(0.01);
  f.context.trainer().fit(*f.model, bright_and_dark(100), options(scheduler, 3));
  ASSERT_EQ(scheduler.positions.size(), 15u);  // 100 images in batches of 24: five, the last of 4
  EXPECT_EQ(scheduler.positions.back().iteration, 14);
  EXPECT_EQ(scheduler.positions.back().epoch(), 2);
  EXPECT_EQ(scheduler.positions.back().iterations_per_epoch, 5);
  EXPECT_EQ(scheduler.positions.back().total_iterations(), 15);
}

TEST(Trainer, SameSeedGivesTheSameBits) {
  const ImageStore data = bright_and_dark(100);
  const Constant scheduler(0.05);
  Fixture first(1), again(1), other(2);
  for (Fixture* f : {&first, &again, &other})
    f->context.trainer().fit(*f->model, data, options(scheduler));
  EXPECT_TRUE(same_weights(*first.model, *again.model));
  EXPECT_FALSE(same_weights(*first.model, *other.model));
}

TEST(Trainer, TrainsTheHeadAloneWhenAsked) {
  Fixture f;
  Classifier before(*f.model);
  const Constant scheduler(0.05);
  TrainingOptions head = options(scheduler);
  head.trainable = Part::head;
  f.context.trainer().fit(*f.model, bright_and_dark(50), head);
  const auto then = before.state(), now = f.model->state();
  for (std::size_t i = 0; i < now.size(); ++i)
    EXPECT_EQ(now[i].second.equal(then[i].second), !now[i].first.starts_with("linear"))
        << now[i].first;
}

TEST(Trainer, HoldsMasksWhileItTrains) {
  Fixture f;
  at::Tensor keep = at::ones({4}, at::kBool);
  keep[1] = false;
  f.model->mask_channels("conv1", keep);
  const Constant scheduler(0.05);
  f.context.trainer().fit(*f.model, bright_and_dark(50), options(scheduler));
  EXPECT_EQ(f.model->layers()[0].weight[1].abs().sum().item<double>(), 0);
}

TEST(Trainer, TellsAStepWhereItIs) {
  struct Step final : TrainingStep {
    at::Tensor loss(Model& model, const Batch& batch) override {
      EXPECT_TRUE(at::GradMode::is_enabled());
      EXPECT_TRUE(model.training());
      EXPECT_EQ(batch.struct_size, sizeof(Batch));
      EXPECT_EQ(batch.rate, 0.05);
      EXPECT_EQ(batch.epoch, begun.back());
      iterations.push_back(batch.iteration);
      return at::cross_entropy_loss(model.forward(batch.images), batch.labels);
    }
    void before_epoch(Model&, std::int64_t epoch) override { begun.push_back(epoch); }
    Next after_epoch(Model&, std::int64_t epoch) override {
      return epoch == 1 ? Next::stop : Next::epoch;
    }
    std::vector<std::int64_t> begun, iterations;
  } step;
  Fixture f;
  const Constant scheduler(0.05);
  TrainingOptions with_step = options(scheduler, 5);
  with_step.step = &step;
  std::vector<std::int64_t> measured, last;
  f.context.trainer().measure(*f.model, [&](Classifier&, const HostTrainer::EpochEnd& end) {
    measured.push_back(end.epoch);
    last.push_back(end.end);
  });
  f.context.trainer().fit(*f.model, bright_and_dark(48), with_step);
  EXPECT_EQ(last, (std::vector<std::int64_t>{5, 2}));        // the last one is always measured
  EXPECT_EQ(step.begun, (std::vector<std::int64_t>{0, 1}));  // stopped after the second
  EXPECT_EQ(step.iterations, (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(measured, (std::vector<std::int64_t>{1, 2}));
}

TEST(StructSize, ACopyHasItsOwn) {
  struct Longer {  // of a later host
    TrainingOptions known;
    double added = 7;
  } longer;
  longer.known.struct_size = sizeof longer;
  TrainingOptions copy = longer.known;
  EXPECT_EQ(copy.struct_size, sizeof copy);
  copy.struct_size = 8;
  copy = longer.known;
  EXPECT_EQ(copy.struct_size, 8U);
}

TEST(Trainer, TrainsTheTensorsOfAStep) {
  struct Step final : TrainingStep {
    at::Tensor loss(Model& model, const Batch& batch) override {
      return at::cross_entropy_loss(model.forward(batch.images), batch.labels) +
             (own[0] - 3).square().sum();
    }
    std::span<const at::Tensor> parameters() override { return own; }
    std::vector<at::Tensor> own = {at::zeros({2}).set_requires_grad(true)};
  } step;
  Fixture f;
  const Constant scheduler(0.05);
  TrainingOptions with_step = options(scheduler, 20);
  with_step.step = &step;
  with_step.optimizer.weight_decay = 0;
  with_step.optimizer.momentum = 0;
  f.context.trainer().fit(*f.model, bright_and_dark(48), with_step);
  EXPECT_NEAR(step.own[0][0].item<double>(), 3, 0.2);
  const at::Tensor dense = at::zeros({2}).set_requires_grad(true);
  for (const std::vector<at::Tensor>& wrong :
       {std::vector<at::Tensor>{at::zeros({2})},
        {at::zeros({1}).expand({2}).detach().set_requires_grad(true)},
        {dense, dense},
        {f.model->layers()[0].weight}}) {
    step.own = wrong;
    EXPECT_THROW(f.context.trainer().fit(*f.model, bright_and_dark(48), with_step), Error);
  }
}

TEST(Trainer, TrainsChosenLayersAlone) {
  Fixture f;
  const Constant scheduler(0.05);
  TrainingOptions chosen = options(scheduler, 1);
  chosen.trainable = Part::chosen;
  f.model->set_trainable(Part::none);
  Layer first = f.model->layers().front();
  first.weight.set_requires_grad(true);
  const Classifier before(*f.model);
  f.context.trainer().fit(*f.model, bright_and_dark(48), chosen);
  const auto was = before.state(), is = f.model->state();
  for (std::size_t i = 0; i < is.size(); ++i) {
    const std::string& name = is[i].first;
    if (name.find("running") != std::string::npos || name.find("batches") != std::string::npos)
      continue;  // the body learns, so its statistics follow
    EXPECT_EQ(is[i].second.equal(was[i].second), name != std::string(first.name) + ".weight")
        << name;
  }
  EXPECT_FALSE(f.model->layers().back().weight.requires_grad());  // the choice stays
  EXPECT_TRUE(first.weight.requires_grad());
  f.context.trainer().fit(*f.model, bright_and_dark(48), options(scheduler, 0));
  EXPECT_TRUE(f.model->layers().back().weight.requires_grad());
}

TEST(Trainer, GivesPluginsTheirStep) {
  struct Step final : TrainingStep {
    at::Tensor loss(Model& model, const Batch& batch) override {
      ++losses;
      EXPECT_EQ(batch.images.size(0), batch.labels.size(0));
      EXPECT_LE(batch.images.max().item<float>(), 1.0f);
      return at::cross_entropy_loss(model.forward(batch.images), batch.labels);
    }
    void before_update(Model& model) override {
      EXPECT_TRUE(model.layers()[0].weight.grad().defined());
      ++before;
    }
    void after_update(Model&) override { ++after; }
    Next after_epoch(Model&, std::int64_t epoch) override {
      last_epoch = epoch;
      return Next::epoch;
    }
    int losses = 0, before = 0, after = 0;
    std::int64_t last_epoch = -1;
  } step;
  Fixture f;
  const Constant scheduler(0.05);
  TrainingOptions with_step = options(scheduler, 2);
  with_step.step = &step;
  f.context.trainer().fit(*f.model, bright_and_dark(50), with_step);
  EXPECT_EQ(step.losses, 6);
  EXPECT_EQ(step.before, 6);
  EXPECT_EQ(step.after, 6);
  EXPECT_EQ(step.last_epoch, 1);
}

TEST(Trainer, PluginsStepWithPlainLossEqualsTheFusedWay) {
  struct Plain final : TrainingStep {
    at::Tensor loss(Model& model, const Batch& batch) override {
      return at::cross_entropy_loss(model.forward(batch.images), batch.labels);
    }
  } plain;
  Fixture fused(4), stepped(4);
  const ImageStore data = bright_and_dark(48);
  const Constant scheduler(0.05);
  TrainingOptions o = options(scheduler, 1);
  fused.context.trainer().fit(*fused.model, data, o);
  o.step = &plain;
  stepped.context.trainer().fit(*stepped.model, data, o);
  const auto a = fused.model->state(), b = stepped.model->state();
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(a[i].second.to(at::kFloat).allclose(b[i].second.to(at::kFloat), 1e-3, 1e-4))
        << a[i].first;
}

TEST(Trainer, StopsWhenTheLossDiverges) {
  Fixture f;
  const Constant scheduler(1e30);
  try {
    f.context.trainer().fit(*f.model, bright_and_dark(100), options(scheduler));
    FAIL() << "went on with a loss that is not finite";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("the loss is no longer a finite number in epoch 1"),
              std::string::npos)
        << e.what();
  }
}

TEST(Trainer, RefusesImpossibleOptionsAndRates) {
  Fixture f;
  const ImageStore data = bright_and_dark(50);
  const Constant good(0.1), bad(std::nan(""));
  TrainingOptions no_scheduler = options(good);
  no_scheduler.scheduler = nullptr;
  EXPECT_THROW(f.context.trainer().fit(*f.model, data, no_scheduler), Error);
  TrainingOptions no_batch = options(good);
  no_batch.batch_size = 0;
  EXPECT_THROW(f.context.trainer().fit(*f.model, data, no_batch), Error);
  EXPECT_THROW(f.context.trainer().fit(*f.model, data, options(bad)), Error);
}

TEST(Trainer, StopsWhenInterrupted) {
  const std::atomic<int> interrupted{2};
  Fixture f(0, &interrupted);
  const Constant scheduler(0.1);
  EXPECT_THROW(f.context.trainer().fit(*f.model, bright_and_dark(50), options(scheduler)),
               Cancelled);
}

TEST(Trainer, MeasuresTheSubjectAndNoOther) {
  Fixture f;
  std::vector<std::int64_t> epochs;
  f.context.trainer().measure(*f.model, [&](Classifier&, const HostTrainer::EpochEnd& end) {
    epochs.push_back(end.epoch);
    EXPECT_GT(end.loss, 0);
  });
  const ImageStore data = bright_and_dark(50);
  const Constant scheduler(0.05);
  f.context.trainer().fit(f.context.clone(*f.model), data, options(scheduler));
  EXPECT_TRUE(epochs.empty());
  f.context.trainer().fit(*f.model, data, options(scheduler));
  EXPECT_EQ(epochs, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(f.context.cost().stop()["samples_seen"], 200);
}

TEST(Trainer, SaysTheRateOfEachTime) {
  struct Counting final : Scheduler {
    [[nodiscard]] double rate(const TrainingPosition& position) const override {
      return 1e-3 * static_cast<double>(1 + position.iteration);
    }
  };
  Fixture f;
  std::vector<double> rates;
  f.context.trainer().measure(*f.model, [&](Classifier&, const HostTrainer::EpochEnd& end) {
    EXPECT_EQ(end.begin, end.epoch <= 2 ? 0 : 2);
    for (const double part : {1.0, 0.75, 0.5})
      rates.push_back(end.rate(static_cast<double>(end.epoch) - part));
  });
  const ImageStore data = bright_and_dark(48);  // two steps an epoch
  const Counting scheduler;
  for (int training = 0; training < 2; ++training)
    f.context.trainer().fit(*f.model, data, options(scheduler));
  const std::vector<double> once = {1e-3, 1e-3, 2e-3, 3e-3, 3e-3, 4e-3};
  std::vector<double> twice = once;
  twice.insert(twice.end(), once.begin(), once.end());
  EXPECT_EQ(rates, twice);
}

TEST(Trainer, PassesOlderPluginsShorterOptions) {
  Fixture f;
  const Constant scheduler(0.05);
  TrainingOptions old = options(scheduler, 1);
  old.struct_size = offsetof(TrainingOptions, batch_norm);
  old.batch_norm = BatchNormMode::frozen;  // beyond what the old plugin knows: must not be read
  const at::Tensor weight = f.model->layers()[1].weight.detach().clone();
  f.context.trainer().fit(*f.model, bright_and_dark(50), old);
  EXPECT_FALSE(f.model->layers()[1].weight.equal(weight));
}

TEST(StageContext, DetachesWhatPluginsHandOver) {
  Fixture f;
  const at::Tensor graph = at::rand({2, 3, 8, 8}).set_requires_grad(true) * 0.5;
  const at::Tensor labels = at::zeros({2}, at::kLong);
  f.context.artifact("pattern", graph);
  EXPECT_FALSE(tensor_named(f.context.artifacts(), "pattern").requires_grad());
  const ImageSet& made = f.context.image_set(graph, labels);
  EXPECT_FALSE(made.images(at::arange(2, at::kLong)).requires_grad());
  f.context.flag_poison(graph.flatten().narrow(0, 0, 2));
  EXPECT_FALSE(f.context.flagged().requires_grad());
  TensorState state;
  state.tensor("mask", graph);
  EXPECT_FALSE(state.tensor("mask").requires_grad());
  const ImageStore data = bright_and_dark(2);
  TrainingSetCopy editor(data);
  editor.write(at::arange(2, at::kLong), graph, labels, Role::poison);
  EXPECT_FALSE(tensor_named(editor.record(), "images").requires_grad());
}

TEST(StageContext, MakesModelsOfTheRecipesKind) {
  Fixture f;
  at::Generator one = make_generator(3), same = make_generator(3), other = make_generator(4);
  auto& a = host_model(f.context.new_model(one));
  EXPECT_EQ(a.architecture().name, "small-cnn");
  EXPECT_EQ(a.classes(), 2);
  EXPECT_TRUE(same_weights(a, host_model(f.context.new_model(same))));
  EXPECT_FALSE(same_weights(a, host_model(f.context.new_model(other))));
}

TEST(StageContext, LoadsModelsAndRefusesWhatIsNone) {
  Fixture f;
  const auto folder = std::filesystem::temp_directory_path() /
                      ("backstop-load-model-" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const std::string good = folder / "good.safetensors", bad = folder / "bad.safetensors";
  write_safetensors(good, f.model->state());
  write_safetensors(bad, {{"conv1.weight", at::zeros({1})}});
  EXPECT_TRUE(same_weights(*f.model, host_model(f.context.load_model(good))));
  for (const std::string& file : {bad, std::string(folder / "missing.safetensors")}) {
    try {
      f.context.load_model(file);
      ADD_FAILURE() << "accepted " << file;
    } catch (const base::HostError& e) {
      EXPECT_EQ(e.code(), base::ExitCode::environment);
      EXPECT_NE(std::string(e.what()).find(file), std::string::npos) << e.what();
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(CostMeter, CountsNestedEvaluationsOnce) {
  CostMeter meter(c10::kCPU);
  const auto wait = [] { std::this_thread::sleep_for(std::chrono::milliseconds(60)); };
  {
    const CostMeter::Evaluation outer(meter);
    { const CostMeter::Evaluation inner(meter); }
    wait();
  }
  EXPECT_GE(meter.stop()["evaluation_seconds"].get<double>(), 0.06);
}

TEST(TrainingSetCopy, RefusesWhatDoesNotFit) {
  const ImageStore data = bright_and_dark(10);
  TrainingSetCopy editor(data);
  const at::Tensor image = at::rand({1, 3, 8, 8}), one = at::tensor({1}, at::kLong);
  const auto refusal = [&](const at::Tensor& position, const at::Tensor& images,
                           const at::Tensor& label) -> std::string {
    try {
      editor.write(position, images, label, Role::poison);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(at::tensor({10}, at::kLong), image, one),
            "image 10 of the training set was to be changed, but its images are 0 to 9");
  EXPECT_EQ(refusal(one, image, at::tensor({2}, at::kLong)),
            "image 1 of the training set was given label 2, but the labels are 0 to 1");
  EXPECT_EQ(refusal(one, at::rand({1, 3, 9, 8}), one),
            "an image for the training set is 3x9x8, but the others are 3x8x8 (channels, height, "
            "width)");
  EXPECT_EQ(refusal(one, at::rand({2, 3, 8, 8}), one),
            "1 positions in the training set were given for 2 images with 1 labels: there must be "
            "as many of each");
  EXPECT_EQ(refusal(one, image, one), "");
  EXPECT_EQ(refusal(one, image, one), "image 1 of the training set was changed twice");
}

Threat to_class(std::int64_t target) {
  Threat threat;
  threat.target = target;
  threat.classes = 2;
  return threat;
}

TEST(TrainingSetCopy, RestoresItsRecord) {
  const ImageStore data = bright_and_dark(10);
  at::Generator generator = make_generator(5);
  TrainingSetCopy editor(data), again(data);
  editor.write(at::tensor({7, 2}, at::kLong), at::rand({2, 3, 8, 8}, generator),
               at::tensor({0, 0}, at::kLong), Role::poison);
  editor.write(at::tensor({4}, at::kLong), at::rand({1, 3, 8, 8}, generator),
               at::tensor({0}, at::kLong), Role::cover);
  const NamedTensors record = editor.record();
  again.restore(record, to_class(0), "x.attack.safetensors");
  const NamedTensors restored = again.record();
  for (std::size_t i = 0; i < record.size(); ++i)
    EXPECT_TRUE(restored[i].second.equal(record[i].second)) << record[i].first;
}

TEST(TrainingSetCopy, RefusesARecordOfOtherDataOrAnotherTarget) {
  const ImageStore data = bright_and_dark(10), fewer = bright_and_dark(5);
  TrainingSetCopy editor(data);
  editor.write(at::tensor({7}, at::kLong), at::ones({1, 3, 8, 8}), at::tensor({0}, at::kLong),
               Role::poison);
  const NamedTensors record = editor.record();
  const auto refused = [&](const ImageStore& set, const NamedTensors& given,
                           std::int64_t target = 0) {
    TrainingSetCopy copy(set);
    try {
      copy.restore(given, to_class(target), "x.attack.safetensors");
    } catch (const base::HostError& e) {
      return e.code() == base::ExitCode::environment;
    }
    return false;
  };
  EXPECT_FALSE(refused(data, record));
  EXPECT_TRUE(refused(fewer, record));
  EXPECT_TRUE(refused(data, record, 1));
  for (std::size_t i = 0; i < record.size(); ++i) {
    NamedTensors changed = record;
    changed[i].second = at::zeros({2}, record[i].second.options());
    EXPECT_TRUE(refused(data, changed)) << record[i].first;
    changed[i].second = record[i].second.to(at::kDouble);
    EXPECT_TRUE(refused(data, changed)) << record[i].first;
    changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_TRUE(refused(data, changed)) << record[i].first;
  }
}

TEST(TrainingSetCopy, LeavesTheCleanSetAlone) {
  const ImageStore data = bright_and_dark(10);
  const at::Tensor all = at::arange(10, at::kLong), before = data.pixels(all).clone();
  TrainingSetCopy editor(data);
  editor.write(at::tensor({7, 2}, at::kLong), at::ones({2, 3, 8, 8}), at::tensor({0, 0}, at::kLong),
               Role::poison);
  const ImageStore poisoned = with_poison(data, editor.record());
  EXPECT_TRUE(data.pixels(all).equal(before));
  EXPECT_EQ(poisoned.pixels(at::tensor({7}, at::kLong)).min().item<int>(), 255);
  EXPECT_EQ(poisoned.labels()[7].item<int>(), 0);
  EXPECT_TRUE(poisoned.pixels(at::tensor({6}, at::kLong)).equal(before.slice(0, 6, 7)));
}

/// What fit() throws, "" for nothing, and its hint.
std::pair<std::string, std::string> failure(Fixture& f, const TrainingOptions& options) {
  try {
    f.context.trainer().fit(*f.model, bright_and_dark(24), options);
  } catch (const Error& e) {
    return {e.what(), e.hint()};
  }
  return {};
}

/// Makes the first weight of the head NaN.
void spoil(Classifier& model) {
  const at::NoGradGuard no_grad;
  at::Tensor(model.layers().back().weight).flatten()[0].fill_(NAN);
}

TEST(Trainer, BlamesNoLearningRateForWeightsThatWereNotFiniteBefore) {
  Fixture f;
  spoil(*f.model);
  const Constant scheduler(0.01);
  const auto [what, hint] = failure(f, options(scheduler));
  EXPECT_EQ(what, "the model has weights that are not finite (1) before it is trained");
  EXPECT_EQ(hint, "");
}

TEST(Trainer, BlamesNoLearningRateForTheFirstLoss) {
  struct NotFinite final : TrainingStep {
    at::Tensor loss(Model& model, const Batch& batch) override {
      return model.forward(batch.images).sum() * NAN;
    }
  } step;
  Fixture f;
  const Constant scheduler(0.01);
  TrainingOptions with_step = options(scheduler);
  with_step.step = &step;
  const auto [what, hint] = failure(f, with_step);
  EXPECT_EQ(what, "the loss is not a finite number in the first iteration");
  EXPECT_EQ(hint.find("diverged"), std::string::npos) << hint;
}

TEST(Trainer, LogitsThatAreNotFinitePredictNothing) {
  Fixture f;
  {
    const at::NoGradGuard no_grad;
    at::Tensor(f.model->layers().back().bias).fill_(NAN);
  }
  EXPECT_EQ(f.context.trainer().accuracy(*f.model, bright_and_dark(24)), 0);
}

}  // namespace
}  // namespace backstop::engine
