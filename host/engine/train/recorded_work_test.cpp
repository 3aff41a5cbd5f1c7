#include "host/engine/train/recorded_work.hpp"

#include <set>
#include <string>

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include "host/engine/compute.hpp"
#include "host/engine/data/image_store.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/train/cuda.hpp"
#include "host/engine/train/optimizer.hpp"

namespace backstop::engine {
namespace {

/// Does on the CPU what a CUDA graph does: what is recorded is not executed, and later sees only
/// the memory that it saw then.
struct Tape final : Recorder {
  void record(const std::function<void()>& work) override {
    ++records;
    recorded = work;
  }
  void replay() override {
    ++replays;
    recorded();
  }
  int records = 0, replays = 0;
  std::function<void()> recorded;
};

TEST(RecordedWork, IsCalledThenRecordedThenReplayed) {
  auto owned = std::make_unique<Tape>();
  const Tape& tape = *owned;
  std::vector<double> seen;
  RecordedWork work(std::move(owned), [&](const std::vector<at::Tensor>& inputs) {
    EXPECT_FALSE(inputs[1].defined());
    seen.push_back(inputs[0].sum().item<double>());
  });
  std::vector<bool> called;
  std::vector<double> given;
  for (int i = 0; i < 6; ++i) {
    given.push_back(4.0 * i);
    called.push_back(work({at::full({4}, i, at::kLong), at::Tensor()}));
  }
  EXPECT_EQ(seen, given);
  EXPECT_EQ(called, (std::vector<bool>{true, true, true, true, false, false}));
  EXPECT_EQ(tape.records, 1);
  EXPECT_EQ(tape.replays, 3);
  EXPECT_TRUE(work({at::full({3}, 7, at::kLong), at::Tensor()})) << "a smaller, last batch";
  EXPECT_EQ(seen.back(), 21);
  EXPECT_FALSE(work({at::full({4}, 1, at::kLong), at::Tensor()}));
  EXPECT_EQ(seen.back(), 4);
}

TEST(RecordedWork, IsAlwaysCalledWithoutARecorder) {
  int calls = 0;
  RecordedWork work(nullptr, [&](const auto&) { ++calls; });
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(work({at::zeros({1})}));
  EXPECT_EQ(calls, 6);
}

TEST(RecordedWork, HasNoRecorderOnTheCpu) {
  EXPECT_EQ(make_recorder(c10::kCPU), nullptr);
}

/// Does on the CPU what HostTrainer does on a GPU: SGD steps with a learning rate that changes from
/// step to step, on augmented images of a set in which some were changed. Returns the weights of
/// the first layer.
at::Tensor trained(std::unique_ptr<Recorder> recorder) {
  at::Generator generator = make_generator(1);
  const Architecture architecture{"small-cnn", 4, 3, 2};
  Classifier classifier(architecture, Normalization{}, Compute{}, generator);
  classifier.set_training(true);
  auto parameters = classifier.trainable_parameters();
  OptimizerOptions options;
  options.momentum = 0.9;
  const auto optimizer = make_optimizer(parameters, options);
  const ImageStore clean(at::randint(256, {32, 3, 8, 8}, generator, at::kByte),
                         at::arange(32).remainder(2), 2, c10::kCPU);
  const ImageStore set = clean.changed(
      at::tensor({3, 4}, at::kLong), at::zeros({2, 3, 8, 8}, at::kByte), at::zeros({2}, at::kLong));
  RecordedWork step(std::move(recorder), [&](const std::vector<at::Tensor>& inputs) {
    const at::Tensor images =
        apply_augmentation(set.images(inputs[0]), {inputs[1], inputs[2], inputs[3]});
    const at::Tensor loss =
        at::cross_entropy_loss(classifier.forward_normalized(classifier.normalize(images)),
                               set.labels().index_select(0, inputs[0]));
    for (at::Tensor& parameter : parameters) parameter.mutable_grad().reset();
    loss.backward();
    optimizer->step();
  });
  for (int i = 0; i < 10; ++i) {
    const std::int64_t n = i == 5 ? 3 : 8;
    const Draws draws = draw_augmentation({2, true}, n, generator);
    optimizer->set_rate(i % 2 == 0 ? 0.1 : 0.01);
    step({at::randperm(32, generator, at::kLong).narrow(0, 0, n), draws.dx, draws.dy, draws.flip});
  }
  return classifier.state()[0].second;
}

TEST(RecordedWork, TrainsTheSameModelAsCalls) {
  EXPECT_TRUE(trained(std::make_unique<Tape>()).equal(trained(nullptr)));
}

/// The operators that were called, except those that LibTorch's fused SGD calls itself: on the CPU,
/// and only there, it reads the learning rate.
struct Called {
  std::set<std::string> names;
  int in_sgd = 0;
} called;

bool is_sgd(const at::RecordFunction& function) {
  return std::string(function.name()) == "aten::_fused_sgd_";
}

TEST(RecordedWork, TrainsWithoutWaitingForTheDevice) {
  use_own_kernels(false);  // of the CPU
  called = {};
  const auto callback = at::addThreadLocalCallback(at::RecordFunctionCallback(
      [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
        if (called.in_sgd == 0) called.names.insert(function.name());
        called.in_sgd += is_sgd(function) ? 1 : 0;
        return nullptr;
      },
      [](const at::RecordFunction& function, at::ObserverContext*) {
        called.in_sgd -= is_sgd(function) ? 1 : 0;
      }));
  trained(nullptr);
  at::removeCallback(callback);
  use_own_kernels(true);
  EXPECT_GT(
      called.names.count("aten::convolution_backward") + called.names.count("aten::index_select"),
      1u)
      << "not all operators were seen";
  // These give the host a value, or a size that depends on values.
  for (const char* waits : {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero",
                            "aten::nonzero", "aten::masked_select", "aten::unique_dim"})
    EXPECT_EQ(called.names.count(waits), 0u) << waits;
}

}  // namespace
}  // namespace backstop::engine
