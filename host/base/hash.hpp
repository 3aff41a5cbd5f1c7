// SHA-256 of files and texts.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace backstop::base {

/// Lower-case hexadecimal SHA-256 of a file. Throws HostError(environment).
std::string sha256_of_file(const std::filesystem::path& path);
std::string sha256_of_text(std::string_view text);

}  // namespace backstop::base
