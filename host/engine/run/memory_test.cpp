#include "host/engine/run/memory.hpp"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/base/error.hpp"

namespace backstop::engine {
namespace {

using ::testing::HasSubstr;

ImageStore images(std::int64_t n) {
  return {at::zeros({n, 3, 8, 8}, at::kByte), at::zeros({n}, at::kLong), 10, c10::kCPU};
}

/// 100 training images and 50 test images of 8x8 pixels.
class Needed : public testing::Test {
 protected:
  [[nodiscard]] AttackInputs attack() const {
    AttackInputs inputs;
    inputs.source = &source_;
    inputs.architecture = {"small-cnn", 8, 3, 10, 64};
    inputs.training = {2, 32, {}, {}};
    inputs.training.optimizer.name = "sgd";
    inputs.training.optimizer.momentum = 0.9;
    return inputs;
  }
  DatasetInput source_{"set", {images(100), images(50), {}, {}, "", {}}, {}};
};

TEST_F(Needed, ForATrainingIsFourCopiesABatchAndTheTriggeredImages) {
  const MemoryNeed need = memory_of(attack());
  // 3x8, 8x16 and 16x32 channels, 3x3; batch normalization; and the head.
  EXPECT_EQ(need.weights, 4 * (9 * (3 * 8 + 8 * 16 + 16 * 32) + 2 * (8 + 16 + 32) + 33 * 10));
  EXPECT_EQ(need.copies, 4);
  EXPECT_EQ(need.activations, 2 * 32 * 64 * 8 * 4);
  EXPECT_EQ(need.images, 50 * 3 * 64);
}

TEST_F(Needed, DependsOnTheTraining) {
  AttackInputs inputs = attack();
  inputs.training.optimizer.name = "adam";
  EXPECT_EQ(memory_of(inputs).copies, 5);
  inputs = attack();
  inputs.training.optimizer.momentum = 0;
  EXPECT_EQ(memory_of(inputs).copies, 4);
  EXPECT_EQ(memory_of(inputs).activations, 0) << "there is no momentum while they exist";
  inputs = attack();
  inputs.training.epochs = 1;
  EXPECT_EQ(memory_of(inputs).activations, 0);
  inputs = attack();
  inputs.training.batch_size = 500;
  EXPECT_EQ(memory_of(inputs).activations, 2 * 100 * 64 * 8 * 4) << "there are only 100 images";
  inputs.compute.bfloat16 = true;
  EXPECT_EQ(memory_of(inputs).activations, 2 * 100 * 64 * 8 * 2);
  inputs.architecture.name = "mlp";
  EXPECT_EQ(memory_of(inputs).activations, 0);
}

TEST_F(Needed, WithoutATrainingIsTheModelAndItsCopy) {
  AttackInputs from_file = attack(), encoder = attack(), untrained = attack();
  from_file.model_file = FileInput{"model", "1"};
  encoder.encoder = true;
  untrained.training.epochs = 0;
  for (const AttackInputs& inputs : {from_file, encoder, untrained}) {
    EXPECT_EQ(memory_of(inputs).copies, 2);
    EXPECT_EQ(memory_of(inputs).activations, 0);
  }
  DefenseInputs defense;
  defense.architecture = from_file.architecture;
  EXPECT_EQ(memory_of(defense).bytes(), memory_of(from_file).bytes());
}

TEST_F(Needed, OnAGpuIsNotCounted) {
  AttackInputs inputs = attack();
  inputs.compute.device = c10::kCUDA;
  EXPECT_EQ(memory_of(inputs).bytes(), 0);
}

MemoryNeed of_four_gigabytes() {
  return {"small-cnn", 64, 0.75e9, 4, 0.5e9, 0.5e9};
}

TEST_F(Needed, IsRefusedWithBothNumbers) {
  EXPECT_NO_THROW(check_memory(of_four_gigabytes(), {4000000000, "are available on this machine"}));
  try {
    check_memory(of_four_gigabytes(), {3999999999, "are available on this machine"});
    FAIL();
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.code(), base::ExitCode::environment);
    EXPECT_STREQ(e.what(),
                 "not enough memory: small-cnn of width 64 needs at least 4.0 GB (4 copies of its "
                 "weights, 750 MB each, and 1.0 GB of activations and images), but 4.0 GB are "
                 "available on this machine");
    EXPECT_THAT(e.hint(), HasSubstr("`width`"));
  }
}

TEST_F(Needed, IsSaidWhenItIsClose) {
  EXPECT_EQ(check_memory(of_four_gigabytes(), {8000000000, "are available on this machine"}), "");
  EXPECT_THAT(check_memory(of_four_gigabytes(), {7000000000, "are available on this machine"}),
              HasSubstr("memory may run out: small-cnn of width 64 needs at least 4.0 GB"));
}

}  // namespace
}  // namespace backstop::engine
