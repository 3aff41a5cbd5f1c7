// Trainings that end in the middle and go on in another process: every bit is as if they had not.

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <unistd.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/error.hpp"
#include "backstop/training_state.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/store/checkpoints.hpp"
#include "host/engine/train/trainer.hpp"

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

struct Killed {};

/// Ends the "process" after some batches, and keeps what is told.
class Observer final : public RunObserver {
 public:
  void event(const nlohmann::json& event) override {
    if (event["event"] == "log") messages.push_back(event["message"]);
    if (event["event"] == "epoch") epochs.push_back(event);
  }
  void progress(std::int64_t, std::int64_t, const std::string&) override {
    if (++batches == last_batch) throw Killed();
  }
  int batches = 0, last_batch = -1;
  std::vector<std::string> messages;
  std::vector<nlohmann::json> epochs;
};

struct Constant final : Scheduler {
  double rate(const TrainingPosition& position) const override {
    return 0.05 / (1 + 0.1 * static_cast<double>(position.iteration));
  }
};

ImageStore bright_and_dark(std::int64_t n) {
  at::Generator generator = make_generator(3);
  const at::Tensor labels = at::arange(n, at::kLong).remainder(2);
  const at::Tensor images =
      at::randint(0, 200, {n, 3, 8, 8}, generator, at::kLong) + labels.view({n, 1, 1, 1}) * 50;
  return {images.to(at::kByte), labels, 2, c10::kCPU};
}

/// Weighs every batch by how many it has seen, and draws.
class Counting : public TrainingStep {
 public:
  explicit Counting(Context& ctx) : ctx_(ctx) {}
  at::Tensor loss(Model& model, const Batch& batch) override {
    seen_ = seen_ + 1;
    const double share = at::rand({1}, ctx_.generator()).item<double>();
    return at::cross_entropy_loss(model.forward(batch.images), batch.labels)
        .mul(1 / (share + static_cast<double>(seen_)));
  }
  Next after_epoch(Model&, std::int64_t epoch) override {
    ctx_.metric("epoch " + std::to_string(epoch), static_cast<double>(seen_));
    ctx_.artifact("seen " + std::to_string(epoch), at::full({2}, seen_));
    return epoch == 1 ? Next::stop : Next::epoch;
  }

 protected:
  Context& ctx_;
  std::int64_t seen_ = 0;
};

class Kept final : public Counting, public TrainingState {
 public:
  using Counting::Counting;
  void* query(std::string_view id) noexcept override {
    return id == TrainingState::kId ? static_cast<TrainingState*>(this) : nullptr;
  }
  void save(StateWriter& state) const override {
    state.tensor("seen", at::full({}, seen_, at::kLong));
  }
  void load(const StateReader& state) override {
    seen_ = state.tensor("seen").item<std::int64_t>();
  }
};

/// The step's own shift of the logits, trained by the same optimizer.
class Shifting final : public TrainingStep {
 public:
  Shifting() { shift_[0].requires_grad_(); }
  at::Tensor loss(Model& model, const Batch& batch) override {
    return at::cross_entropy_loss(model.forward(batch.images).add(shift_[0]), batch.labels);
  }
  std::span<const at::Tensor> parameters() override { return shift_; }
  void* query(std::string_view id) noexcept override { return stateless(id); }
  [[nodiscard]] at::Tensor shift() const { return shift_[0].detach(); }

 private:
  std::vector<at::Tensor> shift_ = {at::zeros({2})};
};

/// What a stage leaves.
struct Outcome {
  NamedTensors state;
  nlohmann::json metrics, epochs;
  NamedTensors artifacts;
  at::Tensor generator;
  std::int64_t samples = 0;
};

void expect_same(const Outcome& a, const Outcome& b, const std::string& when) {
  const auto same = [](const NamedTensors& x, const NamedTensors& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const auto& p, const auto& q) {
      return p.first == q.first && p.second.equal(q.second);
    });
  };
  EXPECT_TRUE(same(a.state, b.state)) << when;
  EXPECT_TRUE(same(a.artifacts, b.artifacts)) << when;
  EXPECT_EQ(a.metrics, b.metrics) << when;
  EXPECT_EQ(a.epochs, b.epochs) << when;
  EXPECT_TRUE(a.generator.equal(b.generator)) << when;
  EXPECT_EQ(a.samples, b.samples) << when;
}

