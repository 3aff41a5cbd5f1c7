#include "host/cli/engine_process.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <set>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "host/base/text.hpp"
#include "host/cli/child.hpp"
#include "host/cli/signals.hpp"

namespace backstop::cli {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kMarker = "BACKSTOP_ENGINE_PROCESS";

[[noreturn]] void cannot_start(int error) {
  throw base::HostError(
      base::ExitCode::environment,
      fmt::format("cannot start a process: {}", std::generic_category().message(error)),
      "free some memory, or raise the limit on processes");
}

SharedPage* map_page(int descriptor) {
  void* const memory =
      ::mmap(nullptr, sizeof(SharedPage), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<SharedPage*>(memory);
}

json to_json(const engine::FailedStage& stage) {
  return {{"stage", stage.stage},
          {"name", stage.name},
          {"code", static_cast<int>(stage.code)},
          {"error", stage.error},
          {"hint", stage.hint}};
}

json to_json(const engine::EarlierProcess& earlier) {
  json failed = json::array();
  for (const auto& stage : earlier.failed) failed.push_back(to_json(stage));
  return {{"runs", earlier.runs},         {"failed_runs", earlier.failed_runs},
          {"unmet", earlier.unmet},       {"run", earlier.run.string()},
          {"finished", earlier.finished}, {"failed", failed}};
}

engine::FailedStage failed_stage(const json& stage) {
  return {stage.at("stage").get<std::string>(), stage.at("name").get<std::string>(),
          static_cast<base::ExitCode>(stage.at("code").get<int>()),
          stage.at("error").get<std::string>(), stage.at("hint").get<std::string>()};
}

engine::EarlierProcess earlier_process(const json& json) {
  engine::EarlierProcess earlier;
  earlier.runs = json.at("runs").get<std::size_t>();
  earlier.failed_runs = json.at("failed_runs").get<std::size_t>();
  earlier.unmet = json.at("unmet").get<bool>();
  earlier.run = json.at("run").get<std::string>();
  json.at("finished").get_to(earlier.finished);
  for (const auto& stage : json.at("failed")) earlier.failed.push_back(failed_stage(stage));
  return earlier;
}

}  // namespace

// -- the child's end --

EngineLink::EngineLink(SharedPage* page, int descriptor, const json& earlier)
    : page_(page), descriptor_(descriptor) {
  if (earlier.is_object()) earlier_ = earlier_process(earlier);
}

EngineLink* EngineLink::get() {
  static EngineLink* const link = []() -> EngineLink* {
    const char* const text = std::getenv(kMarker);
    if (text == nullptr) return nullptr;
    const json marker = json::parse(text);
    ::unsetenv(kMarker);
    const int page = marker.at("page").get<int>(), events = marker.at("events").get<int>();
    ::fcntl(events, F_SETFD, FD_CLOEXEC);
    SharedPage* const memory = map_page(page);
    if (memory == nullptr) cannot_start(errno);
    ::close(page);
    return new EngineLink(memory, events, marker.at("earlier"));
  }();
  return link;
}

void EngineLink::send(const json& message) {
  const std::string line = base::json_text(message) + '\n';
  for (std::size_t sent = 0; sent < line.size();) {
    const ssize_t n = ::write(descriptor_, line.data() + sent, line.size() - sent);
    if (n < 0 && errno != EINTR) return;  // the other end died, and this process with it
    if (n > 0) sent += static_cast<std::size_t>(n);
  }
}

void EngineLink::event(const json& event) {
  send({{"event", event}});
}

void EngineLink::progress(std::int64_t done, std::int64_t total, const std::string& what) {
  constexpr std::chrono::milliseconds kPause(50);
  const auto now = std::chrono::steady_clock::now();
  if (what == what_ && now - told_ < kPause) return;
  what_ = what;
  told_ = now;
  send({{"progress", {done, total, what}}});
}

void EngineLink::outcome(const engine::RunOutcome& outcome) {
  send({{"outcome",
         {{"code", static_cast<int>(outcome.code)},
          {"error", outcome.error},
          {"hint", outcome.hint}}}});
}

void EngineLink::ended(base::ExitCode code, const std::string& error, const std::string& hint) {
  (void)!::write(descriptor_, "\n", 1);  // another thread may have written half a line
  send({{"ended", {{"code", static_cast<int>(code)}, {"error", error}, {"hint", hint}}}});
}

// -- the parent's end --

namespace {

/// In the child: becomes this program anew, and ends with its parent. Only system calls, as after
/// every fork.
[[noreturn]] void become(char* const* words, int page, int events, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() == parent && ::fcntl(page, F_SETFD, 0) == 0 && ::fcntl(events, F_SETFD, 0) == 0)
    ::execv("/proc/self/exe", words);
  ::_exit(127);
}

/// The plugin that `call` ("defense `probe` in run") is a call of, among those of `use`.
void find_plugin(const recipe::PluginUse& use, const std::string& call, fs::path& found) {
  const auto& manifest = use.plugin->manifest;
  if (call.starts_with(fmt::format("{} `{}` in ", to_string(manifest.kind), manifest.name)))
    found = use.plugin->path;
  for (const auto& scheduler : use.schedulers) find_plugin(scheduler, call, found);
}

fs::path plugin_of(const recipe::Recipe& recipe, const std::string& call) {
  fs::path found;
  find_plugin(recipe.dataset.use, call, found);
  if (recipe.pretraining) find_plugin(recipe.pretraining->use, call, found);
  if (recipe.attack) {
    find_plugin(recipe.attack->use, call, found);
    find_plugin(recipe.attack->training.scheduler, call, found);
  }
  for (const auto& detector : recipe.detectors) find_plugin(detector.use, call, found);
  for (const auto& defense : recipe.defenses) find_plugin(defense.use, call, found);
  return found;
}

/// "SIGSEGV (segmentation fault)"
std::string signal_text(int number) {
  const char* const description = ::sigdescr_np(number);
  if (description == nullptr) return signal_name(number);
  std::string text = description;
  text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  return fmt::format("{} ({})", signal_name(number), text);
}

class Supervisor {
 public:
  Supervisor(const Invocation& invocation, const engine::RunRequest& request,
             std::chrono::seconds stall_limit, engine::RunOutcome& outcome);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  void run();

