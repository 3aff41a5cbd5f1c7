// What a run does and leaves behind.
#include <csignal>
#include <set>
#include <sstream>

#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using WholeRun = EndToEnd;

TEST_F(WholeRun, LeavesEverythingThatAReaderNeeds) {
  const Outcome outcome = run();
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("no defense"));
  EXPECT_THAT(outcome.out, HasSubstr("super"));
  const fs::path folder = runs().at(0);
  EXPECT_THAT(outcome.err, HasSubstr(folder.filename().string()));
  for (const char* file :
       {"recipe.toml", "run.json", "metrics.jsonl", "results.csv", "results.json", "log.txt",
        "report.html", "triggers/badnets.png", "models/no-defense.safetensors",
        "models/plain.safetensors", "models/super.safetensors"})
    EXPECT_GT(fs::file_size(folder / file), 0u) << file;

  const auto results = nlohmann::json::parse(read(folder / "results.json"));
  ASSERT_EQ(results["rows"].size(), 3u);
  EXPECT_EQ(row(results, "no defense")["extra"]["poisoned_images"], 51);  // round(0.2 * 256)
  EXPECT_EQ(row(results, "no defense")["trigger"]["changed_images"], 128);
  EXPECT_GT(row(results, "no defense")["trigger"]["psnr"], 5);
  EXPECT_GT(row(results, "no defense")["trigger"]["ssim"], 0.5);
  EXPECT_EQ(row(results, "plain")["given"]["clean_images"], 128);
  EXPECT_EQ(row(results, "super")["given"]["clean_images"], 100);
  EXPECT_EQ(row(results, "plain")["cost"]["samples_seen"], 256);
  EXPECT_EQ(row(results, "plain")["counts"]["clean"], 128);
  EXPECT_EQ(row(results, "plain")["counts"]["triggered"], 96);  // without the target's 32
  EXPECT_EQ(row(results, "plain")["counts"]["triggered_all"], 128);

  const auto facts = nlohmann::json::parse(read(folder / "run.json"));
  EXPECT_EQ(facts["status"], "finished");
  EXPECT_EQ(facts["compute"]["precision"], "float32");
  EXPECT_EQ(facts["compute"]["threads"], 1);
  std::vector<std::string> plugins;
  for (const auto& plugin : facts["plugins"]) {
    plugins.push_back(plugin["name"]);
    EXPECT_EQ(plugin["sha256"].get<std::string>().size(), 64u);
  }
  EXPECT_THAT(plugins, ::testing::IsSupersetOf({"synthetic", "badnets", "fine-tuning", "constant",
                                                "super-fine-tuning"}));

  std::istringstream lines(read(folder / "metrics.jsonl"));
  std::vector<int> epochs;
  for (std::string line; std::getline(lines, line);)
    epochs.push_back(nlohmann::json::parse(line)["epoch"]);
  EXPECT_EQ(epochs, (std::vector<int>{0, 1, 2, 0, 1, 2, 0, 1}));
}

TEST_F(WholeRun, BFloat16IsComputedByAmxAndByNoReferenceKernel) {
  std::ifstream processor("/proc/cpuinfo");
  const std::string flags{std::istreambuf_iterator<char>(processor), {}};
  if (flags.find("amx_bf16") == std::string::npos) GTEST_SKIP() << "this processor has no AMX";
  for (const char* kernels : {"own", "libtorch"}) {
    Start start = command({"--set", "model={ architecture=\"preact-resnet18\", width=16 }", "--set",
                           "attack.training.epochs=1", "--set", "defense=[]", "--set",
                           "compute.precision=\"auto\"", "--set",
                           std::string("compute.kernels=\"") + kernels + "\""});
    start.environment["DNNL_VERBOSE"] = "1";  // oneDNN then says what computes what
    const Outcome outcome = Process(start).wait();
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    std::istringstream lines(outcome.err);  // what libraries print is not among the data
    int convolutions = 0;
    for (std::string line; std::getline(lines, line);) {
      const bool convolution = line.find("exec,cpu,convolution") != std::string::npos;
      const bool product = line.find("exec,cpu,matmul") != std::string::npos;
      if (!convolution && !product) continue;
      convolutions += convolution;
      EXPECT_THAT(line, Not(HasSubstr("ref:")));
      if (convolution) {
        EXPECT_THAT(line, HasSubstr("amx_bf16"));
      }
    }
    // The own kernels leave the first convolution to oneDNN, which has three channels.
    if (std::string_view(kernels) == "own")
      EXPECT_THAT(convolutions, ::testing::AllOf(::testing::Gt(0), ::testing::Lt(50)));
    else
      EXPECT_GT(convolutions, 100);
  }
}

