// SHA-256 of files and texts, and MD5 of files whose makers published no better sum.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace backstop::base {

/// Hashes are lower-case hexadecimal. All throw HostError(environment) when they cannot be
/// computed.
std::string sha256_of_file(const std::filesystem::path& path);
std::string sha256_of_text(std::string_view text);

/// Calls `report` with the number of bytes read so far, every few MiB; it may throw to stop.
std::string md5_of_file(const std::filesystem::path& path,
                        const std::function<void(std::int64_t)>& report = {});

}  // namespace backstop::base
