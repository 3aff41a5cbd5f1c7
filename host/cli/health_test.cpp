#include "host/cli/health.hpp"

#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace backstop::cli {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

/// A machine on which nothing is wrong.
Health healthy() {
  Health health;
  health.engine.description.emplace();
  health.engine.description->built_for = health.engine.description->running = "1.13.0";
  health.machine.cores = health.machine.cores_online = 4;
  health.machine.memory = health.machine.memory_available = 16 * kGiB;
  health.machine.folder_writable = true;
  health.machine.disk_available = 100 * kGiB;
  health.folders.push_back({.folder = {{"/plugins", true, false}, Origin::installation},
                            .exists = true,
                            .same_as = {},
                            .usable = 20,
                            .refused = {},
                            .shadowed = {}});
  health.datasets.push_back({"fashion-mnist", "/data", true});
  return health;
}

TEST(Health, HasNoProblemsWhereNothingIsWrong) {
  EXPECT_TRUE(problems_of(healthy()).empty());
}

struct Case {
  const char* name;
  bool broken;
  const char* message;
  std::function<void(Health&)> harm;
};

class HealthProblem : public testing::TestWithParam<Case> {};

TEST_P(HealthProblem, IsNamedAloneWithAHint) {
  Health health = healthy();
  GetParam().harm(health);
  const auto problems = problems_of(health);
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_EQ(problems[0].broken, GetParam().broken);
  EXPECT_THAT(problems[0].message, testing::HasSubstr(GetParam().message));
  EXPECT_NE(problems[0].hint, "");
}

INSTANTIATE_TEST_SUITE_P(
    All, HealthProblem,
    testing::Values(
        Case{"NoEngine", true, "the engine is not there",
             [](Health& health) {
               health.engine = {{}, {}, "the engine is not there", "build it"};
             }},
        Case{"OtherLibTorch", true,
             "the engine was built for LibTorch 1.13.0, LibTorch 2.1.0 is loaded",
             [](Health& health) { health.engine.description->running = "2.1.0"; }},
        Case{"LibTorchFails", true, "LibTorch fails: oh",
             [](Health& health) { health.engine.description->error = "oh"; }},
        Case{"ReferenceBlas", false, "netlib reference BLAS",
             [](Health& health) { health.engine.description->reference_blas = true; }},
        Case{"GpuWithoutCuda", false, "there is a GPU, G, and LibTorch was built without CUDA",
             [](Health& health) { health.machine.gpus = {"G"}; }},
        Case{"GpuThatLibTorchDoesNotSee", false, "there is a GPU, G, and LibTorch cannot use it",
             [](Health& health) {
               health.machine.gpus = {"G"};
               health.engine.description->cuda = true;
             }},
        Case{"FewerCoresThanThreads", false, "may use 1.5 of 4 cores",
             [](Health& health) { health.machine.core_quota = 1.5; }},
        Case{"LittleMemory", false, "0.5 GiB of memory are free, the quickstart needs 2.0 GiB",
             [](Health& health) { health.machine.memory_available = kGiB / 2; }},
        Case{"LittleDisk", false, "0.5 GiB of disk are free in /here",
             [](Health& health) {
               health.machine.folder = "/here";
               health.machine.disk_available = kGiB / 2;
             }},
        Case{"FolderNotWritable", false, "the current folder, /here, is not writable",
             [](Health& health) {
               health.machine.folder = "/here";
               health.machine.folder_writable = false;
             }},
        Case{"SlowKernels", false, "ATEN_CPU_CAPABILITY is `default`",
             [](Health& health) {
               health.environment = {{"ATEN_CPU_CAPABILITY", "default"}};
             }},
        Case{"NoPlugins", false, "the installation has no plugins: /plugins does not exist",
             [](Health& health) { health.folders[0].exists = false; }},
        Case{"RefusedPlugin", false, "/plugins/x.so cannot be used: too old",
             [](Health& health) {
               catalog::PluginEntry entry;
               entry.path = "/plugins/x.so";
               entry.refusal = catalog::Refusal{"too old\nand more", "rebuild it"};
               health.folders[0].refused = {entry};
             }},
        Case{"NoData", false, "the quickstart's data are not there: /data does not exist",
             [](Health& health) { health.datasets[0].there = false; }},
        Case{"BrokenSearchPath", true, "bad path",
             [](Health& health) {
               health.folders_error = "bad path";
               health.folders_hint = "mend it";
             }}),
    [](const auto& one) { return std::string(one.param.name); });

TEST(Health, AGpuThatIsUsedIsNoProblem) {
  Health health = healthy();
  health.machine.gpus = {"G"};
  health.engine.description->cuda = true;
  health.engine.description->cuda_devices = 1;
  EXPECT_TRUE(problems_of(health).empty());
}

TEST(Health, AQuotaOfAllCoresIsNoProblem) {
  Health health = healthy();
  health.machine.core_quota = 4;
  EXPECT_TRUE(problems_of(health).empty());
}

TEST(Health, WhatIsBrokenComesFirst) {
  Health health = healthy();
  health.engine.description->reference_blas = true;
  health.folders_error = "bad path";
  const auto problems = problems_of(health);
  ASSERT_EQ(problems.size(), 2U);
  EXPECT_TRUE(problems[0].broken);
  EXPECT_FALSE(problems[1].broken);
}

}  // namespace
}  // namespace backstop::cli
