// Stands in for the engine and reports at once what a run would report. The name of the recipe
// decides what happens: "waits" runs until it is interrupted, "stuck" ignores interruptions,
// "fails" fails, "breaks" has a bug, and "crashes" and "hangs" do so in their defense.
#include <chrono>
#include <csignal>
#include <cstdint>
#include <string>
#include <thread>

#include "host/engine/engine.hpp"

namespace {

using backstop::base::ExitCode;
using nlohmann::json;

json row(const std::string& name, double clean_accuracy, double attack_success) {
  return {{"name", name},
          {"plugin", nullptr},
          {"given", {{"clean_images", 100}, {"training_images", 0}}},
          {"metrics",
           {{"clean_accuracy", clean_accuracy},
            {"attack_success_rate", attack_success},
            {"attack_success_rate_all", attack_success},
            {"robust_accuracy", 0.5}}},
          {"counts", {{"clean", 1000}, {"triggered", 900}, {"triggered_all", 1000}}},
          {"cost", {{"wall_seconds", 1.5}, {"samples_seen", 12345}}}};
}

void wait_for_signal(const backstop::engine::RunRequest& request, bool listen) {
  while (!listen || *request.interrupted == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

const char* call = nullptr;

/// The defense of a run whose plugin ends the process, as the engine does it.
void end_in_defense(const backstop::engine::RunRequest& request, bool crash) {
  const json started = {{"event", "stage_started"}, {"stage", "defense"}, {"name", "mended"}};
  if (request.earlier && !request.earlier->failed.empty()) {
    const auto& failed = request.earlier->failed[0];
    request.observer->event({{"event", "stage_failed"},
                             {"stage", failed.stage},
                             {"name", failed.name},
                             {"code", static_cast<int>(failed.code)},
                             {"error", failed.error},
                             {"hint", failed.hint}});
    return;
  }
  request.observer->event(
      {{"event", "stage_finished"}, {"stage", "attack"}, {"name", "patch"}, {"wall_seconds", 1}});
  request.observer->event(started);
  call = "defense `tune` in run";
  if (crash) std::raise(SIGSEGV);
  for (;;) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void backstop_engine_describe(
    backstop::engine::EngineDescription& description) {
  description.built_for = description.running = "1.13.0";
  description.file = "/torch/libtorch_cpu.so";
  description.capability = "AVX512";
  description.blas = "netlib reference BLAS";
  description.blas_file = "/blas/libblas.so.3";
  description.reference_blas = true;
  description.processor = "Fake";
  description.threads = 3;
  description.bfloat16 = "AMX";
  description.bfloat16_width = 16;
  description.device = "cpu";
}

/// A model's file is what it says: "resnet.pt" holds one, every other file is refused.
extern "C" __attribute__((visibility("default"))) void backstop_engine_describe_model(
    const std::filesystem::path& file, backstop::engine::ModelDescription& description) {
  description.facts = {{"file", file.string()}};
  if (file.filename() != "resnet.pt") {
    description.facts["error"] = file.string() + " is no model";
    description.facts["hint"] = "try another";
    return;
  }
  description.facts.update({{"format", "checkpoint"},
                            {"location", "state_dict"},
                            {"prefix", "module."},
                            {"rest", {"epoch = 3"}},
                            {"tensors", 2},
                            {"numbers", {{"Float", 1234}}},
                            {"trained_with", nullptr},
                            {"network", "resnet18, width 64, 10 classes"},
                            {"normalization", nullptr}});
}

extern "C" __attribute__((visibility("default"))) const char* backstop_engine_plugin_call() {
  return call;
}

extern "C" __attribute__((visibility("default"))) void backstop_engine_run(
    const backstop::engine::RunRequest& request, backstop::engine::RunOutcome& outcome) {
  const auto& recipe = *request.recipe;
  const auto& name = recipe.name;
  const auto seed = recipe.seed;
  const auto folder = request.out / name / std::to_string(seed);
  auto& observer = *request.observer;
  outcome.run = folder;
  observer.event({{"event", "run_started"}, {"run", folder.string()}, {"seed", seed}});
  observer.event(
      {{"event", "stage_started"}, {"stage", "attack"}, {"name", "patch"}, {"reused", false}});
  observer.progress(1, 2, "batches");
  if (name == "waits" || name == "stuck") wait_for_signal(request, name == "waits");
  if (*request.interrupted != 0) {
    outcome.code = static_cast<ExitCode>(128 + *request.interrupted);
    outcome.error = "interrupted";
    return;
  }
  if (name == "fails") {
    outcome.code = ExitCode::environment;
    outcome.error = "no space left";
    outcome.hint = "make some";
    return;
  }
  if (name == "breaks") {
    outcome.code = ExitCode::bug;
    outcome.error = "vector::at";
    return;
  }
  observer.event({{"event", "epoch"},
                  {"stage", "attack"},
                  {"name", "patch"},
                  {"epoch", 1},
                  {"epochs", 2},
                  {"loss", 0.412},
                  {"clean_accuracy", 0.832},
                  {"attack_success_rate", 1.0}});
  observer.event({{"event", "log"},
                  {"level", "warning"},
                  {"stage", "attack"},
                  {"name", "patch"},
                  {"message", "careful {}"}});
  if (name == "crashes" || name == "hangs") {
    end_in_defense(request, name == "crashes");
    outcome.code = request.earlier->failed[0].code;
    outcome.error = request.earlier->failed[0].error;
    outcome.hint = request.earlier->failed[0].hint;
  }
  const double accuracy = 0.9 + 0.01 * static_cast<double>(seed);
  const json results = {{"schema", 1},
                        {"name", name},
                        {"seed", seed},
                        {"rows", {row("no defense", accuracy, 1.0), row("mended", accuracy, 0.1)}},
                        {"expectations", json::array()}};
  observer.event({{"event", "run_finished"}, {"run", folder.string()}, {"results", results}});
}
