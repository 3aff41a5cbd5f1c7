#include "host/report/report_folder.hpp"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <stdio.h>  // NOLINT(modernize-deprecated-headers): renameat2()

#include <fmt/format.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"

namespace backstop::report {
namespace {

namespace fs = std::filesystem;

/// Whether a report could have written it.
bool is_of_a_report(const fs::path& path) {
  constexpr std::string_view kExtensions[] = {".html", ".md",  ".tex", ".csv",
                                              ".json", ".svg", ".pdf"};
  const std::string extension = path.extension().string();
  return std::find(std::begin(kExtensions), std::end(kExtensions), extension) !=
         std::end(kExtensions);
}

[[noreturn]] void refuse(const fs::path& folder, const std::string& why) {
  throw base::HostError(base::ExitCode::usage,
                        fmt::format("not overwriting {}: it {}", folder.string(), why),
                        "name another folder with --out");
}

/// Gives `made` the name `place`; what was there has the name that is returned.
std::optional<fs::path> put_in_place(const fs::path& made, const fs::path& place) {
  const auto rename = [&](const fs::path& from, const fs::path& to, unsigned flags) {
    return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0;
  };
  std::error_code ignored;
  if (fs::exists(place, ignored)) {
    if (rename(made, place, RENAME_EXCHANGE)) return made;
    // A file system that cannot exchange two names, as NFS.
    const fs::path aside =
        place.parent_path() / (std::string(base::kUnfinishedFile) + base::unique_name());
    if (rename(place, aside, 0) && rename(made, place, 0)) return aside;
  } else if (rename(made, place, RENAME_NOREPLACE) || rename(made, place, 0)) {
    return std::nullopt;
  }
  throw base::HostError(
      base::ExitCode::environment,
      fmt::format("cannot write {}: {}", place.string(), std::generic_category().message(errno)));
}

}  // namespace

void check_report_folder(const fs::path& folder) {
  std::error_code error;
  const auto status = fs::symlink_status(folder, error);
  if (!fs::exists(status)) return;
  if (!fs::is_directory(status)) refuse(folder, "is not a folder");
  if (fs::is_empty(folder, error)) return;
  if (!fs::is_regular_file(folder / kReportMark, error) ||
      base::read_file(folder / kReportMark).find(kReportKey) == std::string::npos)
    refuse(folder, "is not a report");
  for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
    const bool figures = entry.is_directory(error) && entry.path().filename() == "figures";
    if (!figures &&
        (!entry.is_regular_file(error) || entry.is_symlink(error) || !is_of_a_report(entry.path())))
      refuse(folder, fmt::format("holds {} besides a report", entry.path().filename().string()));
  }
  if (error) refuse(folder, fmt::format("cannot be read: {}", error.message()));
}

void write_report_folder(const fs::path& folder, const ReportFiles& files,
                         const std::function<void(const fs::path&)>& complete) {
  check_report_folder(folder);
  const fs::path target = fs::absolute(folder).lexically_normal();
  const fs::path parent =
      target.has_filename() ? target.parent_path() : target.parent_path().parent_path();
  const fs::path place = target.has_filename() ? target : target.parent_path();
  base::make_folder(parent);
  const fs::path made = parent / (std::string(base::kUnfinishedFile) + base::unique_name());
  std::error_code ignored;
  try {
    base::make_folder(made);
    for (const auto& [name, text] : files) {
      base::make_folder((made / name).parent_path());
      base::write_file(made / name, text);
    }
    if (complete) complete(made);
    if (const auto replaced = put_in_place(made, place)) fs::remove_all(*replaced, ignored);
  } catch (...) {
    fs::remove_all(made, ignored);
    throw;
  }
}

}  // namespace backstop::report
