// The two streams of the program: data on stdout, everything else, through spdlog, on stderr.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>
#include <spdlog/spdlog.h>

namespace backstop::cli {

enum class ColorMode { automatic, always, never };

/// Whether to colour what goes to `descriptor`: `automatic` asks NO_COLOR, CLICOLOR_FORCE, whether
/// it is a terminal, and TERM, in this order.
bool use_color(ColorMode mode, int descriptor);

/// Sends spdlog's default logger to stderr, "warning: message"; messages of level info bear no
/// name.
void set_up_logging(bool color, spdlog::level::level_enum level);

/// "error: message", then "hint: hint" where there is one.
void print_error(const std::string& message, const std::string& hint);

/// A mistake of backstop's own, with what to do about it.
void print_internal_error(const std::string& what);

/// Writes to stdout. That nobody reads on (EPIPE) is no error; anything else throws
/// HostError(environment).
void print(std::string_view text);
/// The same for JSON: one line, or with `pretty` several.
void print_json(const nlohmann::json& json, bool pretty);

}  // namespace backstop::cli
