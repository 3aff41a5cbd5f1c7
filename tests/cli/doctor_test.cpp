// backstop doctor from outside: what it shows, and that a problem does not hide the rest.
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli_fixture.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::testing::Outcome;
using backstop::testing::Process;
using backstop::testing::Start;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Doctor : public backstop::testing::Cli {
 protected:
  /// The program in an installation without anything else.
  [[nodiscard]] Start alone(std::vector<std::string> arguments) const {
    fs::create_directories(folder_ / "bin");
    fs::copy_file(BACKSTOP_PROGRAM, folder_ / "bin/backstop");
    Start result = start(std::move(arguments));
    result.program = (folder_ / "bin/backstop").string();
    return result;
  }
  [[nodiscard]] std::string engine() const {
    return (folder_ / "lib/backstop/libbackstop_engine.so").string();
  }
};

TEST_F(Doctor, ShowsHostEngineLibTorchMachineFoldersAndData) {
  const auto outcome = backstop({"doctor"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_THAT(
      outcome.out,
      AllOf(HasSubstr("HOST\n  version "), HasSubstr("  loads  yes\n"),
            HasSubstr("  running      1.13.0, /torch/libtorch_cpu.so\n"),
            HasSubstr("  BLAS         netlib reference BLAS, /blas/libblas.so.3\n"),
            HasSubstr("  threads    3 if compute.threads is 0\n"),
            HasSubstr("  precision  bfloat16 with AMX; float32 for models narrower than 16\n"),
            HasSubstr("/lib/backstop/plugins (built-in): 5 plugins\n"),
            HasSubstr("  memory     ")));
}

TEST_F(Doctor, ShowsProblemsAtTheEndWithHints) {
  const auto outcome = backstop({"doctor"});
  EXPECT_THAT(outcome.out.substr(outcome.out.find("\nPROBLEMS\n")),
              HasSubstr("  warning: LibTorch multiplies matrices with the netlib reference BLAS "
                        "(/blas/libblas.so.3), which is many times slower than OpenBLAS\n"
                        "    hint: apt install libopenblas0-openmp\n"));
}

TEST_F(Doctor, WritesJson) {
  const auto outcome = backstop({"doctor", "--json"});
  EXPECT_EQ(outcome.code, 0);
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["engine"]["loads"], true);
  EXPECT_TRUE(json["engine"]["error"].is_null());
  EXPECT_EQ(json["libtorch"]["reference_blas"], true);
  EXPECT_EQ(json["compute"]["precision"], "bfloat16");
  EXPECT_GE(json["machine"]["cores"], 1);
  EXPECT_GT(json["machine"]["memory_bytes"], 0);
  EXPECT_EQ(json["folders"].back()["origin"], "installation");
  EXPECT_EQ(json["folders"].back()["usable"], 5);
  EXPECT_EQ(json["problems"][0]["severity"], "warning");
}

TEST_F(Doctor, WithoutAnEngineShowsTheRestAndFails) {
  const auto outcome = Process(alone({"doctor"})).wait();
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(
      outcome.out,
      AllOf(HasSubstr("  loads  no: the engine `" + engine() + "` does not exist"),
            HasSubstr("MACHINE\n  cores   "), HasSubstr("\nPROBLEMS\n  error: the engine `")));
  EXPECT_THAT(outcome.err,
              HasSubstr("error: the engine `" + engine() + "` does not exist\nhint: "));
}

TEST_F(Doctor, NamesLibrariesThatTheEngineMisses) {
  fs::create_directories(fs::path(engine()).parent_path());
  fs::copy_file(BACKSTOP_ORPHAN, engine());
  const auto outcome = Process(alone({"doctor"})).wait();
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("error: the engine needs libbackstop_absent.so, which is not "
                                     "on this machine\n"));
}

TEST_F(Doctor, ShowsWhyTheEngineDoesNotLoad) {
  ASSERT_EQ(write("lib/backstop/libbackstop_engine.so", "no library"), engine());
  const auto outcome = Process(alone({"doctor", "--json"})).wait();
  EXPECT_EQ(outcome.code, 4);
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["engine"]["loads"], false);
  EXPECT_THAT(json["engine"]["error"].get<std::string>(), HasSubstr("cannot load the engine: "));
  EXPECT_TRUE(json["libtorch"].is_null());
}

