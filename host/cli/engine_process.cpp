#include "host/cli/engine_process.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <list>
#include <numeric>
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
#include "host/cli/sweep.hpp"

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

/// The file has the page, then the order as CBOR, whose strings may be paths that are no UTF-8.
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

/// What a child is to do: all of a request that is not of this process.
json order_of(const engine::RunRequest& request) {
  json order = {{"recipe", recipe::to_toml(*request.recipe)},
                {"one_of_several", request.one_of_several},
                {"out", request.out.string()},
                {"fresh", request.fresh},
                {"output", nullptr},
                {"earlier", nullptr}};
  if (request.output)
    order["output"] = {{"row", request.output->row}, {"file", request.output->file.string()}};
  if (request.earlier) {
    json failed = json::array();
    for (const auto& stage : request.earlier->failed) failed.push_back(to_json(stage));
    order["earlier"] = {{"run", request.earlier->run.string()},
                        {"finished", request.earlier->finished},
                        {"failed", failed}};
  }
  return order;
}

engine::FailedStage failed_stage(const json& stage) {
  return {stage.at("stage").get<std::string>(), stage.at("name").get<std::string>(),
          static_cast<base::ExitCode>(stage.at("code").get<int>()),
          stage.at("error").get<std::string>(), stage.at("hint").get<std::string>()};
}

/// Writes all of `bytes`, at the end of the file.
void append(int descriptor, const std::vector<std::uint8_t>& bytes) {
  for (std::size_t written = 0; written < bytes.size();) {
    const ssize_t n = ::write(descriptor, bytes.data() + written, bytes.size() - written);
    if (n < 0 && errno != EINTR) cannot_start(errno);
    if (n > 0) written += static_cast<std::size_t>(n);
  }
}

json read_order(int descriptor) {
  std::vector<std::uint8_t> bytes;
  std::array<std::uint8_t, 1 << 16> buffer;
  for (;;) {
    const ssize_t n = ::pread(descriptor, buffer.data(), buffer.size(),
                              static_cast<off_t>(sizeof(SharedPage) + bytes.size()));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) cannot_start(errno);
    if (n == 0) return json::from_cbor(bytes);
    bytes.insert(bytes.end(), buffer.begin(), buffer.begin() + n);
  }
}

}  // namespace

// -- the child's end --

EngineLink::EngineLink(SharedPage* page, int descriptor, json order)
    : page_(page), descriptor_(descriptor), order_(std::move(order)) {}

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
    json order = read_order(page);
    ::close(page);
    return new EngineLink(memory, events, std::move(order));
  }();
  return link;
}