class Resume : public ::testing::Test {
 protected:
  using Work = std::function<void(StageContext& ctx, Classifier& model)>;

  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ("resume-" + std::to_string(::getpid()));
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  /// A stage in a process of its own, as it were, that ends at `last_batch`; nothing then.
  std::optional<Outcome> stage(const Work& work, int last_batch, double interval = 0,
                               bool keep = true) {
    observer_ = Observer();
    observer_.last_batch = last_batch;
    Checkpoints checkpoints(folder_, {{"seed", 1}}, interval);
    StageContext ctx({"attack", "test"}, 5, {}, {1, true}, &observer_, nullptr);
    if (keep) ctx.keep(&checkpoints);
    at::Generator generator = make_generator(11);
    const Architecture architecture{"small-cnn", 4, 3, 2};
    ctx.set_model(architecture, {});
    Classifier model(architecture, Normalization{}, Compute{}, generator);
    ctx.trainer().measure(model, [&](Classifier& trained, const HostTrainer::EpochEnd& end) {
      ctx.epoch({{"epoch", end.epoch},
                 {"epochs", end.end},
                 {"loss", end.loss},
                 {"sum", trained.state().front().second.sum().item<double>()}});
    });
    try {
      work(ctx, model);
    } catch (const Killed&) {
      return std::nullopt;
    }
    const auto cost = ctx.cost().stop();
    return Outcome{model.state(),
                   ctx.metrics(),
                   ctx.epochs(),
                   ctx.artifacts(),
                   ctx.generator().get_state(),
                   cost["samples_seen"].get<std::int64_t>()};
  }

  /// Kills the stage at every batch, up to where it ends by itself, and lets it go on.
  void check_everywhere(const Work& work, double interval = 0) {
    const Outcome expected = stage(work, -1, 0, false).value();
    const int batches = observer_.batches;
    ASSERT_GT(batches, 4);
    for (int last = 1; last <= batches; ++last) {
      fs::remove_all(folder_);
      ASSERT_FALSE(stage(work, last, interval));
      const auto outcome = stage(work, -1, interval);
      ASSERT_TRUE(outcome);
      if (interval == 0) {
        EXPECT_LE(observer_.batches, batches - last + 1) << "repeated too much";
      }
      expect_same(*outcome, expected, "killed at batch " + std::to_string(last));
    }
  }

  static TrainingOptions options(OptimizerKind kind = OptimizerKind::sgd) {
    static const Constant scheduler;
    TrainingOptions result;
    result.scheduler = &scheduler;
    result.epochs = 3;
    result.batch_size = 24;
    result.optimizer.kind = kind;
    return result;
  }

  fs::path folder_;
  Observer observer_;
  const ImageStore images_ = bright_and_dark(70);
};

TEST_F(Resume, EveryOptimizerGoesOn) {
  for (const auto kind : {OptimizerKind::sgd, OptimizerKind::adam, OptimizerKind::adamw}) {
    SCOPED_TRACE(static_cast<int>(kind));
    check_everywhere([&](StageContext& ctx, Classifier& model) {
      ctx.trainer().fit(model, images_, options(kind));
    });
  }
}

TEST_F(Resume, TrainingsThatHadEndedAreNotRepeated) {
  const Work work = [&](StageContext& ctx, Classifier& model) {
    Model& other = ctx.clone(model);
    ctx.trainer().fit(other, images_, options());
    at::rand({3}, ctx.generator());
    ctx.metric("before", ctx.trainer().logits(other, images_).sum().item<double>());
    model.copy_from(other);
    at::Tensor keep = at::ones({4}, at::kBool);
    keep[2] = false;
    model.mask_channels("conv1", keep);
    TrainingOptions head = options();
    head.trainable = Part::head;
    ctx.trainer().fit(model, images_, head);
    ctx.trainer().fit(model, images_, options(OptimizerKind::adam));
  };
  check_everywhere(work);
  fs::remove_all(folder_);
  ASSERT_FALSE(stage(work, 20));  // in the third
  ASSERT_TRUE(stage(work, -1));
  EXPECT_THAT(observer_.messages,
              ElementsAre("goes on after epoch 3 of 3", "goes on after epoch 3 of 3",
                          StartsWith("goes on in epoch 1 of 3, after 24 of 70 images")));
}

