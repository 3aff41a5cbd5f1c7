// A defense that uses, or abuses, what the host offers.
#include <chrono>
#include <clocale>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <sys/stat.h>

#include "backstop/defense.hpp"
#include "backstop/plugin.hpp"
#include "backstop/training_state.hpp"

namespace {

class Constant final : public backstop::Scheduler {
 public:
  double rate(const backstop::TrainingPosition&) const override { return 0.001; }
};

/// A training step whose loss is what it is told to be.
class WrongLoss final : public backstop::TrainingStep {
 public:
  explicit WrongLoss(std::string_view action) : action_(action) {}
  at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
    const at::Tensor logits = model.forward(batch.images);
    if (action_ == "no-loss") return {};
    return action_ == "detached-loss" ? logits.detach().mean() : logits.mean(1);
  }

 private:
  std::string_view action_;
};

/// A training step that counts its batches; what it says of that to the host is what it is told to.
class Counting final : public backstop::TrainingStep {
 public:
  explicit Counting(std::string_view action) : action_(action) {}
  at::Tensor loss(backstop::Model& model, const backstop::Batch& batch) override {
    return model.forward(batch.images).square().mean().mul(++batches_);
  }
  void* query(std::string_view id) noexcept override {
    return action_ == "forget-batches" ? backstop::stateless(id) : nullptr;
  }

 private:
  std::string_view action_;
  int batches_ = 0;
};

class Probe final : public backstop::Defense {
 public:
  explicit Probe(const backstop::Params& params) : action_(params.string("action")) {
    if (action_ == "ask-for-unknown") params.number("actoin");
    if (action_ == "ask-for-number") params.number("action");
    if (action_ == "refuse") throw backstop::ParameterError("it is told to refuse", "do not");
  }

  void run(backstop::Context& ctx, backstop::Model& model,
           const backstop::DefenderData& data) override {
    if (action_ == "throw") throw std::runtime_error("the probe was told to");
    if (action_ == "throw-int") throw 42;  // NOLINT
    if (action_ == "grab-state") grab_state();
    if (action_ == "segfault") std::raise(SIGSEGV);
    if (action_ == "abort") std::abort();
    if (action_ == "overflow") overflow(1);
    while (action_ == "loop") asm volatile("");
    if (action_ == "die") std::raise(SIGKILL);
    if (action_ == "exit") std::exit(0);
    if (action_ == "exit-1") std::exit(1);
    if (action_ == "quick-exit") std::quick_exit(0);
    if (action_ == "exit-at-once") ::_exit(0);
    if (action_ == "exec") ::execl("/bin/true", "true", nullptr);
    if (action_ == "change-process") change_process();
    if (action_ == "fork") static_cast<void>(::fork());  // and both return
    if (action_ == "leave-child" && ::fork() == 0) ::pause();
    if (action_ == "leave-thread-and-file") leave_thread_and_file();
    if (action_ == "print") std::fputs("garbage", stdout);
    if (action_ == "spoil-weights") spoil_weights(model);
    if (action_ == "allocate") static_cast<void>(at::zeros({std::int64_t{1} << 50}, at::kByte));
    if (action_ == "bad-alloc") throw std::bad_alloc();
    if (action_ == "strange-bytes") throw std::runtime_error("caf\xE9 \xE2\x80\xAE");
    if (action_ == "strange-metric") ctx.metric("caf\xE9", 1);
    if (action_ == "nan-metric") ctx.metric("answer", NAN);
    if (action_ == "taken-metric") ctx.metric("clean_accuracy", 1);
    if (action_ == "long-metric") ctx.metric(std::string(1000, 'x'), 1);
    if (action_ == "same-artifact") {
      ctx.artifact("twice", at::ones({1}));
      ctx.artifact("twice", at::ones({1}));
    }
    if (action_ == "log-strangely") ctx.log(backstop::LogLevel::info, {"a\0b\xFF\xE2\x80\xAEz", 8});
    if (action_ == "draw-globally") draw_globally(model);
    if (action_ == "ignore-cancellation") std::this_thread::sleep_for(std::chrono::seconds(3));
    if (action_ == "replace-cancellation" && ctx.cancelled()) throw std::runtime_error("tired");
    if (action_ == "want-many-images" && data.clean().size() < 10)
      throw std::runtime_error("too few images");
    if (action_ == "remember") remember(model, data);
    if (action_ == "foreign-set") ctx.trainer().accuracy(model, Foreign());
    if (action_ == "record") record(ctx, data);
    if (action_ == "spoil") spoil(ctx, model, data);
    if (action_ == "leave-nan") leave_nan(model);
    if (action_ == "change-in-place") model.layers()[0].weight.mul_(2);
    if (action_.ends_with("-loss") || action_ == "forget-batches" || action_ == "offer-no-state")
      train(ctx, model, data, action_);
  }

