#include "host/cli/observer.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include <unistd.h>

#include <fmt/format.h>
#include <sys/ioctl.h>

#include "host/base/text.hpp"
#include "host/cli/console.hpp"
#include "host/report/fields.hpp"
#include "host/report/metrics.hpp"
#include "host/report/table.hpp"

namespace backstop::cli {
namespace {

std::string stage_name(const nlohmann::json& event) {
  const auto name = event.value("name", "");
  return fmt::format("[{}]{}{}", event.value("stage", "run"), name.empty() ? "" : " ", name);
}

std::string epoch_line(const nlohmann::json& event) {
  const auto epoch = event.value("epoch", std::int64_t{0});
  std::string line = epoch == 0 ? "before training"
                                : fmt::format("epoch {}/{}", epoch, event.value("epochs", epoch));
  if (const auto loss = report::number_in(event, "loss")) line += "  loss " + base::fixed(*loss, 3);
  for (const report::Metric* metric : report::metrics_with(&report::Metric::by_epoch))
    if (event.contains(metric->key))  // null where it means nothing
      line += fmt::format("  {} {}", metric->title,
                          report::text_of(*metric, report::number_in(event, metric->key)));
  return line;
}

spdlog::level::level_enum level_of(const std::string& name) {
  if (name == "debug") return spdlog::level::debug;
  return name == "warning" ? spdlog::level::warn : spdlog::level::info;
}

std::size_t terminal_width() {
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

}  // namespace

ConsoleObserver::Progress ConsoleObserver::progress_kind() {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string_view(value ? value : "");
  };
  if (!set("BACKSTOP_NO_PROGRESS").empty()) return Progress::none;
  return isatty(STDERR_FILENO) != 0 && set("TERM") != "dumb" ? Progress::bar : Progress::lines;
}

ConsoleObserver::ConsoleObserver(ObserverOptions options) : options_(std::move(options)) {
  for (std::size_t number = 0; number < options_.groups.size(); ++number)
    runs_.emplace_back(*this, number);
}

std::vector<report::FinishedRun> ConsoleObserver::finished() const {
  std::vector<report::FinishedRun> finished;
  for (const Run& run : runs_)
    if (!run.results_.is_null()) finished.push_back({options_.groups[run.number_], run.results_});
  return finished;
}

std::string ConsoleObserver::Run::label() const {
  const std::size_t all = console_.runs_.size();
  return all == 1 ? "" : fmt::format("{}/{} ", number_ + 1, all);
}

void ConsoleObserver::Run::event(const nlohmann::json& event) {
  console_.erase_bar();
  try {
    if (console_.options_.json && console_.runs_.size() > 1) {
      nlohmann::json labeled = event;
      labeled["number"] = number_ + 1;
      print_json(labeled, false);
    } else if (console_.options_.json) {
      print_json(event, false);
    }
    tell(event);
  } catch (const base::HostError& e) {
    if (!console_.output_error_) console_.output_error_ = e;
  }
}

void ConsoleObserver::Run::tell(const nlohmann::json& event) {
  const auto type = event.value("event", "");
  const auto say = [&](const std::string& text,
                       spdlog::level::level_enum level = spdlog::level::info) {
    spdlog::log(level, "{}{}: {}", label(), base::printable(stage_name(event)),
                base::printable(text));
  };
  if (type == "run_started") {
    spdlog::debug("{}{}", label(), base::printable("run " + event.value("run", "")));
    if (console_.runs_.size() > 1)
      spdlog::info("{}{}, seed {}", label(), base::printable(console_.options_.groups[number_]),
                   report::section_of(event, "seed").dump());
  } else if (type == "stage_started") {
    stage_ = stage_name(event);
    what_.clear();
    say(event.value("reused", false) ? "cached" : "started");
  } else if (type == "epoch") {
    say(epoch_line(event));
  } else if (type == "stage_finished") {
    what_.clear();
    if (!event.value("reused", false))
      say("done in " + base::duration(report::number_in(event, "wall_seconds").value_or(0)));
  } else if (type == "log") {
    say(event.value("message", ""), level_of(event.value("level", "info")));
  } else if (type == "stage_failed") {
    say("failed: " + event.value("error", ""), spdlog::level::warn);
  } else if (type == "run_failed") {
    what_.clear();
  } else if (type == "run_finished") {
    what_.clear();
    finish(event.at("results"));
  }
}

void ConsoleObserver::Run::finish(const nlohmann::json& results) {
  const ObserverOptions& options = console_.options_;
  results_ = results;
  if (options.json) return;
  std::string heading;
  if (console_.runs_.size() > 1) {
    const std::string& group = options.groups[number_];
    heading = fmt::format("\n{}, seed {}\n", group.empty() ? results.value("name", "") : group,
                          report::section_of(results, "seed").dump());
  }
  print(heading +
        (options.text ? options.text(results) : report::result_table(results, options.color_out)));
}

std::string ConsoleObserver::Run::count() const {
  std::string text =
      fmt::format("{}{} {}", base::grouped(done_),
                  total_ > 0 ? fmt::format("/{}", base::grouped(total_)) : "", what_);
  const double seconds = std::chrono::duration<double>(last_shown_ - counting_since_).count();
  if (done_ > 0 && total_ > done_ && seconds >= 1)
    text += fmt::format(", {} left", base::duration(seconds * static_cast<double>(total_ - done_) /
                                                    static_cast<double>(done_)));
  return text;
}

void ConsoleObserver::Run::progress(std::int64_t done, std::int64_t total,
                                    const std::string& what) {
  if (console_.progress_ == Progress::none) return;
  const auto now = Clock::now();
  if (what != what_ || done < done_) {
    what_ = what;
    counting_since_ = now;
  }
  done_ = done;
  total_ = total;
  const bool bar = console_.progress_ == Progress::bar;
  const auto pause = bar ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10'000);
  if (now - (bar ? console_.bar_drawn_ : last_shown_) < pause) return;
  last_shown_ = now;
  if (bar)
    console_.draw_bar();
  else
    spdlog::info("{}{}: {}", label(), base::printable(stage_), base::printable(count()));
}

void ConsoleObserver::draw_bar() {
  constexpr std::int64_t kCells = 24;
  bar_drawn_ = Clock::now();
  std::vector<const Run*> counting;
  for (const Run& run : runs_)
    if (run.counts()) counting.push_back(&run);
  std::string line;
  for (const Run* run : counting) {
    if (!line.empty()) line += "   ";
    line += run->label() + base::printable(run->stage_) + "  ";
    if (run->total_ > 0 && counting.size() == 1) {
      const auto full = static_cast<std::size_t>(
          std::clamp(run->done_, std::int64_t{0}, run->total_) * kCells / run->total_);
      line += fmt::format("[{}{}]  ", std::string(full, '#'), std::string(kCells - full, '.'));
    }
    if (run->total_ > 0 && counting.size() > 1)
      line += fmt::format("{} %",
                          std::clamp(run->done_, std::int64_t{0}, run->total_) * 100 / run->total_);
    else
      line += base::printable(run->count());
  }
  // A line that wraps cannot be erased.
  line.resize(std::min(line.size(), terminal_width() - 1));
  (void)std::fprintf(stderr, "\r\033[K%s", line.c_str());
  (void)std::fflush(stderr);
  bar_is_drawn_ = true;
}

void ConsoleObserver::erase_bar() {
  if (!std::exchange(bar_is_drawn_, false)) return;
  (void)std::fputs("\r\033[K", stderr);
  (void)std::fflush(stderr);
}

}  // namespace backstop::cli
