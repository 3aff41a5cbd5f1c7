// Neural Cleanse's search for the triggers of 100 classes, one class after another or several in
// one forward pass, on the same images and for the same number of epochs. The model is a
// preact-resnet18 of width 16, in bfloat16 if the processor supports it. The promise is a factor of
// 3.
#include <cstdint>

#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include "host/engine/compute.hpp"
#include "host/engine/data/image_store.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "plugins/defenses/neural-cleanse/masks.hpp"

namespace {

using namespace backstop;
using namespace backstop::engine;

constexpr std::int64_t kClasses = 100, kImages = 64, kWidth = 16;

/// Arguments: classes at once (0: as many as fit), images in a step, whether the weights of the
/// model get gradients as well, as in a loop that does not freeze them, and own kernels.
void search(benchmark::State& state) {
  engine::tune_process();
  const engine::Compute compute =
      engine::resolve_compute({"auto", "auto", 0, state.range(3) != 0}, kWidth);
  const engine::Architecture architecture{"preact-resnet18", kWidth, 3, kClasses};
  const engine::Normalization normalization{{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}};
  at::Generator generator = engine::make_generator(1);
  engine::Classifier model(architecture, normalization, compute, generator);
  model.set_trainable(state.range(2) == 0 ? Part::none : Part::whole);
  model.set_training(false);
  const engine::ImageStore clean(at::randint(256, {kImages, 3, 32, 32}, generator, at::kByte),
                                 at::arange(kImages).remainder(kClasses), kClasses, compute.device);
  trigger_search::Settings settings;
  settings.rounds = 2;
  settings.classes_at_once = state.range(0);
  settings.batch_size = state.range(1);
  for (auto _ : state) {
    engine::StageContext ctx({"defense", "neural-cleanse"}, 1, compute, engine::Augmentation{},
                             nullptr, nullptr);
    benchmark::DoNotOptimize(trigger_search::find_triggers(
                                 ctx, model, clean, neural_cleanse::Masks(), settings, "epochs")
                                 .raw);
  }
  state.SetItemsProcessed(state.iterations() * kClasses * settings.rounds * kImages);
}
BENCHMARK(search)
    ->ArgNames({"at_once", "batch", "weights_learn", "own"})
    ->ArgsProduct({{1, 0}, {8, 32}, {0}, {0, 1}})
    ->ArgsProduct({{1}, {32}, {1}, {0}})
    ->Unit(benchmark::kSecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

}  // namespace
