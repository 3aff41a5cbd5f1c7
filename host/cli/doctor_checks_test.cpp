#include "host/cli/doctor_checks.hpp"

#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace backstop::cli {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

/// A machine without problems.
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
                            .distrust = {},
                            .same_as = {},
                            .usable = 20,
                            .refused = {},
                            .shadowed = {}});
  health.datasets.push_back({"fashion-mnist", "/data", true});
  return health;
}

TEST(Health, HasNoProblemsOnAHealthyMachine) {
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
        Case{"NoEngine", true, "the engine does not exist",
             [](Health& health) {
               health.engine = {{}, {}, "the engine does not exist", "build it"};
             }},
        Case{"OtherLibTorch", true,
             "the engine was built for LibTorch 1.13.0, but LibTorch 2.1.0 was loaded",
             [](Health& health) { health.engine.description->running = "2.1.0"; }},
        Case{"LibTorchFails", true, "LibTorch failed: oh",
             [](Health& health) { health.engine.description->error = "oh"; }},
        Case{"ReferenceBlas", false, "netlib reference BLAS",
             [](Health& health) { health.engine.description->reference_blas = true; }},
        Case{"GpuWithoutCuda", false, "GPU G is not used: LibTorch was built without CUDA",
             [](Health& health) { health.machine.gpus = {"G"}; }},
        Case{"GpuThatLibTorchDoesNotSee", false, "GPU G is not used: LibTorch cannot access it",
             [](Health& health) {
               health.machine.gpus = {"G"};
               health.engine.description->cuda = true;
             }},
        Case{"FewerCoresThanThreads", false, "limited to 1.5 of 4 cores",
             [](Health& health) { health.machine.core_quota = 1.5; }},
        Case{"LittleMemory", false, "only 0.5 GiB of memory is free; the quickstart needs 2.0 GiB",
             [](Health& health) { health.machine.memory_available = kGiB / 2; }},
        Case{"LittleDisk", false, "only 0.5 GiB of disk space is free in /here",
             [](Health& health) {
               health.machine.folder = "/here";
               health.machine.disk_available = kGiB / 2;
             }},
        Case{"FolderNotWritable", false, "the current folder /here is not writable",
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
        Case{"NoData", false, "the quickstart's data is missing: /data does not exist",
             [](Health& health) { health.datasets[0].there = false; }},
        Case{"BrokenSearchPath", true, "bad path",
             [](Health& health) {
               health.folders_error = "bad path";
               health.folders_hint = "correct it";
             }}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(Health, AGpuThatIsUsedIsNotAProblem) {
  Health health = healthy();
  health.machine.gpus = {"G"};
  health.engine.description->cuda = true;
  health.engine.description->cuda_devices = 1;
  EXPECT_TRUE(problems_of(health).empty());
}

TEST(Health, AQuotaOfAllCoresIsNotAProblem) {
  Health health = healthy();
  health.machine.core_quota = 4;
  EXPECT_TRUE(problems_of(health).empty());
}

TEST(Health, ErrorsComeFirst) {
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
