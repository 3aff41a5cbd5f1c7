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

ConsoleObserver::ConsoleObserver(ObserverOptions options) : options_(std::move(options)) {}

void ConsoleObserver::event(const nlohmann::json& event) {
  erase_bar();
  try {
    if (options_.json) print_json(event, false);
    tell(event);
  } catch (const base::HostError& e) {
    if (!output_error_) output_error_ = e;
  }
}

void ConsoleObserver::tell(const nlohmann::json& event) {
  const auto type = event.value("event", "");
  const auto say = [&](const std::string& text) {
    spdlog::info("{}: {}", base::printable(stage_name(event)), base::printable(text));
  };
  if (type == "run_started") {
    ++started_;
    spdlog::debug("{}", base::printable("run " + event.value("run", "")));
  } else if (type == "stage_started") {
    stage_ = stage_name(event);
    what_.clear();
    say(event.value("reused", false) ? "cached" : "started");
  } else if (type == "epoch") {
    say(epoch_line(event));
  } else if (type == "stage_finished") {
    if (!event.value("reused", false))
      say("done in " + base::duration(report::number_in(event, "wall_seconds").value_or(0)));
  } else if (type == "log") {
    spdlog::log(level_of(event.value("level", "info")), "{}: {}",
                base::printable(stage_name(event)), base::printable(event.value("message", "")));
  } else if (type == "stage_failed") {
    spdlog::warn("{}: failed: {}", base::printable(stage_name(event)),
                 base::printable(event.value("error", "")));
  } else if (type == "run_finished") {
    finish_run(event.at("results"));
  }
}

void ConsoleObserver::finish_run(const nlohmann::json& results) {
  const std::size_t index = started_ == 0 ? 0 : started_ - 1;
  const bool several = options_.groups.size() > 1;
  const std::string group = index < options_.groups.size() ? options_.groups[index] : "";
  finished_.push_back({group, results});
  if (options_.json) return;
  std::string heading;
  if (several)
    heading = fmt::format("\n{}, seed {}\n", group.empty() ? results.value("name", "") : group,
                          report::section_of(results, "seed").dump());
  print(heading + (options_.text ? options_.text(results)
                                 : report::result_table(results, options_.color_out)));
}

void ConsoleObserver::progress(std::int64_t done, std::int64_t total, const std::string& what) {
  if (progress_ == Progress::none) return;
  const auto now = Clock::now();
  if (what != what_ || done < done_) {
    what_ = what;
    counting_since_ = now;
  }
  done_ = done;
  const auto pause = progress_ == Progress::bar ? std::chrono::milliseconds(100)
                                                : std::chrono::milliseconds(10'000);
  if (now - last_shown_ < pause) return;
  last_shown_ = now;
  std::string text = fmt::format("{}{} {}", base::grouped(done),
                                 total > 0 ? fmt::format("/{}", base::grouped(total)) : "", what);
  const double seconds = std::chrono::duration<double>(now - counting_since_).count();
  if (done > 0 && total > done && seconds >= 1)
    text += fmt::format(", {} left", base::duration(seconds * static_cast<double>(total - done) /
                                                    static_cast<double>(done)));
  if (progress_ == Progress::bar)
    draw_bar(done, total, text);
  else
    spdlog::info("{}: {}", base::printable(stage_), base::printable(text));
}

void ConsoleObserver::draw_bar(std::int64_t done, std::int64_t total, const std::string& text) {
  constexpr std::int64_t kCells = 24;
  std::string line = base::printable(stage_) + "  ";
  if (total > 0) {
    const auto full =
        static_cast<std::size_t>(std::clamp(done, std::int64_t{0}, total) * kCells / total);
    line += fmt::format("[{}{}]  ", std::string(full, '#'), std::string(kCells - full, '.'));
  }
  line += base::printable(text);
  // A line that wraps cannot be erased.
  line.resize(std::min(line.size(), terminal_width() - 1));
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
  bar_is_drawn_ = true;
}

void ConsoleObserver::erase_bar() {
  if (!std::exchange(bar_is_drawn_, false)) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
}

}  // namespace backstop::cli
