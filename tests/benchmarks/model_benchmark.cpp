// The cost of a training step and of an evaluation, and the layers that Backstop computes itself
// beside LibTorch's on the same images in the same run.
#include <chrono>
#include <cstdint>
#include <cstdlib>

#include <ATen/ATen.h>
#include <benchmark/benchmark.h>
#include <torch/csrc/autograd/autograd.h>

#include "backstop/attack.hpp"
#include "host/catalog/catalog.hpp"
#include "host/engine/data/image_store.hpp"
#include "host/engine/kernels/batch_norm_relu.hpp"
#include "host/engine/kernels/convolution.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/plugins/plugin_object.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/train/optimizer.hpp"
#include "host/engine/train/trainer.hpp"
#include "host/recipe/recipe.hpp"
#include "tests/benchmarks/peak.hpp"

namespace {

using namespace backstop;
using namespace backstop::engine;

benchmarks::Peak peak;  ///< of all cores, measured at the start

/// FLOPs of the convolutions in the forward pass of one image through a preact-resnet18.
double flops_of_an_image(std::int64_t width) {
  double flops = 2.0 * 32 * 32 * 27 * static_cast<double>(width);
  for (std::int64_t stage = 0; stage < 4; ++stage) {
    const auto out = static_cast<double>(width << stage), side = static_cast<double>(32 >> stage);
    const double in = stage == 0 ? out : out / 2;
    flops += 2 * side * side * out * (9 * in + 27 * out + (stage == 0 ? 0 : in));
  }
  return flops;
}

/// Adds counters for `flops` in every iteration.
void count_flops(benchmark::State& state, double flops, bool bfloat16) {
  using benchmark::Counter;
  const double most = bfloat16 && peak.bfloat16 > 0 ? peak.bfloat16 : peak.float32;
  state.counters["TFLOP/s"] = Counter(flops * 1e-12, Counter::kIsIterationInvariantRate);
  state.counters["of_peak"] = Counter(flops / most, Counter::kIsIterationInvariantRate);
}

/// Adds counters for the bytes that memory must move at least in every iteration.
void count_bytes(benchmark::State& state, double bytes) {
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["of_copy"] = Counter(bytes / peak.copy, Counter::kIsIterationInvariantRate);
}

engine::Compute settings(bool own, bool bfloat16) {
  return engine::resolve_compute({"cpu", bfloat16 ? "bfloat16" : "float32", 0, own}, 0);
}

engine::ImageStore images(std::int64_t count, std::int64_t classes = 10) {
  at::Generator generator = engine::make_generator(1);
  return {at::randint(256, {count, 3, 32, 32}, generator, at::kByte),
          at::arange(count).remainder(classes), classes, at::kCPU};
}

engine::Classifier model(std::int64_t width, const engine::Compute& compute,
                         std::int64_t classes = 10) {
  at::Generator generator = engine::make_generator(1);
  const engine::Architecture architecture{"preact-resnet18", width, 3, classes};
  return {architecture, engine::Normalization{{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}}, compute,
          generator};
}

std::unique_ptr<engine::Optimizer> sgd(const engine::Classifier& classifier) {
  OptimizerOptions options;
  options.momentum = 0.9;
  options.weight_decay = 5e-4;
  auto optimizer = engine::make_optimizer(classifier.trainable_parameters(), options);
  optimizer->set_rate(0.01);
  return optimizer;
}

/// Arguments: width, batch, own kernels, bfloat16.
void training_step(benchmark::State& state) {
  const engine::Compute compute = settings(state.range(2) != 0, state.range(3) != 0);
  engine::Classifier classifier = model(state.range(0), compute);
  classifier.set_training(true);
  const std::int64_t batch = state.range(1);
  const engine::ImageStore set = images(batch);
  const auto optimizer = sgd(classifier);
  auto parameters = classifier.trainable_parameters();
  const at::Tensor x =
      set.batch(at::arange(batch), classifier.normalization(), {}, compute.bfloat16);
  for (auto _ : state) {
    const at::Tensor loss = at::cross_entropy_loss(classifier.forward_normalized(x), set.labels());
    for (at::Tensor& parameter : parameters) parameter.mutable_grad().reset();
    loss.backward();
    optimizer->step();
  }
  state.SetItemsProcessed(state.iterations() * batch);
  const double images_flops = static_cast<double>(batch) * flops_of_an_image(state.range(0));
  count_flops(state, 3 * images_flops,
              compute.bfloat16);  // forward, and backward to inputs and weights
}
BENCHMARK(training_step)
    ->ArgNames({"width", "batch", "own", "bf16"})
    ->ArgsProduct({{16, 64}, {128, 256}, {0, 1}, {1}})
    ->ArgsProduct({{16}, {256}, {0, 1}, {0}})
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

/// Arguments: width, own kernels, bfloat16.
void evaluation(benchmark::State& state) {
  engine::Classifier classifier =
      model(state.range(0), settings(state.range(1) != 0, state.range(2) != 0));
  const engine::ImageStore set = images(1000);
  at::Generator generator = engine::make_generator(1);
  engine::HostTrainer trainer(engine::Augmentation{}, generator, nullptr, nullptr);
  for (auto _ : state) benchmark::DoNotOptimize(trainer.logits(classifier, set));
  state.SetItemsProcessed(state.iterations() * set.size());
  count_flops(state, static_cast<double>(set.size()) * flops_of_an_image(state.range(0)),
              state.range(2) != 0);
}
BENCHMARK(evaluation)
    ->ArgNames({"width", "own", "bf16"})
    ->ArgsProduct({{16, 64}, {0, 1}, {1}})
    ->ArgsProduct({{16}, {0, 1}, {0}})
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

/// The three products of a convolution.
enum Product : std::int64_t { output, input_gradient, weight_gradient };

/// Arguments: input and output channels, side of the 128 images, kernel, stride, Product, own
/// kernels. The convolutions are those of preact-resnet18 of width 16 and 64.
void convolving(benchmark::State& state) {
  settings(state.range(6) != 0, true);
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(state.range(0), state.range(1), state.range(3))
                             .stride(state.range(4))
                             .padding(state.range(3) / 2)
                             .bias(false));
  conv->weight.set_data(conv->weight.data().contiguous(at::MemoryFormat::ChannelsLast));
  const at::Tensor x = at::randn({128, state.range(0), state.range(2), state.range(2)})
                           .to(at::kBFloat16)
                           .contiguous(at::MemoryFormat::ChannelsLast)
                           .set_requires_grad(true);
  const auto forward = [&] {
    const engine::AutocastGuard precision(c10::kCPU, true);
    return engine::convolution(*conv, x);
  };
  const at::Tensor y = forward(), gradient = at::randn_like(y);
  for (auto _ : state) {
    switch (state.range(5)) {
      case output: {
        const at::NoGradGuard no_gradients;
        benchmark::DoNotOptimize(forward());
        break;
      }
      case input_gradient:
        benchmark::DoNotOptimize(torch::autograd::grad({y}, {x}, {gradient}, true));
        break;
      default:
        benchmark::DoNotOptimize(torch::autograd::grad({y}, {conv->weight}, {gradient}, true));
    }
  }
  const auto side = static_cast<double>(y.size(2));
  count_flops(
      state,
      2.0 * 128 * side * side *
          static_cast<double>(state.range(0) * state.range(1) * state.range(3) * state.range(3)),
      true);
}
void convolutions(benchmark::internal::Benchmark* b) {
  b->ArgNames({"in", "out", "side", "kernel", "stride", "product", "own"});
  for (const std::int64_t width : {16, 64}) {
    for (std::int64_t stage = 0; stage < 4; ++stage) {
      const std::int64_t out = width << stage, side = 32 >> stage;
      for (const std::int64_t product : {output, input_gradient, weight_gradient}) {
        for (const std::int64_t own : {0, 1}) {
          b->Args({out, out, side, 3, 1, product, own});
          if (stage == 0) continue;
          b->Args({out / 2, out, 2 * side, 3, 2, product, own});
          b->Args({out / 2, out, 2 * side, 1, 2, product, own});
        }
      }
    }
  }
}
BENCHMARK(convolving)
    ->Apply(convolutions)
    ->Unit(benchmark::kMicrosecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

/// Arguments: channels, side of the images, own kernels, with the backward pass.
void normalization(benchmark::State& state) {
  settings(state.range(2) != 0, true);
  const std::int64_t channels = state.range(0), side = state.range(1);
  torch::nn::BatchNorm2d norm(channels);
  const bool backward = state.range(3) != 0;
  const at::Tensor x = at::randn({128, channels, side, side})
                           .to(at::kBFloat16)
                           .contiguous(at::MemoryFormat::ChannelsLast)
                           .set_requires_grad(backward);
  const at::Tensor gradient = at::randn_like(x);
  for (auto _ : state) {
    const at::AutoGradMode mode(backward);
    const at::Tensor y = engine::batch_norm_relu(*norm, x);
    x.mutable_grad().reset();
    if (backward) y.backward(gradient);
  }
  // Forward: x, y; backward: x, dy, dx.
  count_bytes(state, static_cast<double>(x.numel()) * 2 * (backward ? 5 : 2));
}
BENCHMARK(normalization)
    ->ArgNames({"channels", "side", "own", "backward"})
    ->ArgsProduct({{64}, {32}, {0, 1}, {0, 1}})
    ->ArgsProduct({{16}, {32}, {0, 1}, {0, 1}})
    ->ArgsProduct({{512}, {4}, {0, 1}, {0, 1}})
    ->Unit(benchmark::kMicrosecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

/// A batch of 256 augmented images, normalized, channels last. Argument: bfloat16.
void augmentation(benchmark::State& state) {
  const engine::ImageStore set = images(10'000);
  at::Generator generator = engine::make_generator(1);
  const engine::Normalization normalization{{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}};
  const bool bfloat16 = state.range(0) != 0;
  for (auto _ : state) {
    const at::Tensor positions = at::randint(set.size(), {256}, generator, at::kLong);
    const engine::Draws draws =
        engine::draw_augmentation(engine::Augmentation{4, true}, 256, generator);
    benchmark::DoNotOptimize(set.batch(positions, normalization, draws, bfloat16));
  }
  state.SetItemsProcessed(state.iterations() * 256);
  count_bytes(state, 256.0 * 3 * 32 * 32 * (bfloat16 ? 3 : 5));
}
BENCHMARK(augmentation)
    ->ArgName("bf16")
    ->Arg(0)
    ->Arg(1)
    ->Unit(benchmark::kMicrosecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

/// The trigger of an attack on 9,000 images, as the plugin applies it.
void triggering(benchmark::State& state, const char* plugin) {
  const engine::Compute compute = settings(true, false);
  const auto catalog = catalog::Catalog::scan({{BACKSTOP_PLUGIN_FOLDER, true, false}});
  const engine::WarningSink none{[](void*, const std::string&) {}, nullptr};
  const catalog::PluginEntry* entry = catalog.find(catalog::Kind::attack, plugin);
  if (entry == nullptr) return state.SkipWithError("no such plugin");
  const toml::table defaults = toml::parse(recipe::recipe_fragment(entry->manifest));
  recipe::PluginUse use;
  use.plugin = entry;
  use.parameters = *defaults["attack"].as_table();
  const engine::PluginObject object(use, none);
  auto& attack = object.as<Attack>();
  engine::StageContext ctx({"attack", plugin}, 1, compute, engine::Augmentation{}, nullptr,
                           nullptr);
  const engine::ImageStore set = images(9000);
  Threat threat;
  threat.classes = set.classes();
  attack.prepare(ctx, threat, set);
  const at::Tensor bytes = set.images(at::arange(9000));
  for (auto _ : state) benchmark::DoNotOptimize(attack.apply(ctx, bytes, Phase::test));
  state.SetItemsProcessed(state.iterations() * 9000);
  count_bytes(state, 9000.0 * 3 * 32 * 32 * 2);
}
BENCHMARK_CAPTURE(triggering, badnets, "badnets")
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();
BENCHMARK_CAPTURE(triggering, blended, "blended")
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

/// SGD with momentum on all weights of a preact-resnet18. Arguments: width, own kernels.
void optimizer_step(benchmark::State& state) {
  engine::Classifier classifier = model(state.range(0), settings(state.range(1) != 0, false));
  double bytes = 0;
  for (at::Tensor parameter : classifier.trainable_parameters()) {
    parameter.mutable_grad() = at::randn_like(parameter);
    bytes += static_cast<double>(parameter.nbytes());
  }
  const auto optimizer = sgd(classifier);
  for (auto _ : state) optimizer->step();
  count_bytes(state, 5 * bytes);  // weights and momentum are read and written, gradients are read
}
BENCHMARK(optimizer_step)
    ->ArgNames({"width", "own"})
    ->ArgsProduct({{16, 64}, {0, 1}})
    ->Unit(benchmark::kMicrosecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

struct ConstantRate final : Scheduler {
  double rate(const TrainingPosition&) const override { return 0.01; }
};

TrainingOptions one_epoch(const Scheduler& scheduler, std::int64_t batch_size) {
  TrainingOptions options;
  options.epochs = 1;
  options.batch_size = batch_size;
  options.scheduler = &scheduler;
  return options;
}

/// An epoch of training after one warm-up step. scale.py has the arguments, and runs each
/// combination in a process of its own.
void scaling(benchmark::State& state) {
  const std::int64_t classes = state.range(3);
  engine::Compute compute = settings(true, state.range(5) != 0);
  at::set_num_threads(static_cast<int>(state.range(4)));
  engine::Classifier classifier = model(state.range(1), compute, classes);
  const engine::ImageStore set = images(state.range(0), classes);
  at::Generator generator = engine::make_generator(1);
  engine::HostTrainer trainer(engine::Augmentation{4, true}, generator, nullptr, nullptr);
  const ConstantRate rate;
  const TrainingOptions options = one_epoch(rate, state.range(2));
  trainer.fit(classifier, images(std::min<std::int64_t>(state.range(2), set.size()), classes),
              options);  // in the first step oneDNN generates its kernels
  for (auto _ : state) trainer.fit(classifier, set, options);
  state.SetItemsProcessed(state.iterations() * set.size());
}
BENCHMARK(scaling)
    ->ArgNames({"images", "width", "batch", "classes", "threads", "bf16"})
    ->ArgsProduct({{1000, 5000, 20'000, 50'000}, {16}, {128}, {10}, {2}, {1}})
    ->ArgsProduct({{5000}, {8, 32, 64}, {128}, {10}, {2}, {1}})
    ->ArgsProduct({{5000}, {8, 16}, {128}, {10}, {2}, {0}})
    ->ArgsProduct({{5000}, {16}, {32, 64, 256, 512}, {10}, {2}, {1}})
    ->ArgsProduct({{5000}, {16}, {128}, {43, 100, 1000}, {2}, {1}})
    ->ArgsProduct({{5000}, {16, 64}, {128}, {10}, {1}, {1}})
    ->Iterations(1)
    ->Unit(benchmark::kSecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

/// An epoch of fine-tuning in batches of 256, then 10,000 clean and 9,000 triggered test images.
/// Arguments: width, training images, own kernels, bfloat16. Counters have the seconds of each
/// part.
void fine_tuning_epoch(benchmark::State& state) {
  using Clock = std::chrono::steady_clock;
  engine::Classifier classifier =
      model(state.range(0), settings(state.range(2) != 0, state.range(3) != 0));
  const engine::ImageStore training = images(state.range(1)), clean = images(10'000),
                           triggered = images(9000);
  at::Generator generator = engine::make_generator(1);
  engine::HostTrainer trainer(engine::Augmentation{4, true}, generator, nullptr, nullptr);
  const ConstantRate rate;
  const TrainingOptions options = one_epoch(rate, 256);
  std::chrono::duration<double> train{}, evaluate{};
  for (auto _ : state) {
    const auto start = Clock::now();
    trainer.fit(classifier, training, options);
    const auto trained = Clock::now();
    benchmark::DoNotOptimize(trainer.accuracy(classifier, clean));
    benchmark::DoNotOptimize(trainer.accuracy(classifier, triggered));
    train += trained - start;
    evaluate += Clock::now() - trained;
  }
  using benchmark::Counter;
  state.counters["train_s"] = Counter(train.count(), Counter::kAvgIterations);
  state.counters["eval_s"] = Counter(evaluate.count(), Counter::kAvgIterations);
  count_flops(
      state,
      (3.0 * static_cast<double>(state.range(1)) + 19'000) * flops_of_an_image(state.range(0)),
      state.range(3) != 0);
}
BENCHMARK(fine_tuning_epoch)
    ->ArgNames({"width", "images", "own", "bf16"})
    ->ArgsProduct({{16}, {2500, 10'000}, {0, 1}, {1}})
    ->ArgsProduct({{64}, {2500}, {0, 1}, {1}})
    ->Iterations(1)
    ->Unit(benchmark::kSecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

}  // namespace

int main(int argc, char** argv) {
  setenv("ATEN_CPU_CAPABILITY", "avx512", 0);  // as the host does
  engine::tune_process();
  benchmark::Initialize(&argc, argv);
  const int threads = engine::available_cores();
  at::set_num_threads(threads);
  peak = benchmarks::measure_peak(threads);
  const auto context = [&](const std::string& name, double value) {
    benchmark::AddCustomContext(name + " of " + std::to_string(threads) + " threads",
                                std::to_string(value));
  };
  context("bfloat16 TFLOP/s", peak.bfloat16 * 1e-12);
  context("float32 TFLOP/s", peak.float32 * 1e-12);
  context("copy GB/s", peak.copy * 1e-9);
  benchmark::RunSpecifiedBenchmarks();
}
