#include "host/engine/engine.hpp"

#include <csignal>
#include <new>
#include <system_error>

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include "backstop/error.hpp"
#include "host/base/interrupt.hpp"
#include "host/engine/compute.hpp"
#include "host/engine/data/data_report.hpp"
#include "host/engine/plugins/conformance.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/run/run.hpp"
#include "host/engine/store/opened_model.hpp"
#include "host/engine/store/run_directory.hpp"

namespace backstop::engine {

namespace {

void fail(Outcome& outcome, base::ExitCode code, const std::string& error,
          const std::string& hint) {
  outcome.code = code;
  outcome.error = error;
  outcome.hint = hint;
}

/// Calls `function` and turns whatever it throws into an outcome.
template <typename Function>
void guarded(const std::atomic<int>* interrupted, Outcome& outcome, Function&& function) {
  constexpr const char* kLessMemory = "a smaller batch_size, width or dataset needs less memory";
  base::watch_for_interrupt(interrupted);
  try {
    tune_process();
    function();
  } catch (const Cancelled&) {
    const int signal_number = interrupted != nullptr ? interrupted->load() : SIGINT;
    fail(outcome, base::exit_code_of_signal(signal_number),
         signal_number == SIGINT   ? "interrupted"
         : signal_number == SIGHUP ? "the terminal went away"
                                   : "terminated",
         std::string(outcome.hint));
  } catch (const base::HostError& e) {
    fail(outcome, e.code(), e.what(), e.hint());
  } catch (const std::bad_alloc&) {
    fail(outcome, base::ExitCode::environment, "out of memory", kLessMemory);
  } catch (const c10::Error& e) {
    const std::string what = e.what_without_backtrace();
    if (const auto asked = out_of_memory(what))
      fail(outcome, base::ExitCode::environment, "out of memory: " + *asked, kLessMemory);
    else
      fail(outcome, base::ExitCode::bug, "LibTorch: " + what, {});
  } catch (const std::system_error& e) {  // of a file or a thread
    fail(outcome, base::ExitCode::environment, e.what(), {});
  } catch (const std::exception& e) {
    fail(outcome, base::ExitCode::bug, e.what(), {});
  } catch (...) {
    fail(outcome, base::ExitCode::bug, "an exception of unknown type", {});
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void backstop_engine_run(
    const RunRequest& request, RunOutcome& outcome) {
  base::watch_pulse(request.pulse);
  guarded(request.interrupted, outcome, [&] {
    close_dead_runs(request.out);
    StageStore(request.out / kStoreFolder).remove_leftovers();
  });
  if (outcome.code != base::ExitCode::done) return;
  guarded(request.interrupted, outcome, [&] {
    const nlohmann::json results = run_recipe(request, outcome);
    for (const auto& expectation : results["expectations"])
      if (!expectation["met"].get<bool>()) outcome.code = base::ExitCode::failed;
  });
}

extern "C" __attribute__((visibility("default"))) void backstop_engine_data(
    const DataRequest& request, DataOutcome& outcome) {
  guarded(request.interrupted, outcome, [&] { outcome.report = report_on_data(request); });
  if (outcome.code == base::ExitCode::done && !outcome.report["problems"].empty())
    outcome.code = base::ExitCode::environment;
}

extern "C" __attribute__((visibility("default"))) void backstop_engine_describe_model(
    const std::filesystem::path& file, ModelDescription& description) {
  guarded(nullptr, description, [&] { description.facts = describe_model(file); });
}

extern "C" __attribute__((visibility("default"))) void backstop_engine_check_plugin(
    const ConformanceRequest& request, ConformanceOutcome& outcome) {
  Outcome failure;
  guarded(nullptr, failure, [&] { outcome = check_conformance(request); });
  if (failure.code != base::ExitCode::done) outcome = {false, failure.error, failure.hint};
}

}  // namespace backstop::engine