TEST_F(WholeRun, WorksInFloat32WhereAmxIsSwitchedOff) {
  Start start = command({"--set", "model={ architecture=\"preact-resnet18\", width=16 }", "--set",
                         "attack.training.epochs=1", "--set", "defense=[]", "--set",
                         "compute.precision=\"auto\""});
  start.environment["ONEDNN_MAX_CPU_ISA"] = "AVX2";
  start.environment["DNNL_VERBOSE"] = "1";
  const Outcome outcome = Process(start).wait();
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("exec,cpu,convolution"));
  EXPECT_THAT(outcome.err, Not(HasSubstr("amx")));
  EXPECT_THAT(outcome.err, Not(HasSubstr("bf16")));
  EXPECT_EQ(nlohmann::json::parse(read(runs().at(0) / "run.json"))["compute"]["precision"],
            "float32");
}

TEST_F(WholeRun, ResolvedRecipeGivesTheSameNumbersAgain) {
  ASSERT_EQ(run().code, 0);
  const auto first = numbers(runs().at(0));
  fs::copy_file(runs().at(0) / "recipe.toml", recipe(), fs::copy_options::overwrite_existing);
  fs::remove_all(out());
  const Outcome again = run();
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(numbers(runs().at(0)), first);
}

TEST_F(WholeRun, FreshRunGivesIdenticalNumbers) {
  ASSERT_EQ(run().code, 0);
  const auto before = numbers(runs().at(0));
  const std::string metrics = read(runs().at(0) / "metrics.jsonl");
  const Outcome again = run({"--fresh"});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.err, Not(HasSubstr("cached")));
  EXPECT_EQ(numbers(runs().at(1)), before);
  EXPECT_EQ(read(runs().at(1) / "metrics.jsonl"), metrics);
}

TEST_F(WholeRun, SecondRunTrainsNothingAndPrintsTheSame) {
  const Outcome first = run();
  ASSERT_EQ(first.code, 0);
  const Outcome second = run({"--json"});
  ASSERT_EQ(second.code, 0) << second.err;
  std::istringstream events(second.out);
  int reused = 0;
  for (std::string line; std::getline(events, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] == "stage_started" && event["stage"] != "data") {
      EXPECT_TRUE(event["reused"]) << line;
      ++reused;
    }
  }
  EXPECT_EQ(reused, 3);
  EXPECT_EQ(run().out, first.out);
  EXPECT_EQ(read(runs().at(0) / "results.json"), read(runs().at(1) / "results.json"));
}

