// The two streams of the program: data on stdout, everything else, through spdlog, on stderr.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>
#include <spdlog/spdlog.h>

namespace backstop::cli {

enum class ColorMode { automatic, always, never };

/// Whether to color what goes to `descriptor`. `automatic` looks at NO_COLOR, CLICOLOR_FORCE,
/// whether it is a terminal, and TERM, in this order.
bool use_color(ColorMode mode, int descriptor);

/// Sends spdlog's default logger to stderr, as "warning: message"; messages of level info have no
/// prefix.
void set_up_logging(bool color, spdlog::level::level_enum level);

/// "error: message", then "hint: hint" if there is a hint.
void print_error(const std::string& message, const std::string& hint);

/// A bug in Backstop, with a request to report it.
void print_internal_error(const std::string& what);

/// From now on, standard output is for print() alone: what others write there, such as plugins and
/// libraries, goes to stderr.
void reserve_standard_output();

/// Writes to stdout. A reader that has gone away (EPIPE) is not an error; any other failure throws
/// HostError(environment).
void print(std::string_view text);
/// The same for JSON: on one line, or on several with `pretty`.
void print_json(const nlohmann::json& json, bool pretty);

}  // namespace backstop::cli