 private:
  void start();
  /// Reads what the child says until it has ended; its status.
  int listen();
  void read_events();
  void hear(const json& message);
  void hear_event(const json& event);
  void end_run();
  /// What ended the child in the middle of its work.
  [[nodiscard]] engine::FailedStage blame(int status) const;
  /// The command line that shows in gdb where a plugin crashes.
  [[nodiscard]] std::string debugger_line() const;
  [[nodiscard]] std::string place() const {
    return fmt::format("[{}] {}", stage_.first, stage_.second);
  }

  const Invocation& invocation_;
  const engine::RunRequest& request_;
  const std::chrono::seconds stall_limit_;
  engine::RunOutcome& outcome_;
  int page_file_ = -1;
  SharedPage* page_ = nullptr;
  pid_t child_ = 0;
  int events_ = -1;       ///< -1: at its end
  std::string text_;      ///< read, without the line's end
  bool heard_ = false;    ///< the outcome
  bool started_ = false;  ///< a run, or a stage of one, in this child
  bool stalled_ = false;
  json ended_;  ///< what the child said before a plugin ended it
  std::optional<engine::EarlierProcess> earlier_;

  // Of the run that the child is in:
  engine::EarlierProcess run_;
  bool in_run_ = false;
  bool repeats_ = false;                       ///< what was told already
  bool failed_ = false;                        ///< it, or one of its stages
  std::pair<std::string, std::string> stage_;  ///< the last one that was started
  std::set<std::pair<std::string, std::string>> told_;
};

Supervisor::Supervisor(const Invocation& invocation, const engine::RunRequest& request,
                       std::chrono::seconds stall_limit, engine::RunOutcome& outcome)
    : invocation_(invocation), request_(request), stall_limit_(stall_limit), outcome_(outcome) {
  page_file_ = ::memfd_create("backstop", MFD_CLOEXEC);
  if (page_file_ < 0 || ::ftruncate(page_file_, sizeof(SharedPage)) != 0) cannot_start(errno);
  page_ = map_page(page_file_);
  if (page_ == nullptr) cannot_start(errno);
  catch_signals(page_->interrupted);
}

Supervisor::~Supervisor() {
  if (events_ >= 0) ::close(events_);
  ::close(page_file_);  // the page stays: a signal may come
}

void Supervisor::start() {
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) cannot_start(errno);
  events_ = pipe[0];
  const json marker = {{"page", page_file_},
                       {"events", pipe[1]},
                       {"earlier", earlier_ ? to_json(*earlier_) : json()}};
  ::setenv(kMarker, base::json_text(marker).c_str(), 1);
  std::vector<std::string> copies = invocation_.words;
  copies.insert(copies.begin(), "backstop");
  std::vector<char*> words;
  for (auto& word : copies) words.push_back(word.data());
  words.push_back(nullptr);
  page_->call[0] = '\0';
  text_.clear();
  heard_ = started_ = stalled_ = false;
  ended_ = nullptr;
  const pid_t self = ::getpid();
  child_ = ::fork();
  if (child_ == 0) become(words.data(), page_file_, pipe[1], self);
  const int error = errno;
  ::unsetenv(kMarker);
  ::close(pipe[1]);
  if (child_ < 0) cannot_start(error);
}