TEST_F(Doctor, RefusesAnEngineOfAnotherVersion) {
  fs::create_directories(fs::path(engine()).parent_path());
  fs::copy_file((fs::path(BACKSTOP_PROGRAM) / "../../lib/backstop/plugins/attacks/patch.so")
                    .lexically_normal(),
                engine());
  const auto outcome = Process(alone({"doctor"})).wait();
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err,
              HasSubstr("error: the engine does not match this version of the program"));
}

TEST_F(Doctor, ShowsFoldersInSearchOrder) {
  fs::create_directories(folder_ / "given");
  fs::create_directories(folder_ / "data/backstop/plugins");
  const std::string broken = write("environment/broken.so", "no library");
  fs::copy_file((fs::path(BACKSTOP_PROGRAM) / "../../lib/backstop/plugins/attacks/patch.so")
                    .lexically_normal(),
                folder_ / "given/patch.so");
  Start start = this->start({"doctor", "--plugin-path", (folder_ / "given").string()});
  start.environment["BACKSTOP_PLUGIN_PATH"] =
      (folder_ / "environment").string() + ":" + (folder_ / "given").string();
  const auto outcome = Process(start).wait();
  EXPECT_EQ(outcome.code, 0);
  const std::string base = folder_.string();
  EXPECT_THAT(
      outcome.out,
      AllOf(HasSubstr("  1  " + base + "/given (from --plugin-path): 1 plugin\n"),
            HasSubstr("  2  " + base +
                      "/environment (from BACKSTOP_PLUGIN_PATH): 0 plugins, 1 refused\n"),
            HasSubstr("  3  " + base + "/given (from BACKSTOP_PLUGIN_PATH): same folder as 1\n"),
            HasSubstr("  4  " + base + "/data/backstop/plugins (the user's folder): "),
            HasSubstr("(built-in): 4 plugins; an earlier folder also has attack patch\n"),
            HasSubstr("  warning: " + broken + " cannot be used: ")));
}

TEST_F(Doctor, WarnsOfFoldersThatAreMissingOrOpenToEveryone) {
  fs::create_directories(folder_ / "open");
  fs::permissions(folder_ / "open", fs::perms::all);
  fs::copy_file((fs::path(BACKSTOP_PROGRAM) / "../../lib/backstop/plugins/attacks/patch.so")
                    .lexically_normal(),
                folder_ / "open/patch.so");
  Start start = this->start({"doctor"});
  const std::string base = folder_.string();
  start.environment["BACKSTOP_PLUGIN_PATH"] = base + "/nowhere:" + base + "/open";
  const auto outcome = Process(start).wait();
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(
      outcome.out,
      AllOf(HasSubstr("BACKSTOP_PLUGIN_PATH names " + base + "/nowhere, which is not a folder"),
            HasSubstr("no plugin in " + base + "/open is used: " + base +
                      "/open is writable by everyone, so anyone may have put code there\n"
                      "    hint: chmod o-w " +
                      base + "/open"),
            Not(HasSubstr("patch.so cannot be used"))));
}

TEST_F(Doctor, ABrokenSearchPathIsAProblemAmongOthers) {
  Start start = this->start({"doctor"});
  start.environment["BACKSTOP_PLUGIN_PATH"] = "relative";
  const auto outcome = Process(start).wait();
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("  loads  yes\n"),
                                 HasSubstr("error: BACKSTOP_PLUGIN_PATH is `relative`"),
                                 HasSubstr("netlib reference BLAS")));
}

TEST_F(Doctor, ShowsVariablesAsTheyWereSet) {
  Start start = this->start({"doctor", "--json"});
  start.environment["DNNL_MAX_CPU_ISA"] = "AVX2";
  const auto json = nlohmann::json::parse(Process(start).wait().out);
  EXPECT_EQ(json["environment"]["DNNL_MAX_CPU_ISA"], "AVX2");
  // The program sets it itself, before it loads the engine.
  EXPECT_FALSE(json["environment"].contains("ATEN_CPU_CAPABILITY"));
  EXPECT_THAT(json["problems"].dump(), HasSubstr("DNNL_MAX_CPU_ISA is `AVX2`"));
}

}  // namespace