 private:
  /// Until there is no more stack.
  static int overflow(int depth) {
    if (depth < 0) return depth;  // never
    volatile char frame[4096] = {};
    frame[0] = static_cast<char>(depth);
    return overflow(depth + 1) + frame[0];
  }

  class Foreign final : public backstop::ImageSet {
    std::int64_t size() const noexcept override { return 0; }
    std::int64_t channels() const noexcept override { return 3; }
    std::int64_t height() const noexcept override { return 1; }
    std::int64_t width() const noexcept override { return 1; }
    std::int64_t classes() const noexcept override { return 2; }
    at::Tensor images(const at::Tensor&) const override { return {}; }
    at::Tensor labels() const override { return {}; }
    at::Tensor indices() const override { return {}; }
  };

  /// Everything that the host guards.
  static void grab_state() {
    static_cast<void>(at::rand({1}));
    at::set_num_threads(at::get_num_threads() + 1);
    at::globalContext().setDeterministicAlgorithms(true, false);
    at::globalContext().setBenchmarkCuDNN(true);
    at::globalContext().setUserEnabledMkldnn(false);
    at::globalContext().setFloat32MatmulPrecision("medium");
    at::autocast::set_cpu_enabled(true);
    c10::set_default_dtype(c10::scalarTypeToTypeMeta(at::kDouble));
    at::globalContext().setFlushDenormal(true);
    std::setlocale(LC_ALL, "C.UTF-8");
    new c10::InferenceMode();  // never ended; it ends gradient mode too
  }

  /// Everything of the process that the host restores.
  static void change_process() {
    if (::chdir("/") != 0) throw std::runtime_error("cannot change the folder");
    ::umask(0777);
    std::signal(SIGINT, SIG_IGN);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
    ::setenv("PROBE_WAS_HERE", "1", 1);
    ::unsetenv("HOME");
  }

  static void leave_thread_and_file() {
    std::thread([] { std::this_thread::sleep_for(std::chrono::seconds(20)); }).detach();
    static_cast<void>(::open("/dev/null", O_RDONLY));
  }

  static void spoil_weights(backstop::Model& model) {
    const at::NoGradGuard no_gradients;
    at::Tensor bias = model.layers().back().bias;
    bias.fill_(std::numeric_limits<double>::quiet_NaN());
  }

  static void draw_globally(backstop::Model& model) {
    const at::NoGradGuard no_gradients;
    at::Tensor bias = model.layers().back().bias;
    bias.copy_(at::rand(bias.sizes()));
  }

  /// A failure of one model spoils the next.
  static void remember(backstop::Model& model, const backstop::DefenderData& data) {
    static bool failed = false;
    if (failed) {
      const at::NoGradGuard no_gradients;
      model.layers().back().bias.zero_();
    }
    failed = true;
    model.forward(data.clean().images(at::zeros({1}, at::kLong)));
    failed = false;
  }

  static void leave_nan(backstop::Model& model) {
    const at::NoGradGuard no_gradients;
    at::Tensor weight = model.layers().front().weight;
    weight.fill_(NAN);
  }

  static void record(backstop::Context& ctx, const backstop::DefenderData& data) {
    ctx.metric("answer", 42);
    ctx.artifact("three", at::ones({3}, at::kFloat));
    ctx.picture("an image", data.training().images(at::arange(1, at::kLong)));
    // The first half: half of the poison and half of the rest, more or less.
    const std::int64_t size = data.training().size();
    ctx.flag_poison(at::arange(size / 2, at::kLong));
    ctx.score_poison(at::arange(size, at::kLong), at::arange(size, at::kDouble).neg());
  }

  static void train(backstop::Context& ctx, backstop::Model& model,
                    const backstop::DefenderData& data, std::string_view action) {
    const Constant scheduler;
    WrongLoss wrong(action);
    Counting counting(action);
    backstop::TrainingOptions options;
    options.scheduler = &scheduler;
    options.step = &wrong;
    if (action == "forget-batches" || action == "offer-no-state") {
      options.step = &counting;
      options.epochs = 6;
    }
    ctx.trainer().fit(model, data.clean(), options);
  }

  static void spoil(backstop::Context& ctx, backstop::Model& model,
                    const backstop::DefenderData& data) {
    const Constant scheduler;
    backstop::TrainingOptions options;
    options.scheduler = &scheduler;
    ctx.trainer().fit(model, data.clean(), options);
    model.mask_channels("linear", at::zeros({model.feature_size()}, at::kBool));
  }

  std::string action_;
};

}  // namespace

BACKSTOP_PLUGIN(Defense, Probe)
