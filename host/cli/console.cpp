#include "host/cli/console.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/ansicolor_sink.h>

#include "host/base/error.hpp"
#include "host/base/text.hpp"

namespace backstop::cli {
namespace {

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

class LevelPrefix final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& text) override {
    if (message.level == spdlog::level::info) return;
    const auto name = spdlog::level::to_string_view(message.level);
    text.append(name.begin(), name.end());
    text.append(std::string_view(": "));
  }
  [[nodiscard]] std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<LevelPrefix>();
  }
};

std::FILE* data_output = stdout;  // where print() writes

}  // namespace

bool use_color(ColorMode mode, int descriptor) {
  if (mode != ColorMode::automatic) return mode == ColorMode::always;
  if (!environment("NO_COLOR").empty()) return false;
  if (const auto force = environment("CLICOLOR_FORCE"); !force.empty() && force != "0") return true;
  return isatty(descriptor) != 0 && environment("TERM") != "dumb";
}

void set_up_logging(bool color, spdlog::level::level_enum level) {
  // spdlog's own choice of color ignores NO_COLOR.
  auto sink = std::make_shared<spdlog::sinks::ansicolor_stderr_sink_st>(
      color ? spdlog::color_mode::always : spdlog::color_mode::never);
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<LevelPrefix>('*').set_pattern("%^%*%$%v");
  sink->set_formatter(std::move(formatter));
  auto logger = std::make_shared<spdlog::logger>("backstop", std::move(sink));
  logger->set_level(level);
  spdlog::set_default_logger(std::move(logger));
}

void print_error(const std::string& message, const std::string& hint) {
  spdlog::error("{}{}", base::printable(message, "\n"),
                hint.empty() ? "" : "\nhint: " + base::printable(hint, "\n"));
}

void print_internal_error(const std::string& what) {
  print_error("internal error: " + what, "this is a bug in backstop " BACKSTOP_VERSION
                                         "; please report it with the command line and the recipe");
}

void reserve_standard_output() {
  const int copy = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  std::FILE* const file = copy < 0 ? nullptr : ::fdopen(copy, "w");
  if (file == nullptr) return;
  std::fflush(stdout);
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  data_output = file;
}

void print(std::string_view text) {
  errno = 0;
  const bool written = std::fwrite(text.data(), 1, text.size(), data_output) == text.size();
  if (written && std::fflush(data_output) == 0) return;
  const int reason = errno;
  std::clearerr(data_output);
  if (reason != EPIPE)
    throw base::HostError(
        base::ExitCode::environment,
        fmt::format("cannot write to standard output: {}", std::strerror(reason)));
}

void print_json(const nlohmann::json& json, bool pretty) {
  print(base::json_text(json, pretty ? 2 : -1) + '\n');
}

}  // namespace backstop::cli