TEST_F(Resume, AStepKeepsItsStateAndWhatItRecorded) {
  check_everywhere([&](StageContext& ctx, Classifier& model) {
    Kept step(ctx);
    TrainingOptions with_step = options();
    with_step.step = &step;
    ctx.trainer().fit(model, images_, with_step);
  });
}

TEST_F(Resume, AStepsOwnParametersGoOn) {
  for (const auto kind : {OptimizerKind::sgd, OptimizerKind::adam})
    check_everywhere([&](StageContext& ctx, Classifier& model) {
      Shifting step;
      TrainingOptions with_step = options(kind);
      with_step.step = &step;
      ctx.trainer().fit(model, images_, with_step);
      ctx.artifact("shift", step.shift());
    });
}

TEST_F(Resume, AStepThatKeepsNoStateIsRepeatedAloud) {
  const Work work = [&](StageContext& ctx, Classifier& model) {
    ctx.trainer().fit(model, images_, options());
    Counting step(ctx);
    TrainingOptions with_step = options();
    with_step.step = &step;
    ctx.trainer().fit(model, images_, with_step);
    ctx.trainer().fit(model, images_, options());
  };
  const Outcome expected = stage(work, -1, 0, false).value();
  const int batches = observer_.batches;
  for (const int last : {5, 12, 14, 17, 22}) {
    fs::remove_all(folder_);
    ASSERT_FALSE(stage(work, last));
    expect_same(stage(work, -1).value(), expected, "killed at batch " + std::to_string(last));
    EXPECT_EQ(
        ::testing::Value(observer_.messages,
                         Contains("resuming is not possible: the training step does not offer "
                                  "backstop.training-state/1; this training starts again at "
                                  "epoch 1")),
        last > 10)
        << last;
    EXPECT_LE(observer_.batches, batches - (last > 9 ? 9 : 0));
  }
}

TEST_F(Resume, WithoutACheckpointInTheMiddleATrainingStartsAgain) {
  const Work work = [&](StageContext& ctx, Classifier& model) {
    ctx.trainer().fit(model, images_, options());
    ctx.trainer().fit(model, images_, options());
  };
  constexpr double kLong = 1e6;
  check_everywhere(work, kLong);
  fs::remove_all(folder_);
  ASSERT_FALSE(stage(work, 14, kLong));
  ASSERT_TRUE(stage(work, -1, kLong));
  EXPECT_THAT(observer_.messages, ElementsAre("goes on after epoch 3 of 3"));
  EXPECT_EQ(observer_.batches, 9);
}

TEST_F(Resume, AnotherBeginningIsNeverMixedWithTheCheckpoint) {
  double rate = 0.5, brightness = 0;
  const Work work = [&](StageContext& ctx, Classifier& model) {
    model.layers().front().weight.detach().mul_(rate);
    const at::Tensor all = at::arange(images_.size(), at::kLong);
    const ImageSet& changed =
        ctx.image_set(images_.images(all).mul(0.5).add(brightness), images_.labels());
    ctx.trainer().fit(model, changed, options());
  };
  for (double* what : {&rate, &brightness}) {
    fs::remove_all(folder_);
    ASSERT_FALSE(stage(work, 5));
    *what += 0.1;  // as a plugin that draws from elsewhere
    const Outcome resumed = stage(work, -1).value();
    EXPECT_THAT(observer_.messages,
                ElementsAre(HasSubstr("resuming is not possible: what comes before it")));
    expect_same(resumed, stage(work, -1, 0, false).value(), "");
  }
}