engine::RunRequest EngineLink::request(recipe::CheckedRecipe& checked,
                                       const catalog::Catalog& catalog) {
  checked =
      recipe::check_recipe_text(order_.at("recipe").get<std::string>(), "recipe.toml", {}, catalog);
  if (checked.recipes.size() != 1)
    throw base::HostError(base::ExitCode::environment,
                          "the plugins of the recipe have changed since it was checked:\n" +
                              recipe::render(checked.diagnostics, checked.source, false),
                          "run the recipe again");
  engine::RunRequest request;
  request.recipe = &checked.recipes.front();
  request.one_of_several = order_.at("one_of_several").get<bool>();
  request.out = order_.at("out").get<std::string>();
  request.fresh = order_.at("fresh").get<bool>();
  if (const json& output = order_.at("output"); !output.is_null())
    request.output = {output.at("row").get<std::string>(), output.at("file").get<std::string>()};
  if (const json& known = order_.at("earlier"); !known.is_null()) {
    engine::EarlierProcess& earlier = request.earlier.emplace();
    earlier.run = known.at("run").get<std::string>();
    known.at("finished").get_to(earlier.finished);
    for (const auto& stage : known.at("failed")) earlier.failed.push_back(failed_stage(stage));
  }
  request.interrupted = &page_->interrupted;
  request.pulse = &page_->pulse;
  request.observer = this;
  return request;
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

engine::RunOutcome outcome_of(const base::HostError& error) {
  engine::RunOutcome outcome;
  outcome.code = error.code();
  outcome.error = error.what();
  outcome.hint = error.hint();
  return outcome;
}

engine::RunOutcome interrupted_outcome(int number) {
  engine::RunOutcome outcome;
  outcome.code = base::exit_code_of_signal(number);
  outcome.error = number == SIGINT ? "interrupted" : "terminated";
  return outcome;
}

/// One run, in a child.
class Job {
 public:
  Job(const Invocation& invocation, std::size_t number, engine::RunRequest request,
      std::chrono::seconds stall_limit);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// To be called while it goes on, after every wait for descriptor(); `ready`: there is something to
  /// read. Returns whether the run has come to its end.
  bool step(bool ready, std::chrono::milliseconds waited);
  void interrupt(int number) { page_->interrupted = number; }
  [[nodiscard]] int descriptor() const { return events_; }
  [[nodiscard]] std::size_t number() const { return number_; }
  [[nodiscard]] const engine::RunOutcome& outcome() const { return outcome_; }
  /// Whether it may still be about to train the model that its defenses start from.
  [[nodiscard]] bool makes_model() const { return makes_model_; }

 private:
  void start();
  /// Whether the child is over.
  bool listen(bool ready, std::chrono::milliseconds waited);
  void read_events();
  void hear(const json& message);
  void hear_event(const json& event);
  /// What is to be done now that the child is over: nothing, or start() again without a stage.
  /// Returns whether the run has come to its end.
  bool reap();
  /// What ended the child in the middle of its work.
  [[nodiscard]] engine::FailedStage blame(int status) const;
  /// The command line that shows in gdb where a plugin crashes.
  [[nodiscard]] std::string debugger_line() const;
  [[nodiscard]] std::string place() const {
    return fmt::format("[{}] {}", stage_.first, stage_.second);
  }

  const Invocation& invocation_;
  const std::size_t number_;
  engine::RunRequest request_;
  const std::chrono::seconds stall_limit_;
  engine::RunOutcome outcome_;
  int page_file_ = -1;
  SharedPage* page_ = nullptr;
  pid_t child_ = 0;
  int events_ = -1;       ///< -1: at its end
  std::string text_;      ///< read, without the line's end
  bool heard_ = false;    ///< the outcome
  bool started_ = false;  ///< the run, or a stage of it, in this child
  bool makes_model_ = true;
  json ended_;  ///< what the child said before a plugin ended it
  std::uint64_t pulse_ = 0;
  std::chrono::milliseconds silent_{0};
  bool stalled_ = false;

  engine::EarlierProcess run_;
  bool repeats_ = false;                       ///< what was told already
  std::pair<std::string, std::string> stage_;  ///< the last one that was started
  std::set<std::pair<std::string, std::string>> told_;
};

Job::Job(const Invocation& invocation, std::size_t number, engine::RunRequest request,
         std::chrono::seconds stall_limit)
    : invocation_(invocation),
      number_(number),
      request_(std::move(request)),
      stall_limit_(stall_limit) {
  start();
}

Job::~Job() {
  if (events_ >= 0) ::close(events_);
  if (page_ != nullptr) ::munmap(page_, sizeof(SharedPage));
  if (page_file_ >= 0) ::close(page_file_);
}

void Job::start() {
  if (page_ != nullptr) ::munmap(std::exchange(page_, nullptr), sizeof(SharedPage));
  if (page_file_ >= 0) ::close(page_file_);
  page_file_ = ::memfd_create("backstop", MFD_CLOEXEC);
  if (page_file_ < 0 || ::ftruncate(page_file_, sizeof(SharedPage)) != 0 ||
      ::lseek(page_file_, 0, SEEK_END) < 0)
    cannot_start(errno);
  page_ = map_page(page_file_);
  if (page_ == nullptr) cannot_start(errno);
  append(page_file_, json::to_cbor(order_of(request_)));
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) cannot_start(errno);
  events_ = pipe[0];
  const json marker = {{"page", page_file_}, {"events", pipe[1]}};
  ::setenv(kMarker, base::json_text(marker).c_str(), 1);
  std::vector<std::string> copies = invocation_.words;
  copies.insert(copies.begin(), "backstop");
  std::vector<char*> words;
  words.reserve(copies.size() + 1);
  for (auto& word : copies) words.push_back(word.data());
  words.push_back(nullptr);
  text_.clear();
  heard_ = started_ = stalled_ = false;
  pulse_ = 0;
  silent_ = {};
  ended_ = nullptr;
  const pid_t self = ::getpid();
  child_ = ::fork();
  if (child_ == 0) become(words.data(), page_file_, pipe[1], self);
  const int error = errno;
  ::unsetenv(kMarker);
  ::close(pipe[1]);
  if (child_ < 0) cannot_start(error);
}

bool Job::step(bool ready, std::chrono::milliseconds waited) {
  try {
    return listen(ready, waited) && reap();
  } catch (const base::HostError& e) {  // it cannot be started again
    static_cast<engine::Outcome&>(outcome_) = outcome_of(e);
    return true;
  }
}

