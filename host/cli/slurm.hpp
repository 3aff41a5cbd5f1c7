// Slurm's commands: sbatch, scancel, squeue and sacct.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "host/base/error.hpp"
#include "host/cli/sweep.hpp"

namespace backstop::cli {

/// Throws HostError(environment) if there is no sbatch on this machine.
void require_sbatch();
class SubmissionRefused : public base::HostError {
 public:
  using HostError::HostError;
};
/// The job's number. Throws SubmissionRefused with what sbatch says when it refuses, and
/// HostError(environment) when it does not answer.
std::string submit(const std::vector<std::string>& words);
void cancel(const std::string& job);

/// What Slurm knows of a task.
struct TaskView {
  std::string job;     ///< "12_3"
  std::string state;   ///< "PENDING", "RUNNING", "TIMEOUT", ...
  std::string reason;  ///< of waiting: "Dependency"; may be empty
};
/// By number of the task; without those that Slurm has forgotten. `answered`: whether squeue did, for
/// every job.
std::map<std::size_t, TaskView> tasks_in_slurm(const std::vector<ArrayJob>& jobs, bool& answered);

}  // namespace backstop::cli
