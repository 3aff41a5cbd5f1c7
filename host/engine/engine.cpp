#include "host/engine/engine.hpp"

#include <csignal>
#include <new>

#include <c10/util/Exception.h>

#include "backstop/error.hpp"
#include "host/engine/compute.hpp"
#include "host/engine/run.hpp"

namespace backstop::host {

namespace {

void fail(RunOutcome& outcome, ExitCode code, const std::string& error, const std::string& hint) {
  outcome.code = code;
  outcome.error = error;
  outcome.hint = hint;
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
  try {
    tune_process();
    run_all(request, outcome);
  } catch (const Cancelled&) {
    const bool terminated =
        request.interrupted != nullptr && request.interrupted->load() == SIGTERM;
    fail(outcome, terminated ? ExitCode::terminated : ExitCode::interrupted,
         terminated ? "terminated" : "interrupted",
         "finished stages and epochs are kept; the same command goes on from there");
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

}  // namespace backstop::host