TEST_F(Resume, ADamagedCheckpointIsSaidAndNotUsed) {
  const Work work = [&](StageContext& ctx, Classifier& model) {
    ctx.trainer().fit(model, images_, options());
  };
  const Outcome expected = stage(work, -1, 0, false).value();
  ASSERT_FALSE(stage(work, 5));
  const fs::path file = folder_ / "training-0.safetensors";
  fs::resize_file(file, fs::file_size(file) - 1);
  expect_same(stage(work, -1).value(), expected, "");
  EXPECT_THAT(observer_.messages,
              ElementsAre(StartsWith("resuming is not possible: " + file.string())));
}

TEST_F(Resume, CtrlCKeepsTheBatchThatWasReached) {
  std::atomic<int> interrupted{0};
  Checkpoints checkpoints(folder_, {{"seed", 1}}, 1e6);
  struct Interrupter final : RunObserver {
    void event(const nlohmann::json& event) override {
      if (event["event"] == "checkpoint") kept = event;
    }
    void progress(std::int64_t done, std::int64_t, const std::string&) override {
      if (done > 100) *flag = 2;
    }
    std::atomic<int>* flag = nullptr;
    nlohmann::json kept;
  } interrupter;
  interrupter.flag = &interrupted;
  StageContext ctx({"attack", "test"}, 5, {}, {1, true}, &interrupter, &interrupted);
  ctx.keep(&checkpoints);
  at::Generator generator = make_generator(11);
  Classifier model({"small-cnn", 4, 3, 2}, Normalization{}, Compute{}, generator);
  EXPECT_THROW(ctx.trainer().fit(model, images_, options()), Cancelled);
  EXPECT_EQ(interrupter.kept["where"], "in epoch 2 of 3, after 48 of 70 images");
  const Work work = [&](StageContext& again, Classifier& trained) {
    again.trainer().fit(trained, images_, options());
  };
  ASSERT_TRUE(stage(work, -1));
  EXPECT_THAT(observer_.messages, ElementsAre("goes on in epoch 2 of 3, after 48 of 70 images"));
}

TEST_F(Resume, ALoopOfAPluginsOwnGoesOn) {
  struct Sum final : TrainingState {
    void save(StateWriter& state) const override { state.tensor("sum", sum); }
    void load(const StateReader& state) override { sum.copy_(state.tensor("sum")); }
    at::Tensor sum = at::zeros({2});
  };
  check_everywhere([&](StageContext& ctx, Classifier& model) {
    Sum sum;
    KeptLoop loop(ctx, sum);
    for (std::int64_t i = loop.done(); i < 6; ++i) {
      sum.sum.add_(at::rand({2}, ctx.generator()));
      ctx.metric("steps", static_cast<double>(i));
      loop.advance(i + 1, i + 1 == 6);
      observer_.progress(i + 1, 6, "steps");
    }
    ctx.trainer().fit(model, images_, options());
    ctx.artifact("sum", sum.sum);
    Sum other;
    KeptLoop again(ctx, other);
    for (std::int64_t i = again.done(); i < 3; ++i) {
      other.sum.add_(at::rand({2}, ctx.generator()));
      again.advance(i + 1, i + 1 == 3);
      observer_.progress(i + 1, 3, "steps");
    }
    ctx.artifact("other sum", other.sum);
  });
}

TEST_F(Resume, AStepThatCannotLoadItsStateIsNotTriedAgain) {
  struct Refusing final : Counting, TrainingState {
    using Counting::Counting;
    void* query(std::string_view id) noexcept override {
      return id == TrainingState::kId ? static_cast<TrainingState*>(this) : nullptr;
    }
    void save(StateWriter&) const override {}
    void load(const StateReader& state) override { (void)state.tensor("what was never saved"); }
  };
  const Work work = [&](StageContext& ctx, Classifier& model) {
    Refusing step(ctx);
    TrainingOptions with_step = options();
    with_step.step = &step;
    ctx.trainer().fit(model, images_, with_step);
  };
  ASSERT_FALSE(stage(work, 4));
  EXPECT_THROW((void)stage(work, -1), Error);
  ASSERT_TRUE(stage(work, -1));
  EXPECT_THAT(observer_.messages, IsEmpty());
}

}  // namespace
}  // namespace backstop::engine
