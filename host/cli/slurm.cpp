#include "host/cli/slurm.hpp"

#include <charconv>
#include <chrono>
#include <optional>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/cli/child.hpp"
#include "host/cli/console.hpp"

namespace backstop::cli {
namespace {

constexpr std::chrono::seconds kLimit(60);

std::string trimmed(const std::string& text) {
  const auto end = text.find_last_not_of(" \n");
  return end == std::string::npos ? "" : text.substr(0, end + 1);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

/// The lines of machine-readable output, in fields; nothing if the command failed. That the job was
/// forgotten is an answer.
std::optional<std::vector<std::vector<std::string>>> rows_of(
    const std::vector<std::string>& words) {
  const auto outcome = run_program(words, kLimit);
  if (!outcome) return std::nullopt;
  const bool forgotten = outcome->err.find("Invalid job id specified") != std::string::npos;
  if (outcome->code != 0 && !forgotten) return std::nullopt;
  std::vector<std::vector<std::string>> rows;
  for (const auto& line : split(outcome->out, '\n')) rows.push_back(split(line, '|'));
  return rows;
}

/// The task of "12_3"; not of "12_[4-9]" or "12_3.batch".
std::optional<std::size_t> task_of(const std::string& job) {
  const auto underscore = job.find('_');
  if (underscore == std::string::npos) return std::nullopt;
  std::size_t task = 0;
  const char* const end = job.data() + job.size();
  const auto [last, error] = std::from_chars(job.data() + underscore + 1, end, task);
  return error == std::errc{} && last == end ? std::optional(task) : std::nullopt;
}

}  // namespace

void require_sbatch() {
  if (!run_program({"sbatch", "--version"}, kLimit))
    throw base::HostError(base::ExitCode::environment,
                          "there is no `sbatch` on this machine: Slurm is not installed",
                          "`--dry-run` writes the script, and `backstop expand` writes recipes for "
                          "other engines");
}

std::string submit(const std::vector<std::string>& words) {
  const auto outcome = run_program(words, kLimit);
  if (!outcome) require_sbatch();
  const std::string said = outcome ? trimmed(outcome->err) : "";
  if (!outcome || outcome->timed_out)
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("sbatch did not answer for {} s", kLimit.count()),
                          "`squeue` shows whether the job was submitted");
  const std::string job = outcome->out.substr(0, outcome->out.find_first_of(";\n"));
  if (outcome->code != 0 || job.empty() || job.find_first_not_of("0123456789") != std::string::npos)
    throw SubmissionRefused(
        base::ExitCode::environment,
        fmt::format("sbatch refused the job: {}", said.empty() ? "it did not say why" : said),
        "options behind `--` go to sbatch; nothing was submitted");
  if (!said.empty()) spdlog::warn("sbatch: {}", base::printable(said, "\n"));
  return job;
}

void cancel(const std::string& job) {
  (void)run_program({"scancel", job}, kLimit);
}

std::map<std::size_t, TaskView> tasks_in_slurm(const std::vector<ArrayJob>& jobs, bool& answered) {
  std::map<std::size_t, TaskView> tasks;
  answered = !jobs.empty();
  for (const ArrayJob& job : jobs) {
    // What has ended is only in the accounting; what squeue says is newer.
    if (const auto rows = rows_of({"sacct", "--noheader", "--parsable2", "--allocations", "--array",
                                   "--jobs=" + job.id, "--format=JobID,State"})) {
      for (const auto& row : *rows)
        if (const auto task = row.size() == 2 ? task_of(row[0]) : std::nullopt)
          tasks[*task] = {row[0], row[1].substr(0, row[1].find(' ')), ""};
    }
    if (const auto rows = rows_of({"squeue", "--noheader", "--array", "--states=all",
                                   "--jobs=" + job.id, "--format=%F_%K|%T|%r"})) {
      for (const auto& row : *rows)
        if (const auto task = row.size() == 3 ? task_of(row[0]) : std::nullopt)
          tasks[*task] = {row[0], row[1], row[2] == "None" ? "" : row[2]};
    } else {
      answered = false;  // accounting alone does not know what waits
    }
  }
  return tasks;
}

}  // namespace backstop::cli
