// The folder that a report is written to: whole or not at all, and over nothing but another report.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

namespace backstop::report {

/// Files by their names, which may have one folder in front: "figures/cost.svg".
using ReportFiles = std::map<std::string, std::string>;
/// Every report has this file with this key in it: how a folder shows that it is one.
inline constexpr const char* kReportMark = "report.json";
inline constexpr const char* kReportKey = "backstop_report";

/// Throws HostError(usage) where `folder` is there and is neither empty nor a report, that is, where it
/// has no kReportMark or a file that no report has.
void check_report_folder(const std::filesystem::path& folder);

/// Makes `folder` hold exactly `files`, and what `complete`, which is given the unfinished folder, adds
/// to them. Throws HostError as check_report_folder() does, or HostError(environment), and leaves what
/// was there.
void write_report_folder(const std::filesystem::path& folder, const ReportFiles& files,
                         const std::function<void(const std::filesystem::path&)>& complete = {});

}  // namespace backstop::report
