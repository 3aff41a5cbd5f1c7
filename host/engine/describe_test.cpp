#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/catalog/build_facts.hpp"
#include "host/engine/engine.hpp"

namespace backstop::engine {

extern "C" void backstop_engine_describe(EngineDescription& description);

namespace {

EngineDescription description() {
  EngineDescription result;
  backstop_engine_describe(result);
  return result;
}

TEST(Describe, LibTorchIsTheOneThatRuns) {
  const EngineDescription found = description();
  EXPECT_EQ(found.error, "");
  EXPECT_EQ(catalog::major_minor(found.running), catalog::major_minor(found.built_for));
  EXPECT_NE(catalog::major_minor(found.running), std::nullopt);
  EXPECT_THAT(found.file.filename().string(), testing::StartsWith("libtorch_cpu.so"));
  EXPECT_TRUE(std::filesystem::is_regular_file(std::filesystem::symlink_status(found.file)));
  EXPECT_NE(found.capability, "");
}

TEST(Describe, BlasAndOpenMpAreRealFiles) {
  const EngineDescription found = description();
  for (const auto& file : {found.blas_file, found.openmp_file})
    EXPECT_TRUE(std::filesystem::is_regular_file(std::filesystem::symlink_status(file))) << file;
  EXPECT_NE(found.blas, "");
  EXPECT_EQ(found.reference_blas, found.blas_file.parent_path().filename() == "blas");
}

TEST(Describe, ComputesWhereAndWithWhatThereIs) {
  const EngineDescription found = description();
  EXPECT_GE(found.threads, 1);
  EXPECT_EQ(found.device, found.cuda_devices > 0 ? "cuda:0" : "cpu");
  EXPECT_LE(found.cuda_devices > 0, found.cuda);
}

}  // namespace
}  // namespace backstop::engine
