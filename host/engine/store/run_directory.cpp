#include "host/engine/store/run_directory.hpp"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <ctime>

#include <fmt/format.h>

#include "host/base/hash.hpp"
#include "host/base/text.hpp"
#include "host/catalog/catalog.hpp"
#include "host/recipe/recipe.hpp"
#include "host/report/audit.hpp"
#include "host/report/csv.hpp"
#include "host/report/html.hpp"

namespace backstop::engine {

namespace fs = std::filesystem;

namespace {

constexpr const char* kLockFile = ".backstop.lock";
constexpr const char* kFactsFile = "run.json";

using Clock = std::chrono::system_clock;

std::string utc(Clock::time_point when, const char* format) {
  const std::time_t seconds = Clock::to_time_t(when);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  const auto length = std::strftime(text, sizeof text, format, &parts);
  return {text, length};
}

/// To the millisecond, so that names sort in the order of the runs: "20261121T100411.042Z".
std::string time_for_name() {
  const auto now = Clock::now();
  const auto since_epoch =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch());
  const std::string milliseconds = std::to_string(1000 + since_epoch.count() % 1000);
  return utc(now, "%Y%m%dT%H%M%S.") + milliseconds.substr(1) + "Z";
}

/// Sorted by name.
std::vector<report::Picture> pictures_in(const fs::path& folder) {
  std::vector<report::Picture> pictures;
  if (fs::exists(folder))
    for (const auto& picture : fs::directory_iterator(folder))
      pictures.push_back({picture.path().stem().string(), base::read_file(picture.path())});
  std::sort(pictures.begin(), pictures.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return pictures;
}

fs::path new_run_folder(const fs::path& out, const std::string& name, const std::string& recipe) {
  const fs::path parent = out / name;
  base::make_folder(parent);
  const std::string id = time_for_name() + "-" + base::sha256_of_text(recipe).substr(0, 8);
  for (int attempt = 1;; ++attempt) {
    const fs::path folder = parent / (attempt == 1 ? id : id + "-" + std::to_string(attempt));
    std::error_code error;
    if (fs::create_directory(folder, error)) return folder;
    if (error)
      throw base::HostError(
          base::ExitCode::environment,
          "cannot create the run's folder " + folder.string() + ": " + error.message(),
          "choose a folder that you may write to with --out");
  }
}

/// Needs the run's lock.
void close_dead_run(const fs::path& run) {
  std::vector<fs::path> unfinished;
  for (const auto& entry : fs::recursive_directory_iterator(run))
    if (entry.path().filename().string().starts_with(base::kUnfinishedFile))
      unfinished.push_back(entry.path());
  for (const fs::path& file : unfinished) fs::remove(file);
  if (!fs::exists(run / kFactsFile)) return;
  auto facts = nlohmann::json::parse(base::read_file(run / kFactsFile), nullptr, false);
  if (!facts.is_object() || facts.value("status", "") != "unfinished") return;
  facts["status"] = "killed";
  base::write_file(run / kFactsFile, base::json_text(facts, 2) + "\n");
}

}  // namespace

void close_dead_runs(const fs::path& out) {
  std::error_code error;
  for (const auto& recipe : fs::directory_iterator(out, error))
    for (const auto& run : fs::directory_iterator(recipe.path(), error)) try {
        if (!fs::exists(run.path() / kLockFile)) continue;
        const auto lock = base::FileLock::try_lock(run.path() / kLockFile);
        if (lock && lock->supported()) close_dead_run(run.path());
      } catch (const std::exception&) {  // another user's, or removed at this moment
      }
}

std::string utc_now() {
  return utc(Clock::now(), "%Y-%m-%dT%H:%M:%SZ");
}

RunDirectory::RunDirectory(const fs::path& out, const std::string& name, const std::string& recipe,
                           RunObserver* next)
    : path_(new_run_folder(out, name, recipe)),
      lock_(base::FileLock::lock(path_ / kLockFile, [](const std::string&) {})),
      next_(next),
      recipe_(recipe),
      facts_({{"started", utc_now()}}) {
  base::write_file(path_ / "recipe.toml", recipe_);
  metrics_.emplace(path_ / "metrics.jsonl");
  log_.emplace(path_ / "log.txt");
}

RunDirectory::RunDirectory(const fs::path& run, RunObserver* next)
    : path_(run),
      lock_(base::FileLock::lock(path_ / kLockFile, [](const std::string&) {})),
      next_(next),
      recipe_(base::read_file(path_ / "recipe.toml")) {
  if (fs::exists(path_ / kFactsFile))
    facts_ = nlohmann::json::parse(base::read_file(path_ / kFactsFile));
  base::write_file(path_ / "metrics.jsonl", "");
  metrics_.emplace(path_ / "metrics.jsonl");
  log_.emplace(path_ / "log.txt");
}

void RunDirectory::event(const nlohmann::json& event) {
  const std::string line = base::json_text(event);
  const bool checkpoint = event["event"] == "checkpoint";
  if (event["event"] == "epoch") {
    metrics_->write(line);
    epoch_ = event;
  } else if (checkpoint) {
    kept_ = event;
  } else if (event["event"] != "log") {
    epoch_ = kept_ = nullptr;
  }
  log_->write(utc_now() + " " + line);
  if (next_ != nullptr && !checkpoint) next_->event(event);
}

void RunDirectory::progress(std::int64_t done, std::int64_t total, const std::string& what) {
  if (next_ != nullptr) next_->progress(done, total, what);
}

void RunDirectory::describe(const nlohmann::json& facts) {
  facts_.update(facts);
  base::write_file(path_ / kFactsFile, base::json_text(facts_, 2) + "\n");
}

void RunDirectory::finish(const nlohmann::json& facts, const nlohmann::json& results) {
  facts_.update(facts);
  write_results(results);
  base::sync_tree(path_);
  describe(nlohmann::json::object());
  base::sync(path_ / kFactsFile);
  base::sync(path_);
}

void RunDirectory::write_results(const nlohmann::json& results) {
  base::write_file(path_ / "results.json", base::json_text(results, 2) + "\n");
  base::write_file(path_ / "results.csv", report::results_csv(results));
  if (!results["detectors"].empty())
    base::write_file(path_ / "detectors.csv", report::detectors_csv(results));
  for (const auto& [file, text] : {std::pair("audit.csv", report::audit_csv(results)),
                                   std::pair("audit-path.csv", report::audit_path_csv(results))})
    if (!text.empty()) base::write_file(path_ / file, text);
  report::ReportContent content;
  content.results = results;
  content.environment = facts_;
  content.metrics = base::read_file(path_ / "metrics.jsonl");
  content.recipe = recipe_;
  content.triggers = pictures_in(path_ / "triggers");
  content.pictures = pictures_in(path_ / "pictures");
  base::write_file(path_ / "report.html", report::html_report(content));
}

std::string RunDirectory::after_interrupt() const {
  const std::string kept = "finished stages are kept, and the same command continues from there";
  if (!kept_.is_null() && kept_["resumable"] == true)
    return kept + "; this training goes on " + kept_["where"].get<std::string>();
  if (epoch_.is_null() || epoch_["epoch"] == 0) return kept;
  return fmt::format("{}; this training, whose epoch {} of {} was done, starts again at epoch 1",
                     kept, epoch_["epoch"].dump(), epoch_["epochs"].dump());
}

void RunDirectory::keep_stage(const std::string& row, const Stage& stage) {
  const std::string file = recipe::file_name_of(row) + ".safetensors";
  if (!stage.model.tensors.empty()) {  // a detector leaves none
    base::make_folder(path_ / "models");
    write_safetensors(path_ / "models" / file, stage.model.tensors, stage.model.metadata);
  }
  base::make_folder(path_ / "artifacts");
  write_safetensors(path_ / "artifacts" / file, stage.artifacts);
}

void RunDirectory::keep_attack(const std::string& row, const Stage& stage) {
  write_attack_file(path_ / "models" / (recipe::file_name_of(row) + ".attack.safetensors"), stage);
}

void RunDirectory::write_trigger(const std::string& name, const std::string& title,
                                 const at::Tensor& clean, const at::Tensor& triggered) {
  base::make_folder(path_ / "triggers");
  write_trigger_picture(path_ / "triggers" / (recipe::file_name_of(name) + ".png"), title, clean,
                        triggered);
}

void RunDirectory::write_predictions(const at::Tensor& labels, const NamedTensors& predictions) {
  std::string text = "image,label";
  std::vector<const std::int64_t*> columns = {labels.data_ptr<std::int64_t>()};
  for (const auto& [row, predicted] : predictions) {
    text.append(",").append(report::text_cell(row));
    columns.push_back(predicted.data_ptr<std::int64_t>());
  }
  for (std::int64_t i = 0; i < labels.numel(); ++i) {
    text += fmt::format("\n{}", i);
    for (const std::int64_t* column : columns) text += fmt::format(",{}", column[i]);
  }
  base::write_file(path_ / "predictions.csv", text + "\n");
}

void RunDirectory::write_picture(const std::string& row, const std::vector<SheetRow>& rows) {
  base::make_folder(path_ / "pictures");
  write_contact_sheet(path_ / "pictures" / (recipe::file_name_of(row) + ".png"), row, rows);
}

}  // namespace backstop::engine
