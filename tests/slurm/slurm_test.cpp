// `backstop sweep` with a real Slurm: a controller and a node's daemon on this machine, with their own
// configuration, ports and folder.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <map>
#include <optional>
#include <sstream>
#include <string_view>
#include <thread>

#include <pwd.h>
#include <unistd.h>

#include <netinet/in.h>
#include <sys/socket.h>

#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using nlohmann::json;
using ::testing::AnyOf;
using ::testing::HasSubstr;

std::string host_name() {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  const std::string text = name;
  return text.substr(0, text.find('.'));
}

std::string user_name() {
  const passwd* user = ::getpwuid(::getuid());
  return user != nullptr ? user->pw_name : "root";
}

/// Ports that nobody listens on; somebody may, before they are used.
std::vector<int> free_ports(std::size_t count) {
  std::vector<int> ports, sockets;
  for (std::size_t i = 0; i < count; ++i) {
    sockets.push_back(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    socklen_t size = sizeof address;
    ::bind(sockets.back(), reinterpret_cast<sockaddr*>(&address), size);
    ::getsockname(sockets.back(), reinterpret_cast<sockaddr*>(&address), &size);
    ports.push_back(ntohs(address.sin_port));
  }
  for (const int socket : sockets) ::close(socket);
  return ports;
}

std::string in_sbin(const std::string& program) {
  const std::string path = "/usr/sbin/" + program;
  return ::access(path.c_str(), X_OK) == 0 ? path : "";
}

/// A recipe whose number of threads is that of its job, and whose attack trains for seconds: long
/// enough to be seen waiting for, and to be killed.
std::string open_recipe() {
  std::string text = kRecipe;
  text.erase(text.find("threads = 1\n"));
  constexpr std::string_view kShort = "epochs = 2\n";
  return text.replace(text.find(kShort), kShort.size(), "epochs = 40\n");
}

class Slurm : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    const std::string controller = in_sbin("slurmctld"), node = in_sbin("slurmd");
    if (controller.empty() || node.empty())
      GTEST_SKIP() << "slurmctld and slurmd are not installed (Debian package slurm-wlm)";
    fs::create_directories(slurm() / "state");
    fs::create_directories(slurm() / "spool");
    write_configuration();
    daemons_.emplace_back(daemon(controller));
    daemons_.emplace_back(daemon(node));
    if (!comes_up())
      GTEST_SKIP() << "Slurm does not run here: " << last_line_of("slurmctld") << "; "
                   << last_line_of("slurmd");
  }
  void TearDown() override {
    if (!daemons_.empty()) (void)slurm_command({"scancel", "--user=" + user_name()});
    for (auto daemon = daemons_.rbegin(); daemon != daemons_.rend(); ++daemon) {
      daemon->send(SIGTERM);
      (void)daemon->wait();
    }
    EndToEnd::TearDown();
  }

  [[nodiscard]] fs::path slurm() const { return folder_ / "slurm"; }
  [[nodiscard]] std::map<std::string, std::string> environment() const {
    return {{"HOME", folder_.string()},
            {"BACKSTOP_PLUGIN_PATH", ""},
            {"SLURM_CONF", (slurm() / "slurm.conf").string()}};
  }
  [[nodiscard]] Outcome slurm_command(std::vector<std::string> words) const {
    return Process({"/usr/bin/env", std::move(words), environment()}).wait();
  }
  [[nodiscard]] Outcome backstop(std::vector<std::string> words) const {
    return Process({BACKSTOP_PROGRAM, std::move(words), environment()}).wait();
  }
  /// The folder of the sweep, and the number of its first job.
  [[nodiscard]] std::pair<std::string, std::string> sweep() const {
    const Outcome outcome = backstop({"sweep", recipe().string(), "--slurm", "--json", "--out",
                                      out().string(), "--", "--cpus-per-task=1", "--time=10"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const json said = json::parse(outcome.out);
    return {said["sweep"], said["jobs"][0]["id"]};
  }
  [[nodiscard]] json status(const std::string& folder) const {
    return json::parse(backstop({"status", folder, "--json"}).out);
  }
  /// Returns the last status, also when that is not the one that was waited for.
  template <typename Condition>
  [[nodiscard]] json wait_for(const std::string& folder, Condition&& condition) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(200);
    for (;;) {
      json now = status(folder);
      if (condition(now) || std::chrono::steady_clock::now() > end) return now;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
  }
  [[nodiscard]] json wait_for_end(const std::string& folder) const {
    return wait_for(folder, [](const json& now) {
      return std::none_of(now["runs"].begin(), now["runs"].end(), [](const json& run) {
        return run["state"] == "running" || run["state"] == "waiting";
      });
    });
  }
  /// The numbers of each recipe, by its SHA-256, of the runs in `folder` that finished.
  [[nodiscard]] static std::map<std::string, json> numbers_in(const fs::path& folder) {
    std::map<std::string, json> all;
    for (const auto& run : fs::directory_iterator(folder)) {
      if (json::parse(read(run.path() / "run.json"))["status"] != "finished") continue;
      const json of = numbers(run.path());
      all[of["recipe_sha256"]] = of;
    }
    return all;
  }
  /// The same of the recipe run in one process, outside of Slurm.
  [[nodiscard]] std::map<std::string, json> local_numbers() const {
    const fs::path local = folder_ / "local";
    const Outcome outcome =
        backstop({"run", recipe().string(), "--out", local.string(), "--set", "compute.threads=1"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return numbers_in(local / "small");
  }
  [[nodiscard]] static std::string logs_of(const std::string& sweep) {
    std::string text;
    for (const auto& log : fs::directory_iterator(fs::path(sweep) / "logs"))
      text += read(log.path());
    return text;
  }

 private:
  void write_configuration() const {
    const std::string host = host_name(), user = user_name(), folder = slurm().string();
    const auto ports = free_ports(2);
    std::ofstream(slurm() / "slurm.conf")
        << "ClusterName=test\nSlurmctldHost=" << host << "(127.0.0.1)\nSlurmctldPort=" << ports[0]
        << "\nSlurmdPort=" << ports[1] << "\nSlurmUser=" << user << "\nSlurmdUser=" << user
        << "\nAuthType=auth/none\nCredType=cred/none\nStateSaveLocation=" << folder
        << "/state\nSlurmdSpoolDir=" << folder << "/spool\nSlurmctldPidFile=" << folder
        << "/slurmctld.pid\nSlurmdPidFile=" << folder
        << "/slurmd.pid\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n"
           "SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n"
           "AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none\n"
           "MpiDefault=none\nReturnToService=2\nKillWait=10\nNodeName="
        << host << " NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN\nPartitionName=main Nodes=" << host
        << " Default=YES MaxTime=INFINITE State=UP\n";
  }
  /// Ends with this process, whatever ends that.
  [[nodiscard]] Start daemon(const std::string& program) const {
    const std::string name = fs::path(program).filename();
    return {
        "/usr/bin/setpriv",
        {"--pdeathsig", "KILL", "/bin/sh", "-c", "exec \"$0\" -D -f \"$SLURM_CONF\" >\"$1\" 2>&1",
         program, (slurm() / (name + ".log")).string()},
        environment()};
  }
  [[nodiscard]] bool comes_up() const {
    for (int i = 0; i < 150; ++i) {
      const Outcome nodes = slurm_command({"sinfo", "--noheader", "--format=%T"});
      if (nodes.out == "idle\n") return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    return false;
  }
  [[nodiscard]] std::string last_line_of(const std::string& daemon) const {
    std::istringstream log(read(slurm() / (daemon + ".log")));
    std::string line, last;
    while (std::getline(log, line))
      if (!line.empty()) last = line;
    return last;
  }

  std::vector<Process> daemons_;
};

TEST_F(Slurm, ASweepGivesTheNumbersOfALocalRunAndTrainsEachAttackOnce) {
  write_recipe(open_recipe() +
               "[matrix]\n\"attack.plugin\" = [\"badnets\", \"blended\"]\n"
               "\"defense.0.epochs\" = [1, 2, 3]\n");
  const std::string folder = sweep().first;
  const json ended = wait_for(folder, [](const json& now) {
    return std::all_of(now["runs"].begin(), now["runs"].end(), [](const json& run) {
      return run["slurm"].is_object() && run["slurm"]["state"] == "COMPLETED";
    });
  });
  EXPECT_TRUE(ended["slurm"].get<bool>());
  ASSERT_EQ(ended["runs"].size(), 6U);
  for (const json& run : ended["runs"])
    EXPECT_EQ(run["state"], "finished") << run.dump(2) << logs_of(folder);
  EXPECT_EQ(backstop({"status", folder}).code, 0);
  const std::string logs = logs_of(folder);
  const auto count = [&](const std::string& text) {
    std::size_t n = 0;
    for (std::size_t at = 0; (at = logs.find(text, at)) != std::string::npos; ++at) ++n;
    return n;
  };
  EXPECT_EQ(count("[attack] badnets: started"), 1U) << logs;
  EXPECT_EQ(count("[attack] blended: started"), 1U) << logs;
  EXPECT_EQ(count("waiting for"), 0U) << "a task had a node and waited:\n" << logs;
  const auto numbers = numbers_in(out() / "small");
  EXPECT_EQ(numbers.size(), 6U);
  EXPECT_EQ(numbers, local_numbers());
}

TEST_F(Slurm, ATaskThatIsKilledAndRequeuedFinishes) {
  write_recipe(open_recipe() + "[matrix]\nseed = [1, 2]\n");
  const auto [folder, job] = sweep();
  const json running = wait_for(folder, [](const json& now) {
    const json& detail = now["runs"][0]["detail"];
    return detail.is_string() && detail.get<std::string>().find("epoch") != std::string::npos;
  });
  ASSERT_EQ(running["runs"][0]["state"], "running") << running.dump(2) << logs_of(folder);
  EXPECT_THAT(running["runs"][0]["detail"].get<std::string>(), HasSubstr(" on " + host_name()));

  const std::string task = job + "_1";
  EXPECT_EQ(slurm_command({"scontrol", "requeue", task}).code, 0);
  const json waiting =
      wait_for(folder, [](const json& now) { return now["runs"][0]["state"] == "waiting"; });
  EXPECT_EQ(waiting["runs"][0]["slurm"]["state"], "PENDING") << waiting.dump(2);
  EXPECT_EQ(backstop({"status", folder}).code, 6);
  // Slurm would let it wait for two minutes.
  EXPECT_EQ(slurm_command({"scontrol", "update", "JobId=" + task, "StartTime=now"}).code, 0);

  for (const json& run : wait_for_end(folder)["runs"])
    EXPECT_EQ(run["state"], "finished") << run.dump(2) << logs_of(folder);
  std::vector<std::string> statuses;
  for (const fs::path& run : runs())
    statuses.push_back(json::parse(read(run / "run.json"))["status"]);
  std::sort(statuses.begin(), statuses.end());
  ASSERT_EQ(statuses.size(), 3U);
  EXPECT_THAT(statuses[2], AnyOf("interrupted", "killed"));
  EXPECT_EQ(numbers_in(out() / "small"), local_numbers());

  // What has finished is not run again.
  EXPECT_EQ(slurm_command({"scontrol", "requeue", job}).code, 0);
  for (const char* number : {"_1", "_2"})
    EXPECT_EQ(slurm_command({"scontrol", "update", "JobId=" + job + number, "StartTime=now"}).code,
              0);
  (void)wait_for(folder, [](const json& now) {
    return now["runs"][0]["slurm"]["state"] == "COMPLETED" &&
           now["runs"][1]["slurm"]["state"] == "COMPLETED";
  });
  EXPECT_EQ(runs().size(), 3U);
}

}  // namespace
}  // namespace backstop::testing
