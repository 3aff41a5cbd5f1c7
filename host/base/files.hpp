// Reading and writing files. A file is written beside its place and then renamed, so that nobody
// ever sees half of one.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <ostream>
#include <string>
#include <string_view>

namespace backstop::base {

/// Creates the folder and its parents. Throws HostError(environment).
void make_folder(const std::filesystem::path& folder);

/// Calls `write` with a stream and puts the result at `path`; when that fails, `path` stays as it
/// was. Throws HostError(environment) with the file's name and the system's reason.
void write_file(const std::filesystem::path& path, const std::function<void(std::ostream&)>& write);
void write_file(const std::filesystem::path& path, std::string_view text);

std::string read_file(const std::filesystem::path& path);

/// Copies a file; what was at `to` stays until the copy is whole.
void copy_file(const std::filesystem::path& from, const std::filesystem::path& to);

/// Appends whole lines. Each has reached the system (not necessarily the disk) when write()
/// returns.
class LineFile {
 public:
  explicit LineFile(std::filesystem::path path);
  void write(std::string_view line);

 private:
  std::filesystem::path path_;
  std::ofstream stream_;
};

}  // namespace backstop::base
