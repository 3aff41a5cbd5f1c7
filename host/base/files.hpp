// Reading and writing files. A file is written beside its place and then renamed, so that nobody
// ever sees half of one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
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

/// Throws HostError(environment) that names the file when there is something else than a regular
/// file (opening a FIFO would wait for its writer, and a device may never end), or when it is
/// larger than `most` bytes.
std::string read_file(const std::filesystem::path& path,
                      std::uintmax_t most = std::numeric_limits<std::uintmax_t>::max());
/// The same for a file of any size, in blocks of at most a megabyte; Ctrl-C ends it.
void read_blocks(const std::filesystem::path& path,
                 const std::function<void(std::string_view)>& take);

/// Returns when the file's content, or the list of names in the folder, would survive a loss of
/// power. Throws HostError(environment).
void sync(const std::filesystem::path& path);
/// The same for a folder with all that it holds.
void sync_tree(const std::filesystem::path& folder);

/// 16 hexadecimal digits that no other process draws, on whatever host or in whatever container.
std::string unique_name();
/// What the names of unfinished files begin with.
inline constexpr std::string_view kUnfinishedFile = ".tmp-";

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