bool Job::listen(bool ready, std::chrono::milliseconds waited) {
  if (ready) read_events();
  if (events_ < 0) return true;
  siginfo_t info{};
  if (!ready &&
      ::waitid(P_PID, static_cast<id_t>(child_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
      info.si_pid != 0) {
    // It may have said more since somebody looked. A process that a plugin has left may hold the pipe
    // open.
    pollfd file{events_, POLLIN, 0};
    while (events_ >= 0 && ::poll(&file, 1, 0) > 0) read_events();
    return true;
  }
  if (const std::uint64_t now = page_->pulse; now != pulse_ || ready) {
    pulse_ = now;
    silent_ = {};
  } else {
    silent_ += waited;
  }
  if (stall_limit_.count() == 0 || silent_ < stall_limit_) return false;
  constexpr std::chrono::seconds kGrace(2);
  if (!stalled_) ::kill(child_, SIGABRT);  // it says which call it was in
  stalled_ = true;
  if (silent_ > stall_limit_ + kGrace) ::kill(child_, SIGKILL);
  return false;
}

void Job::read_events() {
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

void Job::hear(const json& message) {
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

void Job::hear_event(const json& event) {
  const std::string type = event.value("event", "");
  const std::pair label(event.value("stage", ""), event.value("name", ""));
  started_ = true;
  if (type == "run_started") {
    repeats_ = !run_.run.empty();
    if (repeats_) return;
    // Not as the text says: a path may be no UTF-8.
    const fs::path folder = event["run"].get<std::string>();
    run_.run = folder.parent_path().filename() / folder.filename();
    stage_ = {"run", folder.parent_path().filename().string()};
    outcome_.run = request_.out / run_.run;
  } else if (type == "stage_started") {
    stage_ = label;
    if (label.first == "defense" || label.first == "detector") makes_model_ = false;
  }
  if (repeats_ && told_.contains(label)) return;
  if (type == "stage_finished") run_.finished.push_back(label);
  if (type == "stage_failed") run_.failed.push_back(failed_stage(event));
  if (type == "stage_finished" || type == "stage_failed") told_.insert(label);
  request_.observer->event(event);
}

std::string Job::debugger_line() const {
  std::vector<std::string> words = invocation_.words;
  words.emplace_back("--one-process");
  return cli::debugger_line(words, {"--fresh"});
}

engine::FailedStage Job::blame(int status) const {
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
      fmt::format("the plugin is {}; `{}` shows where", plugin_of(*request_.recipe, call).string(),
                  debugger_line());
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

bool Job::reap() {
  if (events_ >= 0) ::close(std::exchange(events_, -1));
  int status = 0;
  while (::waitpid(child_, &status, 0) < 0 && errno == EINTR) {
  }
  if (heard_) return true;
  if (const int number = page_->interrupted; number != 0) {
    static_cast<engine::Outcome&>(outcome_) = interrupted_outcome(number);
    return true;
  }
  if (!started_ && WIFEXITED(status) && WEXITSTATUS(status) != 0 && !ended_.is_object()) {
    outcome_.code = static_cast<base::ExitCode>(WEXITSTATUS(status));  // it said why
    return true;
  }
  const engine::FailedStage failed = blame(status);
  const bool again = std::any_of(run_.failed.begin(), run_.failed.end(), [&](const auto& known) {
    return std::pair(known.stage, known.name) == stage_;
  });
  if (run_.run.empty() || again) {
    outcome_.code = failed.code;
    outcome_.error = failed.error;
    outcome_.hint = failed.hint;
    return true;
  }
  run_.failed.push_back(failed);
  told_.insert(stage_);
  json event = to_json(failed);
  event["event"] = "stage_failed";
  request_.observer->event(event);
  request_.earlier = run_;
  start();
  return false;
}

/// Of those that wait, in order, the first whose model nobody is making; else the first.
std::size_t next_of(const std::vector<std::size_t>& waiting, const std::vector<std::string>& models,
                    const std::list<Job>& running) {
  const auto idle = std::find_if(waiting.begin(), waiting.end(), [&](std::size_t number) {
    return std::none_of(running.begin(), running.end(), [&](const Job& job) {
      return job.makes_model() && models[job.number()] == models[number];
    });
  });
  return idle == waiting.end() ? waiting.front() : *idle;
}

}  // namespace

void run_in_children(const Invocation& invocation, const std::vector<engine::RunRequest>& requests,
                     std::size_t jobs, std::chrono::seconds stall_limit,
                     const std::function<bool(std::size_t, const engine::RunOutcome&)>& ended) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kTick(200);
  const std::atomic<int>& interrupted = catch_signals();
  std::vector<std::string> models;
  models.reserve(requests.size());
  for (const auto& request : requests) models.push_back(model_text(*request.recipe));
  std::vector<std::size_t> waiting(requests.size());
  std::iota(waiting.begin(), waiting.end(), std::size_t{0});
  std::list<Job> running;
  for (;;) {
    while (!waiting.empty() && running.size() < jobs && interrupted == 0) {
      const std::size_t next = next_of(waiting, models, running);
      waiting.erase(std::find(waiting.begin(), waiting.end(), next));
      try {
        running.emplace_back(invocation, next, requests[next], stall_limit);
      } catch (const base::HostError& e) {  // those that are running go on
        if (!ended(next, outcome_of(e))) waiting.clear();
      }
    }
    if (running.empty()) {
      if (!waiting.empty()) (void)ended(waiting.front(), interrupted_outcome(interrupted));
      return;
    }
    std::vector<pollfd> files;
    files.reserve(running.size());
    for (const Job& job : running) files.push_back({job.descriptor(), POLLIN, 0});
    const auto before = Clock::now();
    (void)::poll(files.data(), files.size(), static_cast<int>(kTick.count()));
    // At most a tick: this process may have been stopped meanwhile.
    const auto waited = std::min(
        kTick, std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - before));
    auto file = files.begin();
    for (auto job = running.begin(); job != running.end();) {
      if (const int number = interrupted; number != 0) job->interrupt(number);
      const bool ready = (file++)->revents != 0;
      const bool over = job->step(ready, waited);
      if (over && !ended(job->number(), job->outcome())) waiting.clear();
      job = over ? running.erase(job) : std::next(job);
    }
  }
}

}  // namespace backstop::cli