int Supervisor::listen() {
  constexpr std::chrono::milliseconds kTick(200);
  std::chrono::milliseconds silent(0);
  std::uint64_t pulse = 0;
  for (;;) {
    pollfd file{events_, POLLIN, 0};
    const int ready = ::poll(&file, 1, static_cast<int>(kTick.count()));
    if (ready > 0) read_events();
    siginfo_t info{};
    // A process that a plugin has left may hold the pipe open.
    const bool over = events_ < 0 || (ready == 0 &&
                                      ::waitid(P_PID, static_cast<id_t>(child_), &info,
                                               WEXITED | WNOHANG | WNOWAIT) == 0 &&
                                      info.si_pid != 0);
    if (over) break;
    if (const std::uint64_t now = page_->pulse; now != pulse || ready > 0) {
      pulse = now;
      silent = {};
    } else if (ready == 0) {
      silent += kTick;  // counted here: neither process may be stopped meanwhile
    }
    if (stall_limit_.count() == 0 || silent < stall_limit_) continue;
    constexpr std::chrono::seconds kGrace(2);
    if (!stalled_) ::kill(child_, SIGABRT);  // it says which call it was in
    stalled_ = true;
    if (silent > stall_limit_ + kGrace) ::kill(child_, SIGKILL);
  }
  if (events_ >= 0) ::close(std::exchange(events_, -1));
  int status = 0;
  while (::waitpid(child_, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

void Supervisor::read_events() {
  std::array<char, 1 << 16> buffer;
  const ssize_t n = ::read(events_, buffer.data(), buffer.size());
  if (n < 0 && errno == EINTR) return;
  if (n <= 0) {
    ::close(std::exchange(events_, -1));
    return;
  }
  text_.append(buffer.data(), static_cast<std::size_t>(n));
  std::size_t begin = 0;
  for (std::size_t end = 0; (end = text_.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const auto line = std::string_view(text_).substr(begin, end - begin);
    if (const json message = json::parse(line, nullptr, false); message.is_object()) hear(message);
  }
  text_.erase(0, begin);
}

void Supervisor::hear(const json& message) {
  if (message.contains("event")) {
    hear_event(message["event"]);
  } else if (message.contains("progress")) {
    const json& progress = message["progress"];
    request_.observer->progress(progress[0].get<std::int64_t>(), progress[1].get<std::int64_t>(),
                                progress[2].get<std::string>());
  } else if (message.contains("ended")) {
    ended_ = message["ended"];
  } else if (message.contains("outcome")) {
    const json& outcome = message["outcome"];
    outcome_.code = static_cast<base::ExitCode>(outcome["code"].get<int>());
    outcome_.error = outcome["error"].get<std::string>();
    outcome_.hint = outcome["hint"].get<std::string>();
    heard_ = true;
  }
}

void Supervisor::end_run() {
  if (!std::exchange(in_run_, false)) return;
  ++run_.runs;
  run_.failed_runs += failed_ ? 1 : 0;
  run_.unmet = run_.unmet || failed_;
  run_.finished.clear();
  run_.failed.clear();
  told_.clear();
  failed_ = repeats_ = false;
  stage_ = {};
}

void Supervisor::hear_event(const json& event) {
  const std::string type = event.value("event", "");
  const std::pair label(event.value("stage", ""), event.value("name", ""));
  const bool continues = std::exchange(started_, true);
  if (type == "run_started") {
    // Not as the text says: a path may be no UTF-8.
    const fs::path folder = event["run"].get<std::string>();
    const fs::path run = folder.parent_path().filename() / folder.filename();
    repeats_ = !continues && in_run_;
    if (repeats_) return;
    end_run();
    in_run_ = true;
    run_.run = run;
    stage_ = {"run", folder.parent_path().filename().string()};
    outcome_.runs.push_back(request_.out / run);
  } else if (type == "stage_started") {
    stage_ = label;
  } else if (type == "run_finished") {
    for (const auto& expectation : event["results"].value("expectations", json::array()))
      run_.unmet = run_.unmet || !expectation.value("met", true);
  }
  if (type == "run_failed" || type == "stage_failed") failed_ = true;
  if (repeats_ && told_.count(label) > 0) return;
  if (type == "stage_finished") run_.finished.push_back(label);
  if (type == "stage_failed") run_.failed.push_back(failed_stage(event));
  if (type == "stage_finished" || type == "stage_failed") told_.insert(label);
  request_.observer->event(event);
  if (type == "run_finished") end_run();
}

std::string Supervisor::debugger_line() const {
  std::vector<std::string> words = invocation_.words;
  words.emplace_back("--one-process");
  return cli::debugger_line(words, {"--fresh"});
}

engine::FailedStage Supervisor::blame(int status) const {
  engine::FailedStage failed{stage_.first, stage_.second, base::ExitCode::plugin, {}, {}};
  if (ended_.is_object()) {
    failed.code = static_cast<base::ExitCode>(ended_["code"].get<int>());
    failed.error = ended_["error"].get<std::string>();
    failed.hint = ended_["hint"].get<std::string>();
    return failed;
  }
  const std::string call = page_->call.data();  // "defense `probe` in run"
  const std::size_t between = call.rfind(" in ");
  const std::string who = call.substr(0, between),
                    function = call.empty() ? "" : call.substr(between + 4);
  const std::string where =
      fmt::format("the plugin is {}; `{}` shows where",
                  plugin_of((*request_.recipes)[run_.runs], call).string(), debugger_line());
  const int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (stalled_) {
    failed.error =
        call.empty() ? fmt::format("no sign of life for {} s in {}", stall_limit_.count(), place())
                     : fmt::format("{} did not return from {}: no sign of life for {} s", who,
                                   function, stall_limit_.count());
    failed.hint =
        "long work must call Context::stop_if_cancelled(); --stall-limit N gives it "
        "more time" +
        (call.empty() ? "" : "; " + where);
  } else if (number == SIGKILL) {
    failed.code = base::ExitCode::environment;
    failed.error = fmt::format("the process was killed (SIGKILL) in {}", place());
    failed.hint =
        "if memory ran out, a smaller batch_size, width or dataset needs less; the kernel's log "
        "says so";
  } else if (number != 0 && !call.empty()) {
    failed.error = fmt::format("{} crashed in {}: {}", who, function, signal_text(number));
    failed.hint = where;
  } else if (number != 0) {
    failed.code = base::ExitCode::bug;
    failed.error =
        fmt::format("a crash outside of all plugins in {}: {}", place(), signal_text(number));
  } else {
    failed.error = fmt::format("something ended the process with exit status {} in {}",
                               WEXITSTATUS(status), place());
    failed.hint = "a plugin must return or throw: report it to its author";
  }
  return failed;
}

void Supervisor::run() {
  for (;;) {
    start();
    const int status = listen();
    if (heard_) return;
    if (const int number = page_->interrupted; number != 0) {
      outcome_.code = base::exit_code_of_signal(number);
      outcome_.error = number == SIGINT ? "interrupted" : "terminated";
      return;
    }
    if (!started_ && WIFEXITED(status) && WEXITSTATUS(status) != 0 && !ended_.is_object()) {
      outcome_.code = static_cast<base::ExitCode>(WEXITSTATUS(status));  // it said why
      return;
    }
    const engine::FailedStage failed = blame(status);
    const bool again = std::any_of(run_.failed.begin(), run_.failed.end(), [&](const auto& known) {
      return std::pair(known.stage, known.name) == stage_;
    });
    if (!in_run_ || again) {
      outcome_.code = failed.code;
      outcome_.error = failed.error;
      outcome_.hint = failed.hint;
      return;
    }
    failed_ = true;
    run_.failed.push_back(failed);
    told_.insert(stage_);
    json event = to_json(failed);
    event["event"] = "stage_failed";
    request_.observer->event(event);
    earlier_ = run_;
  }
}

}  // namespace

void run_in_child(const Invocation& invocation, const engine::RunRequest& request,
                  std::chrono::seconds stall_limit, engine::RunOutcome& outcome) {
  Supervisor(invocation, request, stall_limit, outcome).run();
}

}  // namespace backstop::cli
