#include "host/engine/store/run_directory.hpp"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <ctime>

#include "host/base/hash.hpp"
#include "host/base/text.hpp"
#include "host/catalog/catalog.hpp"
#include "host/recipe/recipe.hpp"
#include "host/report/csv.hpp"
#include "host/report/html.hpp"

namespace backstop::engine {

namespace fs = std::filesystem;

namespace {

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

/// Names without ".png", sorted.
std::vector<std::string> pictures_in(const fs::path& folder) {
  std::vector<std::string> names;
  if (fs::exists(folder))
    for (const auto& picture : fs::directory_iterator(folder))
      names.push_back(picture.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
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

}  // namespace

std::string utc_now() {
  return utc(Clock::now(), "%Y-%m-%dT%H:%M:%SZ");
}

RunDirectory::RunDirectory(const fs::path& out, const std::string& name, const std::string& recipe,
                           RunObserver* next)
    : path_(new_run_folder(out, name, recipe)), next_(next), recipe_(recipe) {
  base::write_file(path_ / "recipe.toml", recipe_);
  metrics_.emplace(path_ / "metrics.jsonl");
  log_.emplace(path_ / "log.txt");
}

void RunDirectory::event(const nlohmann::json& event) {
  if (event["event"] == "epoch") metrics_->write(base::json_text(event));
  log_->write(utc_now() + " " + base::json_text(event));
  if (next_ != nullptr) next_->event(event);
}

void RunDirectory::progress(std::int64_t done, std::int64_t total, const std::string& what) {
  if (next_ != nullptr) next_->progress(done, total, what);
}

void RunDirectory::describe(const nlohmann::json& facts) {
  facts_.update(facts);
  base::write_file(path_ / "run.json", base::json_text(facts_, 2) + "\n");
}

void RunDirectory::write_results(const nlohmann::json& results) {
  base::write_file(path_ / "results.json", base::json_text(results, 2) + "\n");
  base::write_file(path_ / "results.csv", report::results_csv(results));
  report::ReportContent content;
  content.results = results;
  content.environment = facts_;
  content.metrics = base::read_file(path_ / "metrics.jsonl");
  content.recipe = recipe_;
  content.triggers = pictures_in(path_ / "triggers");
  content.pictures = pictures_in(path_ / "pictures");
  base::write_file(path_ / "report.html", report::html_report(content));
}

void RunDirectory::keep_stage(const std::string& row, const fs::path& stage_folder) {
  for (const auto& [folder, file] :
       {std::pair{"models", kModelFile}, std::pair{"artifacts", kArtifactsFile}}) {
    base::make_folder(path_ / folder);
    base::copy_file(stage_folder / file,
                    path_ / folder / (recipe::file_name_of(row) + ".safetensors"));
  }
}

void RunDirectory::keep_attack(const std::string& row, const fs::path& stage_folder) {
  base::copy_file(stage_folder / kAttackFile,
                  path_ / "models" / (recipe::file_name_of(row) + ".attack.safetensors"));
}

void RunDirectory::write_trigger(const std::string& name, const std::string& title,
                                 const at::Tensor& clean, const at::Tensor& triggered) {
  base::make_folder(path_ / "triggers");
  write_trigger_picture(path_ / "triggers" / (recipe::file_name_of(name) + ".png"), title, clean,
                        triggered);
}

void RunDirectory::write_picture(const std::string& row, const std::vector<SheetRow>& rows) {
  base::make_folder(path_ / "pictures");
  write_contact_sheet(path_ / "pictures" / (recipe::file_name_of(row) + ".png"), row, rows);
}

}  // namespace backstop::engine