TEST_F(WholeRun, AddingADefenseChangesNobodyElse) {
  ASSERT_EQ(run().code, 0);
  const auto before = numbers(runs().at(0));
  std::string text = kRecipe;
  text.insert(text.find("[[defense]]"),
              "[[defense]]\nname = \"new\"\nplugin = \"fine-tuning\"\nepochs = 1\n\n");
  write_recipe(text);
  const Outcome outcome = run({"--fresh"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  auto after = numbers(runs().at(1));
  EXPECT_EQ(row(after, "new")["given"]["clean_images"], 13);  // the default of 5 %
  for (const char* name : {"no defense", "plain", "super"})
    EXPECT_EQ(row(after, name), row(before, name)) << name;
}

TEST_F(WholeRun, MeasuresADefenseAsOftenAsAsked) {
  std::set<double> accuracies;
  const auto measured_epochs = [&](const std::string& every) {
    const Outcome outcome =
        run({"--set", "defense.0.epochs=5", "--set", "defense.0.measure_every=" + every});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const auto plain = row(numbers(runs().back()), "plain");
    accuracies.insert(plain["metrics"]["clean_accuracy"].get<double>());
    std::vector<std::int64_t> epochs;
    std::istringstream lines(read(runs().back() / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto event = nlohmann::json::parse(line);
      if (event["name"] == "plain") epochs.push_back(event["epoch"]);
    }
    return epochs;
  };
  EXPECT_EQ(measured_epochs("1"), (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(measured_epochs("2"), (std::vector<std::int64_t>{0, 2, 4, 5}));
  EXPECT_EQ(measured_epochs("0"), (std::vector<std::int64_t>{0}));
  EXPECT_EQ(accuracies.size(), 1u) << "measuring changes nothing";
}

TEST_F(WholeRun, ChangingADefenseKeepsTheBackdooredModel) {
  ASSERT_EQ(run().code, 0);
  const Outcome outcome = run({"--set", "defense.0.epochs=1"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("[attack] badnets: cached"));
  EXPECT_THAT(outcome.err, HasSubstr("[defense] plain: started"));
  EXPECT_THAT(outcome.err, HasSubstr("[defense] super: cached"));
}

TEST_F(WholeRun, RenamingADefenseTrainsNothing) {
  ASSERT_EQ(run().code, 0);
  const Outcome outcome = run({"--set", "defense.0.name=renamed"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("[defense] renamed: cached"));
  EXPECT_THAT(read(runs().at(1) / "metrics.jsonl"), Not(HasSubstr("\"plain\"")));
}

TEST_F(WholeRun, AnotherSeedGivesOtherNumbers) {
  ASSERT_EQ(run().code, 0);
  ASSERT_EQ(run({"--set", "seed=4"}).code, 0);
  EXPECT_NE(read(runs().at(0) / "metrics.jsonl"), read(runs().at(1) / "metrics.jsonl"));
}

TEST_F(WholeRun, TakesASchedulerThatItsBuildersNeverSaw) {
  const fs::path plugins = folder_ / "plugins";
  fs::create_directories(plugins);
  fs::copy_file(fs::path(BACKSTOP_TEST_PLUGINS) / "halving.so", plugins / "halving.so");
  const std::vector<std::string> swap = {"--set", "defense.1.scheduler.plugin=halving"};
  EXPECT_EQ(run(swap).code, 2) << "without --plugin-path there is no such scheduler";
  const Outcome outcome = run({"--plugin-path", plugins.string(), swap[0], swap[1]});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(read(runs().at(0) / "recipe.toml"), HasSubstr("plugin = \"halving\""));
  EXPECT_THAT(read(runs().at(0) / "run.json"), HasSubstr((plugins / "halving.so").string()));
}

TEST_F(WholeRun, UnmetExpectationIsExitCodeOne) {
  write_recipe(std::string(kRecipe) +
               "\n[expect]\n\"plain\".clean_accuracy = { minimum = 0.999, maximum = 1.0 }\n" +
               "\"super\".clean_accuracy = { minimum = 0.0 }\n");
  const Outcome outcome = run({"--set", "attack.training.epochs=0"});
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  const auto results = nlohmann::json::parse(read(runs().at(0) / "results.json"));
  ASSERT_EQ(results["expectations"].size(), 2u);
  EXPECT_FALSE(results["expectations"][0]["met"]);
  EXPECT_TRUE(results["expectations"][1]["met"]);
}

TEST_F(WholeRun, StartsFromAModelFile) {
  ASSERT_EQ(run().code, 0);
  const auto trained = row(numbers(runs().at(0)), "no defense");
  const fs::path file = folder_ / "suspect.safetensors";
  fs::copy_file(runs().at(0) / "models/no-defense.safetensors", file);
  const Outcome outcome = run({"--set", "model.file=" + file.string()});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto loaded = row(numbers(runs().at(1)), "no defense");
  EXPECT_EQ(loaded["metrics"], trained["metrics"]);
  EXPECT_EQ(loaded["cost"]["samples_seen"], 0);
  EXPECT_THAT(outcome.err, HasSubstr("its trigger is made anew from the seed"));
  EXPECT_EQ(row(numbers(runs().at(1)), "plain")["metrics"],
            row(numbers(runs().at(0)), "plain")["metrics"]);
}

TEST_F(WholeRun, StartsFromWhatAnAttackHasLearnt) {
  // WaNet's warp is drawn, and it poisons while it trains: neither can be had from the recipe
  // alone.
  const std::vector<std::string> wanet = {"--set", "attack.plugin=wanet", "--set",
                                          "attack.strength=2"};
  ASSERT_EQ(run(wanet).code, 0);
  std::vector<std::string> again = wanet;
  const fs::path models = runs().at(0) / "models";
  for (const std::string& setting :
       {"model.file=" + (models / "no-defense.safetensors").string(),
        "attack.file=" + (models / "no-defense.attack.safetensors").string()}) {
    again.push_back("--set");
    again.push_back(setting);
  }
  const Outcome outcome = run(again);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, Not(HasSubstr("made anew")));
  const auto trained = row(numbers(runs().at(0)), "no defense");
  const auto loaded = row(numbers(runs().at(1)), "no defense");
  EXPECT_EQ(loaded["metrics"], trained["metrics"]);
  EXPECT_EQ(loaded["trigger"], trained["trigger"]);
  EXPECT_EQ(loaded["extra"]["poisoned_images"], 51);  // round(0.2 * 256)
  EXPECT_EQ(loaded["extra"]["cover_images"], 102);
}

TEST_F(WholeRun, MatrixRunsTheProduct) {
  write_recipe(std::string(kRecipe) +
               "\n[matrix]\nseed = [0, 1]\n\"attack.plugin\" = [\"badnets\", \"blended\"]\n");
  const Outcome outcome = run();
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(runs().size(), 4u);
  EXPECT_THAT(outcome.out, HasSubstr("±"));
}

TEST_F(WholeRun, RecordsWhatADefenseReports) {
  const Outcome outcome =
      run({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set", "defense=[{ plugin = \"probe\" }]"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto results = nlohmann::json::parse(read(runs().at(0) / "results.json"));
  const auto probe = row(results, "probe");
  EXPECT_EQ(probe["extra"]["answer"], 42);
  EXPECT_EQ(probe["given"]["training_images"], 256);
  EXPECT_EQ(probe["detection"]["flagged"], 128);
  const double tpr = probe["detection"]["true_positive_rate"];
  const double fpr = probe["detection"]["false_positive_rate"];
  EXPECT_NEAR(tpr * 51 + fpr * 205, 128, 1e-6) << "51 of 256 images are poisoned";
  EXPECT_NEAR(probe["detection"]["auroc"], 0.5, 0.2);
  EXPECT_THAT(outcome.out, HasSubstr("; its scores: AUROC 0."));
  EXPECT_GT(fs::file_size(runs().at(0) / "artifacts/probe.safetensors"), 12u);
  EXPECT_GT(fs::file_size(runs().at(0) / "pictures/probe.png"), 100u);
  EXPECT_THAT(read(runs().at(0) / "report.html"),
              HasSubstr("alt=\"probe: images that the plugin recorded\""));
  // It changed nothing, so what is measured is the backdoored model.
  EXPECT_EQ(probe["metrics"]["clean_accuracy"],
            row(results, "no defense")["metrics"]["clean_accuracy"]);
}

TEST_F(WholeRun, MeasuresWhatTheDefenseLeaves) {
  // `spoil` changes the model after the last epoch that was measured.
  const Outcome outcome =
      run({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
           "defense=[{ plugin = \"probe\", action = \"spoil\", clean_images = 32 }]"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto probe = row(nlohmann::json::parse(read(runs().at(0) / "results.json")), "probe");
  EXPECT_EQ(probe["metrics"]["clean_accuracy"], 0.25) << "one answer for four classes";
}

TEST_F(WholeRun, RestoresAndNamesGlobalState) {
  const std::string tuning = "{ plugin = \"fine-tuning\", epochs = 1 }]";
  ASSERT_EQ(run({"--set", "defense=[" + tuning}).code, 0);
  const Outcome outcome =
      run({"--fresh", "--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
           "defense=[{ plugin = \"probe\", action = \"grab-state\" }, " + tuning});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err,
              HasSubstr("defense `probe` left changed: gradient mode, inference mode, autocast, "
                        "number of threads, default type, deterministic algorithms, cuDNN's "
                        "settings, oneDNN's use, precision of matrix products, floating-point "
                        "mode, global random numbers (draw from Context::generator() instead), "
                        "locale; restored"));
  const auto tuned = [&](std::size_t run) {
    return row(numbers(runs().at(run)), "fine-tuning")["metrics"];
  };
  EXPECT_EQ(tuned(0), tuned(1)) << "as if the probe had not been there";
}

TEST_F(WholeRun, SchedulerThatThrowsIsNamed) {
  const Outcome outcome =
      run({"--plugin-path", BACKSTOP_TEST_PLUGINS, "--set",
           "defense.0.scheduler={ plugin = \"halving\", rate = 0.1, fail = true }"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("scheduler `halving` failed in rate: told to"));
}

TEST_F(WholeRun, InterruptKeepsFinishedEpochs) {
  Process process(command({"--set", "attack.training.epochs=100000"}));
  process.wait_for_error_text("epoch 2/100000");
  process.send(SIGINT);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 130) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("interrupted"));
  EXPECT_THAT(read(runs().at(0) / "metrics.jsonl"), HasSubstr("\"epoch\":2"));
  EXPECT_EQ(nlohmann::json::parse(read(runs().at(0) / "run.json"))["status"], "interrupted");
}

TEST_F(WholeRun, InterruptInADefenseKeepsTheBackdooredModel) {
  {
    Process process(command({"--set", "defense.0.epochs=100000"}));
    process.wait_for_error_text("[defense] plain: epoch 1/100000");
    process.send(SIGTERM);
    EXPECT_EQ(process.wait().code, 143);
  }
  const auto results = nlohmann::json::parse(read(runs().at(0) / "results.json"));
  EXPECT_EQ(results["rows"].size(), 1u) << "what was finished is in the results";
  const Outcome again = run();
  EXPECT_EQ(again.code, 0);
  EXPECT_THAT(again.err, HasSubstr("[attack] badnets: cached"));
}

}  // namespace
}  // namespace backstop::testing
