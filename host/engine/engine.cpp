#include "host/engine/engine.hpp"

#include <csignal>
#include <new>

#include <c10/util/Exception.h>

#include "backstop/error.hpp"
#include "host/engine/compute.hpp"
#include "host/engine/conformance.hpp"
#include "host/engine/data_report.hpp"
#include "host/engine/run.hpp"

namespace backstop::host {

namespace {

void fail(Outcome& outcome, ExitCode code, const std::string& error, const std::string& hint) {
  outcome.code = code;
  outcome.error = error;
  outcome.hint = hint;
}

/// Calls `function` and turns whatever it throws into an outcome.
template <typename Function>
void guarded(const std::atomic<int>* interrupted, Outcome& outcome, const char* after_interrupt,
             Function&& function) {
  try {
    tune_process();
    function();
  } catch (const Cancelled&) {
    const bool terminated = interrupted != nullptr && interrupted->load() == SIGTERM;
    fail(outcome, terminated ? ExitCode::terminated : ExitCode::interrupted,
         terminated ? "terminated" : "interrupted", after_interrupt);
  } catch (const HostError& e) {
    fail(outcome, e.code(), e.what(), e.hint());
  } catch (const std::bad_alloc&) {
    fail(outcome, ExitCode::environment, "out of memory",
         "a smaller batch_size, width or dataset needs less");
  } catch (const c10::Error& e) {
    fail(outcome, ExitCode::bug, std::string("LibTorch: ") + e.what_without_backtrace(), {});
  } catch (const std::exception& e) {
    fail(outcome, ExitCode::bug, e.what(), {});
  } catch (...) {
    fail(outcome, ExitCode::bug, "an exception of unknown type", {});
  }
}

void run_all(const RunRequest& request, RunOutcome& outcome) {
  for (const Recipe& recipe : *request.recipes) {
    const nlohmann::json results = run_recipe(recipe, request, outcome);
    for (const auto& expectation : results["expectations"])
      if (!expectation["met"].get<bool>()) outcome.code = ExitCode::failed;
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void backstop_engine_run(
    const RunRequest& request, RunOutcome& outcome) {
  guarded(request.interrupted, outcome,
          "finished stages and epochs are kept; the same command goes on from there",
          [&] { run_all(request, outcome); });
}

extern "C" __attribute__((visibility("default"))) void backstop_engine_data(
    const DataRequest& request, DataOutcome& outcome) {
  guarded(request.interrupted, outcome, "", [&] { outcome.report = report_on_data(request); });
  if (outcome.code == ExitCode::done && !outcome.report["problems"].empty())
    outcome.code = ExitCode::environment;
}

extern "C" __attribute__((visibility("default"))) void backstop_engine_check_plugin(
    const ConformanceRequest& request, ConformanceOutcome& outcome) {
  Outcome failure;
  guarded(nullptr, failure, "", [&] { outcome = check_conformance(request); });
  if (failure.code != ExitCode::done) outcome = {false, failure.error, failure.hint};
}

}  // namespace backstop::host
